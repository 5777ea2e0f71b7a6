"""What `make mutation` found: how many changed programs the tests noticed, and the changes that they did not.

python -m tests.mutants        reads what mutmut left in mutants/
python -m tests.mutants 0.2    names a random fifth of the mutants of each module, for `mutmut run`
"""

from __future__ import annotations

import ast
import math
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name, orig_function_and_class_names_from_key

NOTICED = {"killed", "segfault"}  # a timeout may be that of a busy machine


def change(path: Path, mutant: str) -> tuple[int, str, str]:
    """Line, text before and text after of a mutant."""
    function, owner = orig_function_and_class_names_from_key(mutant)
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for name in filter(None, (owner, function)):
        tree = next(
            node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        )
    assert isinstance(tree, ast.FunctionDef)
    diff = get_diff_for_mutant(mutant, path=path).splitlines()
    first = next(place for place, line in enumerate(diff) if line.startswith("@@"))
    start = int(re.findall(r"\d+", diff[first])[0])
    hunk = diff[first + 1 :]
    changed = next(place for place, line in enumerate(hunk) if line[0] in "-+")
    before, after = (" ".join(line[1:].strip() for line in hunk if line[0] == sign) for sign in "-+")
    return tree.lineno - 1 + start + changed, before, after


def sample(share: float) -> list[str]:
    """A share of the mutants of each module; a larger share holds a smaller one."""
    names: list[str] = []
    for path in sorted(walk_mutatable_files()):
        made = mutate_file_contents(str(path), path.read_text(encoding="utf-8")).mutant_names
        drawn = random.Random(0).sample(made, len(made))[: math.ceil(share * len(made))]
        names += [get_mutant_name(path, name) for name in drawn]
    return names


def main() -> None:
    """Print a line for each package, then every change that was not noticed."""
    if sys.argv[1:]:
        print("\n".join(sample(float(sys.argv[1]))))
        return
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    unnoticed: list[str] = []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        for mutant, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            counts[path.parent.name]["noticed" if status in NOTICED else status] += 1
            if status not in NOTICED and code is not None:
                line, before, after = change(path, mutant)
                unnoticed.append(f"{path}:{line}: {status}\n  - {before}\n  + {after}")
    for package, found in counts.items():
        tried = sum(found.values()) - found["not checked"]
        print(
            f"{package}: {found['noticed']} of {tried} mutants noticed, {found['noticed'] / max(tried, 1):.1%}", end=""
        )
        print(f"; {found['not checked']} not tried" if found["not checked"] else "")
    print("\n".join(unnoticed))


if __name__ == "__main__":
    main()

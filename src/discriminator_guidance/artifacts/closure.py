"""Which source files a module's result depends on: its import closure inside this package."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "discriminator_guidance"
SOURCE = Path(__file__).resolve().parents[1]


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """The files a module imports, directly or not, at its top or inside functions.

    Imports under `if TYPE_CHECKING:` do not run and do not count. Package `__init__` files hold no code that could
    change a result, and do not count either.

    Args:
        module: dotted name inside the package, e.g. "stages.real".

    Returns:
        Absolute paths, sorted, the module itself included.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = SOURCE.joinpath(*waiting.pop().split(".")).with_suffix(".py")
        if path in found or not path.is_file():
            continue
        found.add(path)
        waiting.extend(_imported(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(sorted(found))


def closure_digest(module: str) -> str:
    """A hash over the text of a module's import closure.

    Args:
        module: dotted name inside the package.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in import_closure(module):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _imported(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            inner = node.module.removeprefix(PACKAGE).removeprefix(".")
            names.append(inner)
            names.extend(f"{inner}.{alias.name}".removeprefix(".") for alias in node.names)
        if isinstance(node, ast.Import):
            names.extend(a.name.removeprefix(f"{PACKAGE}.") for a in node.names if a.name.startswith(PACKAGE))
        names.extend(_imported(node))
    return [name for name in names if name]

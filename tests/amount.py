"""How much is tried: a little in `make test`, everything in `make test-full` (DG_FULL=1), which says how much it was.

    python -m tests.amount FILE

adds up what the tests counted in the file that DG_COUNTS names.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

FULL = os.environ.get("DG_FULL") == "1"
COUNTS = os.environ.get("DG_COUNTS")


def cases(few: int, many: int) -> int:
    """How many cases to try.

    Args:
        few: in `make test`.
        many: in `make test-full`.

    Returns:
        One of the two.
    """
    return many if FULL else few


def count(what: str, number: int = 1) -> None:
    """Add to what is counted, from any process.

    Args:
        what: is counted.
        number: of it.
    """
    if COUNTS:
        with Path(COUNTS).open("a", encoding="utf-8") as stream:
            stream.write(f"{number}\t{what}\n")


def main() -> None:
    """Print what was counted."""
    total: Counter[str] = Counter()
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        number, what = line.split("\t")
        total[what] += int(number)
    for what in sorted(total):
        print(f"{total[what]:8,}  {what}")


if __name__ == "__main__":
    main()

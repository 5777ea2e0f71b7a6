"""Results in README.md and docs are those of the committed runs, written by `make numbers`."""

import re
import shutil
import sys
from pathlib import Path

from .commands import PROJECT, succeed

INTERVAL = r"\d\s\[[+-]?[\d.]+, [+-]?[\d.]+\]"
BLOCK = r"<!-- numbers: \w+ -->.*?<!-- end -->"


def test_numbers_are_those_of_the_committed_runs(tmp_path: Path) -> None:
    for name in ("README.md", "docs", "reports"):
        copy = shutil.copy if (PROJECT / name).is_file() else shutil.copytree
        copy(PROJECT / name, tmp_path / name)
    succeed(PROJECT, sys.executable, "scripts/write_numbers.py", str(tmp_path))
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        assert (tmp_path / page.relative_to(PROJECT)).read_text() == page.read_text(), page.name


def test_every_interval_is_written_by_the_command() -> None:
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        by_hand = re.sub(BLOCK, "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(INTERVAL, by_hand), page.name

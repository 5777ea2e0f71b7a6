"""Results in README.md and docs are those of the committed runs, written by `make numbers`."""

import re
import shutil
import sys
from pathlib import Path

from .commands import PROJECT, succeed

INTERVAL = r"\d\s\[[+-]?[\d.]+, [+-]?[\d.]+\]"
BLOCK = r"<!-- numbers: \w+ -->.*?<!-- end -->"


def test_numbers_are_those_of_the_committed_runs(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "README.md", tmp_path)
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    succeed(PROJECT, "git", "archive", "--output", str(tmp_path / "reports.zip"), "HEAD", "reports")  # not a later run
    shutil.unpack_archive(tmp_path / "reports.zip", tmp_path)
    succeed(PROJECT, sys.executable, "scripts/write_numbers.py", str(tmp_path))
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        assert (tmp_path / page.relative_to(PROJECT)).read_text() == page.read_text(), page.name


def test_every_interval_is_written_by_the_command() -> None:
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        assert not re.findall(INTERVAL, re.sub(BLOCK, "", page.read_text(), flags=re.DOTALL)), page.name

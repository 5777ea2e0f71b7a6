"""A full or read-only disk: one line, and what was complete stays."""

import shutil
from pathlib import Path

import pytest

from tests.commands import PROJECT, refused, run, unshared


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an earlier result."""
    shutil.copy(PROJECT / "configs/mini.yaml", tmp_path / "params.yaml")
    (tmp_path / "data/raw").mkdir(parents=True)
    shutil.copy(PROJECT / "data/raw/digits.npz", tmp_path / "data/raw")
    earlier = tmp_path / "data/mini/real/train.npz"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier result")
    return tmp_path


@pytest.mark.parametrize(("options", "words"), [("size=200k", "No space left on device"), ("ro", "Read-only file sys")])
def test_a_disk_that_takes_nothing_keeps_the_earlier_result(project: Path, options: str, words: str) -> None:
    private = unshared("--mount")
    if not private:
        pytest.skip("this machine cannot mount a small file system: `unshare --mount` failed")
    script = (
        "cp -r data/mini earlier && mount -t tmpfs -o size=200k none data/mini && cp -r earlier/* data/mini && "
        f"mount -o remount,{options} data/mini && dguide real; code=$?; "
        "find data/mini -name '*.tmp' >found; cat data/mini/real/train.npz >>found; exit $code"
    )
    refused(run(project, *private, "sh", "-c", script), "data/mini/real/", words, "complete results are kept")
    assert (project / "found").read_text() == "earlier result"

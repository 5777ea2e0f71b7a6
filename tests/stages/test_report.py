"""What stage `report` adds to its inputs: where the numbers come from."""

from __future__ import annotations

import subprocess

from dguide.stages.report import provenance
from discriminator_guidance.files import sha256, write_json

from .conftest import Tiny


def test_provenance_names_the_last_commit_of_the_code(tiny: Tiny) -> None:
    config, layout = tiny
    write_json(layout.evaluated("edm") / "details.json", {"precision_mode": "float32"})

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(layout.root), "-c", "user.name=a", "-c", "user.email=b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance(config, layout)["commit"] == "not a git checkout"
    git("init", "-q")
    (layout.root / "dvc.yaml").touch()
    for path in ("dvc.yaml", "data"):
        git("add", path)
        git("commit", "-qm", path)
    state = provenance(config, layout)
    assert (state["commit"], state["uncommitted changes"]) == (git("rev-parse", "HEAD^"), False)
    assert state["data sha256"]["real"] == sha256(layout.real / "train.npz")
    (layout.root / "dvc.yaml").write_text("stages: {}\n")
    assert provenance(config, layout)["uncommitted changes"] is True

"""What stage `report` adds to its inputs: comparisons of tuned rows, and where the numbers come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from discriminator_guidance.data.files import sha256, write_json
from discriminator_guidance.evaluation.significance import Measured
from discriminator_guidance.stages.report import provenance, tuned_differences

from .conftest import Tiny, tiny_settings, write_params


def test_a_tuned_member_is_compared_with_the_row_that_has_its_settings(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings["members"]["tuned"] = settings["members"]["d1"] | {"seed": 7}
    config, _ = write_params(tmp_path, settings)
    names, random = ("d0", "d1", "tuned"), np.random.default_rng(0)
    evaluated = {name: Measured((float(n),), random.normal(size=(1, 9))) for n, name in enumerate(names)}
    found = tuned_differences(config, evaluated)
    assert list(found) == ["d1"]
    assert found["d1"]["tuned"].value == 1.0
    settings["members"]["tuned"]["learning_rate"] = 0.5
    assert tuned_differences(write_params(tmp_path, settings)[0], evaluated) == {}


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

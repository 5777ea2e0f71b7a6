"""Stage `report`, on the results of the other stages."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from discriminator_guidance.config import load_config
from discriminator_guidance.data.files import sha256
from discriminator_guidance.evaluation.significance import paired_difference
from discriminator_guidance.stages.comparisons import Evaluated
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.report import provenance, tuned_differences

from .conftest import VARIANTS, Tiny, run_stage, tiny_settings, write_params


@pytest.fixture(scope="module")
def reported(made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny study after every stage."""
    root = made(tmp_path_factory.mktemp("report") / "study")
    config, layout = tiny = load_config(root / "params.yaml"), Layout(root, "mini")
    for member in config.members:
        run_stage("discriminator", tiny, member)
    for stage in ("guided", "evaluation"):
        for variant in config.variants:
            run_stage(stage, tiny, variant)
    summary, _ = run_stage("report", tiny)
    assert (layout.root / summary["page"]).is_file()
    return tiny


def test_variants_are_compared_by_the_influence_of_each_sample(reported: Tiny) -> None:
    layout = reported[1]
    rows = pd.read_csv(layout.report / "tables" / "variants.csv").set_index("variant")
    assert list(rows.index) == list(VARIANTS)
    fids = [json.loads(layout.details(name).read_text())["fid_ranges"] for name in ("mean_prob", "d0")]
    influence = [np.load(layout.influence(name))["influence"] for name in ("mean_prob", "d0")]
    value, (low, high) = paired_difference(fids[0], influence[0], fids[1], influence[1])
    found = rows.loc["mean_prob", ["delta_fid_d0", "delta_low_d0", "delta_high_d0"]]
    assert found.tolist() == pytest.approx([value, low, high])
    assert np.isnan(rows.loc["d0", "delta_fid_d0"])


def test_a_tuned_member_is_compared_with_the_row_that_has_its_settings(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings["members"]["tuned"] = settings["members"]["d1"] | {"seed": 7}
    config, _ = write_params(tmp_path, settings)
    names, random = ("d0", "d1", "tuned"), np.random.default_rng(0)
    evaluated = {name: Evaluated([float(n)], random.normal(size=9), np.arange(9)) for n, name in enumerate(names)}
    found = tuned_differences(config, evaluated)
    assert list(found) == ["d1"]
    assert found["d1"]["tuned"].value == 1.0
    settings["members"]["tuned"]["learning_rate"] = 0.5
    assert tuned_differences(write_params(tmp_path, settings)[0], evaluated) == {}


def test_provenance_names_the_last_commit_of_code_and_settings(reported: Tiny, tmp_path: Path) -> None:
    config, layout = reported[0], Layout(Path(shutil.copytree(reported[1].root, tmp_path / "study")), "mini")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(layout.root), "-c", "user.name=a", "-c", "user.email=b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance(config, layout)["commit"] == "not a git checkout"
    git("init", "-q")
    for path in ("params.yaml", "reports"):
        git("add", path)
        git("commit", "-qm", path)
    state = provenance(config, layout)
    assert (state["commit"], state["uncommitted changes"]) == (git("rev-parse", "HEAD^"), False)
    assert state["data sha256"]["real"] == sha256(layout.real / "train.npz")
    (layout.root / "params.yaml").write_text("profile: mini\n")
    assert provenance(config, layout)["uncommitted changes"] is True

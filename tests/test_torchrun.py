"""Two processes under torchrun make of a stage what one process makes of it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance import distributed
from discriminator_guidance.config import load_config
from discriminator_guidance.stages.layout import Layout

from .commands import succeed
from .stages.conftest import Tiny, prepare_study, run_stage, tiny_settings

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "python", "-c")
STAGES = {"guided": {"variant": "mean_prob"}, "evaluation": {"variant": "mean_prob"}, "discriminator": {"member": "d1"}}
PROGRAM = f"""
from pathlib import Path
from discriminator_guidance.run import run_stage
for stage, row in {STAGES}.items():
    run_stage(stage, Path("params.yaml"), **row)
"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Layout]:
    """A study made by one process, and the same by two; samples, metrics and a head."""
    root = tmp_path_factory.mktemp("torchrun")
    alone = prepare_study(root / "alone", tiny_settings())
    shared = Path(shutil.copytree(root / "alone", root / "shared"))
    one: Tiny = (alone[0], alone[1])
    run_stage("guided", one, "edm")
    shutil.copytree(alone[1].guided("edm"), Layout(shared, "mini").guided("edm"))
    shown = succeed(shared, *TORCHRUN, PROGRAM)
    for stage, row in STAGES.items():
        run_stage(stage, one, *row.values())
        assert shown.count("/".join([stage, *row.values()])) == 1, "the first process alone reports"
    assert load_config(shared / "params.yaml") == alone[0]
    return alone[1], Layout(shared, "mini")


def test_the_same_samples(studies: tuple[Layout, Layout]) -> None:
    for name in ("samples.npz", "trajectory.npz"):
        one, two = (layout.guided("mean_prob") / name for layout in studies)
        assert one.read_bytes() == two.read_bytes()


def test_the_same_metrics(studies: tuple[Layout, Layout]) -> None:
    one, two = (json.loads(layout.evaluation("mean_prob").read_text()) for layout in studies)
    assert one == pytest.approx(two, rel=1e-6, abs=1e-8)


def test_a_head_equal_up_to_rounding(studies: tuple[Layout, Layout]) -> None:
    one, two = (np.load(layout.discriminator("d1") / "test_logits.npz")["logits"] for layout in studies)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert one.std() > 1e-4
    curves = [list(csv.DictReader((layout.discriminator_report("d1") / "history.csv").open())) for layout in studies]
    for row, other in zip(*curves, strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in other.items()}, rel=1e-3
        )
    assert not list(studies[1].partial.glob("*"))


@pytest.mark.parametrize(("count", "size"), [(10, 3), (2, 3), (7, 1)])
def test_shares_cover_all_rows_once_and_are_even(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(size))
    shares = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(distributed.share(count))
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

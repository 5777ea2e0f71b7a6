"""Study `ensemble` on the tiny study: what a trial stands for, and a search from end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from dguide.settings import Layout, load_config
from dguide.studies.ensemble import simplex_point, starting_points, suggest
from dguide.studies.trials import run_study
from discriminator_guidance.core.errors import InputError
from tests.commands import environment
from tests.stages.conftest import Tiny
from tests.studies.conftest import table


@pytest.fixture(scope="module")
def searched(search) -> Tiny:
    """A tiny study with a search."""
    return search("ensemble", 8)


def rows(layout: Layout) -> list[dict[str, str]]:
    return table(layout.study / "ensemble.csv")


def asked(points: list[dict]) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in points:
        study.enqueue_trial(point)
    return [study.ask() for _ in points]


def test_weights_are_points_of_the_simplex():
    for trial in asked([{}] * 50):
        weights = simplex_point(trial, ("a", "b", "c"))
        assert sum(weights) == pytest.approx(1)
        assert weights == pytest.approx([trial.params[f"weight_{name}"] for name in "abc"], abs=2e-3)


def test_the_search_begins_with_the_plain_mean_by_each_rule_each_member_alone_and_the_fit(tiny: Tiny):
    config, _ = tiny
    points = starting_points(config)
    assert list(points) == ["plain mean", "plain mean, mean_logit", "d0", "d1", "fitted"]
    plain, logit, first, second, fitted = (suggest(trial, config) for trial in asked([*points.values()]))
    expected = config.variants["mean_prob"]
    assert plain == expected
    assert logit == replace(expected, rule="mean_logit")
    assert (first.members, first.weights, first.needs) == (("d0",), "equal", "discriminator/d0")
    assert second.members == ("d1",)
    assert (fitted.members, fitted.weights, fitted.w1) == (expected.members, "fitted", 1.0)


def test_a_search_leaves_a_table_a_record_and_samples(searched: Tiny):
    _, layout = searched
    trials, record = rows(layout), json.loads((layout.study / "ensemble.json").read_text())
    best = min(trials, key=lambda row: (float(row["value"]), int(row["number"])))
    assert record["winner"]["trial"] == int(best["number"])
    values = {"fid": best, "start_fid": trials[0], "fitted_fid": trials[4]}
    assert record["winner"]["values"] == {key: float(row["value"]) for key, row in values.items()}
    assert record["n_trials"] == len(trials) == 8
    assert set(record["rows"]["variants"]["tuned_mean"]["members"]) <= {"d0", "d1"}
    grids = [path.read_bytes() for path in layout.trials.iterdir()]
    assert len(grids) >= 5, "of each trial that drew samples"
    assert all(grid.startswith(b"\x89PNG") for grid in grids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_ends_in_one_line_and_resumes(tiny: Tiny, number: signal.Signals):
    config, layout = tiny
    command = [sys.executable, "-m", "dguide", "study", "ensemble", "--trials", "40"]
    with subprocess.Popen(command, cwd=layout.root, env=environment(), stderr=subprocess.PIPE, text=True) as worker:
        while not layout.trials.is_dir():  # samples of the first trial
            assert worker.poll() is None
            time.sleep(0.05)
        worker.send_signal(number)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 130
    assert "the same command resumes" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert run_study("ensemble", config, layout, "5", False)["trials"] == 5
    assert {row["grid"] for row in rows(layout)} == {*starting_points(config)}
    assert {row["state"] for row in rows(layout)} == {"complete"}


def test_the_pipeline_must_have_run(root: Path):
    with pytest.raises(InputError, match=r"dvc repro"):
        run_study("ensemble", load_config(root / "params.yaml"), Layout(root, "mini"), "8", False)

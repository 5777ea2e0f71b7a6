"""Study `ensemble` on the tiny study: what a trial stands for, and a search from end to end."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from dguide.settings import Layout, load_config
from dguide.studies.ensemble import plan, suggest
from dguide.studies.study import complete, open_study, run_study
from discriminator_guidance.core.errors import InputError
from tests.commands import environment
from tests.stages.conftest import Tiny, tiny_settings, write_params
from tests.studies.conftest import rows


@pytest.fixture(scope="module")
def searched(search) -> Tiny:
    """A tiny study with a search."""
    return search("ensemble", 8)


def asked(points: list[dict]) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in points:
        study.enqueue_trial(point)
    return [study.ask() for _ in points]


def test_the_search_begins_with_the_plain_mean_by_each_rule_each_member_alone_and_the_fit(tiny: Tiny):
    config, _ = tiny
    points = plan(config).starts
    assert list(points) == ["plain mean", "plain mean, mean_logit", "d0", "d1", "fitted"]
    plain, logit, first, second, fitted = (suggest(trial, config) for trial in asked([*points.values()]))
    expected = config.variants["mean_prob"]
    assert plain == expected
    assert logit == replace(expected, rule="mean_logit")
    assert (first.members, first.weights, first.needs) == (("d0",), "equal", "discriminator/d0")
    assert second.members == ("d1",)
    assert (fitted.members, fitted.weights, fitted.w1) == (expected.members, "fitted", 1.0)


def test_a_search_begins_with_one_discriminator_too(tiny: Tiny):
    config, _ = write_params(tiny[1].root, tiny_settings({"study.start": "d0"}))
    points = plan(config).starts
    assert list(points) == ["plain mean", "plain mean, mean_logit", "fitted"]
    plain, _, fitted = (suggest(trial, config) for trial in asked([*points.values()]))
    assert plain == config.variants["d0"]
    assert (fitted.members, fitted.weights) == (("d0",), "fitted")


def test_a_search_leaves_a_table_and_a_record(searched: Tiny):
    _, layout = searched
    trials, record = rows(layout, "ensemble"), json.loads((layout.study / "ensemble.json").read_text())
    best = min(trials, key=lambda row: (float(row["value"]), int(row["number"])))
    assert record["winner"]["trial"] == int(best["number"])
    values = {"fid": best, "start_fid": trials[0], "objective": best}
    assert record["winner"]["values"] == {key: float(row["value"]) for key, row in values.items()}
    assert record["n_trials"] == len(trials) == 8
    assert set(record["rows"]["variants"]["tuned_mean"]["members"]) <= {"d0", "d1"}


def test_a_start_that_two_workers_enqueued_takes_the_place_of_no_other(tiny: Tiny):
    config, layout = tiny
    whole = plan(config)
    first = dict([*whole.starts.items()][:1])
    open_study(config, layout, replace(whole, starts=first), False).enqueue_trial(first["plain mean"])
    for _ in range(2):
        run_study("ensemble", config, layout, None, False)
    assert len(complete(open_study(config, layout, whole, False))) == len(whole.starts) + 1


def test_an_interrupted_search_ends_in_one_line_and_resumes(tiny: Tiny):
    config, layout = write_params(tiny[1].root, tiny_settings({"sampler.steps": 12}))
    journal = layout.study / "ensemble.journal"
    command = ["dguide", "study", "ensemble", "--trials", "40"]
    with subprocess.Popen(command, cwd=layout.root, env=environment(), stderr=subprocess.PIPE, text=True) as worker:
        while not (journal.is_file() and "intermediate_value" in journal.read_text()):
            assert worker.poll() is None
            time.sleep(0.01)
        worker.send_signal(signal.SIGINT)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 130, errors
    assert "the same command resumes" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert run_study("ensemble", config, layout, 5, False)["trials"] == 5
    assert {row["grid"] for row in rows(layout, "ensemble")} == {*plan(config).starts}
    assert {row["state"] for row in rows(layout, "ensemble")} == {"complete"}


def test_the_pipeline_must_have_run(root: Path):
    with pytest.raises(InputError, match=r"dvc repro"):
        run_study("ensemble", load_config(root / "params.yaml"), Layout(root, "mini"), 8, False)

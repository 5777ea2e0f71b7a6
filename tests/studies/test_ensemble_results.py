"""What is written of an ensemble study, and what is promoted from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from discriminator_guidance.artifacts.files import write_json
from discriminator_guidance.config import Config, load_config, load_tuned
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.ensemble import GRID, starting_points, variant_of
from discriminator_guidance.studies.ensemble_results import ensemble_record, trial_rows, write_ensemble_results
from discriminator_guidance.studies.promotion import promote_winner

PROJECT = Path(__file__).resolve().parents[2]
MEMBERS = ("d0", "d1", "d2", "d3", "d4", "d5")
SHARES = dict(zip((f"u_{name}" for name in MEMBERS), (0.9, 0.2, 0.9, 0.5, 1.0, 1.0), strict=True))
FOUND = SHARES | {"rule": "mean_logit", "w1": 3.0, "w2": 1.5, "time_min": 0.02, "time_max": 0.9, "boosting": True}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "configs").mkdir()
    shutil.copy(PROJECT / "configs" / "mini.yaml", tmp_path / "configs")
    (tmp_path / "params.yaml").write_text("profile: mini\ntuned_members: []\ntuned_ensembles: []\n")
    return Layout(tmp_path, "mini")


@pytest.fixture
def config(layout: Layout) -> Config:
    return load_config("mini", layout.root)


def ended(params: dict, value: float, state: TrialState = TrialState.COMPLETE, **attrs: object):
    spread = {key: FloatDistribution(0.0, 5.0) for key in params if key not in ("rule", "boosting")}
    spread |= {
        "rule": CategoricalDistribution(["mean_probability", "mean_logit"]),
        "boosting": CategoricalDistribution([False, True]),
    }
    steps = {0: value + 1, 1: value} if state == TrialState.COMPLETE else {0: value}
    scores = {"test_bce": 0.6, "test_auroc": 0.7}
    return create_trial(
        state=state,
        value=value,
        params=params,
        distributions=spread,
        user_attrs=scores | attrs,
        intermediate_values=steps,
    )


@pytest.fixture
def study(config: Config) -> optuna.Study:
    study = optuna.create_study(study_name="mini-ensemble")
    study.set_user_attr("objective", "a distance")
    for place, point in enumerate(starting_points(config)):
        study.add_trial(ended(dict(point.params), 2.0 + 0.1 * place, **point.attrs))
    study.add_trial(ended(FOUND, 1.25))
    study.add_trial(ended(FOUND | {"w1": 2.0}, 0.5, TrialState.PRUNED))
    return study


def test_the_record_has_the_best_and_what_it_is_compared_with(study: optuna.Study, config: Config, layout: Layout):
    record = json.loads(json.dumps(ensemble_record(study, config, layout), allow_nan=False))
    assert (record["n_trials"], record["seed"], record["objective"]) == (10, config.study.seed, "a distance")
    assert record["states"] == {"complete": 9, "pruned": 1}
    assert (record["best"]["trial"], record["best"]["value"]) == (8, 1.25), "a pruned trial is never the best"
    assert record["plain_mean"] == 2.0
    assert record["vertices"] == pytest.approx({name: 2.1 + 0.1 * place for place, name in enumerate(MEMBERS)})
    assert record["evaluation"] is None


def test_importances_and_columns_are_those_that_are_described(study: optuna.Study, config: Config, layout: Layout):
    record = ensemble_record(study, config, layout)
    described = [parameter["name"] for parameter in record["parameters"]]
    assert set(record["importances"]) == set(described)
    columns = [key.removeprefix("params_") for key in trial_rows(study, config)[0] if key.startswith("params_")]
    assert columns == described


def test_rows_have_every_weight_and_sum_to_one(study: optuna.Study, config: Config):
    rows = trial_rows(study, config)
    assert len(rows) == 10
    for row in rows:
        assert sum(row[f"params_weight_{name}"] for name in MEMBERS) == pytest.approx(1)
    assert rows[1]["params_weight_d0"] == 1.0
    assert (rows[0]["params_weight_d3"], rows[0]["grid"]) == (pytest.approx(1 / 6), "plain mean")
    assert (rows[9]["state"], rows[9]["value"], rows[9]["batches"]) == ("pruned", 0.5, 1)
    assert rows[8]["params_weight_d4"] == 0.0


def test_the_winner_comes_back_into_the_profile(study: optuna.Study, config: Config, layout: Layout):
    write_ensemble_results(study, config, layout)
    path = promote_winner(layout.root, "mini", "ensemble")
    chosen = load_config("mini", layout.root).guided.variants["ensemble_tuned"]
    assert chosen.model_dump(exclude={"tuning"}) == variant_of(FOUND, MEMBERS).model_dump(exclude={"tuning"})
    assert chosen.members == ("d0", "d1", "d2", "d3")
    assert (chosen.tuning.trial, chosen.tuning.fid, chosen.tuning.start_fid) == (8, 1.25, 2.0)
    told = load_tuned("mini", layout.root).provenance["ensemble"]
    assert (told.parameters, told.values, told.seed) == (FOUND, {"fid": 1.25}, config.study.seed)
    before = path.read_bytes()
    promote_winner(layout.root, "mini", "ensemble")
    assert path.read_bytes() == before


def test_a_trained_winner_comes_back_as_member_and_variant(layout: Layout):
    member = {"seed": 20, "epochs": 30, "learning_rate": 1e-3, "weight_decay": 0.0, "t_min": 0.01}
    winner = {"trial": 33, "grid": None, "objective": 0.7, "fid": 1.5, "gflop": 12.0, "params": {"epochs": 30}}
    record = {
        "seed": 20,
        "winner": winner | {"member": member | {"differs": {"bagging": 0.6}}},
        "finalists": [winner, {"trial": 0, "grid": "D0", "fid": 1.75}],
        "guidance": {"w1": 2.0, "w2": 1.0, "boosting": False},
        "tuning": {"images": 500},
    }
    write_json(layout.study_reports / "discriminator.json", record)
    promote_winner(layout.root, "mini", "discriminator")
    config = load_config("mini", layout.root)
    assert config.discriminator.members["tuned"].differs.bagging == 0.6
    variant = config.guided.variants["tuned"]
    assert (variant.members, variant.w2, variant.tuning.fid, variant.tuning.start_fid) == (("tuned",), 1.0, 1.5, 1.75)
    told = load_tuned("mini", layout.root).provenance["discriminator"]
    assert (told.trial, told.values) == (33, {"objective": 0.7, "fid": 1.5, "gflop": 12.0})


def test_once_evaluated_both_numbers_stand_in_the_record(study: optuna.Study, config: Config, layout: Layout):
    write_ensemble_results(study, config, layout)
    promote_winner(layout.root, "mini", "ensemble")
    promoted = load_config("mini", layout.root)
    for place, name in enumerate(("ensemble_tuned", "ensemble_probability", "d0")):
        assert ensemble_record(study, promoted, layout)["evaluation"] is None
        write_json(layout.evaluation(name), {"fid": 1.5 + place, "fid_ci95": [1.0, 2.0], "n": 1000})
    found = ensemble_record(study, promoted, layout)["evaluation"]
    assert (found["ensemble_tuned"]["fid"], found["d0"]["fid"]) == (1.5, 3.5)
    study.add_trial(ended(FOUND | {"w1": 1.0}, 1.0))
    assert ensemble_record(study, promoted, layout)["evaluation"] is None, "evaluated was another trial"


def test_without_a_complete_trial_nothing_is_written(config: Config, layout: Layout):
    study = optuna.create_study(study_name="mini-ensemble")
    study.add_trial(ended(FOUND, 1.0, TrialState.PRUNED, **{GRID: "d0"}))
    with pytest.raises(InputError, match="a complete trial in study mini-ensemble; got none"):
        write_ensemble_results(study, config, layout)
    assert not layout.study_reports.exists()


@pytest.mark.parametrize("part", ["discriminator", "ensemble"])
def test_without_a_study_promotion_says_how_to_run_one(layout: Layout, part: str):
    params = (layout.root / "params.yaml").read_bytes()
    with pytest.raises(
        InputError, match=rf"reports/mini/study/{part}\.json; got no such file; run `dguide study {part} "
    ):
        promote_winner(layout.root, "mini", part)
    assert (layout.root / "params.yaml").read_bytes() == params
    write_json(layout.study_reports / f"{part}.json", {"seed": 1})
    with pytest.raises(InputError, match=r"\.json; got no such key; run the study again"):
        promote_winner(layout.root, "mini", part)

"""A trial as a run of its own."""

from __future__ import annotations

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from discriminator_guidance.studies.trial_runs import trial_run


def ended(state: TrialState = TrialState.COMPLETE, **told):
    trial = create_trial(
        state=state,
        params={"epochs": 3, "bagging": None},
        distributions={"epochs": IntDistribution(1, 9), "bagging": CategoricalDistribution([None, 0.6])},
        user_attrs={"grid": "D0", "bce": 0.6, "weights": "models/x/model.safetensors", "interrupted": False},
        intermediate_values={1: 0.9, 2: 0.8},
        **told,
    )
    trial.number = 7
    return trial


def test_a_trial_is_told_with_its_study_its_number_and_its_weights():
    run = trial_run("mini-discriminator", ended(value=0.8))
    assert run.name == "mini-discriminator 7"
    assert (run.tags["study"], run.tags["trial"], run.tags["state"]) == ("mini-discriminator", "7", "complete")
    assert (run.tags["grid"], run.tags["weights"]) == ("D0", "models/x/model.safetensors")
    assert run.params == {"epochs": 3, "bagging": None}
    assert {step: values.get("reported") for step, values in run.metrics.items()} == {1: 0.9, 2: 0.8, 0: None}
    assert (run.metrics[0]["objective"], run.metrics[0]["bce"]) == (0.8, 0.6)
    assert "interrupted" not in run.metrics[0]


def test_two_values_have_their_names_and_a_failed_trial_has_none():
    both = trial_run("finalists", ended(values=[1.5, 12.0]), ("fid", "gflop"))
    assert (both.metrics[0]["fid"], both.metrics[0]["gflop"]) == (1.5, 12.0)
    failed = trial_run("finalists", ended(TrialState.FAIL), ("fid", "gflop"))
    assert failed.tags["state"] == "fail"
    assert "fid" not in failed.metrics[0]

"""What study `discriminator` leaves for people, for the report and for promotion: a record and a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.wording import data_note
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.finalists import SEARCHED, guidance, pareto_front
from discriminator_guidance.studies.liveness import settled
from discriminator_guidance.studies.record_files import write_record
from discriminator_guidance.studies.trial_heads import CHOICES, GRID, STUDY
from discriminator_guidance.studies.trial_rows import trial_rows

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

ENOUGH = 4  # complete trials under which no importance is estimated
SCORES = ("bce", "calibration_error")
LOGARITHMIC = ("epochs", "learning_rate", "weight_decay", "t_min")


def write_discriminator_results(
    search: optuna.Study, finalists: optuna.Study, config: Config, layout: Layout
) -> list[Path]:
    """Write record, table and charts.

    Args:
        search: with at least one complete trial.
        finalists: its finalists, judged.
        config: of the profile.
        layout: where files are.

    Returns:
        The files.

    Raises:
        InputError: no trial is complete, or no finalist was judged.
    """

    def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        record = discriminator_record(search, finalists, config)
        return record, table_rows(record)

    return write_record(STUDY, read, layout, config.report.dpi, data_note({"note": config.real.note}))


def discriminator_record(search: optuna.Study, finalists: optuna.Study, config: Config) -> dict[str, Any]:
    """The study as one JSON object.

    Args:
        search: with at least one complete trial.
        finalists: its finalists, judged.
        config: of the profile.

    Returns:
        Number of trials and their states, seed, objective, what was searched, the best trial, the finalists by distance
        and which of them no other beats in both distance and cost, the columns of the table that hold these two, the
        winner (the smallest distance), the guidance and tuning range they were judged by, importances, and all trials.

    Raises:
        InputError: no trial is complete, or no finalist was judged.
    """
    trials, tuning = settled(search, config.study.storage is not None), config.study.tuning
    states = [trial.state.name.lower() for trial in trials]
    judged = _judged(search, finalists)
    return {
        "study": search.study_name,
        "n_trials": len(trials),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "seed": config.study.seed,
        "objective": search.user_attrs["objective"],
        "direction": "minimize",
        "parameters": _searched(config),
        "best": _told(_best(search)),
        "winner": judged[0],
        "finalists": judged,
        "pareto_front": [judged[place]["trial"] for place in pareto_front(judged)],
        "pareto": {
            "cost": {"column": "gflop", "label": "GFLOP of training"},
            "value": {"column": "fid", "label": finalists.user_attrs["objective"].partition(";")[0]},
        },
        "guidance": guidance(config),
        "importances": _importances(search, config.study.seed),
        "fid_network": config.fid_network.name,
        "tuning": {"images": tuning.images, "seed": tuning.seed, "seed_start": tuning.seed_start},
        "trials": trial_rows(search),
    }


def table_rows(record: dict[str, Any]) -> list[dict[str, float | int | str]]:
    """A row for each trial.

    Args:
        record: of the study.

    Returns:
        Number, state, row of Table 2 ("" for what was searched), objective (of a pruned trial: after the last epoch it
        had), its two parts, epochs, cost, distance (finalists only), seconds and parameters in units of Table 2.
    """
    distances = {finalist["trial"]: finalist["fid"] for finalist in record["finalists"]}
    rows: list[dict[str, float | int | str]] = []
    for trial in record["trials"]:
        attrs = trial["attrs"]
        told = {
            "number": trial["number"],
            "state": trial["state"],
            GRID: attrs.get(GRID),
            "value": trial["value"],
            **{key: attrs.get(key) for key in (*SCORES, "epochs_trained", "gflop")},
            "fid": distances.get(trial["number"]),
            "seconds": trial["seconds"],
            **{f"params_{one['name']}": trial["params"].get(one["name"]) for one in record["parameters"]},
        }
        rows.append({key: _cell(value) for key, value in told.items()})
    return rows


def _cell(value: Any) -> float | int | str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _told(trial: FrozenTrial) -> dict[str, Any]:
    attrs = trial.user_attrs
    return {
        "trial": trial.number,
        GRID: attrs.get(GRID),
        "value": trial.value,
        "objective": trial.value,
        **{key: attrs[key] for key in (*SCORES, "gflop")},
        "params": trial.params,
        "member": attrs["member"],
        "weights": attrs["weights"],
    }


def _judged(search: optuna.Study, finalists: optuna.Study) -> list[dict[str, Any]]:
    """Finalists by distance; among equals the cheaper one first."""
    searched = {trial.number: trial for trial in search.get_trials(deepcopy=False)}
    complete = finalists.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise InputError(f"a judged finalist in study {finalists.study_name}", "none", "run the study again")
    judged = [
        {**_told(searched[trial.user_attrs[SEARCHED]]), "fid": trial.values[0], "judged_by": trial.number}
        for trial in complete
    ]
    return sorted(judged, key=lambda one: (one["fid"], one["gflop"], one["trial"]))


def _best(search: optuna.Study) -> FrozenTrial:
    complete = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise InputError(f"a complete trial in study {search.study_name}", "none", "ask for more trials")
    return min(complete, key=lambda trial: (trial.value, trial.number))


def _searched(config: Config) -> list[dict[str, Any]]:
    """Names and ranges of the columns params_* of the table."""
    ranges = config.study.discriminator
    names = [name for name in type(ranges).model_fields if name not in ("calibration_weight", "pruner", "finalists")]
    return [
        {"name": name, "choices": list(getattr(ranges, name))}
        if name in CHOICES
        else {
            "name": name,
            "low": getattr(ranges, name)[0],
            "high": getattr(ranges, name)[1],
            "log": name in LOGARITHMIC,
        }
        for name in names
    ]


def _importances(search: optuna.Study, seed: int) -> dict[str, float]:
    """Shares of the objective's variance by fANOVA, over complete trials."""
    if len(search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < ENOUGH:
        return {}
    shares = get_param_importances(search, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(share) for name, share in shares.items()}

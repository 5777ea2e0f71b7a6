"""What study `ensemble` found, as a record, a table, and a row of the profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.ensemble import PLAIN, PLAIN_MEAN, START, STUDY, variant_of

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

EVALUATED = ("ensemble_tuned", PLAIN, "d0")
ENOUGH = 4  # complete trials for the importance of a parameter to mean anything


def ensemble_record(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """The study in one JSON object.

    Args:
        study: of any length.
        config: of the profile.
        layout: where files are.

    Returns:
        n_trials and how they ended, best, seed, objective, single members, plain mean, importances, the tuning range,
        and, once the promoted winner was evaluated, the distances on the evaluation samples beside those on the tuning
        samples: null before.
    """
    trials, tuning = study.trials, config.study.tuning
    ended = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    starts = {trial.user_attrs[START]: trial.value for trial in trials if trial.value is not None and _is_start(trial)}
    best = _best(study)
    return {
        "study": study.study_name,
        "objective": study.user_attrs["objective"],
        "seed": config.study.seed,
        "n_trials": len(trials),
        "states": {state: number for state, number in ended.items() if number},
        "best": {
            "trial": best.number,
            "fid": best.value,
            "variant": _row(best, config),
            "parameters": best.params,
            "test_bce": best.user_attrs["test_bce"],
            "test_auroc": best.user_attrs["test_auroc"],
        },
        "plain_mean": starts.get(PLAIN_MEAN),
        "vertices": {name: starts.get(name) for name in config.guided.variants[PLAIN].members},
        "tuning": {"images": tuning.images, "seed": tuning.seed, "seed_start": tuning.seed_start},
        "evaluation": _evaluation(best, layout, config),
        "importances": _importances(study),
    }


def trial_rows(study: optuna.Study, config: Config) -> list[dict[str, float | int | str]]:
    """A row for each trial that was begun.

    Args:
        study: of any length.
        config: of the profile.

    Returns:
        number, state, start ("" for what was searched), fid (after `batches` batches), weights, rule, guidance, window,
        scores on the test pictures, seconds.
    """
    rows: list[dict[str, float | int | str]] = []
    for trial in study.trials:
        if "test_bce" not in trial.user_attrs:
            continue
        row, names = _row(trial, config), config.guided.variants[PLAIN].members
        equal = 1 / len(row["members"])
        weights = dict.fromkeys(names, 0.0) | dict.fromkeys(row["members"], equal)
        if row["weights"] != "equal":
            weights |= dict(zip(row["members"], row["weights"], strict=True))
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "start": trial.user_attrs.get(START, ""),
                "fid": "" if trial.value is None else trial.value,
                "batches": len(trial.intermediate_values),
                **{f"weight_{name}": weight for name, weight in weights.items()},
                **{key: row[key] for key in ("rule", "w1", "w2", "boosting")},
                "time_min": row["window"][0],
                "time_max": row["window"][1],
                "test_bce": trial.user_attrs["test_bce"],
                "test_auroc": trial.user_attrs["test_auroc"],
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else "",
            }
        )
    return rows


def ensemble_winner(study: optuna.Study, config: Config, commit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is promoted.

    Args:
        study: with at least one complete trial.
        config: of the profile.
        commit: of the code, for the provenance.

    Returns:
        The row for `guided.variants.ensemble_tuned`, and its provenance.

    Raises:
        InputError: no trial is complete.
    """
    best = _best(study)
    start = next((t.value for t in study.trials if t.user_attrs.get(START) == PLAIN_MEAN and t.value is not None), None)
    seen = {"study": STUDY, "trial": best.number, "fid": best.value, "images": config.study.tuning.images}
    if start is not None:
        seen["start_fid"] = start
    provenance = {
        "study": STUDY,
        "trial": best.number,
        "seed": config.study.seed,
        "parameters": dict(best.params),
        "values": {"fid": best.value},
        "commit": commit,
    }
    return _row(best, config) | {"tuning": seen}, provenance


def _best(study: optuna.Study) -> FrozenTrial:
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise InputError(f"a complete trial in study {study.study_name}", "none", f"run `dguide study {STUDY}` first")
    return min(complete, key=lambda trial: (trial.value, trial.number))


def _row(trial: FrozenTrial, config: Config) -> dict[str, Any]:
    variant = variant_of(trial.params, config.guided.variants[PLAIN].members)
    return variant.model_dump(mode="json", exclude_none=True)


def _is_start(trial: FrozenTrial) -> bool:
    return START in trial.user_attrs and trial.state == TrialState.COMPLETE


def _evaluation(best: FrozenTrial, layout: Layout, config: Config) -> Mapping[str, Any] | None:
    tuned = config.guided.variants.get(EVALUATED[0])
    promoted = tuned is not None and tuned.tuning is not None and tuned.tuning.trial == best.number
    if not promoted or not all(layout.evaluation(name).is_file() for name in EVALUATED):
        return None
    found = {name: read_json(layout.evaluation(name), "evaluation") for name in EVALUATED}
    return {name: {key: result[key] for key in ("fid", "fid_ci95", "n")} for name, result in found.items()}


def _importances(study: optuna.Study) -> dict[str, float]:
    if sum(trial.state == TrialState.COMPLETE for trial in study.trials) < ENOUGH:
        return {}
    return dict(optuna.importance.get_param_importances(study))

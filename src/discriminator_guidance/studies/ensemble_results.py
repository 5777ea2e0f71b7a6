"""What study `ensemble` leaves for people, for the report and for promotion: a record and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import InputError
from discriminator_guidance.report.wording import data_note
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.ensemble import GRID, PLAIN, PLAIN_MEAN, STUDY, variant_of
from discriminator_guidance.studies.liveness import settled
from discriminator_guidance.studies.record_files import write_record

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

EVALUATED = ("ensemble_tuned", PLAIN, "d0")
ENOUGH = 4  # complete trials under which no importance is estimated
SCORES = ("test_bce", "test_auroc")


def write_ensemble_results(study: optuna.Study, config: Config, layout: Layout) -> list[Path]:
    """Write record, table and charts.

    Args:
        study: with at least one complete trial.
        config: of the profile.
        layout: where files are.

    Returns:
        The files.

    Raises:
        InputError: no trial is complete.
    """

    def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return ensemble_record(study, config, layout), trial_rows(study, config)

    return write_record(STUDY, read, layout, config.report.dpi, data_note({"note": config.real.note}))


def ensemble_record(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """The study as one JSON object.

    Args:
        study: with at least one complete trial.
        config: of the profile.
        layout: where files are.

    Returns:
        Number of trials and their states, seed, objective, what was searched, the best trial, single members, the plain
        mean, importances, the tuning range, and, once the best trial was promoted and evaluated, the distances on the
        evaluation samples beside those on the tuning samples: null before.

    Raises:
        InputError: no trial is complete.
    """
    tuning, trials = config.study.tuning, settled(study, config.study.storage is not None)
    values = {trial.user_attrs[GRID]: trial.value for trial in _complete(study) if GRID in trial.user_attrs}
    best, states = _best(study), [trial.state.name.lower() for trial in trials]
    return {
        "study": study.study_name,
        "n_trials": len(trials),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "seed": config.study.seed,
        "objective": study.user_attrs["objective"],
        "direction": "minimize",
        "parameters": _searched(config),
        "best": {
            "trial": best.number,
            GRID: best.user_attrs.get(GRID),
            "value": best.value,
            **{key: best.user_attrs[key] for key in SCORES},
            "params": best.params,
            "variant": _variant(best, config),
        },
        "plain_mean": values.get(PLAIN_MEAN),
        "vertices": {name: values.get(name) for name in _members(config)},
        "pareto": {
            "cost": {"column": "members", "label": "members that guide: a pass of a head each, at every step"},
            "value": {"column": "value", "label": study.user_attrs["objective"]},
        },
        "importances": _importances(study, config.study.seed),
        "fid_network": config.fid_network.name,
        "tuning": {"images": tuning.images, "seed": tuning.seed, "seed_start": tuning.seed_start},
        "evaluation": _evaluation(best, layout, config),
    }


def trial_rows(study: optuna.Study, config: Config) -> list[dict[str, float | int | str]]:
    """A row for each trial that was begun, as it was sampled.

    Args:
        study: of any length.
        config: of the profile.

    Returns:
        Number, state, what every study begins with ("" for what was searched), distance (of a pruned trial: of its
        first `batches` batches), scores on the test pictures, seconds, number of members with weight, weights, rule,
        guidance and window.
    """
    rows: list[dict[str, float | int | str]] = []
    for trial in study.trials:
        if not all(key in trial.user_attrs for key in SCORES):
            continue
        variant = _variant(trial, config)
        parameters = {
            **{f"weight_{name}": weight for name, weight in _weights(variant, config).items()},
            **{key: variant[key] for key in ("rule", "w1", "w2")},
            "time_min": variant["window"][0],
            "time_max": variant["window"][1],
            "boosting": str(variant["boosting"]).lower(),
        }
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                GRID: trial.user_attrs.get(GRID, ""),
                "value": "" if trial.value is None else trial.value,
                "batches": len(trial.intermediate_values),
                **{key: trial.user_attrs[key] for key in SCORES},
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else "",
                "members": len(variant["members"]),
                **{f"params_{name}": value for name, value in parameters.items()},
            }
        )
    return rows


def _searched(config: Config) -> list[Mapping[str, Any]]:
    """Names and ranges of the columns params_* of the table."""
    search = config.study.ensemble
    return [
        *({"name": f"weight_{name}", "low": 0.0, "high": 1.0, "log": False} for name in _members(config)),
        {"name": "rule", "choices": list(search.rules)},
        *(_range(key, getattr(search, key), key == "time_min") for key in ("w1", "w2", "time_min", "time_max")),
        {"name": "boosting", "choices": list(search.boosting)},
    ]


def _range(name: str, bounds: tuple[float, float], log: bool) -> Mapping[str, Any]:
    return {"name": name, "low": bounds[0], "high": bounds[1], "log": log}


def _weights(variant: Mapping[str, Any], config: Config) -> dict[str, float]:
    kept, given = variant["members"], variant["weights"]
    weights = [1 / len(kept)] * len(kept) if given == "equal" else given
    return dict.fromkeys(_members(config), 0.0) | dict(zip(kept, weights, strict=True))


def _members(config: Config) -> tuple[str, ...]:
    return config.guided.variants[PLAIN].members


def _variant(trial: FrozenTrial, config: Config) -> dict[str, Any]:
    return variant_of(trial.params, _members(config)).model_dump(mode="json", exclude_none=True)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


def _best(study: optuna.Study) -> FrozenTrial:
    if not (complete := _complete(study)):
        raise InputError(f"a complete trial in study {study.study_name}", "none", "ask for more trials")
    return min(complete, key=lambda trial: (trial.value, trial.number))


def _importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """Shares of the objective's variance by fANOVA; a member's is that of its share before they are normalised."""
    if len(_complete(study)) < ENOUGH:
        return {}
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name.replace("u_", "weight_"): float(share) for name, share in shares.items()}


def _evaluation(best: FrozenTrial, layout: Layout, config: Config) -> Mapping[str, Any] | None:
    tuned = config.guided.variants.get(EVALUATED[0])
    promoted = tuned is not None and tuned.tuning is not None and tuned.tuning.trial == best.number
    if not promoted or not all(layout.evaluation(name).is_file() for name in EVALUATED):
        return None
    found = {name: read_json(layout.evaluation(name), "evaluation") for name in EVALUATED}
    return {name: {key: result[key] for key in ("fid", "fid_ci95", "n")} for name, result in found.items()}

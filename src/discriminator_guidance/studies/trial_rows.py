"""The trials of a study as plain values, so that tables and figures can be made without its storage."""

from __future__ import annotations

from typing import Any

import optuna

from discriminator_guidance.studies.liveness import WORKER, attempts
from discriminator_guidance.studies.workers import SAMPLER_SEED

LEFT_OUT = (WORKER, "interrupted")  # of no use to anybody but the workers


def trial_rows(study: optuna.Study) -> list[dict[str, Any]]:
    """Every trial that has ended, by number.

    Args:
        study: with one value or several.

    Returns:
        Number, state (lower case), value (None of a failed one; of a pruned one what it last reported) or values,
        parameters, reported values by step, seconds, seed of its sampler, trials lost before it with the same
        parameters, and what else the study noted.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            continue
        value = {"value": trial.value} if len(study.directions) == 1 else {"values": trial.values}
        attrs = {key: found for key, found in trial.user_attrs.items() if key not in (*LEFT_OUT, SAMPLER_SEED)}
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                **value,
                "params": trial.params,
                "reported": {str(step): reported for step, reported in sorted(trial.intermediate_values.items())},
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
                SAMPLER_SEED: trial.user_attrs.get(SAMPLER_SEED),
                "lost_before": attempts(trial),
                "attrs": attrs,
            }
        )
    return rows

"""A trial as one run of a tracking service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from discriminator_guidance.studies.liveness import attempts
from discriminator_guidance.studies.workers import SAMPLER_SEED


@dataclass(frozen=True)
class TrialRun:
    """What is recorded of a trial.

    Args:
        name: of the run, e.g. "mini-discriminator 12".
        tags: study, trial number, state, the path of its weights and their digest.
        params: what was tried.
        metrics: numbers by step; step 0 has what the whole trial came to.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, object]
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def trial_run(study: str, trial: FrozenTrial, values: tuple[str, ...] = ("objective",)) -> TrialRun:
    """Translate a trial that has ended.

    Args:
        study: its name.
        trial: complete, pruned or failed.
        values: what its values are called.

    Returns:
        The run. What the study noted is a metric if it is a number, else a tag; values that were reported on the way
        are the metric `reported`.
    """
    tags = {"study": study, "trial": str(trial.number), "state": trial.state.name.lower()}
    totals: dict[str, float] = {}
    for key, value in trial.user_attrs.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key != SAMPLER_SEED:
            totals[key] = float(value)
        elif isinstance(value, str):
            tags[key] = value
    tags[SAMPLER_SEED] = str(trial.user_attrs.get(SAMPLER_SEED))
    if before := attempts(trial):
        tags["lost_before"] = ", ".join(map(str, before))
    if trial.values is not None:
        totals |= dict(zip(values, trial.values, strict=True))
    if trial.duration is not None:
        totals["seconds"] = trial.duration.total_seconds()
    steps = {step: {"reported": value} for step, value in sorted(trial.intermediate_values.items())}
    return TrialRun(f"{study} {trial.number}", tags, trial.params, {**steps, 0: totals | steps.get(0, {})})

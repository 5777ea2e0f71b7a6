"""A search as it is recorded: one JSON object, and a table with a row for each trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from discriminator_guidance.report.readers import Kind

COLUMN = "params_"  # columns of the table that were searched
KEYS: dict[str, Kind] = {
    "study": "text",
    "n_trials": "number",
    "states": "object",
    "seed": "number",
    "objective": "text",
    "parameters": "list",
    "best": "object",
    "importances": "object",
    "tuning": "object",
}
COLUMNS = ["number", "state", "grid", "value"]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Args:
        number: in its study.
        state: complete, pruned, fail or running.
        start: what it is called where every study begins with it, otherwise "".
        value: the objective, lower is better; of a pruned trial what it had come to; None of one that failed.
        params: numbers, or choices as text, by name.
        front: (cost, value) in the Pareto chart; None where it has no place there.
    """

    number: int
    state: str
    start: str
    value: float | None
    params: Mapping[str, float | str]
    front: tuple[float, float] | None

    @property
    def complete(self) -> bool:
        """Whether its value can be compared with that of others."""
        return self.state == "complete" and self.value is not None


@dataclass(frozen=True)
class Axis:
    """A searched parameter.

    Args:
        name: as printed.
        low: smallest number.
        high: largest number.
        log: whether it was searched by its logarithm.
        choices: in place of numbers, the texts it can be.
    """

    name: str
    low: float
    high: float
    log: bool
    choices: tuple[str, ...]


def axes_of(record: Mapping[str, Any]) -> list[Axis]:
    """The searched parameters.

    Args:
        record: its `parameters` are objects of name, and of low, high and log or of choices.

    Returns:
        In the order of the record.
    """
    axes = []
    for told in record["parameters"]:
        if "choices" in told:
            choices = tuple(map(choice_text, told["choices"]))
            axes.append(Axis(told["name"], 0.0, max(1.0, len(choices) - 1.0), False, choices))
        else:
            axes.append(Axis(told["name"], told["low"], told["high"], told["log"], ()))
    return axes


def trials_of(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """The trials of a table.

    Args:
        record: of the same study; `pareto`, where it has one, names the columns of the Pareto chart.
        rows: number, state, grid, value and params_*, as they are or as CSV gives them back; "" is nothing.

    Returns:
        By number; without those that ended before they had all their parameters.
    """
    axes, pareto = axes_of(record), record.get("pareto")
    trials = []
    for row in rows:
        if any(row[COLUMN + axis.name] == "" for axis in axes if not axis.choices):
            continue
        pair = [_number(row.get(pareto[key]["column"], "")) for key in ("cost", "value")] if pareto else []
        cost, reached = pair or (None, None)
        trials.append(
            Trial(
                number=int(row["number"]),
                state=str(row["state"]),
                start=str(row["grid"]),
                value=_number(row["value"]),
                params={
                    axis.name: choice_text(row[COLUMN + axis.name]) if axis.choices else float(row[COLUMN + axis.name])
                    for axis in axes
                },
                front=(cost, reached) if cost is not None and reached is not None else None,
            )
        )
    return sorted(trials, key=lambda trial: trial.number)


def best_trial(record: Mapping[str, Any], trials: Sequence[Trial]) -> Trial:
    """The trial that the record calls the best.

    Args:
        record: of the study.
        trials: of the study.

    Returns:
        It.
    """
    return next(trial for trial in trials if trial.number == record["best"]["trial"])


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front: no other complete trial is as good in both cost and value, and better in one.

    Args:
        trials: of a study.

    Returns:
        By cost, so by falling value.
    """
    placed = [(*trial.front, trial.number, trial) for trial in trials if trial.complete and trial.front is not None]
    front, smallest = list[Trial](), math.inf
    for _, value, _, trial in sorted(placed, key=lambda one: one[:3]):
        if value < smallest:
            front.append(trial)
            smallest = value
    return front


def choice_text(value: object) -> str:
    """A choice as tables and charts print it.

    Args:
        value: of any type.

    Returns:
        For example "off", "mean_logit", "none", "0.6".
    """
    named, text = {"true": "on", "false": "off", "none": "none", "": "none"}, str(value)
    if text.lower() in named:
        return named[text.lower()]
    try:
        return f"{float(text):g}"  # 24 and 24.0 are one choice, however a table was read
    except ValueError:
        return text


def _number(value: object) -> float | None:
    return None if value in ("", None) else float(str(value))

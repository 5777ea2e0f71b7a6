"""How long the stages of a study took, read back from MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discriminator_guidance import tracking
from discriminator_guidance.errors import InputError

MOST_RUNS = 5000


@dataclass(frozen=True)
class Recorded:
    """The last finished run of a stage.

    Args:
        seconds: from its start to its end, by the clock of the wall.
        reservation: why it says nothing about a whole run with the settings of now; empty if it does.
    """

    seconds: float
    reservation: str


def recorded_runs(root: Path, experiment: str, wanted: Mapping[str, Mapping[str, object]]) -> dict[str, Recorded]:
    """The durations of stage runs.

    Args:
        root: the project folder.
        experiment: whose runs.
        wanted: settings of now by name of the run; nested mappings are compared under dotted names.

    Returns:
        By name, of those that have finished.

    Raises:
        InputError: MLflow cannot be read.
    """
    try:
        client = tracking.open_store(root)
        found = client and client.get_experiment_by_name(experiment.replace("/", "-"))
        if not client or found is None:
            return {}
        runs = client.search_runs([found.experiment_id], max_results=MOST_RUNS, order_by=["attributes.start_time ASC"])
    except Exception as error:
        uri = tracking.redact(tracking.tracking_uri(root))
        raise InputError(
            f"MLflow's runs at {uri}", tracking.redact(" ".join(str(error).split()))[:200], "leave --compare out"
        ) from error
    recorded: dict[str, Recorded] = {}
    interrupted: set[str] = set()
    for run in runs:
        name = run.info.run_name
        if name not in wanted:
            continue
        if run.info.status != "FINISHED" or run.info.end_time is None:
            interrupted.add(name)
            continue
        reservation = "went on from an interrupted run" if name in interrupted else _changed(wanted[name], run)
        recorded[name] = Recorded((run.info.end_time - run.info.start_time) / 1000, reservation)
        interrupted.discard(name)
    return recorded


def _changed(params: Mapping[str, object], run: Any) -> str:
    if (count := run.data.tags.get("ranks")) is not None:
        return f"was shared by {count} processes"
    now, then = tracking.flatten(params), run.data.params
    # Long values are cut in MLflow; `seed` and the like decide nothing about time, but a changed run is another run.
    different = [key for key, value in now.items() if key in then and len(value) < 500 and then[key] != value]
    return f"had other settings ({different[0]})" if different else ""

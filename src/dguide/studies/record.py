"""The output of a search in reports/<profile>/study: a table, a record and charts; and its winner in the settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from dguide.artifacts import Layout
from dguide.settings import PARAMS, Config, load_config
from dguide.settings.profile import promote
from dguide.studies.trials import GRID, complete, ended
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import read_json, write_bytes, write_csv, write_json

ENOUGH = 4  # different values under which only the history is drawn


def write_record(study: optuna.Study, config: Config, layout: Layout, record: Mapping[str, Any]) -> None:
    """Write <word>.csv, <word>.json and <word>_<chart>.png of a search."""
    from optuna.visualization import matplotlib as charts

    word, trials, tuning = study.study_name.rpartition("-")[2], ended(study), config.studies.tuning
    write_csv(layout.study / f"{word}.csv", [_row(trial) | note_of(config) for trial in trials])
    facts = {
        "study": word,
        "n_trials": len(trials),
        "seed": config.studies.seed,
        "objective": (study.metric_names or [""])[0],
        "fid_network": config.fid_network.name,
        "tuning": {"images": tuning.images, "seed": tuning.seed, "seed_start": tuning.seed_start},
    }
    write_json(layout.study / f"{word}.json", {**facts, **record, **note_of(config)})
    plots: dict[str, Callable[[], Any]] = {"history": lambda: charts.plot_optimization_history(study)}
    if len({trial.value for trial in complete(study)}) >= ENOUGH:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.studies.seed)
        plots["importances"] = lambda: charts.plot_param_importances(study, evaluator=evaluator)
        plots["parallel"] = lambda: _wide(charts.plot_parallel_coordinate(study))
        plots["slice"] = lambda: charts.plot_slice(study)
    for name, plot in plots.items():
        draw(plot, layout.study / f"{word}_{name}.png", config)


def draw(plot: Callable[[], Any], path: Path, config: Config) -> None:
    """Write what a function draws with matplotlib, with the note of the real data if there is one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from dguide.report.figures import png

    with warnings.catch_warnings(action="ignore"):  # Optuna's charts are experimental, its ranges may be empty
        figure = np.ravel(plot())[0].figure
    note = f"Note on the real data: {config.real.note}" if config.real.note else ""
    with plt.rc_context({"savefig.bbox": "tight"}):
        write_bytes(path, png(figure, config.report.dpi, note))
    plt.close(figure)


def note_of(config: Config) -> dict[str, str]:
    """The note of the real data, if there is one, as a column or an entry."""
    return {"note": config.real.note} if config.real.note else {}


def _wide(axes: Any) -> Any:
    """Room for the labels between the axes of a parallel plot."""
    axes.figure.set_size_inches(1.4 * len(axes.get_xticks()), 5)
    return axes


def promote_winner(root: Path, word: str) -> list[Path]:
    """Write the rows of a search's winner to params.yaml and its profile, and where they come from to promoted.json."""
    folder = Layout(root, load_config(root / PARAMS).profile).study
    path, promotions = folder / f"{word}.json", folder / "promoted.json"
    if not path.is_file():
        raise InputError(f"the record of a search, {path}", "no such file", f"run `dguide study {word}` first")
    record = read_json(path, f"study {word}")
    written = promote(root, record["rows"])
    earlier = read_json(promotions, "study promote") if promotions.is_file() else {}
    write_json(promotions, {**earlier, word: {"study": word, **record["winner"]}})
    return [*written, promotions]


def seconds(trial: FrozenTrial) -> float:
    """How long a trial took; 0 if that is not known."""
    return round(trial.duration.total_seconds(), 1) if trial.duration else 0.0


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        GRID: trial.user_attrs.get(GRID),
        "value": trial.value,  # of a pruned trial what it reported last
        "seconds": seconds(trial),
        **{name: value for name, value in trial.user_attrs.items() if isinstance(value, int | float)},
        **{f"params_{name}": value for name, value in trial.params.items()},
    }

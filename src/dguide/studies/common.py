"""What the studies share: the samples that trials guide, what their distances depend on, and records and charts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial

from dguide.report.figures import png
from dguide.settings import PARAMS, Config, Layout, SampleRange, Variant, load_config, plain
from dguide.settings.profile import promote
from dguide.stages.guided import batches_of, draw
from dguide.studies.trials import GRID, complete, ended
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import WEIGHT_FILES, read_json, read_npz, write_bytes, write_csv, write_json
from discriminator_guidance.core.images import write_grid
from discriminator_guidance.core.runtime import allow_tf32, prepare
from discriminator_guidance.metrics.distances import gaussian_of_features
from discriminator_guidance.metrics.features import extract_features, load_fid_network
from discriminator_guidance.sampling.batches import Arrays

ENOUGH = 4  # different values under which only the history is drawn
matplotlib.use("Agg")


class GuidedSamples:
    """Samples of many variants in one training replicate, with their features and those of the real images."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config, self.layout, folder = config, layout, layout.model("fid_network")
        self.compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
        self.network = load_fid_network(folder, self.compute)
        self.reference = gaussian_of_features(read_npz(folder / "features.npz", ["train"], "fid_network")["train"])

    def batches(self, variant: Variant, span: SampleRange, **options: Any) -> Iterator[Arrays]:
        """Draw the samples of a variant in a range; yields of each batch what `draw` does, and features (n, d)."""
        rounded, size = torch.backends.cuda.matmul.allow_tf32, self.config.evaluation.batch_size
        for _, arrays, _ in draw(self.config, self.layout, variant, span.seed, batches_of(span), **options):
            allow_tf32(False)  # metrics are compared to many digits
            features = extract_features(self.network.features, arrays["images"], size, self.compute.device)
            allow_tf32(rounded)
            yield arrays | {"features": features}

    def attach(self, trial: optuna.Trial, tracker: Tracker, images: np.ndarray) -> None:
        """Attach a grid of a trial's first samples, for `optuna-dashboard --artifact-dir` and MLflow."""
        self.layout.trials.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            grid, store = Path(folder) / "samples.png", FileSystemArtifactStore(self.layout.trials)
            write_grid(grid, images)
            upload_artifact(artifact_store=store, file_path=str(grid), study_or_trial=trial)
            tracker.artifact(grid)


def distance_inputs(layouts: Sequence[Layout], members: Iterable[str] = ()) -> tuple[Path, ...]:
    """The files that the distances of samples guided by members depend on, in each training replicate."""
    folders = [layout.model(word) for word in ("score", "extractor", "fid_network") for layout in layouts]
    folders += [layout.discriminator(member) for layout in layouts for member in members]
    weights = dict.fromkeys(folder / name for folder in folders for name in WEIGHT_FILES)
    return (layouts[0].real / "train.npz", layouts[0].model("fid_network") / "features.npz", *weights)


def distance_settings(config: Config) -> dict[str, Any]:
    """The settings that every distance depends on, beside its variant."""
    window = [config.guided.time_min, config.guided.time_max]
    tuning, sampler = plain(config.studies.tuning), plain(config.sampler)
    return {"tuning": tuning, "sampler": sampler, "window": window, "cond": config.cond}


def write_record(study: optuna.Study, config: Config, layout: Layout, record: Mapping[str, Any]) -> None:
    """Write <word>.csv, <word>.json and <word>_<chart>.png of a search."""
    from optuna.visualization import matplotlib as charts

    word, trials = study.study_name.rpartition("-")[2], ended(study)
    write_csv(layout.study / f"{word}.csv", [_row(trial) | note_of(config) for trial in trials])
    facts = {
        "study": word,
        "n_trials": len(trials),
        "seed": config.studies.seed,
        "objective": (study.metric_names or [""])[0],
        "fid_network": config.fid_network.name,
        "tuning": plain(config.studies.tuning, "batch_size"),
    }
    write_json(layout.study / f"{word}.json", {**facts, **record, **note_of(config)})
    with warnings.catch_warnings(action="ignore"):  # Optuna's charts are experimental, its ranges may be empty
        plots: dict[str, Any] = {"history": charts.plot_optimization_history(study)}
        if len({trial.value for trial in complete(study)}) >= ENOUGH:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.studies.seed)
            plots["importances"] = charts.plot_param_importances(study, evaluator=evaluator)
            plots["parallel"] = charts.plot_parallel_coordinate(study)
            plots["parallel"].figure.set_size_inches(1.4 * len(plots["parallel"].get_xticks()), 5)  # room for labels
            plots["slice"] = charts.plot_slice(study)
        for name, axes in plots.items():
            write_chart(axes, layout.study / f"{word}_{name}.png", config)


def write_chart(axes: Any, path: Path, config: Config) -> None:
    """Write and close the figure of axes, with the note of the real data if there is one."""
    figure = np.ravel(axes)[0].figure
    note = f"Note on the real data: {config.real.note}" if config.real.note else ""
    with plt.rc_context({"savefig.bbox": "tight"}):
        write_bytes(path, png(figure, config.report.dpi, note))
    plt.close(figure)


def note_of(config: Config) -> dict[str, str]:
    """The note of the real data, if there is one, as a column or an entry."""
    return {"note": config.real.note} if config.real.note else {}


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

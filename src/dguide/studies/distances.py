"""The samples that trials guide, and what the Frechet distances that the studies compare depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from dguide.artifacts import Layout, load_fid_network
from dguide.settings import Config, SampleRange, Variant, plain
from dguide.stages.guided import Arrays, batches_of, draw
from dguide.tracking import Tracker
from discriminator_guidance.files import WEIGHT_FILES, read_npz
from discriminator_guidance.images import write_grid
from discriminator_guidance.metrics.distances import gaussian_of_features
from discriminator_guidance.metrics.features import extract_features
from discriminator_guidance.runtime import allow_tf32, prepare


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
        for _, arrays in draw(self.config, self.layout, variant, span.seed, batches_of(span), **options):
            allow_tf32(False)  # metrics are compared to many digits
            features = extract_features(self.network.features, arrays["images"], size, self.compute.device)
            allow_tf32(rounded)
            yield arrays | {"features": features}


def attach_samples(trial: optuna.Trial, tracker: Tracker, images: np.ndarray, layout: Layout) -> None:
    """Attach a grid of a trial's first samples, for `optuna-dashboard --artifact-dir` and MLflow."""
    layout.trials.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        grid = Path(folder) / "samples.png"
        write_grid(grid, images)
        store = FileSystemArtifactStore(layout.trials)
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

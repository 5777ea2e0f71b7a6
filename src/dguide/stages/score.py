"""Stage `score`: the EDM denoiser that is to be guided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from dguide.artifacts import Layout, load_denoiser, released_file, require_arguments, save_network, train_network
from dguide.settings import Config, plain
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.files import Resumable, read_npz, save_weights
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.runtime import is_first, prepare
from discriminator_guidance.training.loop import Report, Row, Snapshots
from discriminator_guidance.training.pairs import as_tensor
from discriminator_guidance.training.score import holdout_loss, train_score


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the denoiser on the real images, or convert a released one."""
    settings, runtime = config.score, config.runtime
    real = read_npz(layout.real / "train.npz", ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    classes = int(real["labels"].max()) + 1 if config.cond else 0
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    wanted = {"img_resolution": size, "img_channels": channels, "label_dim": classes}
    if settings.source == "edm":
        released, found = read_edm(released_file(layout, settings.path, "score.path"))
        remedy = "change score.path, real.image_size or cond"
        require_arguments(f"a score network in {settings.path}", wanted, {"label_dim": 0, **found}, remedy)
        return {"source": settings.path, **save_network(layout, tracker, "score", released, found)}

    arguments = {**wanted, "sigma_data": settings.sigma_data, **plain(settings.network)}
    torch.manual_seed(settings.training.seed)
    network = EDMPrecond(**arguments).to(compute.device)

    def tensors(part: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor | None]:
        labels = torch.from_numpy(part["labels"]).to(compute.device)
        return as_tensor(part["images"], compute.device), one_hot(labels, classes) if classes else None

    snapshots: Snapshots = {iterations: {} for iterations in settings.snapshots.values()}

    def train(checkpoints: Resumable, report: Report) -> tuple[nn.Module, list[Row]]:
        trained = train_score(network, *tensors(real), settings, compute, checkpoints, report, snapshots)
        if is_first():
            for name, iterations in settings.snapshots.items():
                save_weights(layout.model("score") / name, snapshots[iterations], arguments)
        return trained

    summary = train_network(config, layout, tracker, "score", compute, arguments, train)
    if is_first():
        holdout = tensors(read_npz(layout.real / "holdout.npz", ["images", "labels"], "real"))
        for name in (None, *settings.snapshots):
            loss = holdout_loss(load_denoiser(layout, compute, name), *holdout, settings, compute)
            summary["_".join(filter(None, ["holdout_loss", name]))] = loss
    return summary

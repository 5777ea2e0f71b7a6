"""Stage `score`: the EDM denoiser that is to be guided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import one_hot

from discriminator_guidance import distributed
from discriminator_guidance.checkpoints.edm_pickle import read_edm_pickle
from discriminator_guidance.checkpoints.weights import fit_network, save_weights
from discriminator_guidance.data.files import read_npz
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.precision import prepare
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import AS_PUBLISHED, released_file, save_network, training_report
from discriminator_guidance.stages.resume import resumable
from discriminator_guidance.training.loop import Schedule, Snapshots
from discriminator_guidance.training.pairs import as_tensor
from discriminator_guidance.training.score import ScoreSettings, train_score

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the denoiser on the real images, or convert a released one."""
    settings, runtime, source = config.score, config.runtime, layout.real / "train.npz"
    real = read_npz(source, ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    classes = int(real["labels"].max()) + 1 if config.cond else 0
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)

    if settings.source == "edm":
        state, arguments = read_edm_pickle(released_file(layout, settings.path, "score.path"))
        _require_fit(arguments, size, channels, classes, settings.path)
        network = fit_network(EDMPrecond, arguments, state, f"an EDM checkpoint in {settings.path}", AS_PUBLISHED)
        if distributed.is_first():
            save_network(layout.model("score"), state, arguments, [])
        result: dict[str, Any] = {"source": settings.path}
    else:
        arguments = {"img_resolution": size, "img_channels": channels, "label_dim": classes}
        arguments |= {"sigma_data": settings.sigma_data, **settings.network.model_dump()}
        torch.manual_seed(settings.training.seed)
        network = EDMPrecond(**arguments).to(compute.device)
        labels = torch.from_numpy(real["labels"]).to(compute.device)
        training = ScoreSettings(
            Schedule(**settings.training.model_dump()),
            settings.p_mean,
            settings.p_std,
            settings.sigma_data,
            settings.ema_decay,
        )
        key = {**settings.model_dump(), "cond": config.cond, "ranks": distributed.world_size()}
        checkpoints = resumable(layout, "score", [source], key, compute)
        snapshots: Snapshots = {iterations: {} for iterations in settings.snapshots.values()}
        iterations = max([settings.training.iterations, *snapshots])
        with training_report(tracker, "training the score network", iterations, "iterations") as report:
            averaged, history = train_score(
                network,
                as_tensor(real["images"], compute.device),
                one_hot(labels, classes) if classes else None,
                training,
                compute,
                checkpoints,
                report,
                snapshots,
            )
        if distributed.is_first():
            save_network(layout.model("score"), averaged.state_dict(), arguments, history)
            for name, iterations in settings.snapshots.items():
                save_weights(layout.model("score") / name, snapshots[iterations], arguments)
            checkpoints.remove()
        result = {"final_loss": history[-1]["loss"], "precision": compute.mode, **compute.record()}
    tracker.model(f"score-{config.profile}", layout.model("score") / "model.safetensors")
    return {**result, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def _require_fit(arguments: dict[str, Any], size: int, channels: int, classes: int, path: str) -> None:
    takes, given = (arguments["img_resolution"], arguments["img_channels"]), arguments.get("label_dim", 0)
    if takes != (size, channels):
        raise ConfigError(
            f"a score network for images of {size} pixels and {channels} channels in {path}",
            f"{takes[0]} pixels and {takes[1]} channels",
            "change score.path or real.image_size",
        )
    if given != classes:
        kind, other = (f"with {count} classes" if count else "without classes" for count in (classes, given))
        raise ConfigError(
            f"a score network {kind} in {path}, as cond and real say", f"one {other}", "change score.path or cond"
        )

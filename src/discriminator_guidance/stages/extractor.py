"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from discriminator_guidance import distributed
from discriminator_guidance.checkpoints.adm_checkpoint import derive_arguments, read_state_dict
from discriminator_guidance.checkpoints.weights import fit_network
from discriminator_guidance.data.files import read_npz
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.adm import EncoderUNet, build_extractor
from discriminator_guidance.networks.precision import prepare
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import AS_PUBLISHED, released_file, save_network, training_report
from discriminator_guidance.stages.resume import resumable
from discriminator_guidance.training.classifiers import Noising, train_classifier
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on VP-noised real images, or convert a released one."""
    settings, runtime, source = config.extractor, config.runtime, layout.real / "train.npz"
    real = read_npz(source, ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)

    if settings.source == "adm":
        what = f"a classifier in {settings.path}"
        state = read_state_dict(released_file(layout, settings.path, "extractor.path"))
        arguments = derive_arguments(state, what)
        _require_fit(arguments, size, channels, settings.path)
        network = fit_network(EncoderUNet, arguments, state, what, AS_PUBLISHED)
        if distributed.is_first():
            save_network(layout.model("extractor"), state, arguments, [])
        result: dict[str, Any] = {"source": settings.path}
    else:
        torch.manual_seed(settings.training.seed)
        classes = int(real["labels"].max()) + 1
        network = build_extractor(size, channels, classes, **settings.network.model_dump()).to(compute.device)
        schedule = Schedule(**settings.training.model_dump())
        key = {**settings.model_dump(), "ranks": distributed.world_size()}
        checkpoints = resumable(layout, "extractor", [source], key, compute)
        with training_report(tracker, "training the extractor", schedule.iterations, "iterations") as report:
            _, history = train_classifier(
                network,
                as_tensor(real["images"], compute.device),
                torch.from_numpy(real["labels"]).to(compute.device),
                schedule,
                compute,
                checkpoints,
                report,
                Noising(settings.t_min, settings.uniform_time_fraction),
            )
        if distributed.is_first():
            save_network(layout.model("extractor"), network.state_dict(), network.arguments, history)
            checkpoints.remove()
        result = {f"final_{key}": history[-1][key] for key in ("loss", "accuracy")}
        result |= {"precision": compute.mode, **compute.record()}
    tracker.model(f"extractor-{config.profile}", layout.model("extractor") / "model.safetensors")
    return {**result, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def _require_fit(arguments: dict[str, Any], size: int, channels: int, path: str) -> None:
    takes = (arguments["image_size"], arguments["in_channels"])
    if takes != (size, channels):
        raise ConfigError(
            f"a classifier of images of {size} pixels and {channels} channels in {path}",
            f"{takes[0]} pixels and {takes[1]} channels",
            "change extractor.path or real.image_size",
        )
    if arguments["condition"]:
        raise ConfigError(f"a classifier in {path}", "one that is given classes", "change extractor.path")

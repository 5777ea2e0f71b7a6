"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from typing import Any

import torch

from dguide.settings import Config, Layout, plain, read_released
from dguide.stages.networks import network_training, save_network
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.core.files import read_npz
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.networks.adm import build_extractor
from discriminator_guidance.training.classifiers import outputs, train_classifier


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on VP-noised real images, or convert a released one."""
    settings, runtime = config.extractor, config.runtime
    file = layout.part("discriminator")
    real = read_npz(file, ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    if settings.source == "adm":
        wanted = {"image_size": size, "in_channels": channels, "condition": False}
        released, arguments = read_released(read_adm, layout.root, settings.path, "extractor.path", wanted)
        return {"source": settings.path, **save_network(layout, tracker, "extractor", released, arguments)}

    torch.manual_seed(settings.training.seed)
    network = build_extractor(size, channels, outputs(real["labels"]), **plain(settings.network))
    noising = settings.t_min, settings.uniform_time_fraction
    with network_training(config, layout, tracker, "extractor", file, compute) as (work, report):
        history = train_classifier(network, real, settings.training, compute, work, report, noising=noising)
    summary = save_network(layout, tracker, "extractor", network, network.arguments, history)
    return {**summary, "precision": compute.mode}

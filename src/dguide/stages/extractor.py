"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dguide.artifacts import Layout, released_file, require_arguments, save_network, train_network
from dguide.settings import Config, plain
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.files import read_npz
from discriminator_guidance.networks.adm import build_extractor
from discriminator_guidance.runtime import prepare
from discriminator_guidance.training.classifiers import train_classifier
from discriminator_guidance.training.pairs import as_tensor


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on VP-noised real images, or convert a released one."""
    settings, runtime = config.extractor, config.runtime
    real = read_npz(layout.real / "train.npz", ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    if settings.source == "adm":
        released, found = read_adm(released_file(layout, settings.path, "extractor.path"))
        wanted = {"image_size": size, "in_channels": channels, "condition": False}
        remedy = "change extractor.path or real.image_size"
        require_arguments(f"a classifier in {settings.path}", wanted, found, remedy)
        return {"source": settings.path, **save_network(layout, tracker, "extractor", released, found)}

    torch.manual_seed(settings.training.seed)
    classes = int(real["labels"].max()) + 1
    network = build_extractor(size, channels, classes, **plain(settings.network)).to(compute.device)
    images = as_tensor(real["images"], compute.device)
    labels = torch.from_numpy(real["labels"]).to(compute.device)
    noising = settings.t_min, settings.uniform_time_fraction
    train = partial(train_classifier, network, images, labels, settings.training, compute, noising=noising)
    return train_network(config, layout, tracker, "extractor", compute, network.arguments, train)

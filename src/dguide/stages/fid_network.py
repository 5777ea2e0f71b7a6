"""Stage `fid_network`: the network whose features define the Frechet distance, and its features of the real images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dguide import tracking
from dguide.artifacts import INCEPTION, Layout, load_fid_network, released_file, save_network, train_network
from dguide.settings import Config
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_state_dict
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import read_npz, sha256, write_npz
from discriminator_guidance.metrics.features import FidNetwork, InceptionFeatures, extract_features
from discriminator_guidance.runtime import allow_tf32, is_first, prepare
from discriminator_guidance.training.classifiers import train_classifier
from discriminator_guidance.training.pairs import as_tensor


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on clean real images, or take Inception's weights; then extract features once for all."""
    settings, runtime = config.fid_network, config.runtime
    real = read_npz(layout.real / "train.npz", ["images", "labels"], "real")
    holdout = read_npz(layout.real / "holdout.npz", ["images"], "real")
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    if settings.source == "inception":
        path = released_file(layout, settings.path, "fid_network.path")
        if settings.sha256 is not None and (found := sha256(path)) != settings.sha256:
            remedy = "download the file again, or correct fid_network.sha256"
            raise InputError(f"sha256 {settings.sha256} of {settings.path}", found, remedy)
        released = InceptionFeatures(read_state_dict(path)).network  # refuses other weights
        summary = {"source": settings.path, **save_network(layout, tracker, "fid_network", released, INCEPTION)}
    else:
        _, size, _, channels = real["images"].shape
        arguments = {"image_size": size, "in_channels": channels, "channels": settings.channels}
        arguments |= {"features": settings.features, "classes": int(real["labels"].max()) + 1}
        torch.manual_seed(settings.training.seed)
        network = FidNetwork(**arguments).to(compute.device)
        images = as_tensor(real["images"], compute.device)
        labels = torch.from_numpy(real["labels"]).to(compute.device)
        train = partial(train_classifier, network, images, labels, settings.training, compute)
        summary = train_network(config, layout, tracker, "fid_network", compute, arguments, train)

    if is_first():
        allow_tf32(False)  # metrics are compared to many digits
        batch_size = config.evaluation.batch_size
        features, saved = {}, load_fid_network(layout.model("fid_network"), compute)
        for name, shown in (("train", real["images"]), ("holdout", holdout["images"])):
            with tracking.bar(f"features of {name} images", len(shown), "images") as advance:
                features[name] = extract_features(saved.features, shown, batch_size, compute.device, advance)
        write_npz(layout.model("fid_network") / "features.npz", **features)
    return summary

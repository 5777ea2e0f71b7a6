"""Stage `fid_network`: the network whose features define the Frechet distance, and its features of the real images."""

from typing import Any

import torch

from dguide.settings import Config, Layout, released_file
from dguide.stages.networks import network_training, save_network
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_state_dict
from discriminator_guidance.core.files import read_npz, write_npz
from discriminator_guidance.core.runtime import allow_tf32, prepare, progress
from discriminator_guidance.metrics import features
from discriminator_guidance.training.classifiers import outputs, train_classifier


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on clean real images, or take Inception's weights; then extract features once for all."""
    settings, runtime, folder = config.fid_network, config.runtime, layout.model("fid_network")
    file = layout.part("fid_network")
    real = read_npz(file, ["images", "labels"], "real")
    measured = {"train": layout.part("reference"), "holdout": layout.real / "holdout.npz"}
    shown = {name: read_npz(path, ["images"], "real")["images"] for name, path in measured.items()}
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    if settings.source == "inception":
        path = released_file(layout.root, settings.path, "fid_network.path")
        released = features.InceptionFeatures(read_state_dict(path)).network  # refuses other weights
        summary = save_network(layout, tracker, "fid_network", released, features.INCEPTION) | {"source": settings.path}
    else:
        _, size, _, channels = real["images"].shape
        arguments = {"image_size": size, "in_channels": channels, "channels": settings.channels}
        arguments |= {"features": settings.features, "classes": outputs(real["labels"])}
        torch.manual_seed(settings.training.seed)
        network = features.FidNetwork(**arguments)
        with network_training(config, layout, tracker, "fid_network", file, compute) as (work, report):
            history = train_classifier(network, real, settings.training, compute, work, report)
        summary = save_network(layout, tracker, "fid_network", network, arguments, history)
        summary["precision"] = compute.mode

    allow_tf32(False)  # metrics are compared to many digits
    arrays, saved = {}, features.load_fid_network(folder, compute)
    for name, images in shown.items():
        with progress(f"features of {name} images", len(images), "images") as advance:
            size = config.evaluation.batch_size
            arrays[name] = features.extract_features(saved.features, images, size, compute.device, advance)
        features.comparable(arrays[name])
    write_npz(folder / "features.npz", **arrays)
    return summary

"""Write reports/<profile>/unlabelled_features.json: FIDs of the active profile by features that learned no labels.

Their network has the settings of `fid_network`, but tells turned and damaged images apart, as for images without
classes. Samples of all variants and replicates must be there, as `dvc repro` leaves them.
"""

from pathlib import Path

import numpy as np
import torch

from dguide.settings import PARAMS, Layout, load_config
from discriminator_guidance.core.files import read_npz, write_json
from discriminator_guidance.core.runtime import allow_tf32, prepare
from discriminator_guidance.metrics.distances import frechet_influence, gaussian_of_features
from discriminator_guidance.metrics.features import FidNetwork, extract_features
from discriminator_guidance.metrics.significance import Estimate
from discriminator_guidance.training.classifiers import CHANGES, train_classifier

config = load_config(Path(PARAMS))
layout, runtime, settings = Layout(Path.cwd(), config.profile), config.runtime, config.fid_network
compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
images = read_npz(layout.part("fid_network"), ["images"], "real")["images"]
torch.manual_seed(settings.training.seed)
network = FidNetwork(images.shape[1], images.shape[3], settings.channels, settings.features, CHANGES)
unlabelled = {"images": images, "labels": np.zeros(len(images), np.int64)}
history = train_classifier(network, unlabelled, settings.training, compute)
network.eval().requires_grad_(False)
allow_tf32(False)


def features_of(path: Path, stage: str) -> np.ndarray:
    """The features (N, d) of the images of a file."""
    shown = read_npz(path, ["images"], stage)["images"]
    return extract_features(network, shown, config.evaluation.batch_size, compute.device)


reference = gaussian_of_features(features_of(layout.part("reference"), "real"))
replicates = layout.replicates(config.replicates)
fids = {
    name: Estimate.of(
        [frechet_influence(features_of(part.guided(name) / "samples.npz", "guided"), reference) for part in replicates]
    )
    for name in config.variants
}
rows = {name: {"fid": fid.mean} for name, fid in fids.items()}
for other in fids:
    for name in fids.keys() - {other}:  # ratio of the FIDs with its interval
        rows[name][f"against {other}"] = fids[name].ratio(fids[other])
about = {"images": config.guided.images, "replicates": config.replicates, "accuracy": history[-1]["accuracy"]}
write_json(layout.report / "unlabelled_features.json", about | {"variants": rows})

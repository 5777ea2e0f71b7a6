"""Write FIDs of the active profile by two other feature networks, with ratios, to reports/<profile>.

Both have the settings of `fid_network`. That of `unlabelled_features.json` tells turned and damaged images apart, as
for images without classes. That of `other_fid_network.json` learns the classes with another training seed. Samples of
all variants and replicates must be there, as `dvc repro` leaves them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dguide.settings import PARAMS, Layout, load_config
from discriminator_guidance.core.files import read_npz, write_json
from discriminator_guidance.core.runtime import allow_tf32, prepare
from discriminator_guidance.metrics.distances import frechet_influence, gaussian_of_features
from discriminator_guidance.metrics.features import FidNetwork, extract_features
from discriminator_guidance.metrics.significance import Estimate
from discriminator_guidance.training.classifiers import outputs, train_classifier

OTHER_SEED = 77

config = load_config(Path(PARAMS))
layout, runtime, settings = Layout(Path.cwd(), config.profile), config.runtime, config.fid_network
compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
replicates = layout.replicates(config.replicates)


def rounded(value: float) -> float:
    """The value to four digits."""
    return float(f"{value:.4g}")


def distances(labelled: bool, seed: int) -> dict[str, Any]:
    """FIDs of all variants by a network trained with a seed, and their ratios, with intervals."""
    real = read_npz(layout.part("fid_network"), ["images", "labels"], "real")
    if not labelled:
        real["labels"] = np.zeros_like(real["labels"])
    torch.manual_seed(seed)
    shape = real["images"].shape
    network = FidNetwork(shape[1], shape[3], settings.channels, settings.features, outputs(real["labels"]))
    history = train_classifier(network, real, replace(settings.training, seed=seed), compute)
    network.eval().requires_grad_(False)
    allow_tf32(False)

    def features_of(path: Path, stage: str) -> np.ndarray:
        shown = read_npz(path, ["images"], stage)["images"]
        return extract_features(network.features, shown, config.evaluation.batch_size, compute.device)

    reference = gaussian_of_features(features_of(layout.part("reference"), "real"))
    files = {name: [part.guided(name) / "samples.npz" for part in replicates] for name in config.variants}
    fids = {
        name: Estimate.of([frechet_influence(features_of(file, "guided"), reference) for file in sets])
        for name, sets in files.items()
    }
    rows = {
        name: {"fid": rounded(fid.mean), "fid_values": [*map(rounded, fid.values)]}
        | {f"against {other}": [*map(rounded, fid.ratio(fids[other]))] for other in fids if other != name}
        for name, fid in fids.items()
    }
    about = {"images": config.guided.images, "replicates": config.replicates, "seed": seed}
    return about | {"accuracy": history[-1]["accuracy"], "variants": rows}


write_json(layout.report / "unlabelled_features.json", distances(False, settings.training.seed))
write_json(layout.report / "other_fid_network.json", distances(True, OTHER_SEED))

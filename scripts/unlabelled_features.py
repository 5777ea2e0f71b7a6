"""Write reports/<profile>/unlabelled_features.json: FIDs of the active profile by features that learned no labels.

Their network tells turned and damaged images apart, as for images without classes, with the settings of `fid_network`.
"""

from pathlib import Path

import numpy as np

from dguide.settings import PARAMS, Layout, load_config, plain
from discriminator_guidance.core.files import read_npz, write_json
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.metrics.distances import frechet_distance
from discriminator_guidance.metrics.features import extract_features
from discriminator_guidance.training.classifiers import train_features

config = load_config(Path(PARAMS))
layout, runtime, settings = Layout(Path.cwd(), config.profile), config.runtime, config.fid_network
compute = prepare(runtime.device, "float32", runtime.threads)
images = read_npz(layout.part("fid_network"), ["images"], "real")["images"]
network = train_features(images, width=settings.features, device=compute.device, **plain(settings.training))


def features_of(shown: np.ndarray) -> np.ndarray:
    """The features (N, d) of images (N, H, W, C)."""
    return extract_features(network, shown, config.evaluation.batch_size, compute.device)


reference = features_of(read_npz(layout.part("reference"), ["images"], "real")["images"])
files = {
    name: [part.guided(name) / "samples.npz" for part in layout.replicates(config.replicates)]
    for name in config.variants
}
sets = {
    name: [features_of(read_npz(path, ["images"], "guided")["images"]) for path in paths]
    for name, paths in files.items()
}
rows = {}
for name, baseline in config.baselines.items():
    rows[name] = {"fid": frechet_distance(sets[name], reference).value}
    if baseline:
        difference = frechet_distance(sets[name], reference, baseline=sets[baseline])
        rows[name] |= dict(zip(("difference", "low", "high"), difference, strict=True))
write_json(layout.report / "unlabelled_features.json", rows)

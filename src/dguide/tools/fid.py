"""Command `fid`: distances of images from anywhere to a reference, and whether two sets of them differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dguide.report.format import INCEPTION, estimate, fid_label, verdict
from dguide.settings import released_file
from dguide.stages.evaluation import RealImages, measure
from discriminator_guidance.checkpoints.adm_checkpoint import read_state_dict
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import read_json
from discriminator_guidance.core.images import ImageSet, open_images
from discriminator_guidance.core.runtime import Compute, prepare, progress
from discriminator_guidance.metrics import features as networks
from discriminator_guidance.metrics.distances import KernelSet, gaussian_of_features, warn_of_few
from discriminator_guidance.metrics.features import FidNetwork, InceptionFeatures, extract_features
from discriminator_guidance.metrics.significance import Estimate

INCEPTION_WEIGHTS = "data/raw/weights-inception-2015-12-05-6726825d.pth"
NEIGHBORHOOD = 3  # k of precision and recall (Kynkaanniemi et al. 2019)


@dataclass(frozen=True)
class Distances:
    """The metrics of one or two sets of images, and their difference: FID, KID, precision, recall."""

    sets: dict[str, ImageSet]  # "images", "against" if given, "reference"
    columns: dict[str, dict[str, Estimate]]  # "images", and with "against" also that and "difference"
    network: str  # whose features are compared
    paired: bool

    def title(self) -> str:
        """The number of images in each set."""
        return ", ".join(f"{len(images.names):,} {name} ({images.path})" for name, images in self.sets.items())

    def rows(self) -> list[dict[str, str]]:
        """Values with 95 % intervals, a row for each metric."""
        names = {"fid": fid_label(self.network), "kid": fid_label(self.network, "KID")}
        texts = {name: {column: self._text(column, name) for column in self.columns} for name in self.columns["images"]}
        return [{"metric": names.get(metric, metric), **row} for metric, row in texts.items()]

    def sentence(self) -> str:
        """Whether the two sets differ in FID, and whether KID agrees."""
        fid, kid = (self.columns["difference"][metric] for metric in ("fid", "kid"))
        words = {"better": "significantly below", "worse": "significantly above"}
        relation = words.get(verdict(fid.interval()), "indistinguishable from")
        numbers = f"{self._text('difference', 'fid')}, p = {fid.p_value():.2g}, {'' if self.paired else 'un'}paired"
        sets = f"{self.sets['images'].path} is {relation} {self.sets['against'].path}"
        return f"{fid_label(self.network)}: {sets} ({numbers}){'; KID disagrees in sign' * (fid.mean * kid.mean < 0)}"

    def _text(self, column: str, metric: str) -> str:
        measured, digits = self.columns[column][metric], 5 if metric == "kid" else 3
        return estimate(measured.mean, measured.interval(), digits, column == "difference")


def run(images: Path, against: Path | None, reference: Path, network: str, batch_size: int) -> Distances:
    """Measure one or two sets of images; those with the same names are paired."""
    paths = {"images": images, "against": against, "reference": reference}
    sets = {name: open_images(path) for name, path in paths.items() if path is not None}
    shape = sets["reference"].shape
    for name, images_of in sets.items():
        if images_of.shape != shape or len(images_of.names) < NEIGHBORHOOD + 2:
            problem = f"--{name} {images_of.path} has {len(images_of.names)} images (H, W, C) {images_of.shape}"
            raise InputError(problem, f"give {NEIGHBORHOOD + 2} or more of {shape}, as in {reference}")
    generated = [len(images_of.names) for name, images_of in sets.items() if name != "reference"]
    if generated[0] != generated[-1]:
        problem = f"--images has {generated[0]:,} images and --against {generated[1]:,}, and FID is larger for fewer"
        raise InputError(problem, "leave some out")
    compute = prepare("auto", "float32", torch.get_num_threads())
    label, extractor = _network(network, shape, compute)
    features, device = dict[str, np.ndarray](), compute.device
    for name, images_of in sets.items():
        with progress(f"features of {images_of.path}", len(images_of.names), "images") as advance:
            batches = images_of.batches(batch_size)
            parts = [extract_features(extractor.features, batch, batch_size, device, advance) for batch in batches]
        features[name] = np.concatenate(parts)
    rows = features.pop("reference")
    warn_of_few(min(generated[0], len(rows)), rows.shape[1])
    real = RealImages(gaussian_of_features(rows), {"kid": KernelSet.of(rows, compute.device)}, rows, NEIGHBORHOOD)
    columns = {name: measure(rows, real, compute) for name, rows in features.items()}
    paired = against is not None and sets["images"].names == sets["against"].names
    if against is not None:
        minus, other = Estimate.minus if paired else Estimate.minus_independent, columns["against"]
        columns["difference"] = {metric: minus(of, other[metric]) for metric, of in columns["images"].items()}
    return Distances(sets, columns, label, paired)


def _network(choice: str, shape: tuple[int, ...], compute: Compute) -> tuple[str, FidNetwork | InceptionFeatures]:
    """The name of a network and the network: torch-fidelity's Inception, or the `fid_network` of a profile."""
    if choice == INCEPTION or choice.endswith(".pth"):
        key = f"--network {choice} (`dguide fetch inception --params configs/cifar10.yaml` fetches Inception)"
        weights = released_file(Path.cwd(), INCEPTION_WEIGHTS if choice == INCEPTION else choice, key)
        return INCEPTION, compute.place(InceptionFeatures(read_state_dict(weights)))
    arguments = read_json(Path(choice) / "config.json", "fid_network")
    size, channels = arguments.get("image_size"), arguments.get("in_channels")
    if arguments != networks.INCEPTION and (size, size, channels) != shape:
        problem = f"images (H, W, C) are {shape}, and {choice} is for {(size, size, channels)}"
        raise InputError(problem, "choose another --network, or other images")
    return INCEPTION if arguments == networks.INCEPTION else choice, networks.load_fid_network(Path(choice), compute)

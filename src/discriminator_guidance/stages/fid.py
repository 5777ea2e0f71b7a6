"""Command `fid`: distances of images from anywhere to a reference, and whether two sets of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from discriminator_guidance import progress
from discriminator_guidance.checkpoints.adm_checkpoint import read_state_dict
from discriminator_guidance.data.files import read_json
from discriminator_guidance.data.image_files import ImageSet, open_images
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import Floats, extract_features
from discriminator_guidance.evaluation.frechet import Gaussian, frechet_influence, gaussian_of_features
from discriminator_guidance.evaluation.inception import InceptionFeatures
from discriminator_guidance.evaluation.kid import kid_influence
from discriminator_guidance.evaluation.manifold import precision_recall_influence
from discriminator_guidance.evaluation.significance import Measured
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute, prepare
from discriminator_guidance.report.format import INCEPTION as INCEPTION_NAME
from discriminator_guidance.report.format import estimate, fid_label, number, verdict
from discriminator_guidance.stages.networks import INCEPTION, read_fid_network

RELEASED = Path("data/raw/weights-inception-2015-12-05-6726825d.pth")
NEIGHBORHOOD = 3  # k of precision and recall (Kynkaanniemi et al. 2019)
DIGITS = {"FID": 3, "KID": 5, "precision": 3, "recall": 3}


@dataclass(frozen=True)
class Distances:
    """The metrics of one or two sets of images and their difference; "FID" is of any network."""

    network: str
    sets: dict[str, ImageSet]  # "images", "against" if given, "reference"
    columns: dict[str, dict[str, Measured]]  # "images", and with "against" also that and "difference"
    paired: bool

    def rows(self) -> list[dict[str, str]]:
        """Values with 95 % intervals, a row for each metric."""
        labels = {"FID": fid_label(self.network), "KID": fid_label(self.network, "KID")}
        return [
            {"metric": labels.get(metric, metric)} | {name: self.text(name, metric) for name in self.columns}
            for metric in DIGITS
        ]

    def text(self, column: str, metric: str) -> str:
        """A value with its interval, that of a share cut at 0 and 1."""
        measured, signed = self.columns[column][metric], column == "difference"
        bounds = measured.interval()
        if metric in ("precision", "recall") and not signed:
            bounds = (max(bounds[0], 0.0), min(bounds[1], 1.0))
        return estimate(measured.mean, bounds, DIGITS[metric], signed)

    def sentence(self) -> str:
        """Whether the two sets differ in FID, and whether KID agrees."""
        fid, kid = (self.columns["difference"][metric] for metric in ("FID", "KID"))
        one, other = (self.sets[name].path for name in ("images", "against"))
        found = {
            "better": f"{one} is significantly below {other}",
            "worse": f"{one} is significantly above {other}",
        }.get(verdict(fid.interval()), f"{one} and {other} are indistinguishable")
        how = "paired by name" if self.paired else "unpaired"
        numbers = f"difference {self.text('difference', 'FID')}, p = {number(fid.p_value(), 3)}, {how}"
        odd = "; KID disagrees in sign" if fid.mean * kid.mean < 0 else ""
        return f"{fid_label(self.network)}: {found} ({numbers}){odd}"


def run(images: Path, against: Path | None, reference: Path, network: str, batch_size: int) -> Distances:
    """Measure a set of images, or two; sets with the same names are paired. All files are opened before that."""
    paths = {"images": images, "against": against, "reference": reference}
    sets = {name: open_images(path) for name, path in paths.items() if path is not None}
    for name, each in sets.items():
        if each.shape != sets["reference"].shape:
            found = f"{each.shape} in {each.path}"
            expected = f"images (H, W, C) {sets['reference'].shape}, as in {reference}, in --{name}"
            raise InputError(expected, found, "bring all images to one size")
        if len(each.names) < NEIGHBORHOOD + 2:
            expected = f"at least {NEIGHBORHOOD + 2} images in {each.path}"
            raise InputError(expected, str(len(each.names)), "give more images")
    compute = prepare("auto", "float32", torch.get_num_threads())
    name, extractor = _network(network, sets["reference"].shape, compute)
    features = {}
    for key, each in sets.items():
        with progress.bar(f"features of {each.path}", len(each.names), "images") as advance:
            batches = each.batches(batch_size)
            parts = [extract_features(extractor.features, b, batch_size, compute.device, advance) for b in batches]
        features[key] = np.concatenate(parts)
    real = features.pop("reference")
    gaussian = gaussian_of_features(real)
    columns = {key: _metrics(rows, real, gaussian, compute) for key, rows in features.items()}
    paired = against is not None and sets["images"].stems == sets["against"].stems
    if against is not None:
        minus = Measured.minus if paired else Measured.minus_independent
        one, other = columns["images"], columns["against"]
        columns["difference"] = {metric: minus(one[metric], other[metric]) for metric in DIGITS}
    return Distances(name, sets, columns, paired)


def _metrics(rows: Floats, real: Floats, reference: Gaussian, compute: Compute) -> dict[str, Measured]:
    shares = precision_recall_influence(rows, real, NEIGHBORHOOD, device=compute.device)
    found = [frechet_influence(rows, reference), kid_influence(rows, real), *shares]
    return {metric: Measured.of([each]) for metric, each in zip(DIGITS, found, strict=True)}


def _network(choice: str, shape: tuple[int, ...], compute: Compute) -> tuple[str, FidNetwork | InceptionFeatures]:
    """A network with its name: torch-fidelity's Inception, or the `fid_network` of a profile."""
    path = RELEASED if choice == INCEPTION_NAME else Path(choice)
    if path.suffix in (".pth", ".pt"):
        if not path.is_file():
            remedy = "run `dguide fetch inception --params configs/cifar10.yaml`, or choose another --network"
            raise InputError(f"torch-fidelity's Inception weights {path}", "no such file", remedy)
        inception = InceptionFeatures(read_state_dict(path)).to(compute.device).eval().requires_grad_(False)
        return INCEPTION_NAME, inception
    folder = path.parent if path.suffix == ".safetensors" else path
    arguments = read_json(folder / "model.json", "fid_network")
    if arguments == INCEPTION:
        return INCEPTION_NAME, read_fid_network(folder, compute)
    size, channels = arguments.get("image_size"), arguments.get("in_channels")
    if (size, size, channels) != shape:
        expected = f"images (H, W, C) ({size}, {size}, {channels}), of which {folder} has features"
        raise InputError(expected, f"{shape}", "choose another --network, or other images")
    return str(folder), read_fid_network(folder, compute)

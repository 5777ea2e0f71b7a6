"""Command `fid`: distances of images from anywhere to a reference, and whether two sets of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dguide import tracking
from dguide.report.format import estimate, verdict
from dguide.stages.networks import released_file
from discriminator_guidance.checkpoints.adm_checkpoint import read_state_dict
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import read_json
from discriminator_guidance.core.image_files import ImageSet, open_images
from discriminator_guidance.core.runtime import Compute, prepare
from discriminator_guidance.metrics.distances import KernelSet, frechet_influence, gaussian_of_features, kid_influence
from discriminator_guidance.metrics.features import (
    INCEPTION,
    FidNetwork,
    InceptionFeatures,
    extract_features,
    load_fid_network,
)
from discriminator_guidance.metrics.manifold import precision_recall
from discriminator_guidance.metrics.significance import Estimate

INCEPTION_WEIGHTS = "data/raw/weights-inception-2015-12-05-6726825d.pth"
NEIGHBORHOOD = 3  # k of precision and recall (Kynkaanniemi et al. 2019)


@dataclass(frozen=True)
class Distances:
    """The metrics of one or two sets of images, and their difference: FID, KID, precision, recall."""

    sets: dict[str, ImageSet]  # "images", "against" if given, "reference"
    counts: dict[str, int]  # of the images that were measured, by set: as many of "images" as of "against"
    columns: dict[str, dict[str, Estimate]]  # "images", and with "against" also that and "difference"
    paired: bool

    def title(self) -> str:
        """How many images of which set were measured."""
        parts = []
        for name, images in self.sets.items():
            total, count = len(images.names), self.counts[name]
            number = f"{count:,}" if count == total else f"{count:,} of {total:,} (distances depend on their number)"
            parts.append(f"{number} {name} ({images.path})")
        return ", ".join(parts)

    def rows(self) -> list[dict[str, str]]:
        """Values with 95 % intervals, a row for each metric."""
        names = self.columns["images"]
        return [{"metric": name, **{column: self._text(column, name) for column in self.columns}} for name in names]

    def sentence(self) -> str:
        """Whether the two sets differ in FID, and whether KID agrees."""
        (name, fid), (_, kid), *_ = self.columns["difference"].items()
        words = {"better": "significantly below", "worse": "significantly above"}
        relation = words.get(verdict(fid.interval()), "indistinguishable from")
        numbers = f"{self._text('difference', name)}, p = {fid.p_value():.2g}, {'' if self.paired else 'un'}paired"
        odd = "; KID disagrees in sign" if fid.mean * kid.mean < 0 else ""
        return f"{name}: {self.sets['images'].path} is {relation} {self.sets['against'].path} ({numbers}){odd}"

    def _text(self, column: str, name: str) -> str:
        measured, digits = self.columns[column][name], 5 if name.startswith("KID") else 3
        return estimate(measured.mean, measured.interval(), digits, column == "difference")


def run(images: Path, against: Path | None, reference: Path, network: str, batch_size: int) -> Distances:
    """Measure one or two sets of images; those with the same names are paired.

    Of the larger of two sets as many images as the smaller has are drawn: FID is larger for fewer images.
    """
    paths = {"images": images, "against": against, "reference": reference}
    sets = {name: open_images(path) for name, path in paths.items() if path is not None}
    shape = sets["reference"].shape
    for name, images_of in sets.items():
        if images_of.shape != shape or len(images_of.names) < NEIGHBORHOOD + 2:
            expected = f"{NEIGHBORHOOD + 2} or more images (H, W, C) {shape}, as in {reference}, in --{name}"
            got = f"{len(images_of.names)} {images_of.shape} in {images_of.path}"
            raise InputError(expected, got, "give more images, or bring all to one size")
    compute = prepare("auto", "float32", torch.get_num_threads())
    label, extractor = _network(network, shape, compute)
    fewest = min(len(images_of.names) for name, images_of in sets.items() if name != "reference")
    counts = dict.fromkeys(sets, fewest) | {"reference": len(sets["reference"].names)}
    features = {name: _features(sets[name], count, extractor, batch_size, compute) for name, count in counts.items()}
    real = features.pop("reference")
    gaussian, kernels, columns = gaussian_of_features(real), KernelSet.of(real, compute.device), {}
    for name, rows in features.items():
        precision, recall = precision_recall(rows, real, NEIGHBORHOOD, device=compute.device)
        columns[name] = {
            label: Estimate.of([frechet_influence(rows, gaussian)]),
            label.replace("FID", "KID", 1): Estimate.of([kid_influence(KernelSet.of(rows, compute.device), kernels)]),
            "precision": precision,
            "recall": recall,
        }
    paired = against is not None and sets["images"].names == sets["against"].names
    if against is not None:
        minus = Estimate.minus if paired else Estimate.minus_independent
        columns["difference"] = {
            metric: minus(measured, columns["against"][metric]) for metric, measured in columns["images"].items()
        }
    return Distances(sets, counts, columns, paired)


def _features(
    images: ImageSet, count: int, network: FidNetwork | InceptionFeatures, batch_size: int, compute: Compute
) -> np.ndarray:
    """Features of all images, or of fewer ones drawn at random, whatever their order."""
    drawn, start, parts = np.zeros(len(images.names), dtype=bool), 0, []
    drawn[np.random.default_rng(0).permutation(len(drawn))[:count]] = True
    with tracking.bar(f"features of {images.path}", count, "images") as advance:
        for batch in images.batches(batch_size):
            chosen = batch[drawn[start : start + len(batch)]]
            start += len(batch)
            if len(chosen):
                parts.append(extract_features(network.features, chosen, batch_size, compute.device, advance))
    return np.concatenate(parts)


def _network(choice: str, shape: tuple[int, ...], compute: Compute) -> tuple[str, FidNetwork | InceptionFeatures]:
    """The name of a distance and its network: torch-fidelity's Inception, or the `fid_network` of a profile."""
    if choice == "inception" or choice.endswith(".pth"):
        key = "--network inception (dguide fetch inception --params configs/cifar10.yaml)"
        path = INCEPTION_WEIGHTS if choice == "inception" else choice
        weights = released_file(Path.cwd(), path, key)
        return "FID", InceptionFeatures(read_state_dict(weights)).to(compute.device).eval().requires_grad_(False)
    folder = Path(choice).parent if choice.endswith(".safetensors") else Path(choice)
    arguments = read_json(folder / "config.json", "fid_network")
    size, channels = arguments.get("image_size"), arguments.get("in_channels")
    if arguments != INCEPTION and (size, size, channels) != shape:
        expected = f"images (H, W, C) ({size}, {size}, {channels}), of which {folder} has features"
        raise InputError(expected, f"{shape}", "choose another --network, or other images")
    return "FID" if arguments == INCEPTION else f"FID ({folder})", load_fid_network(folder, compute)

"""The Frechet distance of guided samples, which the studies compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dguide.artifacts import Layout, load_denoiser, load_extractor, load_fid_network
from dguide.settings import Config, Variant
from dguide.settings.sections import SampleRange
from dguide.stages.guided import Networks, batches_of, draw
from discriminator_guidance.files import WEIGHT_FILES, read_npz
from discriminator_guidance.metrics.distances import frechet_influence, gaussian_of_features
from discriminator_guidance.metrics.features import extract_features
from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits
from discriminator_guidance.runtime import allow_tf32, prepare


class GuidedDistances:
    """Distances of many variants: frozen networks and the real images' features are read once."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config, self.layout = config, layout
        self.compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
        self.denoiser = load_denoiser(layout, self.compute)
        self.extractor = load_extractor(layout, self.compute)
        self.fid_network = load_fid_network(layout.model("fid_network"), self.compute)
        real = read_npz(layout.model("fid_network") / "features.npz", ["train"], "fid_network")["train"]
        self.reference = gaussian_of_features(real)

    def draws(
        self, variant: Variant, heads: Sequence[EncoderUNet], span: SampleRange
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Draw the samples of a variant with heads placed by `compute`.

        Yields of each batch the features (n, d), the log ratios (steps, n) of guidance, +inf outside the window, and
        the images (n, H, W, C) uint8.
        """
        networks = Networks(self.compute, self.denoiser, MemberLogits(self.extractor, heads))
        batches = batches_of(span)
        for _, drawn in draw(self.config, self.layout, variant, span.seed, batches, networks=networks, trajectory=True):
            yield self._features(drawn["images"]), drawn["log_ratio"], drawn["images"]

    def distance(self, batches: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """The distance of samples from the real images, and the influence (N,) of each sample on it."""
        return frechet_influence(np.concatenate(batches), self.reference)

    def _features(self, images: np.ndarray) -> np.ndarray:
        rounded = torch.backends.cuda.matmul.allow_tf32
        allow_tf32(False)  # metrics are compared to many digits
        size = self.config.evaluation.batch_size
        features = extract_features(self.fid_network.features, images, size, self.compute.device)
        allow_tf32(rounded)
        return features


def distance_inputs(layouts: Sequence[Layout], members: Iterable[str] = ()) -> tuple[Path, ...]:
    """The files that the distances of samples guided by members depend on, in each training replicate."""
    first = layouts[0]
    folders = [one.model(word) for word in ("score", "extractor", "fid_network") for one in layouts]
    folders += [one.discriminator(member) for one in layouts for member in members]
    weights = dict.fromkeys(folder / name for folder in folders for name in WEIGHT_FILES)
    return (first.real / "train.npz", first.model("fid_network") / "features.npz", *weights)


def distance_settings(config: Config) -> dict[str, Any]:
    """The settings that every distance depends on, beside its variant."""
    window = [config.guided.time_min, config.guided.time_max]
    tuning, sampler = config.studies.tuning.model_dump(), config.sampler.model_dump()
    return {"tuning": tuning, "sampler": sampler, "window": window, "cond": config.cond}

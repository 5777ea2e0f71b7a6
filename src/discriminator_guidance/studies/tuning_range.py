"""The distance of guided samples on the tuning range: frozen networks and reference are read once for many variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.evaluation.distances import frechet_distance, gaussian_statistics
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.guidance.density_ratio import Guidance
from discriminator_guidance.guidance.sampler import Denoiser, SamplerSettings
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, prepare_compute
from discriminator_guidance.stages.features import picture_features
from discriminator_guidance.stages.guided import member_guidance
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_fid_network, load_head
from discriminator_guidance.stages.sampling import draw_shard, unguided_denoiser

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant


class TuningRange:
    """Everything that does not depend on the variant, read once by a worker.

    Reused for every variant: score network, extractor, heads, and mean and covariance of the real features. Samples
    cannot be: the guidance moves every state of a trajectory, so each variant's are drawn anew, from the same noise.

    Args:
        config: reads `runtime`, `cond`, `sampler`, the window of `guided`, `evaluation.batch_size` and `study`.
        layout: where files are.
        notice: shows the user one line.

    Raises:
        InputError: a file of an earlier stage is missing.
    """

    def __init__(self, config: Config, layout: Layout, notice: Callable[[str], None]) -> None:
        runtime, self._config, self._layout = config.runtime, config, layout
        self._compute = prepare_compute(runtime.device, runtime.sampling_precision, config.study.threads)
        self._denoiser = load_denoiser(layout, self._compute)
        self._extractor = load_extractor(layout, self._compute)
        self._fid_network = load_fid_network(layout, self._compute)
        self._heads: dict[str, torch.nn.Module] = {}
        self._at_once = BatchSize(config.study.tuning.batch_size, notice)
        context = Context(layout, _silent, lambda step, values: None, notice)
        real = read_npz(layout.real / "train.npz", ["images"], "real")["images"]
        features = picture_features(context, self._compute, {"real": real}, config.evaluation.batch_size)["real"]
        self._real = gaussian_statistics(features)

    def features(self, variant: Variant) -> Iterator[np.ndarray]:
        """Draw the samples of a variant, batch by batch.

        Args:
            variant: any of which weights are there.

        Yields:
            (n, d) features of each batch, in the order of the sample indices.

        Raises:
            DivergenceError: a sample is not finite.
        """
        tuning, network = self._config.study.tuning, self._denoiser
        sampler = SamplerSettings(
            **self._config.sampler.model_dump(), w1=variant.w1, w2=variant.w2, boosting=variant.boosting
        )
        sampled = self._sampled(variant)
        end = tuning.seed_start + tuning.images
        for start in range(tuning.seed_start, end, tuning.batch_size):
            images = draw_shard(
                sampled,
                network.label_dim if self._config.cond else 0,
                sampler,
                (network.img_channels, network.img_resolution, network.img_resolution),
                range(start, min(start + tuning.batch_size, end)),
                range(0),
                tuning.seed,
                self._at_once,
                self._compute,
                lambda amount: None,
            )["images"]
            yield extract_features(self._penultimate, images, self._config.evaluation.batch_size, self._compute.device)

    def distance(self, batches: Sequence[np.ndarray]) -> float:
        """The Frechet distance of samples from the real pictures.

        Args:
            batches: (n, d) features each.

        Returns:
            The distance.
        """
        return frechet_distance(*gaussian_statistics(np.concatenate(batches)), *self._real)

    def _sampled(self, variant: Variant) -> Callable[[Tensor | None], tuple[Denoiser, Guidance | None]]:
        for name in variant.members:
            if name not in self._heads:
                self._heads[name] = load_head(self._layout, name, self._compute)
        members = MemberLogits(self._extractor, [self._heads[name] for name in variant.members])  # type: ignore[misc]
        window = variant.window or (self._config.guided.time_min, self._config.guided.time_max)

        def sampled(classes: Tensor | None) -> tuple[Denoiser, Guidance | None]:
            denoiser = unguided_denoiser(self._denoiser, classes, self._compute)
            if not variant.members:
                return denoiser, None
            return denoiser, member_guidance(members, classes, variant, *window, self._compute)

        return sampled

    def _penultimate(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = self._fid_network.features(pictures)
        return features


@contextmanager
def _silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda amount: None

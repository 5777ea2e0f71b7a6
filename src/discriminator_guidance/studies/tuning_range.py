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
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, prepare_compute
from discriminator_guidance.stages.features import picture_features
from discriminator_guidance.stages.guided import member_guidance
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_fid_network, load_head
from discriminator_guidance.stages.sampling import Sampled, draw_shard, unguided_denoiser

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant


class TuningRange:
    """Everything that does not depend on the variant, read once by a worker.

    Reused for every variant: score network, extractor, heads, and mean and covariance of the real features. Samples
    cannot be: the guidance moves every state of a trajectory, so each variant's are drawn anew, from the same noise.

    Args:
        config: reads `runtime`, `cond`, `sampler`, the window of `guided`, `evaluation.batch_size` and `study`.
        context: where files are.

    Raises:
        InputError: a file of an earlier stage is missing.
    """

    def __init__(self, config: Config, context: Context) -> None:
        runtime, self._config, self._layout = config.runtime, config, context.layout
        layout = context.layout
        self._compute = prepare_compute(runtime.device, runtime.sampling_precision, config.study.threads)
        self._denoiser = load_denoiser(layout, self._compute)
        self._extractor = load_extractor(layout, self._compute)
        self._fid_network = load_fid_network(layout, self._compute)
        self._at_once = BatchSize(config.study.tuning.batch_size, context.notice)
        real = read_npz(layout.real / "train.npz", ["images"], "real")["images"]
        extracted_at_once = BatchSize(config.evaluation.batch_size, context.notice)
        features = picture_features(context, self._compute, {"real": real}, extracted_at_once)["real"]
        self._real = gaussian_statistics(features)

    def head(self, member: str) -> EncoderUNet:
        """The trained head of a member.

        Args:
            member: its name.

        Returns:
            The head, frozen.
        """
        return load_head(self._layout, member, self._compute)

    def ready(self, head: EncoderUNet) -> EncoderUNet:
        """A head that is no member's, made ready to guide.

        Args:
            head: trained.

        Returns:
            The same, frozen, on the device.
        """
        return head.to(self._compute.device).eval().requires_grad_(False)

    def features(self, variant: Variant, heads: Sequence[EncoderUNet]) -> Iterator[np.ndarray]:
        """Draw the samples of a variant, batch by batch.

        Args:
            variant: rule, weights, w1, w2, boosting, window.
            heads: of its members, in order.

        Yields:
            (n, d) features of each batch, in the order of the sample indices.

        Raises:
            DivergenceError: a sample is not finite.
        """
        tuning, network = self._config.study.tuning, self._denoiser
        sampler = SamplerSettings(
            **self._config.sampler.model_dump(), w1=variant.w1, w2=variant.w2, boosting=variant.boosting
        )
        sampled = self._sampled(variant, heads)
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

    def _sampled(self, variant: Variant, heads: Sequence[EncoderUNet]) -> Sampled:
        members = MemberLogits(self._extractor, heads)
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


def quiet(layout: Layout) -> Context:
    """Surroundings of a worker: the call that started it shows how far the study is.

    Args:
        layout: where files are.

    Returns:
        Surroundings that show nothing.
    """

    @contextmanager
    def bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        yield lambda amount: None

    return Context(layout, bar, lambda step, values: None, lambda line: None)

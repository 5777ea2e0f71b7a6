"""The networks of a profile at their real sizes with random weights, and the calls that stages make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dguide.benchmark.baseline import as_published
from dguide.settings.sections import HeadNetwork
from dguide.stages.discriminator import frozen_features, head_settings
from discriminator_guidance.guidance import DiscriminatorGuidance
from discriminator_guidance.metrics.features import FidNetwork, InceptionFeatures
from discriminator_guidance.networks.adm import (
    EncoderUNet,
    MemberLogits,
    build_extractor,
    build_head,
    create_classifier,
)
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.runtime import Compute
from discriminator_guidance.sampler import EDM_SAMPLER, sample
from discriminator_guidance.training.discriminator import fit_head
from discriminator_guidance.training.pairs import Pairs, Split

if TYPE_CHECKING:
    from dguide.settings import Config

Call = Callable[[int], object]  # of a number of images
Network = TypeVar("Network", bound=nn.Module)
# Sizes of the released networks; a file may say otherwise, which is found when it is converted.
EDM_CIFAR10: dict[str, Any] = {"channel_mult": (2, 2, 2), "augment_dim": 9}
ADM_CLASSES, ADM_WIDTH, ADM_DEPTH = 1000, 128, 4
RELEASED_HEAD = HeadNetwork(model_channels=128, num_res_blocks=2, num_head_channels=64, dropout=0.0)
# Of a sampler run: 5 denoiser evaluations, and 2 of guidance with w1 alone, nearly the 35 to 15 of 18 steps.
SAMPLER = replace(EDM_SAMPLER, steps=3, w2=0.0)
TRAINING_STEPS = 2  # in a call, beside which making the optimizer does not count


def head_network(config: Config, member: str) -> HeadNetwork:
    """The size of a member's head, where it is a released one by assumption."""
    row = config.members[member]
    return (row.network or config.discriminator.network) if row.start.startswith("models/") else RELEASED_HEAD


@dataclass(frozen=True)
class Calls:
    """Builds networks for images of `shape` (C, H, W), and calls of them; `published` ones compute as the baseline."""

    config: Config
    shape: tuple[int, int, int]
    classes: int
    frozen: Compute
    training: Compute
    published: bool = False

    def score(self) -> EDMPrecond:
        """The score network, trained or released."""
        settings, (channels, size, _) = self.config.score, self.shape
        arguments = EDM_CIFAR10
        if settings.source == "train":
            arguments = {"sigma_data": settings.sigma_data, **settings.network.model_dump()}
        return EDMPrecond(size, channels, self.classes if self.config.cond else 0, **arguments)

    def extractor(self) -> EncoderUNet:
        """The extractor, trained or released."""
        settings, (channels, size, _) = self.config.extractor, self.shape
        if settings.source == "adm":
            return create_classifier(size, channels, ADM_CLASSES, ADM_WIDTH, ADM_DEPTH)
        return build_extractor(size, channels, self.classes, **settings.network.model_dump())

    def fid_network(self) -> FidNetwork | InceptionFeatures:
        """The network whose features define the distance."""
        settings, (channels, size, _) = self.config.fid_network, self.shape
        if settings.source == "inception":
            return InceptionFeatures(None)
        return FidNetwork(size, channels, settings.channels, settings.features, self.classes)

    def sampler(self, *heads: HeadNetwork) -> Call:
        """A short run of the sampler, guided in its Euler steps where there are heads."""
        network, guidance = self._placed(self.score()), self._guidance(heads) if heads else None

        def draw(n: int) -> object:
            guided = None if guidance is None else guidance(self._condition(n))
            options: dict[str, Any] = {"guidance": guided, "device": self.device, **vars(SAMPLER)}
            with self.frozen.autocast():
                return sample(network, (n, *self.shape), **options)

        return draw

    def guidance(self, *heads: HeadNetwork) -> Call:
        """One evaluation of the guidance by heads of these sizes."""
        guidance = self._guidance(heads)

        def guide(n: int) -> object:
            sigma = torch.ones(n, dtype=torch.float64, device=self.device)  # inside the VP times that are guided
            return guidance(self._condition(n))(self.noise(n).double(), sigma)

        return guide

    def head_training(self, size: HeadNetwork) -> Call:
        """Some steps of training a head on batches of n images."""
        extractor = self._placed(self.extractor())
        head = self._head(size, extractor).to(self.device)
        head = as_published(head) if self.published else head
        features = frozen_features(extractor, self.frozen, self.training)
        first = head_settings(self.config.discriminator, self.config.member(next(iter(self.config.members))))
        own = {"epochs": 1, "bagging": None, "checkpoint": "last", "objective": "cross_entropy"}

        def train(n: int) -> object:
            count = TRAINING_STEPS * n
            labels = (torch.arange(count, device=self.device) % 2).float()
            split = Split(np.arange(count), np.arange(0), np.arange(0))
            pairs = Pairs(self.images(count), labels, self._condition(count), split)
            settings = replace(first, batch_size=n, **own)  # type: ignore[arg-type]
            return fit_head(head, features, pairs, lambda _: {"validation_loss": 0.0}, settings, self.training)

        return train

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.frozen.device

    def noise(self, n: int) -> Tensor:
        """Standard normal noise, (n, C, H, W) float32."""
        return torch.randn(n, *self.shape, device=self.device)

    def images(self, n: int) -> Tensor:
        """Random images, (n, C, H, W) uint8."""
        return torch.randint(256, (n, *self.shape), dtype=torch.uint8, device=self.device)

    def labels(self, n: int) -> Tensor:
        """Classes, (n,) int64."""
        return torch.arange(n, device=self.device) % self.classes

    def _condition(self, n: int) -> Tensor | None:
        return self.labels(n) if self.config.cond else None

    def _placed(self, network: Network) -> Network:
        return as_published(network).to(self.device) if self.published else self.frozen.place(network)

    def _head(self, size: HeadNetwork, extractor: EncoderUNet) -> EncoderUNet:
        return build_head(extractor.feature_shape, condition=self.config.cond, **size.model_dump())

    def _guidance(self, heads: Sequence[HeadNetwork]) -> Callable[[Tensor | None], DiscriminatorGuidance]:
        extractor = self._placed(self.extractor())
        members = MemberLogits(extractor, [self._placed(self._head(size, extractor)) for size in heads])
        logits = self.frozen.called(members.requires_grad_(self.published))
        return lambda classes: DiscriminatorGuidance(partial(logits, labels=classes))

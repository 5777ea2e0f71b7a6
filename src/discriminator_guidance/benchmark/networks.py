"""The networks of a profile at their real sizes with random weights, and the calls that stages make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from discriminator_guidance.benchmark.baseline import as_published
from discriminator_guidance.config.sections import HeadNetwork, Variant
from discriminator_guidance.networks.adm import (
    EncoderUNet,
    MemberLogits,
    build_extractor,
    build_head,
    create_classifier,
)
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.discriminator import frozen_features, head_settings
from discriminator_guidance.stages.sampling import GuidanceOf, OpenVariant, member_guidance, sampler_settings
from discriminator_guidance.training.discriminator import fit_head
from discriminator_guidance.training.loop import NoCheckpoints, gradients
from discriminator_guidance.training.pairs import Pairs, Split

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

Network = TypeVar("Network", bound=nn.Module)
# Sizes of the released networks; a file may say otherwise, which is found when it is converted.
EDM_CIFAR10: dict[str, Any] = {"channel_mult": (2, 2, 2), "augment_dim": 9}
ADM_CLASSES, ADM_WIDTH, ADM_DEPTH = 1000, 128, 4
RELEASED_HEAD = HeadNetwork(model_channels=128, num_res_blocks=2, num_head_channels=64, dropout=0.0)
# Of a sampler run in the benchmark: 5 denoiser and 2 guidance evaluations, nearly the 35 to 15 of 18 steps.
SAMPLER_STEPS = 3
TRAINING_STEPS = 2  # in a call, beside which making the optimizer does not count
SIGMA, WINDOW = 1.0, (0.01, 1.0)  # a noise level inside the VP times that are guided
RATE = 1e-7  # of learning, so low that the weights stay as they are


class Networks:
    """Builds the networks of a profile for images of `shape` (C, H, W); the same weights in every call."""

    def __init__(self, config: Config, shape: tuple[int, int, int], classes: int) -> None:
        self.config, self.shape, self.classes = config, shape, classes

    def score(self) -> EDMPrecond:
        """The score network, trained or released."""
        score, (channels, size, _) = self.config.score, self.shape
        arguments = EDM_CIFAR10
        if score.source == "train":
            arguments = {"sigma_data": score.sigma_data, **score.network.model_dump()}
        label_dim = self.classes if self.config.cond else 0
        return _alive(lambda: EDMPrecond(size, channels, label_dim, **arguments))

    def extractor(self) -> EncoderUNet:
        """The extractor, trained or released."""
        extractor, (channels, size, _) = self.config.extractor, self.shape
        if extractor.source == "adm":
            return _alive(lambda: create_classifier(size, channels, ADM_CLASSES, ADM_WIDTH, ADM_DEPTH))
        arguments = extractor.network.model_dump()
        return _alive(lambda: build_extractor(size, channels, self.classes, **arguments))

    def head(self, size: HeadNetwork, feature_shape: Sequence[int], seed: int = 0) -> EncoderUNet:
        """A discriminator head."""
        arguments = {"condition": self.config.cond, **size.model_dump()}
        return _alive(lambda: build_head(feature_shape, **arguments), seed)

    def head_size(self, member: str) -> HeadNetwork:
        """The size of a member's head, where it is a released one by assumption."""
        row = self.config.members[member]
        return (row.network or self.config.discriminator.network) if row.start.startswith("models/") else RELEASED_HEAD

    def fid_network(self) -> FidNetwork:
        """The small network whose features define the distance."""
        settings, (channels, size, _) = self.config.fid_network, self.shape
        assert settings.source == "train"
        return FidNetwork(size, channels, settings.channels, settings.features, self.classes).eval()

    def noise(self, n: int, device: torch.device) -> Tensor:
        """Unit-normal noise, (n, C, H, W) float32."""
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(n)).to(device)

    def labels(self, n: int, device: torch.device) -> Tensor:
        """Classes, (n,) int64."""
        return torch.arange(n, device=device) % self.classes

    def images(self, n: int, device: torch.device) -> Tensor:
        """Random images, (n, C, H, W) uint8."""
        return torch.randint(256, (n, *self.shape), dtype=torch.uint8, device=device)


class Calls:
    """The calls of the frozen networks, and of a head in training, with n images each; networks are built when used.

    `published` ones compute as the baseline does.
    """

    def __init__(self, networks: Networks, frozen: Compute, training: Compute, published: bool = False) -> None:
        self.networks, self.frozen, self.training_compute = networks, frozen, training
        self.config, self.device, self.published = networks.config, frozen.device, published

    @cached_property
    def score(self) -> EDMPrecond:
        """The score network."""
        return self._placed(self.networks.score())

    @cached_property
    def extractor(self) -> EncoderUNet:
        """The extractor."""
        return self._placed(self.networks.extractor())

    def denoiser(self, n: int) -> Tensor:
        """One evaluation of the denoiser."""
        classes = self._classes(n)
        labels = None if classes is None else one_hot(classes, self.networks.classes)
        denoised = torch.no_grad()(self.frozen.called(self.score))
        return denoised(self.networks.noise(n, self.device), self._sigma(n).float(), labels)

    def guidance(self, heads: Sequence[HeadNetwork]) -> Callable[[int], Tensor]:
        """One evaluation of the guidance by heads of these sizes."""
        of_classes = self._guidance(heads)
        noise = self.networks.noise
        return lambda n: of_classes(self._classes(n))(noise(n, self.device).double(), self._sigma(n))[0]

    def sampler(self, heads: Sequence[HeadNetwork]) -> Callable[[int], Tensor]:
        """A short run of the sampler, guided in its Euler steps."""
        guidance = self._guidance(heads) if heads else None
        sampler = replace(sampler_settings(self.config, _variant(heads)), s_churn=0.0)

        def run(n: int) -> Tensor:
            drawn = OpenVariant(self.score, guidance, sampler, self.frozen).draw(0, range(n), n)
            return torch.from_numpy(drawn["states"][-1])

        return run

    def training(self, size: HeadNetwork) -> Callable[[int], Tensor]:
        """Some steps of training a head on batches of n images; gives the last gradients."""
        head = self.networks.head(size, self.extractor.feature_shape).to(self.device)
        if self.published:
            head = as_published(head)
        compute = self.training_compute
        first = head_settings(self.config.discriminator, self.config.member(next(iter(self.config.members))))
        features = frozen_features(self.extractor, self.frozen, compute)

        def train(n: int) -> Tensor:
            count = TRAINING_STEPS * n
            settings = replace(first, epochs=1, batch_size=n, learning_rate=RATE, bagging=None, checkpoint="last")
            rows = np.arange(count), np.arange(0), np.arange(0)
            torch.manual_seed(0)
            images, labels = self.networks.images(count, self.device), torch.arange(count, device=self.device) % 2
            pairs = Pairs(images, labels.float(), self._classes(count), Split(*rows))
            unseen = {"validation_loss": 0.0}
            fit_head(head, features, pairs, lambda _: unseen, settings, compute, NoCheckpoints(), ignore)
            return torch.cat([gradient.flatten() for gradient in gradients(head)])

        return train

    def _placed(self, network: Network) -> Network:
        return as_published(network).to(self.device) if self.published else self.frozen.place(network)

    def _guidance(self, heads: Sequence[HeadNetwork]) -> GuidanceOf:
        shape = self.extractor.feature_shape
        built = [self._placed(self.networks.head(size, shape, seed)) for seed, size in enumerate(heads)]
        members = MemberLogits(self.extractor, built)
        members.requires_grad_(self.published)
        return member_guidance(members, _variant(heads), WINDOW, self.frozen)

    def _classes(self, n: int) -> Tensor | None:
        return self.networks.labels(n, self.device) if self.config.cond else None

    def _sigma(self, n: int) -> Tensor:
        return torch.full((n,), SIGMA, dtype=torch.float64, device=self.device)


def ignore(*_: object) -> None:
    """Report nothing."""


def _variant(heads: Sequence[HeadNetwork]) -> Variant:
    needs = "discriminator" if len(heads) > 1 else "discriminator/m0" if heads else "score"
    members, w1 = tuple(f"m{number}" for number in range(len(heads))), 2.0 if heads else 0.0
    rule: dict[str, Any] = {"rule": "mean_probability", "weights": "equal", "boosting": False}
    return Variant(needs=needs, members=members, w1=w1, w2=0.0, steps=SAMPLER_STEPS, **rule)


def _alive(build: Callable[[], Network], seed: int = 0) -> Network:
    """Random weights, also in layers that start at 0, so that what comes before them has an effect."""
    torch.manual_seed(seed)
    network = build()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02)
    return network.eval()

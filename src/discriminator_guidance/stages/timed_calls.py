"""What the stages of a profile call, with networks at a random start and pictures of noise, to be timed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.guidance.sampler import SamplerSettings, sample
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.planning.work import Pass
from discriminator_guidance.stages.context import prepare_compute
from discriminator_guidance.stages.guided import member_guidance
from discriminator_guidance.stages.sampling import unguided_denoiser
from discriminator_guidance.training.discriminator import MemberSettings, train_discriminator
from discriminator_guidance.training.extractor import train_extractor
from discriminator_guidance.training.fid_network import train_fid_network
from discriminator_guidance.training.grid import FEATURE_BATCH, GridFeatures, grid_logits
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.score import train_score

STEPS_AT_ONCE = 4  # training steps in one call, which also makes an optimizer
SIGMA = 1.0  # inside every window


class TimedCalls:
    """Calls of stage code for any number of pictures; each network is built when it is first needed.

    Args:
        blueprints: of the profile.
    """

    def __init__(self, blueprints: Blueprints) -> None:
        self.blueprints, self.config, self.pictures = blueprints, blueprints.config, blueprints.pictures
        runtime = self.config.runtime
        self.training = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)
        self.sampling = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
        self._heads: dict[str, EncoderUNet] = {}
        self._members: dict[tuple[str, ...], MemberLogits] = {}

    def of(self, way: Pass) -> tuple[Callable[[int], object], int] | None:
        """What sends a number of pictures through a pass, and the most that the stage would send at once.

        Args:
            way: the pass.

        Returns:
            Both, or None where the network needs a file that may not be here.
        """
        config, guided = self.config, self.config.guided
        if way.kind == "fid features":
            network = self.blueprints.fid_network()
            if network is None:
                return None
            ready = network.to(self.sampling.device).eval()
            return self._synchronised(lambda n: self._fid_features(ready, n)), config.evaluation.batch_size
        runs: dict[str, tuple[Callable[[int], object], int]] = {
            "score": (self._sample, min(guided.batch_size, guided.shard_size)),
            "guidance": (lambda n: self._guidance(way.heads, n), min(guided.batch_size, guided.shard_size)),
            "features": (self._features, FEATURE_BATCH),
            "head": (lambda n: self._head_logits(way.heads[0], n), FEATURE_BATCH),
            "member step": (
                lambda n: self._member_steps(way.heads[0], n),
                STEPS_AT_ONCE * config.discriminator.batch_size,
            ),
        }
        steps = {"score step": "score", "extractor step": "extractor", "fid step": "fid_network"}
        if way.kind in steps:
            training = getattr(config, steps[way.kind]).training
            return self._synchronised(self._loop(way.kind, training)), STEPS_AT_ONCE * training.batch_size
        run, most = runs[way.kind]
        return self._synchronised(run), most

    @cached_property
    def score(self) -> EDMPrecond:
        """The score network, frozen."""
        return self.sampling.place(self.blueprints.score(), forward_only=True)

    @cached_property
    def extractor(self) -> EncoderUNet:
        """The extractor, frozen."""
        return self.sampling.place(self.blueprints.extractor())

    def head(self, name: str) -> EncoderUNet:
        """The head of a member, to be trained.

        Args:
            name: of the member.

        Returns:
            The network, at its random start.
        """
        if name not in self._heads:
            made = self.blueprints.head(name, self.extractor.feature_shape)
            self._heads[name] = made.to(self.sampling.device)
        return self._heads[name]

    def _sample(self, n: int) -> None:
        steps, noise = 2, torch.randn(n, *self.pictures.shape)
        sampler = self.config.sampler.model_dump() | {"steps": steps, "s_churn": 0.0}
        settings = SamplerSettings(**sampler, w1=0.0, w2=0.0, boosting=False)
        denoiser = unguided_denoiser(self.score, self._classes(n), self.sampling)
        sample(denoiser, None, noise.to(self.sampling.device), lambda step, raised: noise, settings)

    def _guidance(self, heads: tuple[str, ...], n: int) -> None:
        variant = next(v for v in self.config.guided.variants.values() if len(v.members) == len(heads))
        if heads not in self._members:
            placed = [self.sampling.place(copy.deepcopy(self.head(name))) for name in heads]
            self._members[heads] = MemberLogits(self.extractor, placed)
        window = self.config.guided.time_min, self.config.guided.time_max
        guidance = member_guidance(self._members[heads], self._classes(n), variant, *window, self.sampling)
        x, sigma = self._noise(n).double(), torch.full((n,), SIGMA, dtype=torch.float64, device=self.sampling.device)
        guidance(x, sigma)

    def _features(self, n: int) -> Tensor:
        return self._frozen(self._noise(n), torch.full((n,), 0.5, device=self.sampling.device))

    def _frozen(self, x_vp: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), self.sampling.autocast():
            frozen: Tensor = self.extractor.features(x_vp, t)
        return frozen if self.training.mode == "bfloat16" else frozen.float()

    def _head_logits(self, head: str, n: int) -> None:
        grid_logits(self.head(head), self._grid(n), self.training)

    def _member_steps(self, head: str, n: int) -> None:
        settings = self.config.discriminator
        member = MemberSettings(
            seed=0,
            epochs=1,
            learning_rate=1e-4,
            weight_decay=0.0,
            t_min=1e-3,
            batch_size=settings.batch_size,
            importance_sampling=settings.importance_sampling,
            reshuffle=settings.reshuffle,
            flip=settings.flip,
            label_smoothing=settings.label_smoothing,
            checkpoint="last",
            checkpoint_every=2,
            draws=0,
        )
        labels = torch.zeros(n, device=self.training.device)
        train_discriminator(
            self._frozen,
            self.head(head).requires_grad_(True),
            self._images(n),
            labels,
            self._classes(n),
            np.arange(n),
            self._grid(1),
            member,
            self.training,
            self._at_once(settings.batch_size),
            NoCheckpoints(),
            nothing,
            nothing,
        )

    def _loop(self, kind: str, training: Any) -> Callable[[int], object]:
        config, blueprints, device = self.config, self.blueprints, self.training.device
        build = {
            "score step": blueprints.score,
            "extractor step": blueprints.extractor,
            "fid step": blueprints.fid_network,
        }
        network: Any = build[kind]()
        network.to(device)

        def steps(n: int) -> None:
            iterations = max(1, round(n / training.batch_size))
            told = training.model_dump() | {"iterations": iterations, "batch_size": n // iterations}
            schedule, images, labels = (
                Schedule(**told),
                self._images(n),
                torch.zeros(n, dtype=torch.int64, device=device),
            )
            rest: tuple[Any, ...] = (self.training, self._at_once(n), NoCheckpoints(), nothing, nothing)
            if kind == "score step":
                s = config.score
                assert s.source == "train"
                classes = one_hot(labels, network.label_dim) if config.cond else None
                train_score(network, images, classes, schedule, s.p_mean, s.p_std, s.sigma_data, s.ema_decay, *rest)
            elif kind == "extractor step":
                e = config.extractor
                assert e.source == "train"
                train_extractor(network, images, labels, schedule, e.t_min, e.uniform_time_fraction, *rest)
            else:
                train_fid_network(network, images, labels, schedule, *rest)

        return steps

    def _fid_features(self, network: Any, n: int) -> None:
        with torch.inference_mode():
            network.features(self._noise(n))

    def _grid(self, n: int) -> GridFeatures:
        device = self.training.device
        features = torch.zeros(n, *self.extractor.feature_shape, device=device)
        t = torch.full((n,), 0.5, device=device)
        time, labels, rows = np.full(n, 0.5), torch.zeros(n, device=device), np.arange(n)
        return GridFeatures(features, t, time, labels, self._classes(n), rows, self._at_once(FEATURE_BATCH))

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, *self.pictures.shape, device=self.sampling.device)

    def _images(self, n: int) -> Tensor:
        return torch.randint(256, (n, *self.pictures.shape), dtype=torch.uint8, device=self.training.device)

    def _classes(self, n: int) -> Tensor | None:
        return torch.zeros(n, dtype=torch.int64, device=self.sampling.device) if self.config.cond else None

    def _at_once(self, size: int) -> BatchSize:
        return BatchSize(size, nothing)

    def _synchronised(self, run: Callable[[int], object]) -> Callable[[int], object]:
        def whole(n: int) -> None:
            run(n)
            if self.sampling.device.type == "cuda":
                torch.cuda.synchronize()

        return whole


class NoCheckpoints:
    """For training whose steps are only timed: nothing to go on from, nothing kept."""

    def load(self) -> None:
        """Begin anew."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep nothing.

        Args:
            state: of the training.
        """


def nothing(*_: object) -> None:
    """A notice, metrics or progress that nobody reads.

    Args:
        _: whatever is told.
    """

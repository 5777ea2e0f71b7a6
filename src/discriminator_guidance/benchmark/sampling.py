"""Sampling and its parts, the plain way and this project's, on networks of a profile with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from discriminator_guidance.benchmark import reference
from discriminator_guidance.benchmark.groups import Comparison, Group
from discriminator_guidance.benchmark.peaks import finished
from discriminator_guidance.benchmark.timing import Way
from discriminator_guidance.config import Variant
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.guidance.sampler import SamplerSettings, sample
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.memory import keep_memory, return_memory
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.planning.work import Pass, guided_steps
from discriminator_guidance.stages.guided import member_guidance
from discriminator_guidance.stages.sampling import unguided_denoiser

if TYPE_CHECKING:
    from discriminator_guidance.planning.blueprints import Blueprints

Network = TypeVar("Network", bound=nn.Module)
STEPS = 3  # five evaluations of the denoiser and two of the guidance: nearly the 35 to 15 of 18 steps
MEMBERS = 6
WEIGHT = 2.0
SIGMA = 1.0  # inside every window
RUN = 9  # times as much work in a run of the sampler as in a single call: 17 pictures at full size on a CPU
# FLOPs of a call on a CPU, about, and pictures of a call on a GPU. Stages send 64 pictures and more at once; calls of
# a few are further from the peak: 51 % with 7 pictures and 62 % with 18 (guidance at full size, float32).
CPU_WORK, CUDA_BATCH = 0.5e12, 256


class Networks:
    """The networks of a profile with random weights, and what they are given.

    Args:
        blueprints: of the profile.
        traces: FLOPs of its passes.
        device: where they compute.
    """

    def __init__(self, blueprints: Blueprints, traces: Traces, device: torch.device) -> None:
        self.config, self.shape, self.device = blueprints.config, blueprints.pictures.shape, device
        self.blueprints, self.traces = blueprints, traces
        self.member = next(iter(self.config.discriminator.members))
        torch.manual_seed(0)
        self.score = alive(blueprints.score()).to(device)
        self.extractor = alive(blueprints.extractor()).to(device)
        shape = self.extractor.feature_shape
        self.heads = [alive(blueprints.head(self.member, shape)).to(device) for _ in range(MEMBERS)]

    def flops(self, kind: str, heads: int = 0) -> float:
        """FLOPs of one picture.

        Args:
            kind: of pass, see `planning.work.Pass`.
            heads: of how many members.

        Returns:
            The count.
        """
        return self.traces.of(Pass(kind, (self.member,) * heads)).flops

    def batch(self, flops: float, most: int) -> int:
        """Pictures of a call.

        Args:
            flops: of one picture.
            most: pictures that the stage would send at once.

        Returns:
            At least 1.
        """
        if self.device.type == "cuda":
            return CUDA_BATCH
        return max(1, min(most, round(CPU_WORK / flops)))

    def classes(self, n: int) -> Tensor | None:
        """Classes of a batch.

        Args:
            n: pictures.

        Returns:
            (n,) int64, None in an unconditional study.
        """
        return torch.arange(n, device=self.device) % self.blueprints.pictures.classes if self.config.cond else None

    def labels(self, n: int) -> Tensor | None:
        """The same, one-hot.

        Args:
            n: pictures.

        Returns:
            (n, classes), None in an unconditional study.
        """
        classes = self.classes(n)
        return None if classes is None else one_hot(classes, self.score.label_dim)

    def noise(self, n: int) -> Tensor:
        """Unit-normal noise, the same in every call.

        Args:
            n: pictures.

        Returns:
            (n, C, H, W) float32.
        """
        rng = torch.Generator().manual_seed(n)
        return torch.randn(n, *self.shape, generator=rng).to(self.device)

    @cached_property
    def plain(self) -> Plain:
        """The same networks, computing the plain way."""
        return Plain(self)


class Plain:
    """The networks as the official code computes them.

    Args:
        networks: whose weights they take.
    """

    def __init__(self, networks: Networks) -> None:
        self.score = reference.as_published(networks.score)
        self.extractor = reference.as_published(networks.extractor)
        self.heads = [reference.as_published(head) for head in networks.heads]


class Frozen:
    """The networks as the stages load them for a precision.

    Args:
        networks: whose weights they take.
        compute: device and precision.
    """

    def __init__(self, networks: Networks, compute: Compute) -> None:
        self.compute = compute
        self.score: EDMPrecond = compute.place(copy.deepcopy(networks.score), forward_only=True)
        self.extractor: EncoderUNet = compute.place(copy.deepcopy(networks.extractor))
        heads = [compute.place(copy.deepcopy(head)) for head in networks.heads]
        self.members = {count: MemberLogits(self.extractor, heads[:count]) for count in (1, MEMBERS)}


def alive(network: Network) -> Network:
    """Give layers that start at 0 small random weights, so that what comes before them has an effect.

    Args:
        network: changed in place.

    Returns:
        The same network, in evaluation mode.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02)
    return network.eval()


def sampling_groups(networks: Networks, precisions: dict[str, Frozen]) -> list[Group]:
    """Whole short runs of the sampler, without guidance, with one and with six members.

    Args:
        networks: with random weights.
        precisions: the frozen ones by "fp32" and "bf16".

    Returns:
        Two groups.
    """
    config, window = networks.config, (networks.config.guided.time_min, networks.config.guided.time_max)
    told = config.sampler.model_dump() | {"steps": STEPS, "s_churn": 0.0, "eps_scale": 1.0}
    settings = SamplerSettings(**told, w1=WEIGHT, w2=0.0, boosting=False)
    sigmas = karras_sigmas(STEPS, settings.sigma_min, settings.sigma_max, settings.rho).tolist()
    calls, _ = guided_steps(settings, *window)
    score = (2 * STEPS - 1) * networks.flops("score")
    guided = score + calls * networks.flops("guidance", 1)
    n = networks.batch(guided / RUN, min(config.guided.batch_size, config.guided.shard_size))
    classes, labels, latents = networks.classes(n), networks.labels(n), networks.noise(n)
    plain = networks.plain

    def published(heads: int) -> Way:
        def guidance(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            return reference.guidance_term(plain.extractor, plain.heads[:heads], x, sigma, classes)

        asked = guidance if heads else None
        return _published(
            networks, lambda: reference.sample(plain.score, asked, latents, sigmas, window, WEIGHT, labels)
        )

    def ours(frozen: Frozen, heads: int) -> Way:
        denoiser = unguided_denoiser(frozen.score, classes, frozen.compute)
        guidance = (
            member_guidance(frozen.members[heads], classes, _variant(heads), *window, frozen.compute) if heads else None
        )
        return _ours(networks, lambda: sample(denoiser, guidance, latents, lambda step, raised: latents, settings))

    def compared(name: str, ways: tuple[str, str], flops: float, precision: str) -> Comparison:
        return Comparison(name, *ways, n, n * flops, f"convolution {precision}")

    unguided = {"reference": published(0), **{name: ours(frozen, 0) for name, frozen in precisions.items()}}
    with_one = {"reference": published(1), **{name: ours(frozen, 1) for name, frozen in precisions.items()}}
    fastest = list(precisions)[-1]
    six = {"reference of six": published(MEMBERS), "six": ours(precisions[fastest], MEMBERS)}
    of_six = score + calls * networks.flops("guidance", MEMBERS)
    return [
        Group(unguided, [compared(f"unguided_{name}", ("reference", name), score, name) for name in precisions]),
        Group(
            {**with_one, **six},
            [
                *(compared(f"guided_{name}", ("reference", name), guided, name) for name in precisions),
                compared("guided_six_members", ("reference of six", "six"), of_six, fastest),
            ],
        ),
    ]


def part_groups(networks: Networks, precisions: dict[str, Frozen]) -> list[Group]:
    """Single calls: the denoiser, the guidance of one member, the frozen features.

    Args:
        networks: with random weights.
        precisions: the frozen ones by "fp32" and "bf16".

    Returns:
        One group for each.
    """
    config, plain = networks.config, networks.plain
    window = config.guided.time_min, config.guided.time_max
    most = min(config.guided.batch_size, config.guided.shard_size)

    def group(
        name: str, flops: float, plainly: Callable[[int], Tensor], ours: Callable[[Frozen, int], Tensor]
    ) -> Group:
        n = networks.batch(flops, most)
        ways = {"reference": _published(networks, lambda: plainly(n))}
        for precision, frozen in precisions.items():
            ways[precision] = _ours(networks, lambda frozen=frozen: ours(frozen, n))  # type: ignore[misc]
        rows = [
            Comparison(f"{name}_{precision}", "reference", precision, n, n * flops, f"convolution {precision}")
            for precision in precisions
        ]
        return Group(ways, rows)

    def levels(n: int) -> Tensor:
        return torch.full((n,), SIGMA, dtype=torch.float64, device=networks.device)

    def denoised_plainly(n: int) -> Tensor:
        with torch.no_grad():
            estimate: Tensor = plain.score(networks.noise(n), levels(n).float(), networks.labels(n))
        return estimate

    def denoised(frozen: Frozen, n: int) -> Tensor:
        return unguided_denoiser(frozen.score, networks.classes(n), frozen.compute)(
            networks.noise(n).double(), levels(n)
        )

    def guided_plainly(n: int) -> Tensor:
        x, classes = networks.noise(n).double(), networks.classes(n)
        return reference.guidance_term(plain.extractor, plain.heads[:1], x, levels(n), classes)[0]

    def guided(frozen: Frozen, n: int) -> Tensor:
        asked = member_guidance(frozen.members[1], networks.classes(n), _variant(1), *window, frozen.compute)
        return asked(networks.noise(n).double(), levels(n))[0]

    def features_plainly(n: int) -> Tensor:
        with torch.no_grad():
            return plain.extractor.features(networks.noise(n), tau_from_sigma(levels(n)).float())

    def features(frozen: Frozen, n: int) -> Tensor:
        with torch.no_grad(), frozen.compute.autocast():
            return frozen.extractor.features(networks.noise(n), tau_from_sigma(levels(n)).float())

    return [
        group("edm_forward", networks.flops("score"), denoised_plainly, denoised),
        group("guidance_call", networks.flops("guidance", 1), guided_plainly, guided),
        group("frozen_features", networks.flops("features"), features_plainly, features),
    ]


def _variant(heads: int) -> Variant:
    names = tuple(f"d{place}" for place in range(heads))
    return Variant(members=names, rule="mean_probability", weights="equal", w1=WEIGHT, w2=0.0, boosting=False)


def _published(networks: Networks, run: Callable[[], Tensor]) -> Way:
    return Way(finished(run, networks.device), return_memory)


def _ours(networks: Networks, run: Callable[[], Tensor]) -> Way:
    return Way(finished(run, networks.device), keep_memory)

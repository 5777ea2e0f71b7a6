"""How many pictures each stage sends through which network: counted from the settings, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from discriminator_guidance.diffusion.noise_levels import churn_gamma, karras_sigmas
from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.guidance.sampler import BOOST_CHURN, BOOST_PERIOD_CHURN, SamplerSettings
from discriminator_guidance.training.pairs import split_pairs


@dataclass(frozen=True)
class Pass:
    """A picture's way through the networks of one call.

    Args:
        kind: "score", "features" (of the extractor) and "head" are forward passes; "guidance" is an extractor, its
            heads and the gradient by the picture; "fid features" a forward pass in float32; "score step",
            "extractor step", "fid step" a training step, "member step" frozen features and a training step of a head.
        heads: the discriminators it goes through.
    """

    kind: str
    heads: tuple[str, ...] = ()

    @property
    def evaluations(self) -> int:
        """Networks that the picture passes; gradients are counted in FLOPs, not here."""
        return {"guidance": 1 + len(self.heads), "member step": 2}.get(self.kind, 1)


Passes = dict[Pass, int]  # pictures for each kind of pass


@dataclass(frozen=True)
class Split:
    """Sizes of the split that all members share: rows of real and fake together."""

    train: int
    validation: int
    test: int


def added(parts: Iterable[Mapping[Pass, int]]) -> Passes:
    """The passes of several stages together.

    Args:
        parts: pictures for each kind of pass.

    Returns:
        Their sums.
    """
    total: Passes = {}
    for part in parts:
        for way, pictures in part.items():
            total[way] = total.get(way, 0) + pictures
    return total


def network_evaluations(passes: Mapping[Pass, int]) -> int:
    """Times that a picture passes a network.

    Args:
        passes: pictures for each kind of pass.

    Returns:
        Their number.
    """
    return sum(way.evaluations * pictures for way, pictures in passes.items())


def guided_steps(settings: SamplerSettings, time_min: float, time_max: float) -> tuple[int, int]:
    """In how many steps the discriminators are asked: for the Euler slope, and for Heun's correction.

    Args:
        settings: schedule, stochasticity, weights, boosting.
        time_min: smallest VP time at which guidance acts.
        time_max: largest.

    Returns:
        Both counts. With boosting a noise level may be raised for some pictures of a batch and not for others; a step
        counts if either level is inside the window.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)

    def inside(sigma: torch.Tensor) -> bool:
        return bool((time_min <= (tau := tau_from_sigma(sigma))) & (tau <= time_max))

    euler = correction = 0
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        churns = [settings.s_churn]
        if settings.boosting and step and step % BOOST_PERIOD_CHURN == 0:
            churns.append(BOOST_CHURN)
        if not settings.s_min <= sigma <= settings.s_max:
            churns = [0.0]
        gammas = churn_gamma(torch.tensor(churns, dtype=torch.float64), settings.steps)
        euler += settings.w1 != 0 and any(inside(sigma * (1 + gamma)) for gamma in gammas)
        correction += settings.w2 != 0 and step < settings.steps - 1 and inside(following)
    return euler, correction


def sampling(
    images: int, settings: SamplerSettings, heads: Sequence[str], time_min: float = 0.0, time_max: float = 0.0
) -> Passes:
    """Heun's method: two evaluations of the denoiser a step and one in the last, and guidance inside its window.

    Args:
        images: pictures drawn.
        settings: of the sampler.
        heads: the discriminators that guide; none draws without guidance.
        time_min: smallest VP time at which guidance acts.
        time_max: largest.

    Returns:
        Passes through the score network and, where there are heads, guidance.
    """
    passes = {Pass("score"): images * (2 * settings.steps - 1)}
    if heads:
        passes[Pass("guidance", tuple(heads))] = images * sum(guided_steps(settings, time_min, time_max))
    return passes


def split_sizes(
    real: int, fake: int, train: float, validation: float, most: int | None, times_per_image: int
) -> tuple[Split, Split]:
    """The split of real and fake pictures in numbers.

    Args:
        real: real pictures for training.
        fake: fakes.
        train: share for training.
        validation: share for validation.
        most: pictures used of each kind; None for all.
        times_per_image: times of the common grid at which each validation or test picture is seen.

    Returns:
        Pictures in each part, and the same with validation and test counted once for each grid time.
    """
    split = split_pairs(real, fake, train, validation, 0, most)
    sizes = Split(len(split.train), len(split.validation), len(split.test))
    return sizes, Split(sizes.train, sizes.validation * times_per_image, sizes.test * times_per_image)


def member_training(head: str, epochs: int, pairs: Split, bagging: float | None) -> Passes:
    """Training of one discriminator, its validation after every epoch and its test.

    Args:
        head: whose.
        epochs: how many.
        pairs: training pictures; (picture, time) pairs of the validation and test grid.
        bagging: pictures drawn with replacement as a share of the training pictures; None: each picture once.

    Returns:
        Passes; features of the grid are computed once.
    """
    rows = pairs.train if bagging is None else max(1, round(bagging * pairs.train))
    return {
        Pass("member step", (head,)): epochs * rows,
        Pass("features"): pairs.validation + pairs.test,
        Pass("head", (head,)): epochs * pairs.validation + pairs.test,
    }


def member_taken(head: str, pairs: Split) -> Passes:
    """A released discriminator, which is only validated and tested.

    Args:
        head: whose.
        pairs: as in `member_training`.

    Returns:
        Passes.
    """
    grid = pairs.validation + pairs.test
    return {Pass("features"): grid, Pass("head", (head,)): grid}

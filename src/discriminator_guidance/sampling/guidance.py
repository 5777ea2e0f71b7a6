"""Discriminator guidance: what the log density ratio of discriminators adds to the EDM slope."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.noise import marginal_mean, tau_from_sigma
from discriminator_guidance.sampling.ensemble import Denoiser, WeightsOfTime, shrunk_mean_logit

Guidance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, sigma) -> (score, log ratio)
EnsembleRule = Callable[[Tensor, Tensor], Tensor]  # (logits (M, N), weights (M,) or (M, N)) -> (N,)
Discriminator = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> raw logits (N,), or (M, N) of M members
Schedule = Callable[[Tensor], Tensor]  # sigma (N,) -> guidance weight (N,)

PROBABILITY_CLIP = 1e-5  # a probability closer to 0 or 1 is not taken for true
LOG_RATIO_BOUND = math.log1p(-PROBABILITY_CLIP) - math.log(PROBABILITY_CLIP)
SHRUNK = "shrunk_mean_logit"  # the rule that needs the members' gradients


def clip_log_ratio(log_ratio: Tensor) -> Tensor:
    """The log ratio of a probability clipped to [1e-5, 1 - 1e-5], with gradient 0 outside (Kim et al. 2023, Eq. 8).

    Clamping L is the same as clipping d before L = log d/(1-d), and keeps the digits of L in float32.
    *Deviation:* both limits are +-11.5129; the official float32 limits are -11.5129 and +11.5115.
    """
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def mean_probability(logits: Tensor, weights: Tensor) -> Tensor:
    """The clipped log ratio log d/(1-d) of the mean probability d = sum_m w_m sigmoid(logit_m): (M, N) -> (N,).

    The reproduction's Eq. 3 with equal weights. One member alone gives its own clipped log ratio.
    """
    log_weights = weights.log().view(len(logits), -1)  # a weight of 0 becomes -inf and drops out of the sum
    real = torch.logsumexp(log_weights + logsigmoid(logits), dim=0)
    fake = torch.logsumexp(log_weights + logsigmoid(-logits), dim=0)
    return clip_log_ratio(real - fake)


def mean_logit(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the members' log ratios, the log of the geometric mean of their ratios: (M, N) -> (N,).

    *Deviation:* not clipped, unlike the log ratio of one discriminator, since no mean of probabilities is taken.
    """
    return (weights.view(len(logits), -1) * logits).sum(dim=0)


def clipped_logit_mean(logits: Tensor, weights: Tensor) -> Tensor:
    """What the reproduction's published code computed: the mean of RAW LOGITS, clipped as if it were a probability.

    Kept only to show why its ensemble scored FID 14.35. Where the mean logit lies outside (0, 1) the log ratio is
    pinned at +-11.5 and its gradient is 0; inside, the gradient is scaled by 1 / (p (1 - p)) >= 4. (M, N) logits ->
    (N,) float64.
    """
    mistaken = mean_logit(logits, weights).double().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return mistaken.log() - torch.log1p(-mistaken)


RULES: dict[str, EnsembleRule] = {
    "mean_probability": mean_probability,
    "mean_logit": mean_logit,
    "clipped_logit_mean": clipped_logit_mean,
}


def simplex_weights(weights: Literal["equal", "fitted"] | Sequence[float], members: int) -> tuple[float, ...]:
    """One weight for each member: the given ones, or equal ones, also in place of those fitted by noise level."""
    if isinstance(weights, str):
        return (1.0 / members,) * members
    return tuple(float(weight) for weight in weights)


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Guidance by the log density ratio of one or several discriminators (Kim et al. 2023, Eq. 6-8).

    Args:
        discriminators: (x_vp, tau) -> raw logits (N,) or (N, 1), above 0 for real; or several; or one that returns the
            (M, N) logits of M members. x_vp = x / (1 + sigma^2)^(1/2) are noisy images (N, C, H, W), in which logits
            must be differentiable; tau (N,) their VP times. Classes come by closure.
        weight: of both orders; (w1, w2) of the Euler step and of Heun's correction; or a function of sigma (N,).
        rule: a key of `RULES`, or `shrunk_mean_logit`.
        window: the VP times with guidance.
        member_weights: one for each member, or a function of VP time; equal if not given.
        dtype: in which discriminators are called.

    >>> guidance = DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)), weight=lambda sigma: sigma < 1)
    >>> score, log_ratio = guidance(torch.ones(2, 1, 4, 4).double(), torch.tensor([0.5, 2.0]).double())
    >>> score.flatten(1).any(dim=1).tolist()
    [True, False]
    """

    discriminators: Discriminator | Sequence[Discriminator]
    weight: float | tuple[float, float] | Schedule = 1.0
    rule: str = "mean_probability"
    window: tuple[float, float] = (0.01, 1.0)
    member_weights: Sequence[float] | WeightsOfTime | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.rule not in (rules := (*RULES, SHRUNK)):
            raise ConfigError("a rule for several discriminators", repr(self.rule), f"choose from: {', '.join(rules)}")
        if self.window[0] > self.window[1]:
            raise ConfigError("a window (first, last) of VP times", str(self.window), "exchange its ends")

    @property
    def orders(self) -> tuple[float, float]:
        """The weights w1 and w2 by which a Heun step multiplies the score; 1 with a schedule, which is part of it."""
        if callable(self.weight):
            return 1.0, 1.0
        return (self.weight, self.weight) if isinstance(self.weight, int | float) else self.weight

    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The guidance term of the EDM slope times sigma, (N, C, H, W) float64, and the log ratio (N,) it comes from.

        With x_vp = mean(tau) x, the term is -sigma^2 mean(tau) grad_{x_vp} L = -sigma^2 grad_x L: the sampler divides
        it by sigma and adds it to dx/dsigma = (x - D) / sigma = -sigma grad log p. Outside the window of VP times the
        term is 0 and L is +inf; where L is not finite the term is NaN.

        x: (N, C, H, W) float64 noisy images, unscaled (EDM units); sigma: (N,) float64.

        Kim et al. 2023, Eq. 6-8; the form of the EDM sampler in their Appendix.
        *Deviation:* the official code tests the smallest tau of a batch for all its samples, and marks "outside" by
        1e7.
        """
        tau = tau_from_sigma(sigma.double())
        active = (tau >= self.window[0]) & (tau <= self.window[1])
        score = torch.zeros_like(x, dtype=torch.float64)
        outside = torch.full_like(tau, math.inf)
        if not bool(active.any()):
            return score, outside
        mean = marginal_mean(tau).view(-1, 1, 1, 1)
        with torch.inference_mode(False), torch.enable_grad():
            x_vp = (mean * x).to(self.dtype).detach().clone().requires_grad_(True)
            log_ratio = self.log_ratio(x_vp, tau.to(self.dtype).clone())
            with torch.autocast(x.device.type, enabled=False):  # the forward pass has chosen all formats
                (slope,) = torch.autograd.grad(log_ratio.sum(), x_vp)
        # A rule's clip may have made the gradient of what is not finite 0.
        slope = slope.masked_fill(~log_ratio.isfinite().view(-1, 1, 1, 1), math.nan)
        level = sigma.double().view(-1, 1, 1, 1)
        score = torch.where(active.view(-1, 1, 1, 1), -(level**2) * mean * slope.double(), score)
        if callable(self.weight):
            score = torch.as_tensor(self.weight(sigma)).to(score).view(-1, 1, 1, 1) * score
        return score, torch.where(active, log_ratio.detach().double(), outside)

    def log_ratio(self, x_vp: Tensor, tau: Tensor) -> Tensor:
        """The log ratio (N,) of the discriminators by the rule, differentiable in x_vp.

        It is NaN where a member's logit is not finite, which a rule's clip would hide.
        """
        single = callable(self.discriminators) and not isinstance(self.discriminators, torch.nn.ModuleList)
        members: Any = [self.discriminators] if single else self.discriminators
        rows, count = [], len(tau)
        for member in members:
            logits = member(x_vp, tau)
            if count not in (logits.numel(), *logits.shape[-1:]):
                expected = f"logits of shape ({count},) or (M, {count})"
                raise ConfigError(expected, str(tuple(logits.shape)), "give one for each image")
            rows.append(logits.reshape(-1, count))
        logits = torch.cat(rows)
        if self.rule == SHRUNK:
            if len(logits) < 2:
                raise ConfigError(f"two or more discriminators for {SHRUNK}", "one", "choose another rule")
            return shrunk_mean_logit(logits, x_vp)
        weights = simplex_weights("equal", len(logits)) if self.member_weights is None else self.member_weights
        if not callable(weights) and len(weights) != len(logits):
            raise ConfigError(f"{len(logits)} member_weights", str(len(weights)), "give one for each discriminator")
        # Logits may come in bfloat16; the rule's logarithms are taken in at least float32.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        ratio = RULES[self.rule](logits, weights(tau).to(logits) if callable(weights) else logits.new_tensor(weights))
        return ratio.masked_fill(~logits.isfinite().all(dim=0), torch.nan)

    def denoise(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser D + w sigma^2 grad_x L, for other samplers; w is the mean of w1 and w2.

        >>> guided = DiscriminatorGuidance(lambda x_vp, tau: x_vp.sum(dim=(1, 2, 3))).denoise(lambda x, sigma: 0 * x)
        >>> guided(torch.zeros(1, 1, 1, 1), torch.ones(1)).item() > 0
        True
        """

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            score, _ = self(x.double(), sigma.double())
            return denoiser(x, sigma) - (sum(self.orders) / 2 * score).to(x.dtype)

        return guided

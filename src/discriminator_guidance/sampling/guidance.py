"""Discriminator guidance: what the log density ratio of discriminators adds to the EDM slope."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from discriminator_guidance.core.errors import ConfigError, DivergenceError
from discriminator_guidance.core.noise import column, levels_of, marginal_mean, tau_from_sigma
from discriminator_guidance.core.runtime import attribute_of, innermost, warn_in_training

Denoiser = Callable[..., Tensor]  # (x, sigma) -> D(x; sigma), sigma (N,)
Guidance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, sigma) -> (term, log ratio)
Discriminator = Callable[..., Tensor]  # (x_vp, tau[, classes]) -> raw logits (N,), or (M, N) of M members

PROBABILITY_CLIP = 1e-5  # of Kim et al. 2023: a probability closer to 0 or 1 is not taken for true
SHRUNK = "shrunk_mean_logit"  # the rule that needs the members' gradients


def checked(denoised: Any, x: Tensor) -> Tensor:
    """What a denoiser returned, if it has the shape of x: another would be broadcast."""
    if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
        problem = f"the denoiser returned {type(denoised).__name__} {getattr(denoised, 'shape', '')} for x {x.shape}"
        raise ConfigError(problem, "return D(x; sigma), as the denoiser of from_diffusers does")
    return denoised


def gradient(values: Tensor, x_vp: Tensor, again: bool = False) -> Tensor:
    """The gradient of each value (N,) in its image of x_vp (N, ...); again: another is to follow."""
    slope = None
    if values.requires_grad:
        with torch.autocast(x_vp.device.type, enabled=False):  # the forward pass has chosen all formats
            (slope,) = torch.autograd.grad(values.sum(), x_vp, retain_graph=again, allow_unused=True)
    if slope is None:
        raise ConfigError("logits have no gradient in x_vp", "compute them from it without no_grad, detach or numpy")
    return slope


def gradients(logits: Sequence[Tensor], x_vp: Tensor) -> Tensor:
    """The gradient of each logit (M_i, N) of several networks in the images x_vp (N, C, H, W): (M, N, C, H, W)."""
    return torch.stack([gradient(row, x_vp, again=row is not part[-1]) for part in map(list, logits) for row in part])


def shrunk_mean_logit(parts: Sequence[Tensor], x_vp: Tensor) -> Tensor:
    """The mean of M logits (M_i, N) of several networks, its gradient g shrunk to 0 where their gradients g_m disagree.

    The gradient of a sample is s g with s = max(0, 1 - sum_m |g_m - g|^2 / (M (M - 1) |g|^2)) (James & Stein 1961; the
    positive part: Baranchik 1964). The fraction is the share of |g|^2 that the scatter of the members explains. To be
    differentiated once.
    """
    slopes, logits = gradients(parts, x_vp), torch.cat([*parts])
    slope, members = slopes.mean(dim=0), len(slopes)
    scatter = (slopes - slope).square().flatten(2).sum(dim=(0, 2)) / (members * (members - 1))
    power = slope.square().flatten(1).sum(dim=1).clamp(min=torch.finfo(slope.dtype).tiny)
    shrunk = column((1 - scatter / power).clamp(min=0), slope) * slope
    # The tangent at x_vp: the mean logit there, with the shrunk gradient.
    return logits.detach().mean(dim=0, dtype=x_vp.dtype) + (shrunk * (x_vp - x_vp.detach())).flatten(1).sum(dim=1)


def mean_probability(logits: Tensor, weights: Tensor) -> Tensor:
    """The log ratio log d/(1-d) of the mean probability d = sum_m w_m sigmoid(logit_m): (M, N) -> (N,).

    The reproduction's Eq. 3 with equal weights. One member alone gives its own logit.
    """
    log_weights = weights.log().view(len(logits), -1)  # a weight of 0 becomes -inf and drops out of the sum
    real = torch.logsumexp(log_weights + logsigmoid(logits), dim=0)
    fake = torch.logsumexp(log_weights + logsigmoid(-logits), dim=0)
    return real - fake


def mean_logit(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the members' log ratios, the log of the geometric mean of their ratios: (M, N) -> (N,)."""
    return (weights.view(len(logits), -1) * logits).sum(dim=0)


def clipped_logit_mean(logits: Tensor, weights: Tensor) -> Tensor:
    """What the reproduction's published code computed: the mean of RAW LOGITS, clipped as if it were a probability.

    Kept only to show why its ensemble scored FID 14.35. Where the mean logit lies outside (0, 1) the log ratio is
    pinned at +-11.5 with gradient 0; inside, the gradient is scaled by 1 / (p (1 - p)) >= 4. (M, N) -> (N,) float64.
    """
    mistaken = mean_logit(logits, weights).double().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return mistaken.log() - torch.log1p(-mistaken)


# Each maps logits (M, N) and weights (M,) or (M, N) to the log ratio (N,).
RULES = {rule.__name__: rule for rule in (mean_probability, mean_logit, clipped_logit_mean)}


def combined_logits(logits: Tensor, rule: str, weights: Any = None, clip: float | None = None) -> Tensor:
    """The log ratio (N,) of members' logits (M, N) by one of `RULES`, with weights (M,) or (M, N), equal if not given.

    With `clip` the mean probability is clipped (Kim et al. 2023, Eq. 8).
    *Deviation:* with 1e-5 both limits are +-11.5129; the official float32 limits are -11.5129 and +11.5115.
    """
    weights = [1 / len(logits)] * len(logits) if weights is None else weights
    ratio = RULES[rule](logits, torch.as_tensor(weights, dtype=logits.dtype, device=logits.device))
    if clip is None or rule != "mean_probability":
        return ratio
    # Clamping L is clipping d before L = log d/(1-d), and keeps the digits of L in float32.
    bound = math.log1p(-clip) - math.log(clip)
    return ratio.clamp(-bound, bound)


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Guidance by the log density ratio of one or several discriminators (Kim et al. 2023, Eq. 6-8).

    Args:
        discriminators: (x_vp, tau) -> raw logits, one for each image, above 0 for real; or several. x_vp =
            x / (1 + sigma^2)^(1/2) are noisy images (N, C, H, W) or (N, ...), in which logits must be differentiable;
            tau (N,) their VP times. Classes of `sample` are the third argument, unless the attribute `conditional` is
            False; those of `denoise`, where it is True. A network in bfloat16 or float16 is called under autocast.
        weight: of both orders; (w1, w2) of the Euler step and of Heun's correction; or a function of sigma (N,).
        rule: a key of `RULES`, or `shrunk_mean_logit`.
        window: the VP times with guidance.
        member_weights: one for each member, or a function of VP time; equal if not given. By mean_logit, their sum
            multiplies the guidance.
        dtype: in which discriminators are called.
        clip: of the mean probability alone to [clip, 1 - clip], beyond which nothing guides; 1e-5 in Kim et al. 2023.
        members: M for a discriminator that returns the logits (M, N) of M members; its attribute `members`, if any.

    >>> guidance = DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)), weight=lambda sigma: sigma < 1)
    >>> term, log_ratio = guidance(torch.ones(2, 1, 4, 4).double(), torch.tensor([0.5, 2.0]).double())
    >>> term.flatten(1).any(dim=1).tolist()
    [True, False]
    """

    discriminators: Discriminator | Sequence[Discriminator]
    weight: float | Tensor | Sequence[float] | Callable[[Tensor], Tensor] = 1.0
    rule: str = "mean_probability"
    window: tuple[float, float] = (0.01, 1.0)
    member_weights: Sequence[float] | Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float32
    clip: float | None = None
    members: int | None = None
    _doubtful: list[float] = field(default_factory=lambda: [0.0], init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.discriminators, Iterator) or not self.networks or not all(map(callable, self.networks)):
            raise ConfigError(f"discriminators is {self.discriminators!r:.200}", "give one or several callables")
        warn_in_training("a discriminator", *self.networks)
        if self.rule not in (rules := (*RULES, SHRUNK)):
            raise ConfigError(f"rule is {self.rule!r}", f"choose from: {', '.join(rules)}")
        if len(self.window) != 2 or not 0 <= self.window[0] <= self.window[1] <= 1:
            raise ConfigError(f"window is {self.window}", "give two VP times, of 0 to 1, the lower one first")
        if self.clip is not None and not 0 < self.clip < 0.5:
            raise ConfigError(f"clip is {self.clip!r}", "choose between 0 and 0.5, such as the paper's 1e-5, or None")
        if self.rule == SHRUNK and self.member_weights is not None:
            raise ConfigError(f"rule is {SHRUNK}, which has no member_weights", "leave them out, or change the rule")
        if any(map(math.isnan, self.step_weights)):  # it refuses a weight of another kind
            raise ConfigError(f"weight is {self.weight!r}", "give numbers")
        if (own := self.member_weights) is not None and not callable(own):
            numbers = torch.as_tensor(own)
            odd = self.rule == "mean_probability" and ((numbers < 0).any() or not numbers.any())
            if numbers.ndim != 1 or odd or not numbers.isfinite().all():
                remedy = "give numbers; of probabilities none negative, and not all 0"
                raise ConfigError(f"member_weights are {own!s:.200}", remedy)

    @property
    def step_weights(self) -> tuple[float, float]:
        """The weights w1 of the Euler step and w2 of Heun's correction; 1 with a schedule, which the term has."""
        w: Any = self.weight
        if callable(w):
            return 1.0, 1.0
        try:
            w1, w2 = w if isinstance(w, tuple | list) else (w, w)
            return float(w1 + 0), float(w2 + 0)  # + 0 refuses text
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"weight is {w!r:.200}", "give one number, (w1, w2) or a function of sigma") from error

    @property
    def networks(self) -> list[Discriminator]:
        """The discriminators, as a list."""
        several: Any = self.discriminators
        return [several] if callable(several) and not isinstance(several, nn.ModuleList) else list(several or ())

    def __call__(self, x: Tensor, sigma: Tensor, *classes: Tensor) -> tuple[Tensor, Tensor]:
        """The guidance term of the EDM slope times sigma, (N, C, H, W) float64, and the log ratio (N,) it comes from.

        With x_vp = mean(tau) x, the term is -sigma^2 mean(tau) grad_{x_vp} L = -sigma^2 grad_x L: the sampler divides
        it by sigma and adds it to dx/dsigma = (x - D) / sigma = -sigma grad log p. Outside the window of VP times the
        term is 0 and L is +inf; where L is not finite the term is NaN.

        Args:
            x: noisy images (N, C, H, W) in EDM units.
            sigma: noise levels, (N,) or one for all.
            classes: for discriminators.

        Without float64: float32. Kim et al. 2023, Eq. 6-8; the form of the EDM sampler in their Appendix.
        *Deviation:* the official code tests a batch's smallest tau for all its samples, and marks "outside" by 1e7.
        """
        levels = levels_of(sigma, x)
        tau = tau_from_sigma(levels)
        active = (tau >= self.window[0]) & (tau <= self.window[1])
        outside = torch.full_like(tau, math.inf)
        if not bool(active.any()):
            return torch.zeros_like(x, dtype=levels.dtype), outside
        mean = marginal_mean(tau)
        with torch.inference_mode(False), torch.enable_grad():
            x_vp = (column(mean, x) * x.detach()).to(self.dtype).requires_grad_(True)
            log_ratio = self.log_ratio(x_vp, tau.to(self.dtype).clone(), *(given.clone() for given in classes))
            slope = gradient(log_ratio, x_vp)
        # A rule's clip may have made the gradient of what is not finite 0.
        factor = (-(levels**2) * mean).masked_fill(~log_ratio.isfinite(), math.nan)
        term = torch.where(column(active, x), column(factor, x) * slope, 0.0)
        if callable(self.weight):
            term = column(torch.as_tensor(self.weight(levels)).to(term).flatten().expand(len(x)), x) * term
        return term, torch.where(active, log_ratio.detach().to(outside), outside)

    def log_ratio(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        """The log ratio (N,) of the discriminators by the rule, differentiable in x_vp.

        It is NaN where a member's logit is not finite, which a clip would hide.

        Args:
            x_vp: noisy images (N, C, H, W) in VP units.
            tau: their VP times (N,).
            classes: for discriminators.
        """
        parts = self.logits(x_vp, tau, *classes)
        logits = torch.cat(parts)
        if self.rule == SHRUNK:
            if len(logits) < 2:
                raise ConfigError(f"rule is {SHRUNK}, and there is only one discriminator", "choose another rule")
            return shrunk_mean_logit(parts, x_vp)
        weights: Any = self.member_weights
        if callable(weights):
            if self.rule == "mean_probability" and (len(logits) == 1 or hasattr(weights, "sigma")):
                problem = "a mean probability has no fitted weights, that of one none"
                raise ConfigError(problem, "write rule='mean_logit'")
            weights = weights(tau)
        if weights is not None and len(weights) != len(logits):
            raise ConfigError(f"there are {len(weights)} member_weights for {len(logits)} members", "give one for each")
        # Logits may come in bfloat16; the rule's logarithms are taken in at least float32.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        ratio = combined_logits(logits, self.rule, weights, self.clip)
        return ratio.masked_fill(~logits.isfinite().all(dim=0), torch.nan)

    def logits(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> list[Tensor]:
        """The logits of each discriminator, (1, N), or (M, N) where it has M members; arguments as of `log_ratio`."""
        return [self._logits(network, x_vp, tau, *classes) for network in self.networks]

    def _logits(self, network: Discriminator, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        inner, count = innermost(network), len(tau)
        first = next(inner.parameters(), x_vp) if isinstance(inner, nn.Module) else x_vp
        half = x_vp.dtype == torch.float32 and first.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x_vp.device.type, first.dtype) if half else nullcontext():
            logits = network(x_vp, tau, *(classes if getattr(inner, "conditional", True) else ()))
        members = self.members or (own if isinstance(own := getattr(inner, "members", None), int) else 1)
        fits = isinstance(logits, Tensor) and (logits.shape if members > 1 else (1, logits.numel())) == (members, count)
        if not fits:
            problem = f"logits of {count} images have shape {tuple(getattr(logits, 'shape', ()))}, members is {members}"
            raise ConfigError(problem, "give a tensor of one for each, or members=M for the logits (M, N) of M members")
        if self.members != 1 and not hasattr(inner, "members") and tau.max() < 0.5:
            inside = logits.min() >= 0 and 0 < logits.max() <= 1
            self._doubtful[0] += logits.numel() if inside else -math.inf  # one outside: never doubted again
            if self._doubtful[0] >= 8:
                warnings.warn("all logits are in [0, 1]: return logits if these are probabilities", stacklevel=2)
        return logits.reshape(members, count)

    def denoise(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser D + w sigma^2 grad_x L, for other samplers; w is the mean of w1 and w2.

        It takes what the denoiser takes, and has its `sigma_min`, `sigma_max` and `round_sigma`, if it has such.

        Args:
            denoiser: (x, sigma, ...) -> D(x; sigma), in EDM units.
        """

        def guided(x: Tensor, sigma: Tensor, *conditions: Any, **named: Any) -> Tensor:
            sigma = torch.as_tensor(sigma, device=x.device).reshape(-1).expand(len(x))  # EDM's sampler gives one
            conditions = () if all(given is None for given in conditions) else conditions  # EDM's sampler gives None
            inner = [getattr(net, "network", net) for net in map(innermost, self.networks)]
            classes = [given for given in conditions or [named.get("class_labels")] if given is not None]
            term, _ = self(x, sigma, *(classes if any(getattr(net, "conditional", False) for net in inner) else ()))
            denoised = checked(denoiser(x, sigma, *conditions, **named), x)
            denoised = denoised - (sum(self.step_weights) / 2 * term).to(x.dtype)
            if not bool(denoised.isfinite().all()):
                problem = f"the guided denoiser gives NaN or infinity at sigma = {torch.as_tensor(sigma).max():.4g}"
                raise DivergenceError(problem, "check x, the denoiser and the discriminators, or lower the weight")
            return denoised

        defaults = {"sigma_min": 0.0, "sigma_max": math.inf, "round_sigma": torch.as_tensor}
        vars(guided).update({name: attribute_of(denoiser, name, value) for name, value in defaults.items()})
        return guided

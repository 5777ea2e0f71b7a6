"""A variant ready to be sampled, and one batch of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.data.files import read_npz
from discriminator_guidance.data.images import to_uint8
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.seeds import generator, normal, normal_batch
from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.guidance.density_ratio import Guidance, guidance_score
from discriminator_guidance.guidance.ensemble import WeightsOfTime, combine, shrunk_mean_logit, simplex_weights
from discriminator_guidance.guidance.fitted_weights import fit_weights, interpolated
from discriminator_guidance.guidance.sampler import SamplerSettings, sample
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.networks.precision import Compute, prepare
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_head, of_classes, require
from discriminator_guidance.training.pairs import as_tensor, scaled, split_pairs

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant
    from discriminator_guidance.networks.edm import EDMPrecond
    from discriminator_guidance.stages.layout import Layout

Arrays = dict[str, np.ndarray]
FIT_DRAWS = 4  # of noise for each image that weights are fitted on
GuidanceOf = Callable[[Tensor | None], Guidance]  # of the classes of a batch, None in an unconditional profile


@dataclass(frozen=True)
class OpenVariant:
    """A variant with its networks in memory."""

    network: EDMPrecond
    guidance: GuidanceOf | None
    sampler: SamplerSettings
    compute: Compute
    worse: tuple[EDMPrecond, float] | None  # of autoguidance
    fit: dict[str, Tensor]  # fit_sigma and fit_weights, where weights are fitted
    folders: tuple[Path, ...]  # of the weights

    def draw(self, seed: int, indices: Sequence[int], keep: int = 0) -> Arrays:
        """The samples of some indices, see `draw_batch`."""
        return draw_batch(self.network, self.guidance, self.sampler, seed, indices, keep, self.compute, self.worse)


def open_variant(config: Config, layout: Layout, variant: Variant) -> OpenVariant:
    """Read what a variant is sampled with."""
    compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
    network = load_denoiser(layout, compute, variant.network)
    remedy = "run stage score again or change cond"
    require("a score network", of_classes(config.cond), of_classes(network.label_dim > 0), remedy)
    score = layout.model("score")
    guidance, fit, worse, folders = None, dict[str, Tensor](), None, [score / (variant.network or "")]
    if variant.members:
        members = load_members(layout, variant.members, config.cond, compute)
        if variant.weights == "fitted":
            fit = fit_variant(config, layout, network, members, variant, compute)
        by_time = interpolated(fit["fit_sigma"], fit["fit_weights"]) if fit else None
        guidance = member_guidance(members, variant, window_of(config, variant), compute, by_time)
        folders += [layout.model("extractor"), *map(layout.discriminator, variant.members)]
    if variant.autoguidance is not None:
        worse = load_denoiser(layout, compute, variant.autoguidance.network), variant.autoguidance.weight
        folders.append(score / variant.autoguidance.network)
    return OpenVariant(network, guidance, sampler_settings(config, variant), compute, worse, fit, tuple(folders))


def draw_batch(
    network: EDMPrecond,
    guidance: GuidanceOf | None,
    sampler: SamplerSettings,
    seed: int,
    indices: Sequence[int],
    keep: int,
    compute: Compute,
    worse: tuple[EDMPrecond, float] | None = None,
) -> Arrays:
    """Draw the samples of some indices; sample i depends on the seed and i alone, up to rounding in convolutions.

    worse: a worse denoiser and the weight w of autoguidance, D + (w - 1) (D - D_worse) (Karras et al. 2024, Eq. 3).
    """
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    drawn_classes = _draw_classes(seed, indices, network.label_dim)
    classes = None if drawn_classes is None else torch.from_numpy(drawn_classes).to(compute.device)
    labels = None if classes is None else one_hot(classes, network.label_dim)
    states: list[np.ndarray] = []
    denoised_states: list[np.ndarray] = []
    log_ratios: list[np.ndarray] = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad(), compute.autocast():
            denoised: Tensor = network(x.float(), sigma.float(), labels)
            if worse is not None:
                denoised = torch.lerp(worse[0](x.float(), sigma.float(), labels), denoised, worse[1])
        return denoised

    def noise(step: int, raised: Tensor) -> Tensor:
        rows = zip(indices, raised.tolist(), strict=True)
        return torch.stack([normal(seed, "churn", i, step, shape) if used else torch.zeros(shape) for i, used in rows])

    def observe(step: int, x: Tensor, denoised: Tensor, log_ratio: Tensor) -> None:
        states.append(_channels_last(x[:keep]))
        denoised_states.append(_channels_last(denoised[:keep]))
        log_ratios.append(log_ratio.float().cpu().numpy())

    latents = normal_batch(seed, "latent", indices, 0, shape).to(compute.device)
    x = sample(denoiser, None if guidance is None else guidance(classes), latents, noise, sampler, observe)
    return {
        "images": to_uint8(x.cpu().numpy()),
        **({} if drawn_classes is None else {"labels": drawn_classes}),
        "states": np.stack([*states, _channels_last(x[:keep])]),
        "denoised": np.stack(denoised_states),
        "log_ratio": np.stack(log_ratios),
    }


def load_members(layout: Layout, names: Sequence[str], cond: bool, compute: Compute) -> MemberLogits:
    """The discriminators of a variant, on their common extractor."""
    members = MemberLogits(load_extractor(layout, compute), [load_head(layout, name, compute) for name in names])
    for name, conditional in zip(names, members.conditional, strict=True):
        remedy = "run stage discriminator again or change cond"
        require(f"a discriminator {name}", of_classes(cond), of_classes(conditional), remedy)
    return members


def member_guidance(
    members: MemberLogits,
    variant: Variant,
    window: tuple[float, float],
    compute: Compute,
    fitted: WeightsOfTime | None = None,
) -> GuidanceOf:
    """The guidance of a variant, with weights fitted by noise level if given, as a function of a batch's classes."""
    weights = fitted or simplex_weights(variant.weights, len(variant.members))

    def guidance_of(classes: Tensor | None) -> Guidance:
        logits = partial(compute.called(members), labels=classes)
        shrunk = variant.rule == "shrunk_mean_logit"
        log_ratio = shrunk_mean_logit(logits) if shrunk else combine(logits, variant.rule, weights)
        return lambda x, sigma: guidance_score(log_ratio, x, sigma, *window)

    return guidance_of


def fit_variant(
    config: Config, layout: Layout, network: EDMPrecond, members: MemberLogits, variant: Variant, compute: Compute
) -> dict[str, Tensor]:
    """fit_sigma (T,), the noise levels of a variant in its window, and fit_weights (T, M) of its members there.

    On the real images of the validation and test splits, on which no discriminator was trained.
    """
    real, shares = read_npz(layout.real / "train.npz", ["images"], "real")["images"], config.discriminator.split
    split = split_pairs(len(real), config.fake.images, shares.train, shares.validation, shares.seed)
    rows = np.concatenate([split.validation, split.test])
    images = scaled(as_tensor(real[rows[rows < len(real)]], compute.device))
    sampler, (low, high) = sampler_settings(config, variant), window_of(config, variant)
    sigmas = karras_sigmas(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)[:-1]
    tau = tau_from_sigma(sigmas)
    sigmas = sigmas[(low <= tau) & (tau <= high)]

    def noise(step: int) -> Tensor:
        draws = generator(config.fake.seed, "fitted", step, 0).standard_normal((FIT_DRAWS, *images.shape))
        return torch.from_numpy(draws.astype(np.float32)).to(compute.device)

    denoiser, logits = torch.no_grad()(compute.called(network)), compute.called(members)
    return {"fit_sigma": sigmas, "fit_weights": fit_weights(denoiser, logits, images, sigmas, noise)}


def sampler_settings(config: Config, variant: Variant) -> SamplerSettings:
    """The sampler of a variant: what all share, its weights, and its own number of steps if it has one."""
    shared = config.sampler.model_dump()
    own = {key: value for key in ("steps", "s_churn") if (value := getattr(variant, key)) is not None}
    return SamplerSettings(**{**shared, **own, "w1": variant.w1, "w2": variant.w2, "boosting": variant.boosting})


def window_of(config: Config, variant: Variant) -> tuple[float, float]:
    """The VP times in which a variant is guided."""
    return variant.window or (config.guided.time_min, config.guided.time_max)


def _draw_classes(seed: int, indices: Sequence[int], classes: int) -> np.ndarray | None:
    if not classes:
        return None
    return np.array([generator(seed, "class", index, 0).integers(classes) for index in indices], dtype=np.int64)


def _channels_last(x: Tensor) -> np.ndarray:
    images: np.ndarray = x.permute(0, 2, 3, 1).float().cpu().numpy()
    return images

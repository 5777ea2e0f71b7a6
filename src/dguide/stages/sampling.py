"""A variant ready to be sampled, and one batch of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dguide.artifacts import Layout, load_denoiser, load_extractor, load_head, require_arguments
from dguide.settings import Config, Variant
from discriminator_guidance.ensemble import fit_weights, interpolated
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.files import read_npz
from discriminator_guidance.guidance import DiscriminatorGuidance, Guidance, simplex_weights
from discriminator_guidance.images import to_uint8
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.noise import generator, karras_sigmas, normal, normal_batch, tau_from_sigma
from discriminator_guidance.runtime import Compute, gather_rows, prepare, share
from discriminator_guidance.sampler import SamplerSettings
from discriminator_guidance.sampler import heun as sample
from discriminator_guidance.training.pairs import as_tensor, scaled, split_pairs

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
    # A worse denoiser and the weight w of autoguidance, D + (w - 1) (D - D_worse) (Karras et al. 2024, Eq. 3).
    worse: tuple[EDMPrecond, float] | None = None
    fit: dict[str, Tensor] = field(default_factory=dict)  # fit_sigma and fit_weights, where weights are fitted
    folders: tuple[Path, ...] = ()  # of the weights

    def draw(self, seed: int, indices: Sequence[int], keep: int = 0) -> Arrays:
        """Draw the samples of some indices; sample i depends on the seed and i alone, up to rounding in convolutions.

        Of the first `keep` of them the result has the states and the denoised images at every noise level.
        """
        shape = (self.network.img_channels, self.network.img_resolution, self.network.img_resolution)
        count, classes, labels = self.network.label_dim, None, None
        if count:
            drawn = [int(generator(seed, "class", index, 0).integers(count)) for index in indices]
            classes = torch.tensor(drawn, device=self.compute.device)
            labels = one_hot(classes, count)
        steps: list[tuple[np.ndarray, ...]] = []

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            with torch.no_grad(), self.compute.autocast():
                denoised: Tensor = self.network(x.float(), sigma.float(), labels)
                if self.worse is not None:
                    worse, weight = self.worse
                    denoised = torch.lerp(worse(x.float(), sigma.float(), labels), denoised, weight)
            return denoised

        def noise(step: int, raised: Tensor) -> Tensor:
            rows, none = zip(indices, raised.tolist(), strict=True), torch.zeros(shape)
            return torch.stack([normal(seed, "churn", i, step, shape) if used else none for i, used in rows])

        def observe(step: int, x: Tensor, denoised: Tensor, log_ratio: Tensor) -> None:
            kept = _channels_last(x[:keep]), _channels_last(denoised[:keep])
            steps.append((*kept, log_ratio.float().cpu().numpy()))

        guidance = None if self.guidance is None else self.guidance(classes)
        latents = normal_batch(seed, "latent", indices, 0, shape).to(self.compute.device)
        x = sample(denoiser, guidance, latents, noise, self.sampler, observe)
        states, denoised_states, log_ratios = zip(*steps, strict=True)
        return {
            "images": to_uint8(x),
            **({} if classes is None else {"labels": classes.cpu().numpy()}),
            "states": np.stack([*states, _channels_last(x[:keep])]),
            "denoised": np.stack(denoised_states),
            "log_ratio": np.stack(log_ratios),
        }


def open_variant(config: Config, layout: Layout, variant: Variant) -> OpenVariant:
    """Read what a variant is sampled with."""
    compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
    network = load_denoiser(layout, compute, variant.network)
    wanted, found = {"cond": config.cond}, {"cond": network.label_dim > 0}
    require_arguments("a score network", wanted, found, "run stage score again or change cond")
    score = layout.model("score")
    guidance, fit, worse, folders = None, dict[str, Tensor](), None, [score / (variant.network or "")]
    if variant.members:
        heads = {name: load_head(layout, name, compute) for name in variant.members}
        for name, head in heads.items():
            found, remedy = {"cond": head.arguments["condition"]}, "run stage discriminator again or change cond"
            require_arguments(f"a discriminator {name}", wanted, found, remedy)
        members = MemberLogits(load_extractor(layout, compute), list(heads.values()))
        if variant.weights == "fitted":
            fit = fit_variant(config, layout, network, members, variant, compute)
        guidance = member_guidance(config, members, variant, compute, fit)
        folders += [layout.model("extractor"), *map(layout.discriminator, variant.members)]
    if variant.autoguidance is not None:
        worse = load_denoiser(layout, compute, variant.autoguidance.network), variant.autoguidance.weight
        folders.append(score / variant.autoguidance.network)
    return OpenVariant(network, guidance, sampler_settings(config, variant), compute, worse, fit, tuple(folders))


def member_guidance(
    config: Config, members: MemberLogits, variant: Variant, compute: Compute, fit: Mapping[str, Tensor]
) -> GuidanceOf:
    """The guidance of a variant as a function of a batch's classes; `fit`, if not empty, is that of `fit_variant`."""
    weights = interpolated(**fit) if fit else simplex_weights(variant.weights, len(variant.members))
    rule, window, logits = variant.rule, window_of(config, variant), compute.called(members)
    return lambda classes: DiscriminatorGuidance(partial(logits, labels=classes), 1.0, rule, window, weights)


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
    if not len(sigmas):
        raise ConfigError("a noise level in the window of fitted weights", f"{low} to {high}", "widen it")

    def noise(step: int) -> Tensor:
        draws = generator(config.fake.seed, "fitted", step, 0).standard_normal((FIT_DRAWS, *images.shape))
        return torch.from_numpy(draws.astype(np.float32)).to(compute.device)

    denoiser, logits = torch.no_grad()(compute.called(network)), compute.called(members)
    own = share(len(sigmas))  # each process fits at some of the noise levels
    fitted = fit_weights(denoiser, logits, images, sigmas[own], lambda step: noise(own.start + step))
    return {"fit_sigma": sigmas, "fit_weights": gather_rows(fitted, len(sigmas))}


def sampler_settings(config: Config, variant: Variant) -> SamplerSettings:
    """The sampler of a variant: what all share, its weights, and its own number of steps if it has one."""
    shared = config.sampler.model_dump()
    own = {key: value for key in ("steps", "s_churn") if (value := getattr(variant, key)) is not None}
    return SamplerSettings(**{**shared, **own, "w1": variant.w1, "w2": variant.w2, "boosting": variant.boosting})


def window_of(config: Config, variant: Variant) -> tuple[float, float]:
    """The VP times in which a variant is guided."""
    return variant.window or (config.guided.time_min, config.guided.time_max)


def _channels_last(x: Tensor) -> np.ndarray:
    images: np.ndarray = x.permute(0, 2, 3, 1).float().cpu().numpy()
    return images

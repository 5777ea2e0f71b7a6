"""Sampling in resumable shards, shared by the stages `fake` and `guided`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.images import to_uint8
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.seeds import normal, normal_batch
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.density_ratio import Guidance
from discriminator_guidance.guidance.sampler import Denoiser, Noise, SamplerSettings, sample
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.precision import Compute


@dataclass(frozen=True)
class Samples:
    """What sampling leaves: pictures, their indices, and the way of the first few through the noise levels."""

    images: np.ndarray  # (N, H, W, C) uint8
    index: np.ndarray  # (N,) int64
    log_ratio: np.ndarray  # (steps, N) float32, +inf where there was no guidance
    sigma: np.ndarray  # (steps + 1,) float64
    states: np.ndarray  # (steps + 1, K, H, W, C) float32, noisy, in [-1, 1] units
    denoised: np.ndarray  # (steps, K, H, W, C) float32


def unguided_denoiser(network: EDMPrecond, compute: Compute) -> Denoiser:
    """The network as the sampler calls it: float64 state in, full-precision preconditioning, no gradients.

    Args:
        network: the score network.
        compute: device and precision.

    Returns:
        (x, sigma) -> D(x; sigma).
    """

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad(), compute.autocast():
            denoised: Tensor = network(x.float(), sigma.float())
        return denoised

    return denoiser


def draw_samples(
    denoiser: Denoiser,
    guidance: Guidance | None,
    settings: SamplerSettings,
    shape: tuple[int, int, int],
    indices: range,
    seed: int,
    batch_size: int,
    shard_size: int,
    keep: int,
    compute: Compute,
    work: PartialWork,
    advance: Callable[[int], None],
) -> Samples:
    """Draw the samples of an index range, shard by shard; finished shards are taken from earlier, interrupted work.

    Args:
        denoiser: D(x; sigma).
        guidance: None samples without.
        settings: of the sampler.
        shape: (C, H, W) of a sample.
        indices: sample indices; sample i depends on seed and i alone, up to rounding in the convolutions.
        seed: run seed.
        batch_size: samples at once.
        shard_size: samples between resumable states.
        keep: how many of the first samples' trajectories are kept.
        compute: device and precision.
        work: where finished shards are.
        advance: progress.

    Returns:
        The samples.

    Raises:
        DivergenceError: a sample is not finite.
    """
    shards = []
    for number, start in enumerate(range(indices.start, indices.stop, shard_size)):
        members = range(start, min(start + shard_size, indices.stop))
        shard = work.load_shard(number)
        if shard is None:
            kept = range(indices.start, min(indices.start + keep, indices.stop))
            shard = _draw_shard(denoiser, guidance, settings, shape, members, kept, seed, batch_size, compute, advance)
            work.save_shard(number, **shard)
        else:
            advance(len(members))
        shards.append(shard)
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    return Samples(
        images=np.concatenate([shard["images"] for shard in shards]),
        index=np.asarray(indices, dtype=np.int64),
        log_ratio=np.concatenate([shard["log_ratio"] for shard in shards], axis=1),
        sigma=sigmas.numpy(),
        states=np.concatenate([shard["states"] for shard in shards], axis=1),
        denoised=np.concatenate([shard["denoised"] for shard in shards], axis=1),
    )


def _draw_shard(
    denoiser: Denoiser,
    guidance: Guidance | None,
    settings: SamplerSettings,
    shape: tuple[int, int, int],
    members: range,
    kept: range,
    seed: int,
    batch_size: int,
    compute: Compute,
    advance: Callable[[int], None],
) -> dict[str, np.ndarray]:
    images, ratios, states, denoised = [], [], [], []
    for start in range(members.start, members.stop, batch_size):
        batch = range(start, min(start + batch_size, members.stop))
        keep = len([i for i in batch if i in kept])
        way = _Way(keep)
        latents = normal_batch(seed, "latent", batch, 0, shape).to(compute.device)
        drawn = sample(denoiser, guidance, latents, _churn_noise(seed, batch, shape), settings, way.observe)
        _refuse_non_finite(drawn, batch)
        images.append(to_uint8(drawn.cpu().numpy()))
        states.append(np.stack([*way.states, _pictures(drawn[:keep])]))
        denoised.append(np.stack(way.denoised))
        ratios.append(np.stack(way.ratios))
        advance(len(batch))
    return {
        "images": np.concatenate(images),
        "log_ratio": np.concatenate(ratios, axis=1),
        "states": np.concatenate(states, axis=1),
        "denoised": np.concatenate(denoised, axis=1),
    }


class _Way:
    """What one batch passes through: states of the first samples, log ratios of all."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.states: list[np.ndarray] = []
        self.denoised: list[np.ndarray] = []
        self.ratios: list[np.ndarray] = []

    def observe(self, step: int, x: Tensor, denoised: Tensor, log_ratio: Tensor) -> None:
        self.states.append(_pictures(x[: self.keep]))
        self.denoised.append(_pictures(denoised[: self.keep]))
        self.ratios.append(log_ratio.float().cpu().numpy())


def _churn_noise(seed: int, batch: range, shape: tuple[int, int, int]) -> Noise:
    def noise(step: int, raised: Tensor) -> Tensor:
        rows = [
            normal(seed, "churn", index, step, shape) if used else torch.zeros(shape)
            for index, used in zip(batch, raised.tolist(), strict=True)
        ]
        return torch.stack(rows)

    return noise


def _pictures(x: Tensor) -> np.ndarray:
    pictures: np.ndarray = x.permute(0, 2, 3, 1).float().cpu().numpy()
    return pictures


def _refuse_non_finite(drawn: Tensor, batch: range) -> None:
    finite = torch.isfinite(drawn).flatten(1).all(dim=1)
    if not bool(finite.all()):
        first = batch[int((~finite).nonzero()[0])]
        raise DivergenceError(
            "finite samples", f"NaN or infinity in sample {first}", "lower w1 and w2, or check the weights"
        )

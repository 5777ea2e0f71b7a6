"""Sampling in resumable shards, shared by the stages `fake` and `guided`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.files import write_npz
from discriminator_guidance.artifacts.images import to_uint8
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.seeds import generator, normal, normal_batch
from discriminator_guidance.errors import DivergenceError, InputError
from discriminator_guidance.guidance.density_ratio import Guidance
from discriminator_guidance.guidance.finite import OnNonfinite, finite_denoiser, finite_guidance
from discriminator_guidance.guidance.sampler import Denoiser, Noise, SamplerSettings, sample
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.halved import HALVED


@dataclass(frozen=True)
class Samples:
    """What sampling leaves: pictures, their indices, and the way of the first few through the noise levels."""

    images: np.ndarray  # (N, H, W, C) uint8
    index: np.ndarray  # (N,) int64
    classes: np.ndarray | None  # (N,) int64 in a conditional study
    log_ratio: np.ndarray  # (steps, N) float32, +inf where there was no guidance
    halved: tuple[int, ...]  # sizes that batches came down to for want of memory
    dropped: np.ndarray  # (N,) int64, evaluations in which a sample went without guidance that was not finite
    sigma: np.ndarray  # (steps + 1,) float64
    states: np.ndarray  # (steps + 1, K, H, W, C) float32, noisy, in [-1, 1] units
    denoised: np.ndarray  # (steps, K, H, W, C) float32


# Of a batch's classes (None in an unconditional study), what the sampler calls.
Sampled = Callable[[Tensor | None], tuple[Denoiser, Guidance | None]]


def unguided_denoiser(network: EDMPrecond, classes: Tensor | None, compute: Compute) -> Denoiser:
    """The network as the sampler calls it: float64 state in, full-precision preconditioning, no gradients.

    Args:
        network: the score network.
        classes: (N,) int64 of the pictures of a batch; None for an unconditional network.
        compute: device and precision.

    Returns:
        (x, sigma) -> D(x; sigma).
    """

    labels = None if classes is None else one_hot(classes, network.label_dim)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad(), compute.autocast():
            denoised: Tensor = network(x.float(), sigma.float(), labels)
        return denoised

    return denoiser


def draw_classes(seed: int, indices: range, classes: int) -> np.ndarray:
    """The class of each sample of a conditional study, uniform and its own stream like its noise.

    Args:
        seed: run seed.
        indices: of the samples.
        classes: how many there are.

    Returns:
        (N,) int64 in 0 .. classes - 1.
    """
    return np.array([generator(seed, "class", index, 0).integers(classes) for index in indices], dtype=np.int64)


def draw_samples(
    sampled: Sampled,
    classes: int,
    settings: SamplerSettings,
    shape: tuple[int, int, int],
    indices: range,
    seed: int,
    at_once: BatchSize,
    shard_size: int,
    keep: int,
    compute: Compute,
    work: PartialWork,
    advance: Callable[[int], None],
    on_nonfinite: OnNonfinite = "stop",
) -> Samples:
    """Draw the samples of an index range, shard by shard; finished shards are taken from earlier, interrupted work.

    Several ranks divide the shards that are missing. The first puts all of them together and goes on alone.

    Args:
        sampled: denoiser and guidance for the classes of a batch.
        classes: number of classes of a conditional study, 0 of an unconditional one.
        settings: of the sampler.
        shape: (C, H, W) of a sample.
        indices: sample indices; sample i depends on seed and i alone, up to rounding in the convolutions.
        seed: run seed.
        at_once: samples at once.
        shard_size: samples between resumable states.
        keep: how many of the first samples' trajectories are kept.
        compute: device and precision.
        work: where finished shards are.
        advance: progress.
        on_nonfinite: what becomes of a sample whose guidance is not finite, see `finite.finite_guidance`.

    Returns:
        The samples.

    Raises:
        DivergenceError: a sample is not finite.
        Dismissed: on all ranks but the first.
    """
    starts = range(indices.start, indices.stop, shard_size)
    members = [range(start, min(start + shard_size, indices.stop)) for start in starts]
    kept = range(indices.start, min(indices.start + keep, indices.stop))
    found = {number: work.load_shard(number) for number in range(len(members) if ranks.is_first() else 0)}
    done = {number: shard for number, shard in found.items() if shard is not None}
    at_once.resume(size for shard in done.values() for size in shard["halved"].tolist())
    advance(sum(len(members[number]) for number in done))
    missing: list[int] = ranks.told_by_first([number for number in range(len(members)) if number not in done])
    own = missing[ranks.rank() :: ranks.world_size()]
    others = _OfOthers({number: len(members[number]) for number in missing if number not in own}, work, advance)
    for number in own:
        shard = draw_shard(
            sampled, classes, settings, shape, members[number], kept, seed, at_once, compute, advance, on_nonfinite
        )
        shard["halved"] = np.array(at_once.halved, dtype=np.int64)
        work.save_shard(number, **shard)
        done[number] = shard
        others.look()
    ranks.go_on_alone()
    done |= others.collect()
    shards = [done[number] for number in range(len(members))]
    at_once.resume(size for shard in shards for size in shard["halved"].tolist())
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    return Samples(
        images=np.concatenate([shard["images"] for shard in shards]),
        index=np.asarray(indices, dtype=np.int64),
        classes=draw_classes(seed, indices, classes) if classes else None,
        halved=at_once.halved,
        log_ratio=np.concatenate([shard["log_ratio"] for shard in shards], axis=1),
        dropped=np.concatenate([shard["dropped"] for shard in shards]),
        sigma=sigmas.numpy(),
        states=np.concatenate([shard["states"] for shard in shards], axis=1),
        denoised=np.concatenate([shard["denoised"] for shard in shards], axis=1),
    )


def write_samples(path: Path, samples: Samples) -> None:
    """Write pictures, indices, in a conditional study classes and, where batches were halved, to what sizes.

    Args:
        path: of the .npz.
        samples: what was drawn.
    """
    labels = {} if samples.classes is None else {"labels": samples.classes}
    halved = {HALVED: np.array(samples.halved, dtype=np.int64)} if samples.halved else {}
    write_npz(path, images=samples.images, index=samples.index, **labels, **halved)


def draw_shard(
    sampled: Sampled,
    classes: int,
    settings: SamplerSettings,
    shape: tuple[int, int, int],
    members: range,
    kept: range,
    seed: int,
    at_once: BatchSize,
    compute: Compute,
    advance: Callable[[int], None],
    on_nonfinite: OnNonfinite = "stop",
) -> dict[str, np.ndarray]:
    """Draw some samples.

    Args:
        sampled: denoiser and guidance for the classes of a batch.
        classes: number of classes of a conditional study, 0 of an unconditional one.
        settings: of the sampler.
        shape: (C, H, W) of a sample.
        members: indices of the samples.
        kept: indices whose trajectories are kept.
        seed: run seed.
        at_once: samples at once.
        compute: device and precision.
        advance: progress.
        on_nonfinite: what becomes of a sample whose guidance is not finite.

    Returns:
        images (N, H, W, C) uint8, log_ratio (steps, N), dropped (N,), states and denoised of the kept ones.

    Raises:
        DivergenceError: a sample is not finite; it is named with the noise level at which that began.
    """

    def draw(size: int) -> tuple[range, Tensor, _Way]:
        batch = range(start, min(start + size, members.stop))
        way = _Way(len(batch), len([i for i in batch if i in kept]))
        condition = torch.from_numpy(draw_classes(seed, batch, classes)).to(compute.device) if classes else None
        denoiser, guidance = sampled(condition)
        denoiser = finite_denoiser(denoiser, batch)
        if guidance is not None:
            guidance = finite_guidance(guidance, batch, on_nonfinite, way.drop)
        latents = normal_batch(seed, "latent", batch, 0, shape).to(compute.device)
        return batch, sample(denoiser, guidance, latents, _churn_noise(seed, batch, shape), settings, way.observe), way

    images, ratios, dropped, states, denoised = [], [], [], [], []
    start = members.start
    while start < members.stop:
        batch, drawn, way = at_once.attempt(draw)
        start = batch.stop
        _refuse_non_finite(drawn, batch)
        images.append(to_uint8(drawn.cpu().numpy()))
        states.append(np.stack([*way.states, _pictures(drawn[: way.keep])]))
        denoised.append(np.stack(way.denoised))
        ratios.append(np.stack(way.ratios))
        dropped.append(way.dropped)
        advance(len(batch))
    return {
        "images": np.concatenate(images),
        "log_ratio": np.concatenate(ratios, axis=1),
        "dropped": np.concatenate(dropped),
        "states": np.concatenate(states, axis=1),
        "denoised": np.concatenate(denoised, axis=1),
    }


class _OfOthers:
    """The shards that other ranks draw, as the first one sees them appear in their common folder."""

    def __init__(self, sizes: dict[int, int], work: PartialWork, advance: Callable[[int], None]) -> None:
        self.sizes, self.work, self.advance = sizes, work, advance
        self.awaited = set(sizes)

    def look(self) -> None:
        """Count what has appeared."""
        for number in [number for number in sorted(self.awaited) if self.work.has_shard(number)]:
            self.awaited.remove(number)
            self.advance(self.sizes[number])

    def collect(self) -> dict[int, dict[str, np.ndarray]]:
        """Read all of them, when all ranks are done."""
        self.look()
        shards = {number: self.work.load_shard(number) for number in self.sizes}
        whole = {number: shard for number, shard in shards.items() if shard is not None}
        if len(whole) < len(shards):
            raise InputError(
                f"{len(shards)} shards of other ranks in {self.work.folder}",
                str(len(whole)),
                "give all ranks one project folder and run the same command again",
            )
        return whole


class _Way:
    """What one batch passes through: states of the first samples, log ratios and dropped guidance of all."""

    def __init__(self, size: int, keep: int) -> None:
        self.keep = keep
        self.dropped = np.zeros(size, dtype=np.int64)
        self.states: list[np.ndarray] = []
        self.denoised: list[np.ndarray] = []
        self.ratios: list[np.ndarray] = []

    def observe(self, step: int, x: Tensor, denoised: Tensor, log_ratio: Tensor) -> None:
        self.states.append(_pictures(x[: self.keep]))
        self.denoised.append(_pictures(denoised[: self.keep]))
        self.ratios.append(log_ratio.float().cpu().numpy())

    def drop(self, rows: Tensor) -> None:
        self.dropped += rows.cpu().numpy()


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

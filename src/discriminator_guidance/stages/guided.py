"""Stage `guided`: evaluation samples of one variant, the unguided `edm` included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.files import write_npz
from discriminator_guidance.artifacts.images import write_grid
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.guidance.clip import LOG_RATIO_BOUND
from discriminator_guidance.guidance.density_ratio import Guidance, LogRatio, guidance_score
from discriminator_guidance.guidance.ensemble import combine, simplex_weights
from discriminator_guidance.guidance.sampler import Denoiser, SamplerSettings
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_head, refuse_other_kind
from discriminator_guidance.stages.sampling import draw_samples, unguided_denoiser, write_samples

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant

CLIP_MARGIN = 1e-3  # the limits lie at +-11.513, which float32 knows to 1e-6


def run(config: Config, context: Context, variant: str) -> StageResult:
    """Draw the evaluation samples of a variant.

    Args:
        config: reads `runtime`, `cond`, `sampler`, the ranges of `guided` and this variant.
        context: surroundings.
        variant: its name.

    Returns:
        The number of pictures, of log ratios at a limit of the clip, and of evaluations whose guidance was not finite.
    """
    settings, runtime, chosen = config.guided, config.runtime, config.guided.variants[variant]
    time_min, time_max = chosen.window or (settings.time_min, settings.time_max)
    compute = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
    network = load_denoiser(context.layout, compute)
    refuse_other_kind(network.label_dim > 0, config.cond, "a score network", "score")
    networks = [context.layout.model("score")]
    members = None
    if chosen.members:
        members = load_members(context.layout, chosen.members, compute)
        for name, head in zip(chosen.members, members.conditional, strict=True):
            refuse_other_kind(head, config.cond, f"a discriminator {name}", "discriminator")
        networks.append(context.layout.model("extractor"))
        networks.extend(context.layout.discriminator(member) for member in chosen.members)

    def sampled(classes: Tensor | None) -> tuple[Denoiser, Guidance | None]:
        denoiser = unguided_denoiser(network, classes, compute)
        if members is None:
            return denoiser, None
        return denoiser, member_guidance(members, classes, chosen, time_min, time_max, compute)

    inputs = [folder / name for folder in networks for name in WEIGHT_FILES]
    sampler = SamplerSettings(**config.sampler.model_dump(), w1=chosen.w1, w2=chosen.w2, boosting=chosen.boosting)
    told = {
        "range": [
            settings.ranges * settings.images,
            settings.seed,
            settings.seed_start,
            settings.batch_size,
            settings.shard_size,
        ],
        "window": [time_min, time_max],
        "kept": settings.trajectory_images,
        "sampler": config.sampler.model_dump(),
        "variant": chosen.model_dump(),
        "cond": config.cond,
        "on_nonfinite": settings.on_nonfinite,
    }
    work = partial_work(context, "guided", variant, inputs, told, compute)
    images = settings.ranges * settings.images
    at_once = BatchSize(settings.batch_size, context.notice)
    with context.bar(f"sampling {variant}", images, "images") as advance:
        samples = draw_samples(
            sampled,
            network.label_dim,
            sampler,
            (network.img_channels, network.img_resolution, network.img_resolution),
            range(settings.seed_start, settings.seed_start + images),
            settings.seed,
            at_once,
            settings.shard_size,
            settings.trajectory_images,
            compute,
            work,
            advance,
            settings.on_nonfinite,
        )
    if count := int((samples.dropped > 0).sum()):
        context.notice(f"{variant}: guidance was not finite and left out at some noise level of {count} samples")
    folder = context.layout.guided(variant)
    write_samples(folder / "samples.npz", samples)
    write_npz(
        folder / "trajectory.npz",
        sigma=samples.sigma,
        states=samples.states,
        denoised=samples.denoised,
        log_ratio=samples.log_ratio,
        dropped=samples.dropped,
    )
    write_grid(folder / "grid.png", samples.images)
    work.remove()
    return StageResult(
        summary={
            "images": len(samples.images),
            "precision": compute.mode,
            "batch_size": at_once.size,
            "clipped": clip_events(samples.log_ratio),
            "dropped": int(samples.dropped.sum()),
            **compute.record(),
        },
        outputs=[folder / name for name in ("samples.npz", "trajectory.npz", "grid.png")],
        artifacts=[folder / "grid.png"],
    )


def clip_events(log_ratio: np.ndarray) -> int:
    """How many log ratios lie at a limit of the clip, where their gradient, and so the guidance, is 0.

    Args:
        log_ratio: (steps, N) float32 of the Euler steps, +inf where there was no guidance.

    Returns:
        A number of sampling steps, over all samples.
    """
    return int((np.abs(np.abs(log_ratio) - LOG_RATIO_BOUND) < CLIP_MARGIN).sum())


def load_members(layout: Layout, names: Sequence[str], compute: Compute) -> MemberLogits:
    """The members of a variant from their saved weights, on their common extractor.

    Args:
        layout: where files are.
        names: of the members.
        compute: device and precision.

    Returns:
        (x_vp, tau[, classes]) -> (members, N) logits.
    """
    extractor = load_extractor(layout, compute)
    return MemberLogits(extractor, [load_head(layout, name, compute) for name in names])


def member_guidance(
    members: MemberLogits,
    classes: Tensor | None,
    variant: Variant,
    time_min: float,
    time_max: float,
    compute: Compute,
) -> Guidance:
    """The guidance of a variant for the pictures of a batch.

    Args:
        members: of the variant.
        classes: (N,) int64 of the pictures; None in an unconditional study.
        variant: rule and weights.
        time_min: smallest VP time at which guidance acts.
        time_max: largest VP time at which guidance acts.
        compute: device and precision.

    Returns:
        (x, sigma) -> (score, log ratio).
    """

    def logits(x_vp: Tensor, tau: Tensor) -> Tensor:
        with compute.autocast():
            member_logits: Tensor = members(x_vp, tau, classes)
        return member_logits

    log_ratio = combine(logits, variant.rule, simplex_weights(variant.weights, len(variant.members)))

    def member_logits(place: int) -> LogRatio:
        # A head of its own: through the others' logits, a NaN in one head's weights reaches every gradient.
        alone = MemberLogits(members.extractor, [cast(EncoderUNet, members.heads[place])])

        def logit(x_vp: Tensor, tau: Tensor) -> Tensor:
            with compute.autocast():
                own: Tensor = alone(x_vp, tau, classes)
            return own[0].float()

        return logit

    return _MemberGuidance(log_ratio, member_logits, variant.members, (time_min, time_max))


@dataclass(frozen=True)
class _MemberGuidance:
    """The guidance of a variant; `finite.Accountable`."""

    log_ratio: LogRatio
    member_logits: Callable[[int], LogRatio]  # of a member by its place
    members: Sequence[str]
    window: tuple[float, float]

    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return guidance_score(self.log_ratio, x, sigma, *self.window)

    def culprits(self, x: Tensor, sigma: Tensor) -> list[str]:
        """The members whose own logit, or its gradient, is not finite."""
        found = []
        for place, name in enumerate(self.members):
            score, logit = guidance_score(self.member_logits(place), x, sigma, *self.window)
            if not bool(torch.isfinite(score).all()) or bool((logit.isnan() | logit.isneginf()).any()):
                found.append(name)
        return found

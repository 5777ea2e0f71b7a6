"""Stage `guided`: evaluation samples of one variant, which `draw` makes end to end, also for all others who sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dguide.settings import Config, Layout, SampleRange, Variant, plain, resumable
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import WEIGHT_FILES, load_network, read_npz, write_npz
from discriminator_guidance.core.images import write_batches, write_grid
from discriminator_guidance.core.noise import generator, karras_sigmas, split_pairs, tau_from_sigma, to_uint8
from discriminator_guidance.core.runtime import Compute, alone, broadcast, is_first, prepare, progress
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits, build_discriminator
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP, Denoiser, DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import Arrays, in_batches, sample, trajectory
from discriminator_guidance.sampling.weights import FittedWeights, fit_weights

FITTED_IMAGES, FITTED_BATCH = 2000, 256  # real images that weights are fitted on, and at most so many in a batch


@dataclass(frozen=True)
class Networks:
    """The frozen networks that a variant is sampled with, to be called under `compute.autocast()`."""

    compute: Compute
    denoiser: EDMPrecond
    members: MemberLogits | None = None  # None: no guidance
    worse: EDMPrecond | None = None  # for autoguidance


def run(config: Config, layout: Layout, tracker: Tracker, variant: str) -> dict[str, Any]:
    """Write the evaluation samples of a variant."""
    row, folder = config.variants[variant], layout.guided(variant)
    tracker.params(plain(row))
    return write_samples(config, layout, tracker, row, config.guided, folder, f"guided-{variant}")


def write_samples(
    config: Config, layout: Layout, tracker: Tracker, row: Variant, span: SampleRange, folder: Path, work: str
) -> dict[str, Any]:
    """Write samples.npz (images, labels of a conditional profile, index) and grid.png of a range of samples."""
    shards = dict[int, Arrays]()
    with progress(work, span.images, "images") as advance:
        for number, shard in draw(config, layout, row, span.seed, batches_of(span), work):
            shards[number] = shard
            advance(len(shard["images"]))
    if not is_first():
        return {}
    samples = {name: np.concatenate([shards[number][name] for number in sorted(shards)]) for name in shards[0]}
    write_npz(folder / "samples.npz", **samples)
    write_grid(folder / "grid.png", samples["images"])
    tracker.artifact(folder / "grid.png")
    return {"images": len(samples["images"])}


def draw(
    config: Config,
    layout: Layout,
    variant: Variant,
    seed: int,
    batches: Sequence[Sequence[int]],
    work: str = "",
    networks: Networks | None = None,
    states: bool = False,
) -> Iterator[tuple[int, Arrays]]:
    """Draw batches of sample indices by a variant; yields each batch's number and its arrays.

    They are images (n, H, W, C) uint8, labels (n,) in a conditional profile, index (n,), and with `states` also
    sigma (steps + 1,), states (steps + 1, n, H, W, C), denoised (steps, n, H, W, C) and log_ratio (steps, n), +inf
    where nothing guides. Sample i depends on the seed and i alone, up to rounding. Under the name `work` finished
    batches survive a kill, and the processes of torchrun divide them; the first process then yields those of all.
    """
    networks = networks or open_networks(config, layout, variant)
    denoiser, compute = networks.denoiser, networks.compute
    shape, classes = (denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution), denoiser.label_dim
    fitted = None
    if variant.weights == "fitted":  # by one process: on GPUs the last digits of several would differ
        fitted = broadcast(fit_variant(config, layout, networks, variant) if is_first() else None)
    denoise: Denoiser = denoiser
    if (worse := networks.worse) is not None and variant.autoguidance is not None:
        weight = variant.autoguidance.weight  # D + (w - 1) (D - D_worse): Karras et al. 2024, Eq. 3
        denoise = lambda *noisy: torch.lerp(worse(*noisy), denoiser(*noisy), weight)  # noqa: E731
    sampling: dict[str, Any] = {"seed": seed, "device": compute.device, "dtype": torch.float64}
    sampling |= vars(SamplerSettings.of(variant))
    if networks.members is not None:
        how: dict[str, Any] = {"clip": PROBABILITY_CLIP, "members": len(variant.members)}
        how |= {"rule": variant.rule, "window": variant.window}
        how["member_weights"] = variant.weights if isinstance(variant.weights, tuple) else fitted  # None: equal ones
        sampling["guidance"] = DiscriminatorGuidance(moved_logits(networks.members, variant), **how)

    def draw_batch(indices: Sequence[int]) -> Arrays:
        arrays, chosen = Arrays(), {"first": indices, "batch_size": len(indices), **sampling}
        if classes:
            draws = [int(generator(seed, "class", index, 0).integers(classes)) for index in indices]
            chosen["classes"] = arrays["labels"] = np.array(draws)
        with compute.autocast(), alone():  # `in_batches` divides the batches
            if states:
                way = trajectory(denoise, (len(indices), *shape), **chosen)
                samples = way.states[-1]
                shown = {name: t.movedim(-3, -1) if t.dim() == 5 else t for name, t in way._asdict().items()}
                arrays |= {name: t.float().cpu().numpy() for name, t in shown.items()}
            else:
                samples = sample(denoise, (len(indices), *shape), **chosen)
        return {"images": to_uint8(samples), **arrays, "index": np.asarray(indices, dtype=np.int64)}

    shards = None
    if work:
        key = {"variant": plain(variant), "seed": seed, "batches": [(batch[0], len(batch)) for batch in batches]}
        key["fitted"] = None if fitted is None else [f"{weight:.3g}" for weight in fitted.weights.flatten().tolist()]
        shards = resumable(layout, work, weight_files(layout, variant), key, compute)
    yield from in_batches(batches, draw_batch, shards)


def batches_of(span: SampleRange) -> list[range]:
    """The sample indices of a section of the settings, in batches."""
    indices = range(span.seed_start, span.seed_start + span.images)
    return [indices[start : start + span.batch_size] for start in range(0, span.images, span.batch_size)]


def variant_trajectory(config: Config, layout: Layout, variant: str, images: int) -> Arrays:
    """The way of the first evaluation samples of a variant through the noise levels, as `draw` describes it."""
    span, row = config.guided, config.variants[variant]
    first = range(span.seed_start, span.seed_start + images)
    return next(draw(config, layout, row, span.seed, [first], states=True))[1]


def write_images(config: Config, layout: Layout, variant: str, indices: Sequence[int], out: Path) -> None:
    """Write sample i of every index i as `<i>.png` in the folder `out`, or as one grid where `out` ends in .png."""
    if variant not in config.variants:
        raise ConfigError(f"the settings have no variant {variant!r}", f"choose one of: {', '.join(config.variants)}")
    size, seed, row = config.guided.batch_size, config.guided.seed, config.variants[variant]
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    with progress(f"samples of {variant}", len(indices), "images") as advance:

        def images() -> Iterator[np.ndarray]:
            for _, arrays in draw(config, layout, row, seed, batches):
                advance(len(arrays["images"]))
                yield arrays["images"]

        write_batches(out, indices, images())


def open_networks(config: Config, layout: Layout, variant: Variant) -> Networks:
    """Read the networks of a variant and check that they are of the profile's kind."""
    compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
    score, members, worse = layout.model("score"), None, None
    denoiser = compute.place(load_network(EDMPrecond, score / (variant.network or ""), "score"))
    conditional: dict[str, Any] = {"score network": denoiser.label_dim > 0}
    if variant.members:
        folders = {f"discriminator {name}": layout.discriminator(name) for name in variant.members}
        loaded = {name: load_network(build_discriminator, at, "discriminator") for name, at in folders.items()}
        extractor = load_network(EncoderUNet, layout.model("extractor"), "extractor")
        members = MemberLogits(compute.place(extractor), *map(compute.place, loaded.values()))
        conditional |= {name: network.conditional for name, network in loaded.items()}
    if variant.autoguidance is not None:
        worse = compute.place(load_network(EDMPrecond, score / variant.autoguidance.network, "score"))
    for name, cond in conditional.items():
        if cond != config.cond:
            remedy = f"run stage {name.partition(' ')[0]} again or change cond"
            raise InputError(f"the {name} has cond {cond}, and the settings have cond {config.cond}", remedy)
    return Networks(compute, denoiser, members, worse)


def weight_files(layout: Layout, variant: Variant) -> list[Path]:
    """The files of the networks of a variant."""
    score = layout.model("score")
    folders = [score / (variant.network or "")]
    if variant.members:
        folders += [layout.model("extractor"), *map(layout.discriminator, variant.members)]
    if variant.autoguidance is not None:
        folders.append(score / variant.autoguidance.network)
    return [folder / file for folder in folders for file in WEIGHT_FILES]


def guided_levels(variant: Variant) -> tuple[Tensor, Tensor]:
    """The noise levels of a variant (steps + 1,), and at which of its steps (steps,) the window lets it be guided."""
    levels = karras_sigmas(variant.steps, variant.sigma_min, variant.sigma_max, variant.rho)
    (low, high), tau = variant.window, tau_from_sigma(levels[:-1])
    return levels, (low <= tau) & (tau <= high)


def check_windows(variants: Mapping[str, Variant]) -> None:
    """Refuse guided rows without a step in their window; churn raises the noise of steps, so that it may be met."""
    for name, row in variants.items():
        if row.members and not (row.s_churn or row.boosting) and not guided_levels(row)[1].any():
            raise ConfigError(f"window of {name} is {list(row.window)}, between two steps", "widen it, or raise steps")


def moved_logits(discriminators: Callable[..., Tensor], variant: Variant) -> Callable[..., Tensor]:
    """Discriminators whose logits are scaled and shifted as a variant asks."""
    if (variant.logit_scale, variant.logit_shift) == (1.0, 0.0):
        return discriminators
    return lambda *noisy: variant.logit_scale * discriminators(*noisy) + variant.logit_shift


def fit_variant(config: Config, layout: Layout, networks: Networks, variant: Variant) -> FittedWeights:
    """The weights of a variant's members at its noise levels, fitted on real images that trained none of them."""
    device, members = networks.compute.device, networks.members
    assert members is not None, "weights are of members"
    real = read_npz(layout.part("discriminator"), ["images"], "real")["images"]
    most = config.members[variant.members[0]].images  # the same of all members of a variant
    split = split_pairs(len(real), config.fake.images, config.discriminator.split, most)
    rows = np.concatenate([part[part < len(real)] for part in (split.validation, split.test)])
    spread = np.linspace(0, len(rows) - 1, min(FITTED_IMAGES, len(rows))).round().astype(int)
    images = real[rows[spread]]  # of all classes, by which they may be sorted
    levels, inside = guided_levels(variant)
    if not inside.any():
        raise ConfigError(f"no noise level is in the window {variant.window} of fitted weights", "widen it")
    size = min(FITTED_BATCH, config.guided.batch_size)
    with networks.compute.autocast():
        return fit_weights(networks.denoiser, members, images, levels[:-1][inside], batch_size=size, device=device)

"""The Heun sampler of EDM with discriminator guidance (`heun`), and samples by their index (`sample`)."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.core import runtime
from discriminator_guidance.core.errors import ConfigError, DivergenceError, InputError
from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.images import check_out, write_batches
from discriminator_guidance.core.noise import column, karras_sigmas, normal, to_uint8, widest
from discriminator_guidance.core.settings import Count, SamplerSettings, refuse_unknown
from discriminator_guidance.sampling.guidance import Denoiser, DiscriminatorGuidance, Guidance, checked

Noise = Callable[[int, Tensor], Tensor]  # (step, mask (N,)) -> unit-normal draws; rows outside the mask are not used
States = list[tuple[Tensor, Tensor, Tensor]]  # of each step: the state x, the denoised image, the log ratio
Arrays = dict[str, np.ndarray]
Batch = TypeVar("Batch")

MOST, PIXELS = 256, 2**20  # of a batch, where none is chosen
BOOST_PERIOD_CHURN, BOOST_PERIOD_WEIGHT = 5, 2  # steps
BOOST_CHURN, BOOST_NOISE, BOOST_FACTOR = 4.0, 1.0, 2.0


def heun(
    denoiser: Denoiser,
    guidance: Guidance | None,
    latents: Tensor,
    noise: Noise,
    settings: SamplerSettings,
    states: States | None = None,
    state_dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draw (N, C, H, W) samples in state_dtype, about [-1, 1], with Heun's method, guided by a density ratio.

    denoiser: D(x; sigma) of x (N, C, H, W) and sigma (N,) in the dtype of latents. guidance: (x, sigma) -> (term, log
    ratio), such as DiscriminatorGuidance; None samples without guidance. latents: unit-normal starting noise. noise:
    unit-normal draws of a step, asked for only where some sample's noise level is raised. states: a list that receives
    of each step the state x before the noise level is raised, the denoised image and the log ratio (+inf where there is
    none). A state that is not finite raises DivergenceError.

    Karras et al. 2022, Algorithm 2; Kim et al. 2023, Algorithm 1 and Appendix (boosting); Ning et al. 2024 (eps_scale).
    *Deviation:* gates and boosting act on single samples (the official gate is batch-wide); noise is drawn only where
    it is used; second-order guidance is evaluated at (x_next, sigma_next), where official code has an indexing error.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    count, dtype = latents.shape[0], latents.dtype
    x_next = latents.to(state_dtype) * sigmas[0].item()
    log_ratio = torch.full((count,), torch.inf, dtype=state_dtype, device=latents.device)
    for step in range(settings.steps):
        x_cur, sigma_cur, sigma_next = x_next, sigmas[step].item(), sigmas[step + 1].item()
        x_hat, sigma_hat = _raise_noise(x_cur, sigma_cur, log_ratio, step, noise, settings)

        # Euler step.
        denoised = denoiser(x_hat.to(dtype, copy=True), sigma_hat.to(dtype)).to(state_dtype)
        log_ratio = torch.full_like(sigma_hat, torch.inf)
        slope = (x_hat - denoised) / column(sigma_hat, x_hat) / settings.eps_scale
        if guidance is not None and settings.w1 != 0:
            term, log_ratio = (values.to(state_dtype) for values in guidance(x_hat, sigma_hat))
            if settings.boosting and step % BOOST_PERIOD_WEIGHT == 0:
                term = torch.where(column(log_ratio, x_hat) < 0, BOOST_FACTOR * term, term)
            slope = slope + settings.w1 * term / column(sigma_hat, x_hat)
        length = column(sigma_next - sigma_hat, x_hat)
        x_next = x_hat + length * slope

        # Heun's correction, except in the last step.
        if sigma_next:
            level = torch.full_like(sigma_hat, sigma_next)
            denoised_next = denoiser(x_next.to(dtype, copy=True), level.to(dtype)).to(state_dtype)
            slope_next = (x_next - denoised_next) / sigma_next / settings.eps_scale
            if guidance is not None and settings.w2 != 0:
                term, _ = guidance(x_next, level)
                slope_next = slope_next + settings.w2 * term.to(state_dtype) / sigma_next
            x_next = x_hat + length * (slope + slope_next) / 2
        if states is not None:
            states.append((x_cur, denoised, log_ratio))
        if len(odd := (~x_next.isfinite()).flatten(1).any(dim=1).nonzero()):
            problem = f"row {int(odd[0])} of the batch is not finite after step {step + 1}, at sigma = {sigma_cur:.4g}"
            raise DivergenceError(problem, "lower w1 and w2, or check the weights of the score network and members")
    return x_next


def _raise_noise(
    x: Tensor, sigma: float, log_ratio: Tensor, step: int, noise: Noise, settings: SamplerSettings
) -> tuple[Tensor, Tensor]:
    # Churn (Karras et al. 2022, Algorithm 2, lines 3-6); boosting raises it for samples that looked fake last time.
    churn = torch.full_like(log_ratio, settings.s_churn)
    scale = torch.full_like(log_ratio, settings.s_noise)
    if settings.boosting and step % BOOST_PERIOD_CHURN == 0:
        churn = churn.masked_fill(log_ratio < 0, BOOST_CHURN)
        scale = scale.masked_fill(log_ratio < 0, BOOST_NOISE)
    if not settings.s_min <= sigma <= settings.s_max:
        churn = torch.zeros_like(churn)
    gamma = (churn / settings.steps).clamp(max=math.sqrt(2) - 1)
    sigma_hat = sigma * (1 + gamma)
    raised = gamma > 0
    if not bool(raised.any()):
        return x, sigma_hat
    spread = column((sigma_hat**2 - sigma**2).sqrt() * scale, x)
    drawn = noise(step, raised).to(device=x.device, dtype=x.dtype)
    return torch.where(column(raised, x), x + spread * drawn, x), sigma_hat


class Trajectory(NamedTuple):
    """The way of samples through the noise levels."""

    sigma: Tensor  # (steps + 1,) float64, from sigma_max to 0
    states: Tensor  # (steps + 1, N, C, H, W) at these levels; the last ones are the samples
    denoised: Tensor  # (steps, N, C, H, W), the estimates D(x; sigma)
    log_ratio: Tensor  # (steps, N) of the discriminators, +inf where they do not guide


class SampleSettings(SamplerSettings):
    """What `sample` and `trajectory` take beside the settings of the sampler."""

    dtype: Any = torch.float32  # in which the denoiser is called and samples are returned
    state_dtype: Any = None  # of the sampler itself; None: float64, or float32 on a device that has no float64
    batch_size: Count | None = None  # images whose states are in memory together; None: 256, fewer above 64x64 pixels
    progress: bool = True  # a line on standard error, of more than one batch


@overload
def sample(denoiser: Denoiser, shape: Sequence[int], *, out: None = None, **options: Any) -> Tensor: ...
@overload
def sample(denoiser: Denoiser, shape: Sequence[int], *, out: str | Path, **options: Any) -> Path: ...
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    guidance: DiscriminatorGuidance | None = None,
    classes: Any = None,
    seed: int = 0,
    first: int | Sequence[int] = 0,
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> Tensor | Path:
    """Draw samples (N, C, H, W), about [-1, 1] and not clipped, with EDM's Heun sampler.

    Image i of a seed depends on the seed and i alone, up to rounding. Processes of torchrun divide the images and must
    all make the same call; inside `runtime.alone` each draws all.

    Args:
        denoiser: D(x; sigma), the expected x0 of x = x0 + sigma n, from x (N, C, H, W) and sigma (N,), called without
            gradients.
        shape: (N, C, H, W) of the samples, any N.
        guidance: what discriminators add to the slope; None: nothing.
        classes: one of each image, (N, ...); the denoiser and the discriminators are given those of a batch as a third
            argument. What is the same for all images comes by closure: `partial(network, prompt=prompt)`.
        seed: of the random streams, of which each image has its own.
        first: the i of the first image, or the i of every image.
        out: where samples go, batch by batch, so that N need not fit in memory: a folder of .png files, an .npz
            file of 8-bit images, an .npy file of floats, or a .png with a grid. The same call resumes there after a
            kill, and the path is returned.
        device: where the denoiser computes.
        settings: other values for fields of `SampleSettings`, such as steps (18) or batch_size; sigma_min and sigma_max
            end where the denoiser's do, if it has such (as `from_diffusers` gives it), also below functools.partial.

    >>> def denoiser(x, sigma):  # of normal data with standard deviation 0.5
    ...     return x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)
    >>> samples = sample(denoiser, (64, 1, 8, 8))
    >>> samples.shape, round(samples.std().item(), 1)
    (torch.Size([64, 1, 8, 8]), 0.5)
    """
    chosen, indices, drawn = _prepared(denoiser, shape, guidance, classes, seed, first, device, **settings)
    count, size = len(indices), chosen.batch_size or max(1, min(MOST, PIXELS // math.prod(shape[2:])))
    if runtime.broadcast(asked := (seed, [*indices], [*shape])) != asked:
        raise ConfigError("processes of torchrun ask for other samples", "give all the same arguments, or use alone()")
    mine = runtime.share(count) if out is None else range(count)
    batches = [slice(start, min(start + size, mine.stop)) for start in range(mine.start, mine.stop, size)]

    def arrays(rows: slice) -> Arrays:
        samples = drawn(rows).to("cpu", torch.promote_types(chosen.dtype, torch.float16))  # NumPy has no bfloat16
        return {"samples": samples.numpy() if kind == ".npy" else to_uint8(samples)}

    like = torch.empty(min(size, count), *shape[1:], dtype=chosen.dtype, device=device)
    with runtime.progress("samples", len(mine), "images", chosen.progress and len(batches) > 1) as advance:
        if out is None:
            parts = [like[:0]]
            for rows in batches:
                parts.append(drawn(rows))
                advance(len(parts[-1]))
            return runtime.gather_rows(torch.cat(parts))
        kind = check_out(path := Path(out), count, shape[1])
        key = {**vars(chosen), "seed": int(seed), "indices": [*indices], "shape": [*map(int, shape[1:])], "size": size}
        key |= {name: str(value) for name, value in key.items() if name.endswith("dtype")} | {"progress": None}
        key["classes"] = None if classes is None else torch.as_tensor(classes).tolist()
        key["networks"] = runtime.broadcast(fingerprint_of(denoiser, guidance, like, classes))
        work = Resumable(path.parent, f".{path.name}", key)
        for number, _ in in_batches(batches, arrays, work):
            advance(batches[number].stop - batches[number].start)
    if runtime.is_first():
        numbers = indices if len({*indices}) == count else range(count)
        write_batches(path, numbers, (work.load_shard(number)["samples"] for number in range(len(batches))))
        work.remove()
    runtime.barrier()
    return path


def trajectory(denoiser: Denoiser, shape: Sequence[int], **options: Any) -> Trajectory:
    """The states of samples at every noise level, the last those of `sample`; its arguments but `out`, in one batch.

    >>> path = trajectory(lambda x, sigma: 0 * x, (4, 1, 8, 8))
    >>> path.states.shape
    torch.Size([19, 4, 1, 8, 8])
    """
    chosen, _, drawn = _prepared(denoiser, shape, **options)
    states: States = []
    x = drawn(slice(None), states)
    sigma = karras_sigmas(chosen.steps, chosen.sigma_min, chosen.sigma_max, chosen.rho)
    paths, denoised, log_ratio = (torch.stack(parts).to(chosen.dtype) for parts in zip(*states, strict=True))
    return Trajectory(sigma, torch.cat([paths, x.unsqueeze(0)]), denoised, log_ratio)


def _prepared(
    denoiser: Denoiser,
    shape: Sequence[int],
    guidance: DiscriminatorGuidance | None = None,
    classes: Any = None,
    seed: int = 0,
    first: int | Sequence[int] = 0,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> tuple[SampleSettings, Sequence[int], Callable[..., Tensor]]:
    """The checked settings, the indices of the images, and what draws rows of them."""
    device, defaults = runtime.usable(device), SampleSettings()
    refuse_unknown("sample", settings, vars(defaults))
    low, high = (float(runtime.attribute_of(denoiser, *bound)) for bound in (("sigma_min", 0), ("sigma_max", math.inf)))
    levels = {"sigma_min": max(low, defaults.sigma_min), "sigma_max": min(high, defaults.sigma_max)}
    if not isinstance(guidance, DiscriminatorGuidance | None):
        raise ConfigError(f"guidance is a {type(guidance).__name__}", "write DiscriminatorGuidance(discriminator)")
    w1, w2 = (0.0, 0.0) if guidance is None else guidance.step_weights
    chosen = SampleSettings(**{"w1": w1, "w2": w2, **levels, **settings})
    runtime.warn_in_training("the denoiser", denoiser)
    bound = "class_labels" in getattr(denoiser, "keywords", ())  # by functools.partial
    if classes is None and not bound and runtime.attribute_of(denoiser, "label_dim", 0):
        warnings.warn("the denoiser knows classes, and none are given: it is given zeros", stacklevel=3)
    if len(shape) != 4 or min(shape) < 1:
        raise ConfigError(f"shape is {tuple(shape)}", "give (N, C, H, W) of at least one image")
    if (given := np.asarray(first)).dtype.kind not in "iu" or given.shape not in ((), (shape[0],)):
        raise ConfigError(f"first is {first!r:.200}", f"give a whole number, or one for each of {shape[0]} images")
    indices = given.tolist() if given.shape else range(int(given), int(given) + shape[0])
    if classes is not None and (found := tuple(torch.as_tensor(classes).shape))[:1] != (shape[0],):
        raise ConfigError(f"classes has the shape {found} for {shape[0]} images", "give one class an image")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63 or min(indices) < 0:
        raise ConfigError(f"seed is {seed}, and the lowest index {min(indices)}", "give whole numbers of at least 0")

    @torch.no_grad()
    def drawn(rows: slice, states: States | None = None) -> Tensor:
        here, image = indices[rows], shape[1:]
        labels = () if classes is None else (torch.as_tensor(classes[rows]).to(device),)

        def draws(purpose: str, step: int) -> Tensor:
            return torch.stack([normal(seed, purpose, index, step, image) for index in here])

        guide = guidance and (lambda x, sigma: guidance(x, sigma, *labels))
        latents, noise = draws("latent", 0).to(device, chosen.dtype), lambda step, raised: draws("churn", step)
        state_dtype = chosen.state_dtype or widest(device)
        denoise = lambda x, sigma: checked(denoiser(x, sigma, *labels), x)  # noqa: E731
        return heun(denoise, guide, latents, noise, chosen, states, state_dtype).to(chosen.dtype)

    return chosen, indices, drawn


def in_batches(
    batches: Sequence[Batch], draw: Callable[[Batch], Arrays], work: Resumable | None
) -> Iterator[tuple[int, Arrays]]:
    """The number and the arrays of each batch, first of those that `work` kept of an earlier run.

    With `work` the processes of torchrun divide the batches; the first one then yields those of all, the others theirs.
    """
    if work is None:
        yield from ((number, draw(batch)) for number, batch in enumerate(batches))
        return
    missing = list[int]()
    for number in range(len(batches)):
        try:
            yield number, work.load_shard(number)
        except InputError:
            missing.append(number)
    missing = runtime.broadcast(missing)
    mine = missing[runtime.rank() :: runtime.world_size()]
    for number in mine:
        arrays = draw(batches[number])
        work.save_shard(number, **arrays)
        yield number, arrays
    runtime.barrier()
    for number in sorted({*missing} - {*mine}) if runtime.is_first() else []:
        yield number, work.load_shard(number)


@torch.no_grad()
def fingerprint_of(
    denoiser: Denoiser, guidance: DiscriminatorGuidance | None, like: Tensor, classes: Any = None
) -> list[str]:
    """What networks make of a noisy batch at many levels, to four digits, and how guidance combines them.

    Files that a killed run kept are used again where it is the same. like: a batch (n, C, H, W).
    """
    given = () if classes is None else (torch.as_tensor(classes[: len(like)]).to(like.device),)
    settings: list[Any] = [] if guidance is None else [guidance.rule, guidance.window, guidance.clip]
    if callable(schedule := getattr(guidance, "weight", None)):
        settings.append(torch.as_tensor(schedule(torch.logspace(-3, 2, 2000).to(like))).tolist())
    outputs = list[Tensor]()
    for number, sigma in enumerate(np.geomspace(0.002, 80, 12).tolist()):
        x = sigma * normal(0, "fingerprint", number, 0, like.shape).to(like.device)
        level = torch.full((len(like),), sigma, device=like.device)
        outputs.append(checked(denoiser(x.to(like.dtype), level.to(like.dtype), *given), x))
        if guidance is not None:
            outputs += guidance(x, level, *given)
    return [*map(str, settings), *(f"{number:.4g}" for out in outputs for number in torch.std_mean(out, correction=0))]

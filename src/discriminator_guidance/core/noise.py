"""Images in the units of the diffusion, noise levels of EDM, VP time, random streams, and the split."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.settings import SplitSettings


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, C, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().to(device)


def scaled(images: np.ndarray | Tensor) -> Tensor:
    """Images (N, C, H, W) in the units of the diffusion, float32: 8 bits become [-1, 1], floats are in these units."""
    images = as_tensor(images, torch.device("cpu")) if isinstance(images, np.ndarray) else images
    return images.float() if images.is_floating_point() else images.float() / 127.5 - 1


def to_uint8(samples: Tensor) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of samples, clipped and rounded as EDM's generator does.

    Args:
        samples: (N, C, H, W) in about [-1, 1].

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]).view(1, 3, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    if not samples.is_floating_point():
        raise InputError(f"samples are {samples.dtype}, not floats", "give them as the sampler returned them")
    wide = samples.detach().to("cpu", torch.promote_types(samples.dtype, torch.float32))
    return (wide * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def widest(device: torch.device) -> torch.dtype:
    """The dtype of exact computation on a device: float64, or float32 where there is no float64 (mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def column(values: Tensor, x: Tensor) -> Tensor:
    """Values (N,) as (N, 1, ..., 1), with as many dimensions as x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def levels_of(sigma: Tensor | float, x: Tensor) -> Tensor:
    """The noise level of each image of x (N, ...), (N,) in the widest dtype, from one level or N."""
    given = torch.as_tensor(sigma, dtype=widest(x.device), device=x.device)
    if x.dim() < 2 or given.numel() not in (1, len(x)):
        raise ConfigError(f"x has shape {[*x.shape]}, noise levels {[*given.shape]}", "give (N, C, H, W) with one or N")
    return given.reshape(-1).expand(len(x))


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The sampler's (steps + 1,) float64 noise levels, sigma_max to sigma_min and 0 (Karras et al. 2022, Eq. 5)."""
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.nn.functional.pad((high + ramp * (low - high)) ** rho, (0, 1))


BETA_MIN, BETA_MAX = 0.1, 20.0


def beta_integral(t: Tensor) -> Tensor:
    """The integral of beta from 0 to VP time t of the linear schedule 0.1 .. 20 (Song et al. 2021, Appendix C)."""
    return BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2


def marginal_mean(t: Tensor) -> Tensor:
    """The signal scale of x_vp at VP time t, exp(-integral / 2) (Song et al. 2021, Eq. 29)."""
    return torch.exp(-0.5 * beta_integral(t))


def marginal_std(t: Tensor) -> Tensor:
    """The noise scale of x_vp at VP time t, sqrt(1 - exp(-integral)) (Song et al. 2021, Eq. 29)."""
    return torch.sqrt(1 - torch.exp(-beta_integral(t)))


def noised(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Images in [-1, 1] at VP times (N,) float64 on a CPU: mean(t) image + std(t) noise (Song et al. 2021, Eq. 29)."""
    mean, std = (scale(t).float().view(-1, 1, 1, 1).to(images.device) for scale in (marginal_mean, marginal_std))
    return mean * images + std * noise


def tau_from_sigma(sigma: Tensor) -> Tensor:
    """The VP time whose noise-to-signal ratio is sigma: sigma^2 = exp(integral) - 1.

    Args:
        sigma: EDM noise levels, in units of images in [-1, 1] (Kim et al. 2023, Appendix, time conversion).

    >>> round(tau_from_sigma(torch.tensor(80.0)).item(), 3)
    0.934
    """
    # The plain logarithm: exact enough in float64, where sampling computes; in float32 it rounds as official code does.
    return _time_of_integral(torch.log(1 + torch.as_tensor(sigma, device=getattr(sigma, "device", None)) ** 2))


def sigma_from_tau(t: Tensor) -> Tensor:
    """The EDM noise level of a VP time, the inverse of `tau_from_sigma`.

    Args:
        t: VP times in [0, 1].

    >>> round(sigma_from_tau(torch.tensor(0.01)).item(), 3)
    0.045
    """
    return torch.sqrt(torch.expm1(beta_integral(torch.as_tensor(t, device=getattr(t, "device", None)))))


def importance_antiderivative(t: Tensor) -> Tensor:
    """log(exp(integral) - 1), an antiderivative of beta / (1 - exp(-integral)) (Song et al. 2021; Kim et al. 2023)."""
    integral = beta_integral(t)
    return integral + torch.log(1 - torch.exp(-integral))


def importance_times(u: Tensor, t_min: float) -> Tensor:
    """VP times in [t_min, 1] (float64) with density proportional to the importance weight, from uniform draws u.

    Inverts the distribution function; Kim et al. 2023 (training of the discriminator), Song et al. 2021.
    *Deviation:* float64; the normalising constant of the official float32 is off by 1.2e-2 at t_min = 1e-5.
    """
    low, high = importance_antiderivative(torch.tensor([t_min, 1.0], dtype=torch.float64, device=u.device))
    target = low + u.double() * (high - low)
    # log(exp(B) - 1) = target, so B = log(1 + exp(target)).
    return _time_of_integral(torch.nn.functional.softplus(target, threshold=40.0))


def quantile_grid(count: int, t_min: float) -> Tensor:
    """The (count,) midpoint quantiles of the importance density, ascending: the times on which members are compared."""
    return importance_times((torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count, t_min)


def _time_of_integral(integral: Tensor) -> Tensor:
    # The root of 0.1 t + 9.95 t^2 = integral.
    slope = BETA_MAX - BETA_MIN
    return (torch.sqrt(BETA_MIN**2 + 2 * slope * integral) - BETA_MIN) / slope


def generator(seed: int, purpose: str, index: int, step: int) -> np.random.Generator:
    """The generator of one stream: seed and index below 2**63; step 0 for streams without steps."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    # The lowest word of the counter is the position inside the stream; the others name the stream.
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, word], dtype=np.uint64), counter=counter))


def normal(seed: int, purpose: str, index: int, step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers of one stream, on the CPU."""
    return torch.from_numpy(generator(seed, purpose, index, step).standard_normal(tuple(shape), dtype=np.float32))


@dataclass(frozen=True)
class Split:
    """Sorted rows of real ++ fake for training, validation and test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_pairs(real: int, fake: int, shares: SplitSettings, most: int | None = None) -> Split:
    """The fixed split in shares of each kind or of `most` of its images; as many of each validate, and test."""

    def cut(stream: int, first: int, count: int) -> list[np.ndarray]:
        rows = first + generator(shares.seed, "split", stream, 0).permutation(count)[:most]
        return np.split(rows, [round(shares.train * len(rows)), round((shares.train + shares.validation) * len(rows))])

    train, *held_out = zip(cut(0, 0, real), cut(1, real, fake), strict=True)  # real and fake rows of each part
    if fake:  # by Bayes' rule, another proportion would shift the logits that fit best
        held_out = [(reals[: len(fakes)], fakes[: len(reals)]) for reals, fakes in held_out]
    return Split(*(np.sort(np.concatenate(part)) for part in (train, *held_out)))

"""Models of other libraries as denoisers D(x; sigma); a model of k-diffusion or EDM is one as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.sampling.ensemble import Denoiser
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance


def from_diffusers(unet: Any, scheduler: Any, **conditions: Any) -> Denoiser:
    """The denoiser of a diffusers model of VP noise, such as UNet2DModel, and of its DDPM, DDIM or like scheduler.

    Of the scheduler, `alphas_cumprod` a_t and `config.prediction_type` are read. Timestep t has noise level sigma_t =
    ((1 - a_t) / a_t)^(1/2) (Karras et al. 2022, Appendix C.3); between them t is linear in ln sigma, as in diffusers'
    EulerDiscreteScheduler, and constant outside. The output F(x_vp, t), with x_vp = x / (1 + sigma^2)^(1/2), gives
    D = x - sigma F (epsilon), x / (1 + sigma^2) - sigma / (1 + sigma^2)^(1/2) F (v_prediction; Salimans & Ho 2022) or F
    (sample), not clipped. conditions: what the model takes besides, such as class_labels (N,) of the batch.

    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4,
    ...     down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    >>> denoiser = from_diffusers(unet, DDPMScheduler())
    >>> denoiser(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 80.0])).shape
    torch.Size([2, 1, 8, 8])
    """
    sigmas = _noise_levels(scheduler)
    knots = sigmas[sigmas.isfinite()].log()  # a schedule without signal at its end has an infinite last level
    _scales(scheduler, sigmas)  # refuses other predictions before they are made

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.double().view(-1, 1, 1, 1)
        x_vp = (x / (1 + level**2).sqrt()).to(unet.dtype)
        t = np.interp(sigma.double().log().cpu(), knots, np.arange(len(knots)))
        output = unet(x_vp, torch.from_numpy(t).to(x.device, torch.float32), **conditions).sample
        output = output[:, : x.shape[1]]  # without learned variances
        skip, out = _scales(scheduler, level)
        denoised: Tensor = (skip * x + out * output.double()).to(x.dtype)
        return denoised

    ends = knots.exp()[[0, -1]].tolist()
    denoiser.sigma_min, denoiser.sigma_max = ends  # type: ignore[attr-defined]
    return denoiser


@contextmanager
def guided_unet(unet: nn.Module, scheduler: Any, guidance: DiscriminatorGuidance) -> Iterator[None]:
    """Guide what a diffusers pipeline samples with `unet` inside the block, with any scheduler of that noise.

    A forward hook adds the change of D by guidance, divided by dD/dF, to the prediction F of each call (x_vp, t).

    >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    >>> unet, scheduler = UNet2DModel(8, block_out_channels=(32,) * 4), DDIMScheduler()
    >>> with guided_unet(unet, scheduler, DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)))):
    ...     images = DDIMPipeline(unet, scheduler)(2, num_inference_steps=3, output_type="np").images
    >>> images.shape
    (2, 8, 8, 3)
    """
    sigmas = _noise_levels(scheduler)

    def guide(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        x_vp, time = (*inputs, *(named[key] for key in ("sample", "timestep")[len(inputs) :]))[:2]
        t = torch.as_tensor(time).round().long()
        sigma = sigmas[t.cpu()].to(x_vp.device).expand(len(x_vp))
        if not sigma.isfinite().all():  # no signal, nothing to guide
            return output
        level = sigma.view(-1, 1, 1, 1)
        change = guidance.denoise(lambda x, sigma: torch.zeros_like(x))((1 + level**2).sqrt() * x_vp, sigma)
        correction = (change / _scales(scheduler, level)[1]).to(x_vp.dtype)
        if isinstance(output, tuple):  # return_dict=False
            return output[0] + correction, *output[1:]
        return type(output)(sample=output.sample + correction)

    handle = unet.register_forward_hook(guide, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _noise_levels(scheduler: Any) -> Tensor:
    """sigma_t of each timestep t (T,), ascending, float64."""
    kept: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        raise ConfigError("a scheduler of VP noise", type(scheduler).__name__, "write the denoiser by hand")
    kept = kept.double().cpu()
    return ((1 - kept) / kept).sqrt()


def _scales(scheduler: Any, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out with D = c_skip x + c_out F."""
    kind, kept = scheduler.config.prediction_type, 1 / (1 + sigma**2)
    if kind == "epsilon":
        return torch.ones_like(sigma), -sigma
    if kind == "v_prediction":
        return kept, -sigma * kept.sqrt()
    if kind == "sample":
        return torch.zeros_like(sigma), torch.ones_like(sigma)
    raise ConfigError("prediction_type epsilon, v_prediction or sample", repr(kind), "write the denoiser by hand")

"""Models of other libraries as denoisers D(x; sigma); a model of k-diffusion or EDM is one as it stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils._pytree import tree_map_only

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.noise import column, levels_of
from discriminator_guidance.core.runtime import warn_in_training
from discriminator_guidance.sampling.guidance import Denoiser, DiscriminatorGuidance

PREDICTIONS = EPSILON, V, SAMPLE, FLOW = "epsilon", "v_prediction", "sample", "flow_prediction"
FLOW_MODELS = ("SD3", "Flux", "Wan", "UNet")  # of diffusers, those that predict n - x0 as a function of timesteps
FLUX_STEPS = 1000  # Flux's models take the time t, others the timestep 1000 t


class Noise:
    """The noise of a diffusers scheduler: what its models see at a noise level sigma, and what they predict.

    VP noise has `alphas_cumprod` a_t: timestep t has sigma_t = ((1 - a_t) / a_t)^(1/2), and models see x_vp =
    x / (1 + sigma^2)^(1/2) (Karras et al. 2022, Appendix C.3). Between timesteps t is linear in ln sigma, as in
    diffusers' EulerDiscreteScheduler, and constant outside. Flow matching has x_t = (1 - t) x0 + t n, so sigma =
    t / (1 - t), and models see x_t = x / (1 + sigma) and predict n - x0 (Lipman et al. 2023).
    """

    def __init__(self, scheduler: Any, model: Any = None) -> None:
        if not (model is None or hasattr(model, "forward") or (callable(model) and not hasattr(model, "components"))):
            raise ConfigError(f"the model is a {type(model).__name__}", "give a pipeline's unet or transformer")
        config, kept = getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)
        flow = kept is None and hasattr(scheduler, "scale_noise")  # FlowMatchEulerDiscreteScheduler and its kind
        kind, remedy = FLOW if flow else getattr(config, "prediction_type", None), "write the denoiser by hand"
        unknown = getattr(config, "timestep_type", None) == "continuous" or getattr(config, "invert_sigmas", False)
        if unknown or (kept is None and kind != FLOW):
            raise ConfigError(f"{type(scheduler).__name__} has neither discrete VP noise nor flow matching", remedy)
        if kind not in PREDICTIONS:
            raise ConfigError(f"{type(scheduler).__name__} predicts {kind!r}, not {', '.join(PREDICTIONS)}", remedy)
        warn_in_training("the model", model)
        name, diffusers = type(model).__name__, type(model).__module__.startswith("diffusers.")
        if kind == FLOW and diffusers and not name.startswith(FLOW_MODELS):  # others take t, 1 - t, or predict x0 - n
            raise ConfigError(f"{name} may take other times or predict another velocity", remedy)
        self.scheduler, self.kind, self.steps = scheduler, kind, getattr(config, "num_train_timesteps", 1000)
        if kept is None or kind == FLOW:
            share = torch.arange(1, self.steps, dtype=torch.float64) / self.steps
            self.sigmas = share / (1 - share)
        else:
            kept = kept.double().cpu()
            self.sigmas = ((1 - kept) / kept).sqrt()
        self.knots = self.sigmas[self.sigmas.isfinite()].log()  # ascending; the last timestep may have no signal

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_in, c_skip and c_out: the model predicts F from c_in x, and D = c_skip x + c_out F."""
        kept, share = 1 / (1 + sigma**2), 1 / (1 + sigma)
        return {
            EPSILON: (kept.sqrt(), torch.ones_like(sigma), -sigma),
            V: (kept.sqrt(), kept, -sigma * kept.sqrt()),  # Salimans & Ho 2022
            SAMPLE: (kept.sqrt(), torch.zeros_like(sigma), torch.ones_like(sigma)),
            FLOW: (share, share, -sigma * share),
        }[self.kind]

    def times(self, sigma: Tensor) -> Tensor:
        """The timesteps of noise levels, (N,) float32."""
        if self.kind == FLOW:
            return (self.steps * sigma / (1 + sigma)).float()
        t = np.interp(sigma.cpu().double().log(), self.knots, np.arange(len(self.knots)))
        return torch.from_numpy(t).float().to(sigma.device)

    def levels(self, time: Tensor | float) -> Tensor:
        """The noise levels of timesteps, (N,) float64 on the CPU; infinite where there is no signal."""
        if (t := torch.as_tensor(time).cpu().double()).dim() > 1:
            raise ConfigError(f"timesteps are {tuple(t.shape)}, several an image", "use a pipeline with one an image")
        t = t.reshape(-1)
        levels, flow = t / (self.steps - t), self.kind == FLOW
        if not flow:
            levels = torch.from_numpy(np.exp(np.interp(t, np.arange(len(self.sigmas)), self.sigmas.log())))
        if getattr(self.scheduler, "num_inference_steps", None) and hasattr(self.scheduler, "sigmas"):
            same = t.unsqueeze(1) == self.scheduler.timesteps.cpu().double()
            kept = self.scheduler.sigmas.cpu().double()[same.int().argmax(dim=1)]
            kept = kept / (1 - kept) if flow else kept  # not rounded, as the timesteps of some runs are
            near = flow or (self.times(kept) - t).abs() <= 1  # schedulers of half steps keep others
            levels = torch.where(same.any(dim=1) & near, kept, levels)
        return levels


def from_diffusers(model: Any, scheduler: Any, appended: Tensor | None = None, **conditions: Any) -> Denoiser:
    """The denoiser of a diffusers model, and of a scheduler of its noise: UNets, and transformers such as SD3's.

    Args:
        model: predicts epsilon, v, x0 (not clipped) or the velocity of flow matching; learned variances are left out.
        scheduler: `alphas_cumprod` and `config.prediction_type` of DDPM, DDIM or Euler are read, or flow matching.
        appended: channels (N, ...), or (1, ...) for all images, that a model for inpainting takes besides the image's.
        conditions: what the model takes besides, such as class_labels, encoder_hidden_states or added_cond_kwargs of
            the batch; each call of the denoiser may give others.

    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4,
    ...     down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    >>> denoiser = from_diffusers(unet.eval(), DDPMScheduler())
    >>> denoiser(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 80.0])).shape
    torch.Size([2, 1, 8, 8])
    """
    compiled = getattr(model, "_orig_mod", model)
    schedule, names = Noise(scheduler, compiled), signature(getattr(compiled, "forward", compiled)).parameters
    flux, transformer = "img_ids" in names, "hidden_states" in names

    def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **changes: Any) -> Tensor:
        sigma = levels_of(sigma, x)
        c_in, c_skip, c_out = schedule.scales(column(sigma, x))
        x_in = (c_in * x).to(getattr(model, "dtype", x.dtype))
        if appended is not None:
            if len(appended) not in (1, len(x)):
                raise ConfigError(f"appended are {len(appended)} for a batch of {len(x)}", "give 1, or set batch_size")
            x_in = torch.cat([x_in, appended.to(x_in).expand(len(x), *appended.shape[1:])], dim=1)
        if class_labels is not None:  # as indices: files may have them in 8 bits
            changes["class_labels"] = class_labels.to(torch.promote_types(class_labels.dtype, torch.int64))
        given = {**conditions, **changes}
        given = tree_map_only(Tensor, lambda v: v.expand(len(x), *v.shape[1:]) if v.dim() and len(v) == 1 else v, given)
        t = schedule.times(sigma)
        x_in, t = (_tokens(x_in), t / FLUX_STEPS) if flux else (x_in, t)
        output = predicted(model(hidden_states=x_in, timestep=t, **given) if transformer else model(x_in, t, **given))
        output = _image(output, given["img_ids"]) if flux else output[:, : x.shape[1]]
        return (c_skip * x + c_out * output.to(sigma.dtype)).to(x.dtype)

    denoiser.sigma_min, denoiser.sigma_max = schedule.knots[[0, -1]].exp().tolist()  # type: ignore[attr-defined]
    denoiser.round_sigma = torch.as_tensor  # type: ignore[attr-defined]
    return denoiser


@contextmanager
def guided_unet(unet: nn.Module, scheduler: Any, guidance: DiscriminatorGuidance) -> Iterator[None]:
    """Guide what a diffusers pipeline samples with a UNet or transformer inside the block, with any such scheduler.

    A forward hook adds the change of D by guidance, divided by dD/dF, to the prediction F of each call, in the channels
    of the image. The discriminators see an image once a step, though classifier-free guidance repeats it.
    So a discriminator that has classes of its own, by closure, needs images that differ from the first step on.

    Args:
        unet: the pipeline's `unet` or `transformer`.
        scheduler: of its noise, as for `from_diffusers`.
        guidance: what discriminators add.

    >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    >>> unet, scheduler = UNet2DModel(8, block_out_channels=(32,) * 4).eval(), DDIMScheduler()
    >>> with guided_unet(unet, scheduler, DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)))):
    ...     images = DDIMPipeline(unet, scheduler)(2, num_inference_steps=3, output_type="np").images
    >>> images.shape
    (2, 8, 8, 3)
    """
    if not isinstance(guidance, DiscriminatorGuidance):
        raise ConfigError(f"guidance is a {type(guidance).__name__}", "write DiscriminatorGuidance(discriminator)")
    compiled = getattr(unet, "_orig_mod", unet)
    schedule, arguments = Noise(scheduler, compiled), signature(compiled.forward)
    last: tuple[Tensor, Tensor, Tensor] | None = None  # of a call: what the model saw, noise levels, change

    def guide(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        nonlocal last
        seen = arguments.bind(*inputs, **named).arguments
        first, second, *_ = seen.values()
        x_in, time, ids = seen.get("hidden_states", first), seen.get("timestep", second), seen.get("img_ids")
        prediction = predicted(output)
        if ids is not None:
            x_in, prediction, time = _image(x_in, ids), _image(prediction, ids), FLUX_STEPS * time
        channels = min(x_in.shape[1], prediction.shape[1])  # inpainting has more inputs, learned variance more outputs
        x_in, sigma = x_in[:, :channels], schedule.levels(time)
        if last is None or not (torch.equal(sigma, last[1]) and torch.equal(x_in, last[0])):
            last = x_in.clone(), sigma, change_of_prediction(guidance, schedule, x_in, sigma)
        guided = torch.cat([prediction[:, :channels] + last[2], prediction[:, channels:]], dim=1)
        guided = guided if ids is None else _tokens(guided)
        if isinstance(output, Tensor):
            return guided
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(sample=guided)

    handle = unet.register_forward_hook(guide, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def change_of_prediction(guidance: DiscriminatorGuidance, schedule: Noise, x_in: Tensor, sigma: Tensor) -> Tensor:
    """What guidance adds to a model's prediction from x_in (N, C, ...) at noise levels (N,), or one for all."""
    if not (sigma.isfinite() & (sigma > 0)).all():  # no signal or no noise, nothing to guide
        return torch.zeros_like(x_in)
    # Classifier-free guidance repeats a batch, one copy after the other; the discriminators see the first.
    whole = (x_in, levels_of(sigma, x_in))
    copies = next((n for n in (3, 2) if all(torch.equal(torch.cat([v[: len(v) // n]] * n), v) for v in whole)), 1)
    images, levels = (v[: len(v) // copies] for v in whole)
    c_in, _, c_out = schedule.scales(column(levels, images))
    change = guidance.denoise(lambda x, sigma: torch.zeros_like(x))(images / c_in, levels) / c_out
    return torch.cat([change.to(x_in.dtype)] * copies)


def predicted(output: Any) -> Tensor:
    """The tensor in what a diffusers model returns."""
    return output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple) else output.sample


def _tokens(image: Tensor) -> Tensor:
    """The patches of 2x2 pixels that Flux's models take: (N, C, H, W) -> (N, H/2 W/2, 4 C)."""
    return pixel_unshuffle(image, 2).flatten(2).mT


def _image(tokens: Tensor, img_ids: Tensor) -> Tensor:
    """The image (N, C, H, W) of such patches, and of their rows and columns in img_ids (..., 3)."""
    height, width = (img_ids.reshape(-1, img_ids.shape[-1])[:, 1:3].amax(dim=0).int() + 1).tolist()
    if height * width != tokens.shape[1]:
        raise ConfigError(f"{tokens.shape[1]} tokens are no image of {height}x{width}", "leave other images out")
    return pixel_shuffle(tokens.mT.reshape(len(tokens), -1, height, width), 2)

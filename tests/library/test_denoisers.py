"""Adapters against Gaussian oracles, diffusers' own schedulers and pipelines, and numbers of k-diffusion."""

import json
import math
from collections.abc import Callable
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance import DiscriminatorGuidance, from_diffusers, guided_unet, sample
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.noise import karras_sigmas, normal
from discriminator_guidance.sampling import sampler
from discriminator_guidance.sampling.denoisers import Noise
from discriminator_guidance.sampling.sampler import trajectory
from tests.library.gaussians import SHAPE, Gaussian, settings

diffusers = pytest.importorskip("diffusers")
KINDS = ("epsilon", "v_prediction", "sample")
DATA = Gaussian(mean=0.3, std=0.4)
KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # DDPM's linear schedule
LEVELS = ((1 - KEPT) / KEPT).sqrt()
# k-diffusion 0.1.1.post1 computed these numbers in float64: get_sigmas_karras(6, 0.002, 80), `wave` in
# DiscreteEpsDDPMDenoiser and DiscreteVDDPMDenoiser (quantize=False), and sample_heun of both, of DATA.denoise and of
# TILT.denoise(DATA.denoise), from our starting noise of seed 0 and with our churn noise in place of torch.randn_like.
K_DIFFUSION = json.loads((Path(__file__).parents[1] / "golden/data/k_diffusion.json").read_text())
TILT = DiscriminatorGuidance(lambda x_vp, tau: 3 * torch.tanh(x_vp).mean(dim=(1, 2, 3)), weight=2.0)


class ExactModel:
    """The exact prediction of Gaussian data at timesteps between the discrete ones too."""

    dtype = torch.float64

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, x_vp: Tensor, t: Tensor) -> SimpleNamespace:
        flow, share = self.kind == "flow_prediction", t.double() / 1000
        sigma = torch.from_numpy(np.exp(np.interp(t.double().numpy(), np.arange(1000), LEVELS.log().numpy())))
        level = (share / (1 - share) if flow else sigma).view(-1, 1, 1, 1)
        x = x_vp * (1 + level if flow else (1 + level**2).sqrt())
        denoised = DATA.denoise(x, level.flatten())
        noise = (x - denoised) / level
        if flow:
            return SimpleNamespace(sample=noise - denoised)
        velocity = (noise - level * denoised) / (1 + level**2).sqrt()
        return SimpleNamespace(sample={"epsilon": noise, "v_prediction": velocity, "sample": denoised}[self.kind])


def scheduler_of(kind: str, kept: Tensor = KEPT) -> SimpleNamespace:
    return SimpleNamespace(alphas_cumprod=kept, config=SimpleNamespace(prediction_type=kind))


@pytest.mark.parametrize("kind", [*KINDS, "flow_prediction"])
def test_exact_predictions_give_the_exact_denoiser(kind: str) -> None:
    sigma = torch.tensor([0.02, 0.0537, 0.4, 1.0, 3.21, 20.0, 80.0], dtype=torch.float64)
    noise = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    x = DATA.mean + sigma.view(-1, 1, 1, 1) * noise
    denoised = from_diffusers(ExactModel(kind), scheduler_of(kind))(x, sigma)
    assert torch.allclose(denoised, DATA.denoise(x, sigma), rtol=0, atol=1e-4 if kind == "flow_prediction" else 1e-6)


def test_samples_keep_to_the_noise_levels_of_the_schedule() -> None:
    denoiser = from_diffusers(ExactModel("epsilon"), scheduler_of("epsilon", KEPT[:200]))
    denoiser.sigma_max = torch.tensor(denoiser.sigma_max)  # as in k-diffusion
    assert trajectory(denoiser, (64, *SHAPE)).states[0].std() == pytest.approx(LEVELS[199].item(), rel=0.2)
    kind = type("Model", (), {"sigma_max": property(lambda model: 2.0), "__call__": lambda model, x, sigma: 0 * x})
    closure = wraps(model := kind())(lambda x, sigma: model(x, sigma))
    assert trajectory(closure, (1, *SHAPE)).sigma[0].item() == pytest.approx(2.0)
    scheduler = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, beta_schedule="scaled_linear")
    scheduler.set_timesteps(20)  # rounded, but not its noise levels
    assert torch.allclose(Noise(scheduler).levels(scheduler.timesteps), scheduler.sigmas[:20].double(), rtol=1e-5)


def test_levels_outside_the_schedule_are_finite_without_signal_at_its_end() -> None:
    kept = torch.cat([KEPT[:-1], torch.zeros(1)])
    denoised = from_diffusers(ExactModel("v_prediction"), scheduler_of("v_prediction", kept))
    assert denoised(torch.ones(2, *SHAPE).double(), torch.tensor([1e-4, 1e4]).double()).isfinite().all()
    repaint = SimpleNamespace(alphas_cumprod=kept, config=SimpleNamespace())  # RePaintScheduler says no prediction_type
    for scheduler, said in (
        (scheduler_of("flow"), "predicts 'flow'"),
        (repaint, "predicts None"),
        (SimpleNamespace(), "VP noise"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "nor flow matching"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "discrete VP noise"),
    ):
        with pytest.raises(ConfigError, match=said):
            from_diffusers(ExactModel("epsilon"), scheduler)


def test_transformers_with_other_times_are_refused() -> None:
    sizes = {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    sizes |= {"joint_attention_dim": 16, "caption_projection_dim": 16, "pos_embed_max_size": 16}
    aura, flow = diffusers.AuraFlowTransformer2DModel(8, 2, 4, **sizes), diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match="AuraFlowTransformer2DModel may take other times"):
        from_diffusers(aura, flow)
    with pytest.raises(ConfigError, match="may take other times"), guided_unet(aura, flow, TILT):
        pass
    with pytest.raises(ConfigError, match="the model is a DDIMPipeline; give a pipeline's unet"):
        from_diffusers(diffusers.DDIMPipeline(aura, diffusers.DDIMScheduler()), flow)
    with pytest.raises(ConfigError, match="guidance is a function"), guided_unet(aura, flow, lambda x, tau: tau):
        pass
    with pytest.raises(ConfigError, match="several an image"):  # of Wan 2.2, one a token
        Noise(flow).levels(torch.ones(2, 3))


def test_equal_images_at_two_timesteps_are_guided_at_both() -> None:
    unet, scheduler = diffusers.UNet2DModel(8, 1, 1, **PLAIN).eval(), diffusers.DDIMScheduler()
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([100, 400])
    guidance = DiscriminatorGuidance(lambda x_vp, tau: 9 * torch.tanh(x_vp).flatten(1).mean(dim=1))
    with torch.no_grad(), guided_unet(unet, scheduler, guidance):
        both, single = unet(x.repeat(2, 1, 1, 1), t).sample, [unet(x, time).sample for time in t]
    assert torch.allclose(both, torch.cat(single), atol=1e-5)


def test_where_a_flow_has_no_noise_nothing_is_guided() -> None:
    unet, x, t = diffusers.UNet2DModel(8, 1, 1, **PLAIN).eval(), torch.randn(2, 1, 8, 8), torch.tensor(0.0)
    with torch.no_grad():
        plain = unet(x, t).sample
        with guided_unet(unet, diffusers.FlowMatchEulerDiscreteScheduler(), TILT):
            assert torch.equal(unet(x, t).sample, plain)


ATTENTION = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
PLAIN = SMALL | ATTENTION
CROSS = SMALL | {key: tuple(name.replace("Attn", "CrossAttn") for name in names) for key, names in ATTENTION.items()}
CROSS["cross_attention_dim"] = 8
ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
LABELS, TEXT = {"class_labels": torch.arange(2)}, {"encoder_hidden_states": torch.ones(2, 3, 8)}
SDXL = TEXT | {"added_cond_kwargs": {"text_embeds": torch.ones(2, 8), "time_ids": torch.ones(2, 6)}}
POOLED = TEXT | {"pooled_projections": torch.ones(2, 8)}
GRID = torch.cartesian_prod(*map(torch.arange, (1, 4, 4))).float()
FLUX = POOLED | {"img_ids": GRID, "txt_ids": torch.zeros(3, 3)}
NETWORKS = {  # prediction, class, arguments, shape of an image, conditions of two images
    "labels": ("epsilon", "UNet2DModel", (8, 1, 1), PLAIN | {"num_class_embeds": 9}, (1, 8, 8), LABELS),
    "v": ("v_prediction", "UNet2DModel", (8, 1, 1), PLAIN, (1, 8, 8), {}),
    "x0": ("sample", "UNet2DModel", (8, 1, 1), PLAIN, (1, 8, 8), {}),
    "learned variance": ("epsilon", "UNet2DModel", (8, 1, 2), PLAIN, (1, 8, 8), {}),
    "inpainting": ("epsilon", "UNet2DConditionModel", (8, 9, 4), CROSS, (4, 8, 8), TEXT),
    "SDXL": ("v_prediction", "UNet2DConditionModel", (8, 4, 4), CROSS | ADDED, (4, 8, 8), SDXL),
    "SD3": ("flow", "SD3Transformer2DModel", (8, 2, 4, 1, 8, 2, 8, 16, 8, 4, 8), {}, (4, 8, 8), POOLED),
    "Wan": ("flow", "WanTransformer3DModel", ((1, 2, 2), 2, 12, 4, 4, 8, 16, 16, 1), {}, (4, 2, 8, 8), TEXT),
    "Flux": ("flow", "FluxTransformer2DModel", (1, 16, None, 1, 1, 16, 2, 8, 8, False, (4, 4, 8)), {}, (4, 8, 8), FLUX),
}


def build(kind: str, *arguments: Any, **named: Any):
    """A model of diffusers with random weights."""
    torch.manual_seed(0)
    return getattr(diffusers, kind)(*arguments, **named).eval().requires_grad_(False)


def combined(function: Callable[..., Tensor], *conditions: Any) -> Any:
    """Conditions, of which those of the images are combined."""
    if isinstance(conditions[0], Tensor):
        return function(*conditions)
    pairs = {key: [each[key] for each in conditions] for key in conditions[0]}
    return {key: pair[0] if key in ("img_ids", "txt_ids") else combined(function, *pair) for key, pair in pairs.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_guided_run_of_a_scheduler_is_that_of_the_guided_denoiser(name: str) -> None:
    prediction, kind, arguments, named, shape, conditions = NETWORKS[name]
    model, flow, flux, calls = build(kind, *arguments, **named), prediction == "flow", name == "Flux", []
    options = {"prediction_type": prediction, "clip_sample": False, "timestep_spacing": "trailing"}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler() if flow else diffusers.DDIMScheduler(**options)
    scheduler.set_timesteps(**({"sigmas": [0.9, 0.6, 0.3]} if flow else {"num_inference_steps": 4}))
    latents, extra = torch.randn(2, *shape), torch.ones(2, 5, 8, 8) if name == "inpainting" else None
    without = combined(torch.zeros_like, conditions)

    def discriminator(x_vp: Tensor, tau: Tensor) -> Tensor:
        calls.append(len(x_vp))
        return 50 * torch.tanh(x_vp).flatten(1).mean(dim=1)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        """Classifier-free guidance as pipelines compute it."""
        x = x if extra is None else torch.cat([x, extra], dim=1)
        x_in, t = torch.cat([x, x]), t.expand(4) / (1000 if flux else 1)
        x_in = x_in.view(4, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(4, 16, 16) if flux else x_in
        inputs = {"hidden_states" if flow else "sample": x_in, "timestep": t, "return_dict": False}
        output = model(**inputs, **combined(lambda *both: torch.cat(both), without, conditions))[0]
        output = output.view(4, 4, 4, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(4, 4, 8, 8) if flux else output
        return torch.lerp(*output[:, : shape[0]].chunk(2), 3.0)

    guidance, x = DiscriminatorGuidance(discriminator), latents
    with guided_unet(model, scheduler, guidance):
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t), t, x).prev_sample
    assert calls == [2] * 3  # VP noise begins outside the window
    assert not model._forward_hooks

    if extra is not None:
        with pytest.raises(ConfigError, match="appended are 2 for a batch of 3"):
            from_diffusers(model, scheduler, extra)(torch.zeros(3, *shape), torch.ones(3))
    denoisers = [from_diffusers(model, scheduler, extra, **texts) for texts in (without, conditions)]
    schedule, free = Noise(scheduler), lambda x, sigma: torch.lerp(*(each(x, sigma) for each in denoisers), 3.0)
    levels = [*schedule.levels(scheduler.timesteps), torch.tensor(0.0)]
    start = latents.double() / schedule.scales(levels[0])[0]
    ours, plain = (heun_or_euler(model, start, levels, order=1) for model in (guidance.denoise(free), free))
    assert torch.allclose(ours.float(), x, rtol=1e-3, atol=1e-3)
    assert (ours - plain).abs().max() > 0.1


def test_one_prompt_is_for_all_images_and_conditions_of_a_batch_are_kept(tmp_path) -> None:
    prompt, labels = {"encoder_hidden_states": torch.ones(1, 3, 8)}, {"class_labels": torch.arange(9)}
    rows = (("UNet2DConditionModel", CROSS, prompt), ("UNet2DModel", PLAIN | {"num_class_embeds": 9}, labels))
    for kind, named, given in rows:
        denoiser = from_diffusers(build(kind, 8, 4, 4, **named), diffusers.DDPMScheduler(), **given)
        drawn = partial(sample, denoiser, (9, 4, 8, 8), steps=2)
        assert np.allclose(np.load(drawn(out=tmp_path / f"{kind}.npy")), drawn(), atol=1e-5)


def heun_or_euler(denoiser: Callable[..., Tensor], x: Tensor, sigmas: Any, order: int = 2) -> Tensor:
    """The published samplers of EDM and k-diffusion without churn: Karras et al. 2022, Algorithm 2, or Algorithm 1."""
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoiser(x, sigma)) / sigma
        if order == 2 and sigma_next > 0:
            x_next = x + (sigma_next - sigma) * slope
            slope = (slope + (x_next - denoiser(x_next, sigma_next)) / sigma_next) / 2
        x = x + (sigma_next - sigma) * slope
    return x


def noise(purpose: str, step: int, shape: tuple[int, ...] = (1, 1, 2)) -> Tensor:
    return torch.stack([normal(0, purpose, index, step, shape) for index in range(2)])


def test_public_samplers_take_a_guided_denoiser() -> None:
    labels, guidance = torch.arange(2).byte(), DiscriminatorGuidance(lambda x_vp, tau: 20 * x_vp.mean(dim=(1, 2, 3)))
    plain = from_diffusers(build("UNet2DModel", 8, 1, 1, **PLAIN, num_class_embeds=9), diffusers.DDPMScheduler())
    model, latents = guidance.denoise(plain), noise("latent", 0, (1, 8, 8)).double()
    expected, unguided = (sample(partial(each, class_labels=labels), (2, 1, 8, 8)) for each in (model, plain))
    assert (expected - unguided).abs().max() > 0.1
    sigmas = model.round_sigma(karras_sigmas(18, max(0.002, model.sigma_min), min(80.0, model.sigma_max), 7.0))
    edm = heun_or_euler(lambda x, sigma: model(x, sigma, labels).double(), sigmas[0] * latents, sigmas)
    k_diffusion = partial(lambda x, sigma, **extra: model(x, sigma * x.new_ones(2), **extra), class_labels=labels)
    for drawn in (edm, heun_or_euler(k_diffusion, sigmas[0] * latents, sigmas)):
        assert torch.allclose(drawn.float(), expected, atol=1e-4)
    # EDM's sampler reads the limits of a function, and gives class_labels=None and one level.
    function = guidance.denoise(lambda x, sigma: 0 * x * sigma[:, None, None, None])
    assert (function.sigma_min, function.sigma_max, function.round_sigma(sigmas) is sigmas) == (0, math.inf, True)
    assert function(latents, sigmas[0], None).shape == latents.shape
    assert guidance.denoise(lambda x, sigma, c, text: text * x)(latents, sigmas[0], None, 1.0).shape == latents.shape


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "DiT"])
def test_pipelines_of_diffusers_are_guided(kind: str) -> None:
    def images() -> Tensor:
        options = {"generator": torch.manual_seed(1), "num_inference_steps": 10, "output_type": "np"}
        return torch.as_tensor(pipeline([1, 2] if kind == "DiT" else 2, **options).images)

    networks = [build("UNet2DModel", 8, 3, 3, **PLAIN)]
    if kind == "DiT":  # classifier-free guidance and learned variances
        networks = [build("DiTTransformer2DModel", 2, 8, 4, 8, 1, 0.0, 4, sample_size=8, num_embeds_ada_norm=1000)]
        networks += [build("AutoencoderKL", 3, 3, block_out_channels=(8,), norm_num_groups=4, sample_size=8)]
    scheduler = diffusers.DDPMScheduler() if kind == "DDPM" else diffusers.DDIMScheduler()
    pipeline = getattr(diffusers, f"{kind}Pipeline")(*networks, scheduler)
    plain, guidance = images(), DiscriminatorGuidance(lambda x_vp, tau: 50 * x_vp.mean(dim=(1, 2, 3)))
    with guided_unet(networks[0], scheduler, guidance):
        assert (images() - plain).abs().max() > 0.01
    assert torch.equal(images(), plain)


def wave(x_vp: Tensor, t: Tensor) -> SimpleNamespace:
    return SimpleNamespace(sample=torch.sin(x_vp.roll(1, -1) + t.float().view(-1, 1, 1, 1) / 300))


wave.dtype = torch.float64
MODELS = {kind: from_diffusers(wave, scheduler_of(kind)) for kind in KINDS} | {"gaussian": DATA.denoise}


def assert_agrees(ours: Tensor, theirs: list, relative: float) -> None:
    torch.testing.assert_close(ours.double(), torch.tensor(theirs, dtype=torch.float64), rtol=relative, atol=relative)


def test_noise_levels_and_denoisers_are_those_of_k_diffusion() -> None:
    assert_agrees(karras_sigmas(6, 0.002, 80.0, 7.0), K_DIFFUSION["sigmas"], 1e-12)
    x, sigma = (torch.tensor(K_DIFFUSION[name], dtype=torch.float64) for name in ("x", "sigma"))
    for kind, theirs in K_DIFFUSION["denoised"].items():
        assert_agrees(MODELS[kind](x, sigma), theirs, 1e-11)


@pytest.mark.parametrize("run", K_DIFFUSION["samples"])
def test_samples_are_those_of_k_diffusion(run: dict) -> None:
    model, guidance = MODELS[run["model"]], TILT if run["guided"] else None
    changes = {"sigma_min": 0.002, **run["settings"], "steps": 6}
    assert_agrees(sample(model, (2, 1, 1, 2), guidance=guidance, **changes), run["x"], 5e-6)
    given = (model, guidance, noise("latent", 0).double(), lambda step, raised: noise("churn", step))
    exact = sampler.heun(*given, settings(w1=2.0, w2=2.0, **changes))
    assert_agrees(exact, run["x"], 1e-6 if guidance else 1e-11)  # discriminators compute in float32

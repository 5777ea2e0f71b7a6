"""Adapters against Gaussian oracles, diffusers' own schedulers and pipelines, and numbers of k-diffusion."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance import DiscriminatorGuidance, from_diffusers, guided_unet, sample
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.noise import karras_sigmas, normal_batch
from discriminator_guidance.sampling import sampler
from tests.library.gaussians import SHAPE, Gaussian, settings

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
        sigma = np.exp(np.interp(t.double().numpy(), np.arange(1000), LEVELS.log().numpy()))
        level = torch.from_numpy(sigma).view(-1, 1, 1, 1)
        x = x_vp * (1 + level**2).sqrt()
        denoised = DATA.denoise(x, level.flatten())
        noise = (x - denoised) / level
        velocity = (noise - level * denoised) / (1 + level**2).sqrt()
        return SimpleNamespace(sample={"epsilon": noise, "v_prediction": velocity, "sample": denoised}[self.kind])


def scheduler_of(kind: str, kept: Tensor = KEPT) -> SimpleNamespace:
    return SimpleNamespace(alphas_cumprod=kept, config=SimpleNamespace(prediction_type=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_predictions_give_the_exact_denoiser(kind: str) -> None:
    sigma = torch.tensor([0.02, 0.0537, 0.4, 1.0, 3.21, 20.0, 80.0], dtype=torch.float64)
    noise = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    x = DATA.mean + sigma.view(-1, 1, 1, 1) * noise
    denoised = from_diffusers(ExactModel(kind), scheduler_of(kind))(x, sigma)
    assert torch.allclose(denoised, DATA.denoise(x, sigma), rtol=0, atol=1e-6)


def test_samples_keep_to_the_noise_levels_of_the_schedule() -> None:
    denoiser = from_diffusers(ExactModel("epsilon"), scheduler_of("epsilon", KEPT[:200]))
    states = sample(denoiser, (64, *SHAPE), trajectory=True).states
    assert states[0].std() == pytest.approx(LEVELS[199].item(), rel=0.2)


def test_learned_variances_are_left_out() -> None:
    class Learned(ExactModel):
        def __call__(self, x_vp: Tensor, t: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=super().__call__(x_vp, t).sample.repeat(1, 2, 1, 1))

    x, sigma = torch.ones(2, *SHAPE).double(), torch.ones(2).double()
    ours = [from_diffusers(model("epsilon"), scheduler_of("epsilon"))(x, sigma) for model in (Learned, ExactModel)]
    assert torch.equal(*ours)


def test_levels_outside_the_schedule_are_finite_without_signal_at_its_end() -> None:
    kept = torch.cat([KEPT[:-1], torch.zeros(1)])
    denoised = from_diffusers(ExactModel("v_prediction"), scheduler_of("v_prediction", kept))
    assert denoised(torch.ones(2, *SHAPE).double(), torch.tensor([1e-4, 1e4]).double()).isfinite().all()
    with pytest.raises(ConfigError, match="prediction_type"):
        from_diffusers(ExactModel("epsilon"), scheduler_of("flow"))
    with pytest.raises(ConfigError, match="a scheduler of VP noise"):
        from_diffusers(ExactModel("epsilon"), SimpleNamespace())


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    network = diffusers.UNet2DModel(
        8, 1, 1, **blocks, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8, num_class_embeds=10
    )
    return network.eval().requires_grad_(False)


def ddim(kind: str):
    from diffusers import DDIMScheduler

    return DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing="trailing")


def ddim_loop(unet, scheduler, x: Tensor, steps: int, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What diffusers samples with eta 0, and its predicted x0 of each step."""
    scheduler.set_timesteps(steps)
    predicted = []
    with torch.no_grad():
        for t in scheduler.timesteps:
            done = scheduler.step(unet(x, t, class_labels=labels).sample, t, x)
            x = done.prev_sample
            predicted.append(done.pred_original_sample)
    return x, predicted


def euler_loop(denoiser, scheduler, x_vp: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Euler steps of the probability flow on the scheduler's noise levels, from the same start."""
    scheduler.set_timesteps(steps)
    kept = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = [*((1 - kept) / kept).sqrt().tolist(), 0.0]
    x, predicted = x_vp.double() * (1 + sigmas[0] ** 2) ** 0.5, []
    with torch.no_grad():
        for sigma, sigma_next in pairwise(sigmas):
            predicted.append(denoiser(x, torch.full((len(x),), sigma, dtype=torch.float64)))
            x = x + (sigma_next - sigma) * (x - predicted[-1]) / sigma
    return x, predicted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guided", [False, True])
def test_euler_steps_are_those_of_ddim(unet, kind: str, guided: bool) -> None:
    scheduler, labels = ddim(kind), torch.arange(4)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    denoiser = from_diffusers(unet, scheduler, class_labels=labels)
    if guided:
        guidance = DiscriminatorGuidance(lambda x_vp, tau: 3 * torch.tanh(x_vp).mean(dim=(1, 2, 3)), weight=20.0)
        plain, _ = ddim_loop(unet, scheduler, x, 10, labels)
        with guided_unet(unet, scheduler, guidance):
            own, predicted = ddim_loop(unet, scheduler, x, 10, labels)
            named = unet(sample=x, timestep=5, class_labels=labels).sample
            assert torch.equal(named, unet(x, 5, class_labels=labels).sample)
        assert (own - plain).abs().max() > 0.05
        assert torch.equal(ddim_loop(unet, scheduler, x, 10, labels)[0], plain)  # the hook is gone
        denoiser = guidance.denoise(denoiser)
    else:
        own, predicted = ddim_loop(unet, scheduler, x, 10, labels)
    ours, denoised = euler_loop(denoiser, scheduler, x, 10)
    for mine, theirs in [*zip(denoised, predicted, strict=True), (ours, own)]:
        assert (mine - theirs).abs().max() < 1e-5 * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_ddpm_lead_to_what_is_denoised(unet, kind: str) -> None:
    from diffusers import DDPMScheduler

    scheduler, labels = DDPMScheduler(prediction_type=kind, clip_sample=False), torch.arange(4)
    x_vp = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in (10, 500, 990):
        done = scheduler.step(unet(x_vp, t, class_labels=labels).sample, t, x_vp)
        level = LEVELS[t].expand(4)
        x = x_vp * (1 + LEVELS[t] ** 2).sqrt()
        denoised = from_diffusers(unet, scheduler, class_labels=labels)(x, level)
        assert (denoised - done.pred_original_sample).abs().max() < 1e-5 * (1 + denoised.abs().max())


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
    noise = partial(normal_batch, 0, indices=range(2), shape=(1, 1, 2))
    given = (model, guidance, noise("latent", step=0).double(), lambda step, raised: noise("churn", step=step))
    exact = sampler.heun(*given, settings(w1=2.0, w2=2.0, **changes))
    assert_agrees(exact, run["x"], 1e-6 if guidance else 1e-11)  # discriminators compute in float32

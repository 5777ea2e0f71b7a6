"""The guider in a modular pipeline of diffusers: Wan's, with flow matching and classifier-free guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import discriminator_guidance
from discriminator_guidance import ConfigError, DiscriminatorGuidance, guided_unet

diffusers = pytest.importorskip("diffusers")
ClassifierFreeGuidance = diffusers.guiders.ClassifierFreeGuidance
DiscriminatorGuider = discriminator_guidance.DiscriminatorGuider
CALLS: list[tuple[int, ...]] = []


def discriminator(x: Tensor, tau: Tensor) -> Tensor:
    CALLS.append(tuple(x.shape))
    return 50 * x.flatten(1).mean(dim=1)


@pytest.fixture
def latents_with(monkeypatch: pytest.MonkeyPatch):
    """What the pipeline draws with a guider."""
    # Wan's module asks for the loader of LoRA weights, which only transformers brings.
    monkeypatch.setattr(diffusers.loaders, "WanLoraLoaderMixin", type("Loader", (), {}), raising=False)
    from diffusers.modular_pipelines.wan import before_denoise, denoise

    steps = ("WanTextInputStep", "WanSetTimestepsStep", "WanPrepareLatentsStep")
    classes = [*(getattr(before_denoise, step) for step in steps), denoise.WanDenoiseStep]
    names = ["input", "set_timesteps", "prepare_latents", "denoise"]
    blocks = {"model_name": "wan", "block_classes": classes, "block_names": names}
    sequence = diffusers.modular_pipelines.SequentialPipelineBlocks
    pipeline = before_denoise.WanModularPipeline(blocks=type("Blocks", (sequence,), blocks)())
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel((1, 2, 2), 2, 12, 16, 16, 8, 16, 16, 1, rope_max_seq_len=32).eval()
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    pipeline.update_components(transformer=transformer, scheduler=diffusers.UniPCMultistepScheduler(**options))

    def draw(guider: ClassifierFreeGuidance) -> Tensor:
        pipeline.update_components(guider=guider)
        text = {"prompt_embeds": torch.ones(1, 6, 8), "negative_prompt_embeds": torch.zeros(1, 6, 8)}
        size = {"num_inference_steps": 6, "height": 64, "width": 64, "num_frames": 5}
        return pipeline(**text, **size, generator=torch.Generator().manual_seed(2), output="latents")

    draw.pipeline = pipeline
    return draw


def test_a_guider_composes_with_classifier_free_guidance_and_is_saved(latents_with, tmp_path: Path) -> None:
    scheduler, free = latents_with.pipeline.scheduler, ClassifierFreeGuidance(guidance_scale=5.0)
    guider = DiscriminatorGuider(discriminator, scheduler, weight=(1.0, 3.0), guidance_scale=5.0)
    plain, guided = latents_with(free), latents_with(guider)
    assert guided.mean() > plain.mean() + 0.1
    assert CALLS == [(1, 16, 2, 8, 8)] * 5  # the first timestep is outside the window
    with guided_unet(latents_with.pipeline.transformer, scheduler, DiscriminatorGuidance(discriminator, 2.0)):
        assert torch.allclose(latents_with(free), guided, atol=1e-4)
    guider.save_pretrained(tmp_path)
    again = DiscriminatorGuider.from_pretrained(tmp_path, discriminators=discriminator, scheduler=scheduler)
    assert torch.equal(latents_with(again), guided)
    assert torch.equal(latents_with(again.new(weight=0.0)), plain)
    again.disable()
    assert torch.equal(latents_with(again), latents_with(ClassifierFreeGuidance(guidance_scale=1.0)))


def test_what_a_guider_lacks_is_one_line() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match="does not call the guider's prepare_models"):
        DiscriminatorGuider(discriminator, scheduler).forward(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ConfigError, match="a scheduler"):
        DiscriminatorGuider(discriminator)
    with pytest.raises(ConfigError, match="that can be saved"):
        DiscriminatorGuider(discriminator, scheduler, weight=lambda sigma: sigma)

"""A modular pipeline of diffusers: Wan's, with flow matching and classifier-free guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from discriminator_guidance import DiscriminatorGuidance, guided_unet

diffusers = pytest.importorskip("diffusers")
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
INPUTS = {"prompt_embeds": torch.ones(1, 6, 8), "negative_prompt_embeds": torch.zeros(1, 6, 8), "output": "latents"}
SIZES = {"num_inference_steps": 6, "height": 64, "width": 64, "num_frames": 5}


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch):
    # Wan's module asks for the loader of LoRA weights, which only transformers brings.
    monkeypatch.setattr(diffusers.loaders, "WanLoraLoaderMixin", type("Loader", (), {}), raising=False)
    from diffusers.modular_pipelines.wan import before_denoise, denoise

    steps = ("WanTextInputStep", "WanSetTimestepsStep", "WanPrepareLatentsStep")
    classes = [*(getattr(before_denoise, step) for step in steps), denoise.WanDenoiseStep]
    blocks = {"model_name": "wan", "block_classes": classes, "block_names": ["input", "times", "latents", "denoise"]}
    sequence = type("Blocks", (diffusers.modular_pipelines.SequentialPipelineBlocks,), blocks)
    pipeline = before_denoise.WanModularPipeline(blocks=sequence())
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel((1, 2, 2), 2, 12, 16, 16, 8, 16, 16, 1, rope_max_seq_len=32).eval()
    scheduler, guider = diffusers.UniPCMultistepScheduler(**FLOW), diffusers.guiders.ClassifierFreeGuidance(5.0)
    pipeline.update_components(transformer=transformer, scheduler=scheduler, guider=guider)
    return pipeline


def test_a_network_is_guided_under_the_classifier_free_guidance_of_a_modular_pipeline(pipeline) -> None:
    shapes: list[torch.Size] = []

    def discriminator(x: Tensor, tau: Tensor) -> Tensor:
        shapes.append(x.shape)
        return 50 * x.flatten(1).mean(dim=1)

    def latents() -> Tensor:
        return pipeline(**INPUTS, **SIZES, generator=torch.Generator().manual_seed(2))

    plain = latents()
    with guided_unet(pipeline.transformer, pipeline.scheduler, DiscriminatorGuidance(discriminator, 2.0)):
        assert latents().mean() > plain.mean() + 0.1
    assert shapes == [(1, 16, 2, 8, 8)] * 5  # the first timestep is outside the window

"""The guider in a modular pipeline of diffusers: Wan's, with flow matching and classifier-free guidance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import discriminator_guidance
from discriminator_guidance import ConfigError, DiscriminatorGuidance, guided_unet

diffusers = pytest.importorskip("diffusers")
Free, Guider = diffusers.guiders.ClassifierFreeGuidance, discriminator_guidance.DiscriminatorGuider
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
    pipeline.update_components(transformer=transformer, scheduler=diffusers.UniPCMultistepScheduler(**FLOW))
    return pipeline


def test_a_guider_composes_with_classifier_free_guidance_and_is_saved(pipeline, tmp_path: Path) -> None:
    shapes: list[torch.Size] = []

    def discriminator(x: Tensor, tau: Tensor) -> Tensor:
        shapes.append(x.shape)
        return 50 * x.flatten(1).mean(dim=1)

    def latents(guider) -> Tensor:
        pipeline.update_components(guider=guider)
        return pipeline(**INPUTS, **SIZES, generator=torch.Generator().manual_seed(2))

    guider, free = Guider(discriminator, pipeline.scheduler, weight=(np.float32(1), 3.0), guidance_scale=5.0), Free(5.0)
    plain, guided = latents(free), latents(guider)
    assert guided.mean() > plain.mean() + 0.1
    assert shapes == [(1, 16, 2, 8, 8)] * 5  # the first timestep is outside the window
    with guided_unet(pipeline.transformer, pipeline.scheduler, DiscriminatorGuidance(discriminator, 2.0)):
        assert torch.allclose(latents(free), guided, atol=1e-4)
    guider.save_pretrained(tmp_path)
    again = Guider.from_pretrained(tmp_path, discriminators=discriminator, scheduler=pipeline.scheduler)
    assert torch.equal(latents(again), guided)
    assert torch.equal(latents(again.new(weight=0.0)), plain)
    again.disable()
    assert torch.equal(latents(again), latents(Free(1.0)))
    both = torch.cat([plain, plain], dim=1)  # a prediction and its learned variance
    network = torch.nn.Identity()
    network.register_forward_hook(lambda *call: both)
    guider.prepare_models(network)
    guider.set_state(0, 6, torch.tensor(500.0))
    network(plain)
    image, variance = (guider.forward(both, both).pred - both).split(16, dim=1)
    assert (bool(image.any()), bool(variance.any())) == (True, False)
    with pytest.raises(ConfigError, match="saw no latents"):
        guider.forward(plain, plain)
    network(plain)
    with pytest.raises(ConfigError, match="changes predictions"):
        guider.forward(-both, both)
    with pytest.raises(ConfigError, match="cannot be saved"):
        guider.new(weight=lambda sigma: sigma)

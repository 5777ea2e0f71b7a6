"""Commands for a saved diffusers pipeline: train a discriminator of its samples, and draw guided ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from discriminator_guidance.core.errors import InputError, with_remedy
from discriminator_guidance.core.files import read_json, reason
from discriminator_guidance.core.image_files import open_images
from discriminator_guidance.core.images import to_uint8, write_grid
from discriminator_guidance.core.runtime import is_first, prepare
from discriminator_guidance.sampling.denoisers import from_diffusers
from discriminator_guidance.sampling.ensemble import Denoiser
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import sample
from discriminator_guidance.training.discriminator import train_discriminator
from discriminator_guidance.training.trained import TrainedDiscriminator

SEED = 1  # of the samples that are drawn; those that discriminators learn from have 0
REMEDY = "give a folder of `save_pretrained`; guide other models in Python (docs/your_model.md)"


def train(model: Path, data: Path, out: Path, steps: int, seed: int) -> TrainedDiscriminator:
    """Train a discriminator of images against samples of a model; samples and checkpoints stay in out/training."""
    device = prepare("auto", "float32", torch.get_num_threads()).device
    height, width, channels = open_images(data).shape
    denoiser, _ = open_model(model, device, (channels, height, width))
    kept: Any = {"checkpoints": out / "training", "steps": steps, "seed": seed}
    trained = train_discriminator(data, denoiser, device=device, **kept)
    if is_first():
        trained.save(out)
    return trained


def draw(model: Path, discriminators: Sequence[str], weight: float, steps: int, seeds: Sequence[int], out: Path) -> None:
    """Write sample i of a model for every seed i, guided by discriminators; `out` as that of `sample`, or a grid."""
    device = prepare("auto", "float32", torch.get_num_threads()).device
    members = [TrainedDiscriminator.load(folder, device) for folder in discriminators]
    denoiser, shape = open_model(model, device, members[0].about["shape"] if members else None)
    guidance = DiscriminatorGuidance(members, weight) if members else None
    how: Any = {"guidance": guidance, "seed": SEED, "first": seeds, "device": device, "steps": steps}
    if out.suffix == ".png":
        write_grid(out, to_uint8(sample(denoiser, (len(seeds), *shape), **how)))
    else:
        sample(denoiser, (len(seeds), *shape), out=out, **how)


def open_model(
    folder: Path, device: torch.device, images: Sequence[int] | None
) -> tuple[Denoiser, tuple[int, int, int]]:
    """The denoiser of an unconditional model of pixels, and the shape (C, H, W) of its images, which are known or not.

    The model lies in `unet` or `transformer` and its scheduler in `scheduler`, or both in the folder itself.
    """
    import diffusers

    model_folder = next((folder / part for part in ("unet", "transformer") if (folder / part).is_dir()), folder)
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    with with_remedy(REMEDY):
        configs = [model_folder / "config.json", scheduler_folder / "scheduler_config.json"]
        model_config, scheduler_config = (read_json(path, "model") for path in configs)
    size = model_config.get("sample_size")
    size = [size, size] if isinstance(size, int) else size
    shape: Any = tuple(images or [model_config.get("in_channels", 0), *(size or [])])
    try:
        if (folder / "vae").is_dir():
            raise ValueError("a model of latents")
        scheduler = getattr(diffusers, scheduler_config["_class_name"]).from_config(scheduler_config)
        network = getattr(diffusers, model_config["_class_name"]).from_pretrained(model_folder, use_safetensors=True)
        denoiser = from_diffusers(network.to(device).eval().requires_grad_(False), scheduler)
        with torch.no_grad():
            denoiser(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    except Exception as error:  # diffusers raises anything on files and models that are not its own
        what = f"an unconditional diffusers model of images {shape} in {folder}"
        raise InputError(what, reason(error), REMEDY) from error
    return denoiser, shape

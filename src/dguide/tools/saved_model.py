"""Commands for a saved diffusers pipeline: train a discriminator of its samples, and draw guided ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import damage_refused
from discriminator_guidance.core.images import open_images
from discriminator_guidance.core.runtime import is_first, prepare
from discriminator_guidance.sampling.denoisers import from_diffusers
from discriminator_guidance.sampling.guidance import Denoiser, DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import sample
from discriminator_guidance.training.discriminator import train_discriminator
from discriminator_guidance.training.trained import TrainedDiscriminator, check_folder

SEED = 1  # of the samples that are drawn


def train(model: Path, data: Path, out: Path, steps: int, seed: int) -> TrainedDiscriminator:
    """Train a discriminator of images against samples of a model; samples and checkpoints stay in out/training."""
    device = prepare("auto", "float32", torch.get_num_threads()).device
    denoiser, shape = open_model(model, device)
    if model.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in the model", "choose another folder")
    check_folder(out)
    height, width, channels = open_images(data).shape
    if (given := (channels, height, width)) != shape:
        raise InputError(f"images in {data} are {given}, and {model} draws {shape}", "bring the images to this shape")
    trained = train_discriminator(data, denoiser, device=device, checkpoints=out / "training", steps=steps, seed=seed)
    if is_first():
        trained.save(out)
    return trained


def draw(model: Path, guides: Sequence[str], weight: float, steps: int, indices: Sequence[int], out: Path) -> None:
    """Write sample i of a model for every seed i, guided by discriminators, as `sample` does."""
    device = prepare("auto", "float32", torch.get_num_threads()).device
    loaded = [TrainedDiscriminator.load(folder, device) for folder in guides]
    denoiser, shape = open_model(model, device)
    how: Any = {"seed": SEED, "first": indices, "device": device, "steps": steps, "out": out}
    sample(denoiser, (len(indices), *shape), guidance=DiscriminatorGuidance(loaded, weight) if loaded else None, **how)


def open_model(folder: Path, device: torch.device) -> tuple[Denoiser, tuple[int, ...]]:
    """The denoiser of an unconditional model of pixels, and the shape (C, H, W) of its images."""
    import diffusers

    parts = [part for part in ("unet", "transformer") if (folder / part).is_dir()]
    at, below = (folder / parts[0], folder / "scheduler") if parts else (folder, folder)
    remedy = "give a folder of `save_pretrained`, or guide your model in Python (docs/your_model.md)"
    with damage_refused(f"{folder} is no unconditional diffusers model of pixels", remedy):
        if any(folder.glob("v*ae")):
            raise ValueError("it is a model of latents")
        config = json.loads((below / "scheduler_config.json").read_text())
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        how = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
        model = diffusers.AutoModel.from_pretrained(str(at), **how)
        denoiser = from_diffusers(model.to(device).eval().requires_grad_(False), scheduler)
        if not (size := model.config.sample_size):
            raise ValueError("its config.json has no sample_size")
        shape = (model.config.in_channels, *((size, size) if isinstance(size, int) else size))
        with torch.no_grad():
            denoiser(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    return denoiser, shape

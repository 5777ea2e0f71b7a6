"""Images to train on: arrays, tensors, files, or what yields them one by one or in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.image_files import open_images

Images = NDArray[Any] | Tensor | str | Path | Iterable[Any]
Range = tuple[float, float]


def image_tensor(images: Images, name: str, data_range: Range | None, folder: Path | None) -> tuple[Tensor, Any]:
    """Images (N, C, H, W), uint8 or float32 in the units of the diffusion, and their labels (N,) where they have some.

    What is iterated over is written to a file in `folder`, which ends with the process, and mapped into memory.
    """
    if isinstance(images, str | Path):
        images = np.concatenate(list(open_images(Path(images)).batches(1000)))
    if isinstance(images, tuple):
        batch, labels = image_tensor(images[0], name, data_range, folder)
        return batch, images[1] if labels is None else labels
    if isinstance(images, np.ndarray | Tensor):
        tensor, labels = in_units(batch_of(images, name), data_range), None
    else:
        tensor, labels = _spooled(images, name, data_range, folder)
    low, high = (tensor.min().item(), tensor.max().item()) if tensor.is_floating_point() else (-1, 1)  # or NaN
    if not low < 0 and (data_range is None or low != low):
        expected = f"{name} images with values below 0, as diffusion models have them"
        remedy = "give data_range=(0, 1), or what means black and white in them"
        raise InputError(expected, f"values from {low:.3g} to {high:.3g}", remedy)
    return tensor, labels


def _spooled(source: Any, name: str, data_range: Range | None, folder: Path | None) -> tuple[Tensor, Any]:
    """Images of an iterable and their labels, from a file that is mapped into memory."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    file, count, kinds, labels = tempfile.TemporaryFile(dir=folder), 0, set[Any](), list[Any]()  # noqa: SIM115
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    for item in (source[row] for row in range(len(source))) if indexed else source:
        image, *label = item if isinstance(item, tuple | list) else (item,)
        batch = in_units(batch_of(image, name), data_range)
        file.write(batch.contiguous().numpy().data)
        count += len(batch)
        kinds.add((batch.dtype, *batch.shape[1:]))
        labels += [torch.as_tensor(label[0]).view(-1)] if label else []
    if len(kinds) != 1:
        raise InputError(f"{name} images of one shape and type", f"{len(kinds)} kinds", "give at least one, all alike")
    file.flush()
    ((dtype, *shape),) = kinds
    mapped = np.memmap(file, np.uint8 if dtype == torch.uint8 else np.float32, "r+", shape=(count, *shape))
    return torch.from_numpy(mapped), torch.cat(labels).numpy() if labels else None


def batch_of(images: NDArray[Any] | Tensor, name: str) -> Tensor:
    """Images (N, C, H, W) of uint8 or float32 from an array (N, H, W, C) of uint8, or (N, C, H, W), or of one image."""
    tensor = torch.as_tensor(images)
    tensor = tensor if tensor.dim() == 4 else tensor.unsqueeze(0)
    if tensor.dim() != 4 or not tensor.numel() or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        expected = f"{name} images: (N, H, W, C) of uint8, or a tensor (N, C, H, W) of uint8 or floats"
        raise InputError(expected, f"{images.dtype} {tuple(images.shape)}", "convert them")
    if isinstance(images, np.ndarray) and tensor.dtype == torch.uint8:
        tensor = tensor.permute(0, 3, 1, 2)
    return tensor.detach().cpu() if tensor.dtype == torch.uint8 else tensor.detach().cpu().float()


def in_units(images: Tensor, data_range: Range | None) -> Tensor:
    """Floats in the units of the diffusion, by what is black and white in them; None: they are in these units."""
    if images.dtype == torch.uint8 or data_range is None:
        return images
    black, white = data_range
    return (images - black) * (2 / (white - black)) - 1

"""Training data: images of arrays, files or iterables, noised at random VP times or on a grid."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import damage_refused
from discriminator_guidance.core.images import DARK, open_images
from discriminator_guidance.core.noise import Split, generator, importance_times, noised, normal, quantile_grid, scaled
from discriminator_guidance.core.runtime import Compute, gather_rows, share

Source = NDArray[Any] | Tensor | str | Path | Iterable[Any]
Range = tuple[float, float]


def image_tensor(images: Source, name: str, data_range: Range | None, folder: Path | None) -> tuple[Tensor, Any]:
    """Images (N, C, H, W), uint8 or float32 in the units of the diffusion, and their labels (N,) where they have some.

    What is iterated over is written to a file in `folder`, which ends with the process, and mapped into memory.
    """
    if isinstance(images, str | Path) and (path := Path(images)).suffix.lower() == ".npy":  # of `sample`
        with damage_refused(f"images in {path} cannot be read", "give the .npy file that `sample` wrote"):
            images = np.load(path, mmap_mode="c", allow_pickle=False)
    elif isinstance(images, str | Path):
        images = np.concatenate(list(open_images(Path(images)).batches(1000)))
    if isinstance(images, tuple):
        batch, own = image_tensor(images[0], name, data_range, folder)
        return batch, own if images[1] is None else images[1]
    if isinstance(images, np.ndarray | Tensor):
        tensor, labels = in_units(batch_of(images, name), data_range), None
    else:
        tensor, labels = _spooled(images, name, data_range, folder)
    low, high = (tensor.min().item(), tensor.max().item()) if tensor.is_floating_point() else (-1, 1)  # or NaN
    if data_range not in (None, (-1, 1)) and (max(-low, high) > 1.5 or high - low < 0.02):  # in other units
        problem = f"by data_range={data_range} {name} images go from {low:.3g} to {high:.3g}"
        raise InputError(problem, "give real and fake ones in one range")
    if not np.isfinite(high - low) or (low >= DARK and data_range is None):
        problem = f"{name} images have values from {low:.3g} to {high:.3g}, and those of diffusion models go below 0"
        remedy = "give data_range=(0, 1), or what means black and white in them; (-1, 1) if the model has their units"
        raise InputError(problem, remedy if np.isfinite(high - low) else "correct what is no number")
    return tensor, labels


def _spooled(source: Any, name: str, data_range: Range | None, folder: Path | None) -> tuple[Tensor, Any]:
    """Images of an iterable and their labels, from a file that is mapped into memory."""
    if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        raise InputError(f"{name} images are a {type(source).__name__}", "give an array, a path or an iterable")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    file, count, kinds, labels = tempfile.TemporaryFile(dir=folder), 0, set[Any](), list[Any]()  # noqa: SIM115
    for item in source if hasattr(source, "__iter__") else (source[row] for row in range(len(source))):
        image, *label = item if isinstance(item, tuple | list) else (item,)
        batch = in_units(batch_of(image, name), data_range)
        file.write(batch.contiguous().numpy().data)
        count += len(batch)
        kinds.add((batch.dtype, *batch.shape[1:]))
        with damage_refused(f"labels of {name} images are no classes", "give integers, one-hot rows, or images alone"):
            given = [torch.as_tensor(part).cpu() for part in label[:1] if part is not None]
            labels += [part.reshape(len(batch), -1).squeeze(1) for part in given if part.numel()]
    if len(kinds) != 1:
        raise InputError(f"{name} images are of {len(kinds)} kinds (type and shape)", "give at least one, all alike")
    file.flush()
    ((dtype, *shape),) = kinds
    mapped = np.memmap(file, np.uint8 if dtype == torch.uint8 else np.float32, "r+", shape=(count, *shape))
    return torch.from_numpy(mapped), torch.cat(labels).numpy() if labels else None


def batch_of(images: NDArray[Any] | Tensor, name: str) -> Tensor:
    """Images (N, C, H, W) of uint8 or float32 from an array (N, H, W, C) of uint8, or (N, C, H, W), or of one image."""
    if not isinstance(images, Tensor):  # also of PIL, where the numbers in P are no grey values, and negative strides
        if not isinstance(images, np.memmap) and (mode := getattr(images, "mode", "L")) not in ("L", "RGB"):
            raise InputError(f"{name} images have the mode {mode} of PIL", 'convert("L") or convert("RGB") them')
        images = np.ascontiguousarray(images)
        images = images[..., None] if images.ndim == 2 else images
    tensor = torch.as_tensor(images) if getattr(images.dtype, "kind", "f") in "fu" else torch.empty(0)
    tensor = tensor if tensor.dim() == 4 else tensor.unsqueeze(0)
    if tensor.dim() != 4 or not tensor.numel() or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        remedy = "convert them to (N, H, W, C) of uint8, or to a tensor (N, C, H, W) of uint8 or floats"
        raise InputError(f"{name} images are {images.dtype} {tuple(images.shape)}", remedy)
    first, last = (tensor.shape[axis] in (1, 3) for axis in (1, 3))  # where channels may be
    hints = (isinstance(images, np.ndarray), tensor.dtype == torch.uint8)  # of channels last, as PIL has them
    if all(hints) if first == last else last and any(hints):
        tensor = tensor.permute(0, 3, 1, 2)
    return tensor.detach().cpu() if tensor.dtype == torch.uint8 else tensor.detach().cpu().float()


def in_units(images: Tensor, data_range: Range | None) -> Tensor:
    """Floats in the units of the diffusion, by what is black and white in them; None: they are in these units."""
    if images.dtype == torch.uint8 or data_range is None:
        return images
    black, white = data_range
    return (images - black) * (2 / (white - black)) - 1


@dataclass(frozen=True)
class Pairs:
    """Real and fake images, and their split; labels and classes are on the device that computes."""

    real: Tensor  # (N, C, H, W), see `scaled`, on the device or mapped from a file
    fake: Tensor
    labels: Tensor  # (N,) float32 of real ++ fake, 1 real, 0 fake
    classes: Tensor | None  # (N,) int64, for conditional discriminators
    split: Split

    def take(self, rows: np.ndarray) -> Tensor:
        """Images of some rows of real ++ fake, on the device, in the units of the diffusion."""
        first, of_real = len(self.real), rows < len(self.real)
        chosen = torch.empty(len(rows), *self.real.shape[1:], dtype=torch.float32, device=self.labels.device)
        for kind, images, at in ((of_real, self.real, rows), (~of_real, self.fake, rows - first)):
            index = torch.from_numpy(at[kind]).to(images.device)
            chosen[torch.from_numpy(kind).to(chosen.device)] = scaled(images[index].to(chosen.device))
        return chosen


def permuted_labels(pairs: Pairs, seed: int) -> Pairs:
    """The pairs with the labels of the training images permuted: nothing can be learned from them."""
    rows, labels = torch.from_numpy(pairs.split.train).to(pairs.labels.device), pairs.labels.clone()
    order = generator(seed, "labels", 0, 0).permutation(len(rows))
    labels[rows] = labels[rows[torch.from_numpy(order).to(rows.device)]]
    return replace(pairs, labels=labels)


def draw_noised(
    clean: Tensor, rng: np.random.Generator, t_min: float, uniform_fraction: float, flip: bool = False
) -> tuple[Tensor, Tensor]:
    """Noise clean images (N, C, H, W) at random VP times in [t_min, 1], x_vp and t (N,) float32.

    The first `uniform_fraction` of the times are uniform, the others drawn with the density of Kim et al. 2023,
    proportional to beta / (1 - exp(-integral of beta)). With `flip`, half of the images are mirrored.
    """
    count, device = len(clean), clean.device
    u = torch.from_numpy(rng.random(count))
    uniform = round(uniform_fraction * count)
    t = torch.cat([t_min + (1 - t_min) * u[:uniform], importance_times(u[uniform:], t_min)])
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(device)
    if flip:
        mirrored = torch.from_numpy(rng.random(count) < 0.5).to(device).view(-1, 1, 1, 1)
        clean = torch.where(mirrored, clean.flip(3), clean)
    return noised(clean, t, noise), t.float().to(device)


Features = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> a feature map (N, C, S, S)

GRID_T_MIN = 1e-5  # the reproduction validated every member from this VP time on, whatever it was trained with
BATCH = 512  # pairs of image and time in one pass


class GridFeatures(NamedTuple):
    """Frozen features of P pairs of image and grid time, and what identifies each pair."""

    features: Tensor  # (P, C, H, W) in main memory, gigabytes at full size; each process has its share of the pairs
    t: Tensor  # (P,) float32
    time: np.ndarray  # (P,) float64
    labels: Tensor  # (P,) float32, 1 real, 0 fake
    classes: Tensor | None  # (P,) int64, for conditional discriminators
    image: np.ndarray  # (P,) row of real ++ fake


@torch.no_grad()
def grid_features(
    features: Features, pairs: Pairs, rows: np.ndarray, times: int, times_per_image: int, seed: int
) -> GridFeatures:
    """Features of images on the grid, each at `times_per_image` times in turn, with noise of `seed` for every head."""
    image = np.repeat(rows, times_per_image)
    index = np.arange(len(image)) % times
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    device = pairs.labels.device
    mine, kept = share(len(image)), torch.empty(0)
    for start in range(mine.start, mine.stop, BATCH):
        part = slice(start, min(start + BATCH, mine.stop))
        chosen = pairs.take(image[part])
        indices = zip(image[part].tolist(), index[part].tolist(), strict=True)
        noise = [normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in indices]
        t = torch.from_numpy(time[part])
        maps = features(noised(chosen, t, torch.stack(noise).to(device)), t.float().to(device))
        if start == mine.start:  # room for all of them: joined afterwards, they would take twice the memory
            kept = torch.empty(len(mine), *maps.shape[1:], dtype=maps.dtype)
        kept[part.start - mine.start : part.stop - mine.start] = maps
    at = torch.from_numpy(image).to(device)
    classes = None if pairs.classes is None else pairs.classes[at]
    return GridFeatures(kept, torch.from_numpy(time).float().to(device), time, pairs.labels[at], classes, image)


@torch.no_grad()
def grid_logits(head: nn.Module, grid: GridFeatures, compute: Compute) -> Tensor:
    """The (P,) float32 logits of a head, which is left in evaluation mode."""
    head.eval()
    mine, logits = share(len(grid.t)), [grid.t.new_empty(0)]
    for start in range(0, len(mine), BATCH):
        part = slice(mine.start + start, min(mine.start + start + BATCH, mine.stop))
        condition = () if grid.classes is None else (grid.classes[part],)
        with compute.autocast():
            batch: Tensor = head(grid.features[start : start + BATCH].to(grid.t.device), grid.t[part], *condition)
        logits.append(batch.view(-1).float())
    return gather_rows(torch.cat(logits))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images on the right side of probability 0.5; a tie counts as real."""
    return ((logits >= 0).float() == labels).float().mean().item()

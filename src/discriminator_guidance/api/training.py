"""A discriminator for your own diffusion model, trained in one call from real and generated images."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from discriminator_guidance.data.images import content_digest, to_uint8
from discriminator_guidance.data.resume import Resumable
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import CalibrationBin, calibration_bins
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.discriminator import Discriminator
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.discriminator import DiscriminatorSettings, fit_head
from discriminator_guidance.training.grid import GridFeatures, grid_features, grid_logits, validate
from discriminator_guidance.training.loop import NoCheckpoints, Row
from discriminator_guidance.training.pairs import pair_up, split_pairs

Images = NDArray[np.uint8] | Tensor | str | Path
SHARES = 0.8, 0.1  # of the images, for training and validation; the rest is for the calibration
FEWEST = 10  # images of each kind
TIMES, PAIRS = 8, 8192  # grid of VP times, and about how many pairs of image and time a network is validated on
OUTLIERS = 0.05  # share of the values of samples that may lie outside [-1.1, 1.1]; they are clipped
WIDTH, DEEPEST = 32, 8  # channels of a small encoder at full size, and the image size at which it stops halving


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator (x_vp, tau) -> logits (N,), its calibration by VP time on held-out images, its training curve."""

    discriminator: Discriminator
    calibration: list[CalibrationBin]
    history: list[Row]


def train_discriminator(
    real: Images,
    fake: Images,
    extractor: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    epochs: int = 40,
    learning_rate: float = 3e-4,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> TrainedDiscriminator:
    """Train a discriminator of real (1) and generated (0) images at all noise levels, as the pipeline does.

    real, fake: (N, H, H, C) uint8, or (N, C, H, H) tensors in [-1, 1], which are rounded to 8 bits; or a folder, a zip
    or an .npz file of images. extractor: a pretrained `EncoderUNet`, or any (x_vp, tau) -> feature map (N, C, S, S),
    on whose frozen features a head is trained; None trains a small encoder of the images from scratch. device: CUDA
    where there is one, by default. checkpoint: a folder; the same call resumes there after a kill, with the same bytes.
    The weights used are those of the epoch with the smallest validation loss. Kim et al. 2023, Eq. 4.

    >>> rng = np.random.default_rng(0)
    >>> real, fake = (rng.integers(low, low + 100, (20, 8, 8, 1), dtype=np.uint8) for low in (150, 0))
    >>> trained = train_discriminator(real, fake, epochs=1, device="cpu", progress=False)
    >>> trained.discriminator(torch.zeros(4, 1, 8, 8), torch.tensor(0.1)).shape
    torch.Size([4])
    """
    real, fake = _as_uint8(real, "real"), _as_uint8(fake, "fake")
    _check(real, fake)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    compute = Compute(place, "float32")
    settings = DiscriminatorSettings(
        seed, epochs, learning_rate, weight_decay=1e-7, t_min=1e-5, batch_size=batch_size, importance_sampling=True,
        reshuffle=True, flip=False, label_smoothing=0.0, bagging=None, checkpoint="best", checkpoint_every=1,
    )  # fmt: skip
    pairs = pair_up(real, fake, None, split_pairs(len(real), len(fake), *SHARES, seed), place)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        network, probe = _untrained(extractor, pairs.images[:2].float() / 127.5 - 1, place)

        def grid(rows: NDArray[np.integer]) -> GridFeatures:
            per_image = max(1, min(TIMES, PAIRS // len(rows)))
            return grid_features(network.features, pairs, rows, TIMES, per_image, seed)

        validation, test = grid(pairs.split.validation), grid(pairs.split.test)
        key = {
            "settings": asdict(settings),
            "arrays": [content_digest(array) for array in (real, fake, probe.cpu().numpy())],
            "versions": [torch.__version__, np.__version__, place.type],
        }
        checkpoints = NoCheckpoints() if checkpoint is None else Resumable(Path(checkpoint), "discriminator", key)
        with _bar(progress, epochs) as advance:
            kept, history = fit_head(
                network.head,
                network.features,
                pairs,
                lambda head: validate(head, validation, compute),
                settings,
                compute,
                checkpoints,
                lambda epoch, row: advance(1),
            )
    network.head.load_state_dict(kept)
    logits = grid_logits(network.head, test, compute).cpu().numpy()
    calibration = calibration_bins(logits, test.labels.cpu().numpy().astype(np.int64), test.time)
    return TrainedDiscriminator(network.requires_grad_(False).eval(), calibration, history)


def _untrained(
    extractor: Callable[[Tensor, Tensor], Tensor] | None, images: Tensor, device: torch.device
) -> tuple[Discriminator, Tensor]:
    """An untrained discriminator, and what its head is given of some images."""
    _, channels, size, _ = images.shape
    if extractor is None:
        sizes = [size]
        while sizes[-1] > DEEPEST and sizes[-1] % 2 == 0:
            sizes.append(sizes[-1] // 2)
        mult = [min(2**level, 4) for level in range(len(sizes))]
        head = EncoderUNet(size, channels, WIDTH, 1, 1, [2 ** (len(sizes) - 1)], mult, num_head_channels=WIDTH)
        return Discriminator(head).to(device), images
    probe = Discriminator(nn.Identity(), extractor).to(device)
    with torch.no_grad():
        features = probe.features(images, torch.tensor(0.5, device=device))
    width = WIDTH * max(1, min(4, features.shape[1] // 128))  # 128, the paper's, on its 512 features
    head = build_head(features.shape[1:], width, num_res_blocks=2, num_head_channels=WIDTH)
    return Discriminator(head, extractor).to(device), features


def _as_uint8(images: Images, what: str) -> NDArray[np.uint8]:
    """Images (N, H, W, C) from what a user has."""
    if isinstance(images, str | Path):
        from discriminator_guidance.data.image_files import open_images

        return np.concatenate(list(open_images(Path(images)).batches(1000)))
    expected = f"{what} images: an array (N, H, W, C) of uint8, or a tensor (N, C, H, W) in [-1, 1], some of it below 0"
    found = f"{images.dtype} {tuple(images.shape)}"
    if isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4 and len(images):
        low, high = images.min().item(), images.max().item()  # NaN, if there is one
        if low < 0 and math.isfinite(low + high) and (images.abs() > 1.1).float().mean() <= OUTLIERS:
            return to_uint8(images.detach().float().cpu().numpy())
        found = f"values from {low:.3g} to {high:.3g}"
    elif isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4:
        return images
    raise InputError(expected, found, "convert them")


def _check(*sets: NDArray[np.uint8]) -> None:
    (_, height, width, _), shapes = sets[0].shape, {images.shape[1:] for images in sets}
    if len(shapes) > 1 or height != width or min(map(len, sets)) < FEWEST:
        expected = f"at least {FEWEST} square images of each kind, all of one shape (H, H, C)"
        found = " and ".join(str(images.shape) for images in sets)
        raise InputError(expected, found, "give more images, or bring them to one shape")


def _bar(shown: bool, epochs: int) -> AbstractContextManager[Callable[[int], None]]:
    """Progress, where rich is installed."""
    if not shown or find_spec("rich") is None:
        return nullcontext(lambda count: None)
    from discriminator_guidance.progress import bar

    return bar("training the discriminator", epochs, "epochs")

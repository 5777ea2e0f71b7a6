"""Feature networks, features of images, and the check that each set of them passes before a metric reads it."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import damage_refused, load_network, load_weights
from discriminator_guidance.core.noise import as_tensor, scaled
from discriminator_guidance.core.runtime import Compute, usable, warn_in_training


class FidNetwork(nn.Module):
    """Four convolutions, halving after the second and the fourth, a layer of features, and the logits.

    Images (N, C, H, W) in [-1, 1] -> (N, classes).
    """

    def __init__(self, image_size: int, in_channels: int, channels: Sequence[int], features: int, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, padding=1), nn.SiLU(),
            nn.Conv2d(first, second, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.SiLU(),
            nn.Conv2d(third, fourth, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        # Normalised: raw features grow without bound, and few would rule a distance. SiLU: a ReLU may never fire.
        linear = nn.Linear(fourth * (image_size // 4) ** 2, features)
        self.penultimate = nn.Sequential(linear, nn.LayerNorm(features), nn.SiLU())
        self.classifier = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features, (N, features)."""
        return self.penultimate(self.convolutions(x))

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (N, classes)."""
        return self.classifier(self.features(x))


INCEPTION_FEATURES = 2048


class InceptionFeatures(nn.Module):
    """Pooled features after resizing to 299 x 299 as TensorFlow 1 did; `state` holds torch-fidelity's weights by name.

    Without `state` it has random weights, to be timed. Not torchmetrics' `NoTrainInceptionV3`, whose default
    `antialias=True` shifts features against all published values.
    """

    def __init__(self, state: Mapping[str, Tensor] | None) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class AsDrawn(FeatureExtractorInceptionV3):  # type: ignore[misc]
            def load_state_dict(self, *_: Any, **__: Any) -> None:
                """Load nothing: torch-fidelity would download weights, or unpickle a file freely."""

        super().__init__()
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        self.network: nn.Module = AsDrawn("inception", [str(INCEPTION_FEATURES)], empty)
        if state is None:
            for layer in self.network.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)  # keeps the scale of features from layer to layer
            return
        with damage_refused("the weights are not those of torch-fidelity's Inception", "get the file again"):
            nn.Module.load_state_dict(self.network, state)

    def features(self, x: Tensor) -> Tensor:
        """(N, 2048) features of (N, C, H, W) images in [-1, 1] that had 8 bits; one channel is repeated to three."""
        return self.network(((x + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1))[0]


INCEPTION = {"source": "inception"}  # in config.json, in place of constructor arguments: Inception has none


def load_fid_network(folder: Path, compute: Compute) -> FidNetwork | InceptionFeatures:
    """The network whose `features` of images in [-1, 1] define the Frechet distance, frozen, in full float32."""
    state, arguments = load_weights(folder, "fid_network")
    network = InceptionFeatures(state) if arguments == INCEPTION else load_network(FidNetwork, folder, "fid_network")
    return network.to(compute.device).eval().requires_grad_(False)


Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


def extract_features(
    features_of: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device | str,
    advance: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float32]:
    """Compute the (N, d) features of (N, H, W, C) images; the network gets float32 NCHW batches in [-1, 1]."""
    if (images := np.asarray(images)).dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(f"images are {images.dtype} {images.shape}", "convert them to uint8 (N, H, W, C), N from 1 on")
    warn_in_training("the feature network", features_of)
    if isinstance(features_of, FidNetwork):
        device, features_of = next(features_of.parameters()).device, features_of.features
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = scaled(as_tensor(images[start : start + batch_size], usable(device)))
            rows = features_of(batch)
            if not isinstance(rows, Tensor) or rows.dim() != 2:
                raise InputError("the feature network returns no tensor (N, d)", "let it return one")
            batches.append(rows.float().cpu().numpy())
            advance(len(batch))
    return np.concatenate(batches)


def comparable(*sets: Floats) -> list[Doubles]:
    """Feature sets (N, d) as float64; an InputError for a set of one row, for NaN, or for two widths d."""
    sets = tuple(np.asarray(rows.detach().cpu().double() if isinstance(rows, Tensor) else rows) for rows in sets)
    for features in sets:
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != sets[0].shape[1]:
            raise InputError(f"features are {[rows.shape for rows in sets]}", "give (N, d) of one network, N from 2 on")
        if len(odd := np.flatnonzero(~np.isfinite(features).all(axis=1))):
            problem = f"features are NaN or infinity in {len(odd)} of {len(features)} rows, first in row {odd[0]}"
            raise InputError(problem, f"look at sample {odd[0]}: the image or the network that produced it is damaged")
    return [np.ascontiguousarray(features, dtype=np.float64) for features in sets]

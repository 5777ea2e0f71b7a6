"""torch-fidelity's Inception-v3, the network whose features published FIDs compare."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from discriminator_guidance.errors import InputError

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
        try:
            nn.Module.load_state_dict(self.network, state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:200]
            raise InputError("weights of torch-fidelity's Inception", reason, "get the file again") from error

    def features(self, x: Tensor) -> Tensor:
        """(N, 2048) features of (N, C, H, W) images in [-1, 1] that had 8 bits; one channel is repeated to three."""
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)
        features: Tensor = self.network(pixels.expand(-1, 3, -1, -1))[0]
        return features

"""torch-fidelity's Inception-v3, the network whose features the literature's FID compares."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from discriminator_guidance.errors import InputError

INCEPTION_FEATURES = 2048


class InceptionFeatures(nn.Module):
    """The pooled features of torch-fidelity's Inception, through torchmetrics, resized as TensorFlow 1 did.

    Args:
        state: tensors by name, as in torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.

    Raises:
        InputError: they are not those of this network.

    Deviation: `antialias=False`; torchmetrics' own default smooths while resizing, which shifts features against all
    published values. torchmetrics unpickles a weights file freely, so it is given one that was written from these
    tensors in memory.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        super().__init__()
        stream: Any = io.BytesIO()
        torch.save(dict(state), stream)
        stream.seek(0)
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_FEATURES)], stream, antialias=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:200]
            raise InputError("weights of torch-fidelity's Inception", reason, "get the file again") from error

    def features(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: (N, C, H, W) pictures in [-1, 1], C of 1 (grey, repeated) or 3; of 8 bits before they were scaled.

        Returns:
            (N, 2048) float32.
        """
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)
        features: Tensor = self.network(pixels.expand(-1, 3, -1, -1))
        return features


def random_inception() -> InceptionFeatures:
    """The network with random weights, to be timed.

    Returns:
        The network; kernels are drawn so that the scale of the features is kept from layer to layer.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    class AsDrawn(NoTrainInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            return None

    stream: Any = io.BytesIO()
    torch.save({}, stream)
    stream.seek(0)
    drawn = AsDrawn("random", [str(INCEPTION_FEATURES)], stream)
    for layer in drawn.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return InceptionFeatures(drawn.state_dict())

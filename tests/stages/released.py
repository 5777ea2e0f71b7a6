"""Small files as their authors release them: EDM pickles, state dicts of ADM classifiers and discriminator heads."""

from pathlib import Path

import torch

from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet, build_head
from tests.checkpoints import lookalike
from tests.standins import alive

EDM = {**lookalike.DDPMPP, "img_resolution": 8, "img_channels": 1}
FEATURES = (64, 8, 8)  # of the classifier below; its attention heads have 64 channels, as all released ones


def edm_file(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    """Write an EDM checkpoint of images of 8 x 8 x 1; returns its weights."""
    torch.manual_seed(0)
    arguments = {**EDM, **changes}
    network = lookalike.network(arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = lookalike.checkpoint(network, arguments, path.with_suffix(".executed"))
    path.write_bytes(lookalike.dumps(checkpoint))
    return network.state_dict()


def classifier_file(path: Path, in_channels: int = 1, image_size: int = 8, condition: bool = False) -> EncoderUNet:
    """Write a classifier's state dict."""
    torch.manual_seed(1)
    factors = [image_size // size for size in (32, 16, 8)]
    network = EncoderUNet(image_size, in_channels, 64, 10, 1, factors, CHANNEL_MULT[image_size], condition=condition)
    return _save(network, path)


def head_file(path: Path, feature_shape: tuple[int, int, int] = FEATURES, condition: bool = False) -> EncoderUNet:
    """Write a discriminator head's state dict."""
    torch.manual_seed(2)
    return _save(build_head(feature_shape, condition, model_channels=64, num_res_blocks=1), path)


def _save(network: EncoderUNet, path: Path) -> EncoderUNet:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(alive(network).state_dict(), path)
    return network

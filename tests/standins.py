"""The files of profile `cifar10` in their released formats and at full size, with random contents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from discriminator_guidance.artifacts import cifar10
from discriminator_guidance.config import Config
from discriminator_guidance.networks.adm import EncoderUNet, create_classifier
from discriminator_guidance.networks.edm import EDMPrecond
from tests.artifacts import cifar_lookalike, lookalike

EDM = {
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 0,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "augment_dim": 9,
}
RELEASED_CLASSES = 1000  # logits of the classifier


def alive(network: nn.Module) -> nn.Module:
    """Give layers that start at 0 small random weights, so that what comes before them has an effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn_like(parameter))
    return network.eval()


def write_edm(path: Path, label_dim: int = 0) -> EDMPrecond:
    """An EDM pickle whose embedded source text leaves a file beside it if it is executed."""
    torch.manual_seed(0)
    arguments = {**EDM, "label_dim": label_dim}
    made = EDMPrecond(**arguments)
    alive(made)
    content = lookalike.checkpoint(made, arguments, path.with_suffix(".executed"), scalar=lookalike.SCALAR_OLD)
    path.write_bytes(lookalike.dumps(content))
    return made


def write_classifier(path: Path) -> EncoderUNet:
    """A state dict of the ADM classifier, in PyTorch's zip format."""
    torch.manual_seed(1)
    return _write_adm(create_classifier(32, 3, RELEASED_CLASSES, 128, 4), path, zipped=True)


def write_head(path: Path, condition: bool = False) -> EncoderUNet:
    """A state dict of a discriminator as the authors trained it, in PyTorch's legacy format."""
    torch.manual_seed(2)
    return _write_adm(create_classifier(8, 512, 1, 128, 2, condition=condition), path, zipped=False)


def _write_adm(network: EncoderUNet, path: Path, zipped: bool) -> EncoderUNet:
    alive(network)
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    return network


def write_inception(path: Path) -> str:
    """A state dict of torch-fidelity's Inception; its sha256."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(3)
    with (
        patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None),  # weights stay as drawn
    ):
        network = FeatureExtractorInceptionV3("standin", ["2048"])
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)  # keeps the scale through all layers
    torch.save(network.state_dict(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_archive(path: Path) -> dict[str, str]:
    """A small archive laid out like the official CIFAR-10, of random pictures.

    Returns:
        What the reader takes for official, and what it must take this archive for: replacements in its source.
    """
    parts = cifar_lookalike.contents()
    cifar_lookalike.write_archive(path, parts)
    digests = {name: hashlib.md5(content).hexdigest() for name, content in parts.items()}
    digests[cifar10.ARCHIVE] = hashlib.md5(path.read_bytes()).hexdigest()
    return {
        f"ARCHIVE_BYTES = {cifar10.ARCHIVE_BYTES:_}": f"ARCHIVE_BYTES = {path.stat().st_size}",
        **{cifar10.MD5[name]: digest for name, digest in digests.items()},
    }


def write_all(root: Path, config: Config) -> dict[str, str]:
    """Every file that the profile names, at its place.

    Args:
        root: of the project.
        config: of the profile.

    Returns:
        See `write_archive`.
    """
    (authors,) = [row.path for row in config.discriminator.members.values() if hasattr(row, "path")]
    paths = [
        root / path
        for path in (config.real.path, config.score.path, config.extractor.path, config.fid_network.path, authors)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    archive, score, extractor, inception, head = paths
    write_edm(score, label_dim=len(cifar_lookalike.NAMES) if config.cond else 0)
    write_classifier(extractor)
    write_head(head, condition=config.cond)
    write_inception(inception)
    return write_archive(archive)

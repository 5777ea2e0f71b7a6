"""The files of profile `cifar10` in their released formats and at full size, with random contents."""

from pathlib import Path

import torch
from torch import nn

from dguide.settings import Config
from dguide.sources import CIFAR10_MD5
from discriminator_guidance.metrics.features import InceptionFeatures
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from tests.checkpoints import lookalike
from tests.sources import cifar_lookalike

EDM = {"img_resolution": 32, "img_channels": 3, "model_channels": 128, "channel_mult": [2, 2, 2], "num_blocks": 4,
       "attn_resolutions": [16], "augment_dim": 9}  # fmt: skip
RELEASED_CLASSES = 1000  # logits of the classifier


def alive(network: nn.Module) -> nn.Module:
    """Give layers that start at 0 small random weights, so that what comes before them has an effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn_like(parameter))
    return network.eval()


def write_all(root: Path, config: Config) -> tuple[str, str]:
    """Write every file that the profile names; the official md5 of CIFAR-10 and that of the archive written."""
    torch.manual_seed(0)
    starts = {row.start for row in config.members.values() if row.start.startswith("data/raw/")}
    paths = [config.real.path, config.score.path, config.extractor.path, config.fid_network.path, *starts]
    archive, score, extractor, inception, *heads = (root / path for path in paths)
    archive.parent.mkdir(parents=True, exist_ok=True)
    arguments = {**EDM, "label_dim": 10 if config.cond else 0}
    network = alive(EDMPrecond(**arguments))
    content = lookalike.checkpoint(network, arguments, score.with_suffix(".executed"), scalar=lookalike.SCALAR_OLD)
    score.write_bytes(lookalike.dumps(content))  # its embedded source leaves a file if it is executed
    torch.save(alive(EncoderUNet(32, 3, 128, RELEASED_CLASSES, 4, [1, 2, 4])).state_dict(), extractor)
    for head in heads:
        made = alive(EncoderUNet(8, 512, 128, 1, 2, [1], [1], condition=config.cond))
        torch.save(made.state_dict(), head, _use_new_zipfile_serialization=False)  # as the authors' file
    torch.save(InceptionFeatures(None).network.state_dict(), inception)
    return CIFAR10_MD5, cifar_lookalike.write_archive(archive, cifar_lookalike.contents())

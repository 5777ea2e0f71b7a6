"""Pretrained networks: files of EDM, ADM and DG as their authors released them, and releases of this project."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import AGAIN, Network, damage_refused, load_network, local_folder, read_json
from discriminator_guidance.core.runtime import usable
from discriminator_guidance.metrics.features import FidNetwork
from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits, build_discriminator
from discriminator_guidance.networks.edm import EDMPrecond


class Pretrained(NamedTuple):
    """The content of a release: a denoiser, discriminators, and a FID network unless that is Inception."""

    denoiser: EDMPrecond  # (x, sigma[, classes]) -> D
    discriminator: MemberLogits  # (x_vp, tau[, classes]) -> logits (M, N)
    fid_network: FidNetwork | None  # its `features` are a network for `frechet_distance`
    shape: tuple[int, int, int]  # (C, H, W) of an image


@torch.inference_mode(False)
def from_pretrained(folder: str | Path, *members: str, device: torch.device | str = "cpu") -> Pretrained:
    """The networks of a release, to sample with guidance and to measure the samples.

    Args:
        folder: `dist/<profile>`, which `make release` wrote; `models/<profile>` of a single training; or "user/repo" on
            the Hugging Face Hub.
        members: names of discriminators; the first, if none is given.
        device: where the networks are put.

    >>> models = from_pretrained("dist/mini", "d0", "d1")
    >>> guidance = DiscriminatorGuidance(models.discriminator)
    >>> sample(models.denoiser, (4, *models.shape), guidance=guidance, steps=4).shape[0]
    4
    """
    root = local_folder(folder)

    def load(build: Callable[..., Network], part: str) -> Network:
        with damage_refused(f"{root / part} has no network", "pack it again with `make release`, or download it again"):
            network = load_network(build, root / part, part)
        return network.to(usable(device)).eval().requires_grad_(False)

    score = load(EDMPrecond, "score")
    chosen = members or sorted(path.name for path in (root / "discriminator").glob("[!.]*"))[:1]
    heads = [load(build_discriminator, f"discriminator/{name}") for name in chosen]
    fid = root / "fid_network"
    trained = fid.exists() and "image_size" in read_json(fid / "config.json", "fid_network")
    fid_network = load(FidNetwork, "fid_network") if trained else None
    shape = (score.img_channels, score.img_resolution, score.img_resolution)
    return Pretrained(score, MemberLogits(load(EncoderUNet, "extractor"), *heads), fid_network, shape)


def load_edm(path: str | Path, device: torch.device | str = "cpu") -> EDMPrecond:
    """The denoiser (x, sigma[, classes]) -> D in one of EDM's .pkl files; nothing in it is executed.

    Args:
        path: the file.
        device: where the network is put.

    >>> denoiser = load_edm("edm-cifar10-32x32-uncond-vp.pkl")
    >>> images = torch.zeros(1, denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution)
    >>> denoiser(images, torch.ones(1)).shape == images.shape
    True
    """
    return read_edm(Path(path))[0].to(usable(device)).eval().requires_grad_(False)


@torch.inference_mode(False)
def load_discriminator(
    extractor: str | Path, *heads: str | Path, head_channels: int = 64, device: torch.device | str = "cpu"
) -> nn.Module:
    """Discriminators (x_vp, tau[, classes]) -> logits (M, N) from an extractor and M heads.

    The 64x64 classifier of ADM is refused: its times are those of the cosine schedule.

    Args:
        extractor: the .pt file of an ADM network, or a folder that a stage or `TrainedDiscriminator.save` wrote, or
            "user/repo" on the Hugging Face Hub. What `TrainedDiscriminator.save` wrote needs no heads.
        heads: as many such files or folders as there are members.
        head_channels: channels of an attention head, which leave no trace in .pt files.
        device: where the networks are put.

    >>> discriminator = load_discriminator("32x32_classifier.pt", "discriminator_60.pt")
    >>> discriminator(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 0.5])).shape
    torch.Size([1, 2])
    """

    def load(path: Path) -> nn.Module:
        if not path.suffix or path.is_dir():
            with damage_refused(f"{path} has no complete discriminator", AGAIN):
                return load_network(build_discriminator, path, "discriminator")
        return read_adm(path, head_channels)[0]

    first, *members = (load(local_folder(part)) for part in (extractor, *heads))
    if members and not isinstance(first, EncoderUNet):
        raise ConfigError(f"{extractor} is no extractor", "load each alone, and use DiscriminatorGuidance([a, b])")
    return (MemberLogits(first, *members) if members else first).to(usable(device)).eval().requires_grad_(False)

"""Pretrained networks: files of EDM, ADM and DG as their authors released them, and releases of this project."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from discriminator_guidance.api.sampling import DiscriminatorGuidance
from discriminator_guidance.checkpoints.released import read_adm, read_edm
from discriminator_guidance.checkpoints.weights import fit_network
from discriminator_guidance.data.files import reason
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import MemberLogits
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Pretrained:
    """What a release holds: the denoiser (x, sigma[, one-hot class labels]) -> D, the discriminators, the FID network.

    heads: by member, on the features of one extractor. fid_network: its `features` serve `frechet_distance`; None in a
    release with Inception.
    """

    denoiser: EDMPrecond
    extractor: EncoderUNet
    heads: dict[str, EncoderUNet]
    fid_network: FidNetwork | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.denoiser.img_channels, self.denoiser.img_resolution, self.denoiser.img_resolution

    def guidance(self, *members: str, class_labels: Tensor | None = None, **options: Any) -> DiscriminatorGuidance:
        """Guidance by the named members, or by the first; class_labels (N,) of the batch for conditional ones.

        options: weight, rule, window, member_weights of `DiscriminatorGuidance`.
        """
        if unknown := [name for name in members if name not in self.heads]:
            raise ConfigError("a member of the release", repr(unknown[0]), f"choose from: {', '.join(self.heads)}")
        chosen = [self.heads[name] for name in members or list(self.heads)[:1]]
        logits = MemberLogits(self.extractor, chosen)
        return DiscriminatorGuidance(lambda x_vp, tau: logits(x_vp, tau, class_labels), **options)


def from_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> Pretrained:
    """The networks of a release, a folder that `make release` wrote.

    >>> from discriminator_guidance import sample
    >>> models = from_pretrained("dist/mini")
    >>> samples = sample(models.denoiser, (4, *models.shape), guidance=models.guidance("d0"), steps=4)
    >>> samples.shape[0]
    4
    """
    root = Path(folder)

    def load(build: Callable[..., Network], part: Path) -> Network:
        what, remedy = f"a network in {part}", "pack it again with `make release`, or download it again"
        try:
            from safetensors.torch import load_file

            arguments = json.loads((part / "config.json").read_text(encoding="utf-8"))
            state = load_file(part / "model.safetensors")
        except Exception as error:  # safetensors and json raise several types on damaged files
            raise InputError(what, reason(error), remedy) from error
        return _frozen(fit_network(build, arguments, state, what, remedy), device)

    return Pretrained(
        load(EDMPrecond, root / "score"),
        load(EncoderUNet, root / "extractor"),
        {path.name: load(EncoderUNet, path) for path in sorted((root / "discriminator").glob("*"))},
        load(FidNetwork, root / "fid_network") if (root / "fid_network").exists() else None,
    )


def load_edm(path: str | Path, device: torch.device | str = "cpu") -> EDMPrecond:
    """The denoiser (x, sigma[, one-hot class labels]) -> D in one of EDM's .pkl files; nothing in it is executed.

    >>> denoiser = load_edm("edm-cifar10-32x32-uncond-vp.pkl")
    >>> size = denoiser.img_resolution
    >>> denoiser(torch.zeros(1, denoiser.img_channels, size, size), torch.ones(1)).shape[-1] == size
    True
    """
    state, arguments = read_edm(Path(path))
    return _frozen(fit_network(EDMPrecond, arguments, state, str(path), "use the file as published"), device)


def load_discriminator(
    extractor: str | Path, *heads: str | Path, head_channels: int = 64, device: torch.device | str = "cpu"
) -> MemberLogits:
    """Discriminators (x_vp, tau[, classes]) -> logits (M, N) from the .pt files of an ADM classifier and of M heads.

    head_channels: channels of an attention head, which leave no trace in the files.

    >>> discriminator = load_discriminator("32x32_classifier.pt", "discriminator_60_uncond.pt")
    >>> discriminator(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 0.5])).shape
    torch.Size([1, 2])
    """
    networks = []
    for path in (extractor, *heads):
        state, arguments = read_adm(Path(path), head_channels)
        networks.append(fit_network(EncoderUNet, arguments, state, str(path), "use the file as published"))
    return _frozen(MemberLogits(networks[0], networks[1:]), device)


def _frozen(network: Network, device: torch.device | str) -> Network:
    return network.to(device).eval().requires_grad_(False)

"""Files as others release them, small: EDM pickles, state dicts of ADM classifiers and of discriminator heads."""

from __future__ import annotations

from pathlib import Path

import torch

from discriminator_guidance.networks.adm import EncoderUNet, build_head, create_classifier
from tests.artifacts import lookalike

from .conftest import Study, spare_members

EDM = {**lookalike.DDPMPP, "img_resolution": 8, "img_channels": 1}
FEATURES = (64, 8, 8)  # of the classifier below; its attention heads have 64 channels, as all released ones


def edm_file(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    """Write an EDM checkpoint of pictures of 8 x 8 x 1, and give its weights."""
    torch.manual_seed(0)
    arguments = {**EDM, **changes}
    made = lookalike.network(arguments)
    canary = path.with_suffix(".executed")
    path.write_bytes(lookalike.dumps(lookalike.checkpoint(made, arguments, canary)))
    return made.state_dict()


def classifier_file(path: Path, in_channels: int = 1, image_size: int = 8, condition: bool = False) -> EncoderUNet:
    """Write a classifier's state dict."""
    torch.manual_seed(1)
    return _save(create_classifier(image_size, in_channels, 10, 64, 1, condition=condition), path)


def head_file(
    path: Path, feature_shape: tuple[int, int, int] = FEATURES, condition: bool = False, shift: int = 0
) -> EncoderUNet:
    """Write a discriminator head's state dict; `shift` gives each class what the class so many before it had."""
    torch.manual_seed(2)
    head = build_head(feature_shape, 64, 1, 64, condition=condition)
    if head.label_emb is not None:
        head.label_emb.weight.data = head.label_emb.weight.data.roll(shift, 0)
    return _save(head, path)


def _save(network: EncoderUNet, path: Path) -> EncoderUNet:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Layers that start at 0 would hide whatever comes before them.
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn_like(parameter))
            assert parameter.isfinite().all(), name
    torch.save(network.state_dict(), path)
    return network.eval()


def released_study(root: Path, cond: bool) -> Study:
    """A tiny study of released networks, with one member trained and one released."""
    study = Study(root)
    settings = study.settings
    settings["cond"] = cond
    settings["score"] = {"source": "edm", "path": "edm.pkl"}
    settings["extractor"] = {"source": "adm", "path": "classifier.pt"}
    members = settings["discriminator"]["members"]
    settings["discriminator"] |= {"images": 40, "batch_size": 16}
    settings["discriminator"]["members"] = {"d0": members["d0"] | {"epochs": 2}, "authors": {"path": "head.pt"}}
    spare_members(settings)
    variants = settings["guided"]["variants"]
    settings["guided"]["variants"] = {
        "edm": variants["edm"],
        "d0": variants["d0"],
        "authors": variants["d0"] | {"members": ["authors"]},
    }
    root.mkdir(exist_ok=True, parents=True)
    edm_file(root / "edm.pkl", label_dim=10 if cond else 0)
    classifier_file(root / "classifier.pt")
    head_file(root / "head.pt", condition=cond)
    return study

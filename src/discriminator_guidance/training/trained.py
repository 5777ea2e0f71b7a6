"""A trained discriminator: what it knows about itself, and how it is kept and shared."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.core.errors import ConfigError, with_remedy
from discriminator_guidance.core.files import (
    load_arrays,
    load_network,
    read_json,
    save_weights,
    write_bytes,
    write_json,
    write_npz,
)
from discriminator_guidance.core.hub import AGAIN, local_folder, upload
from discriminator_guidance.core.split import Split
from discriminator_guidance.metrics.classification import CalibrationBin, calibration_bins, expected_calibration_error
from discriminator_guidance.networks.adm import EncoderUNet, build_discriminator
from discriminator_guidance.training.loop import Row, State
from discriminator_guidance.training.pairs import Features

Extractor = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> a feature map (N, C, S, S)
CHANCE = math.log(2)  # the cross-entropy of a coin toss, in nats
SPLIT = ("train", "validation", "test")
TESTED = ("logits", "labels", "time", "image")
CARD = """---
library_name: discriminator-guidance
tags: [diffusion, discriminator-guidance]
---
# {name}

A discriminator of noisy images. Its logit estimates the log density ratio of {real:,} real images{source} to {fake:,}
samples of a diffusion model, of shape {shape}, and guides that model (Kim et al. 2023).

```python
from discriminator_guidance import DiscriminatorGuidance, TrainedDiscriminator

guidance = DiscriminatorGuidance(TrainedDiscriminator.from_pretrained("{name}"))
```

Of real and generated images {train:,} trained it, {validation:,} chose its weights, and {test:,} test it. A
cross-entropy of {chance:.3f} would be chance.

| VP time (0: clean, 1: noise) | cross-entropy | standard error | calibration error |
|---|---|---|---|
{rows}

Settings other than the defaults: `{settings}`.
"""


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator (x_vp, tau[, classes]) -> logits (N,), and the network in it that was trained.

    >>> real, fake = (np.full((20, 8, 8, 1), grey, np.uint8) for grey in (200, 50))
    >>> trained = train_discriminator(real, fake, steps=20, progress=False)
    >>> trained.save("discriminator")
    >>> TrainedDiscriminator.load("discriminator").losses == trained.losses
    True
    """

    network: nn.Module  # on the features
    features: Features  # of the extractor, or x_vp itself
    last: State  # the network's weights after the last step, where others are used; a folder does not keep them
    history: list[Row]
    used: Row  # of the history, whose weights the network has; without training only the scores
    split: Split  # of real ++ fake
    tested: dict[str, NDArray[Any]]  # on held-out images: logits, labels, VP time, and image (a row of real ++ fake)
    about: dict[str, Any]  # numbers, shape and file of the images, and settings other than the defaults

    def __call__(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        """The logits (N,) of x_vp (N, C, H, W) at VP times (N,) or 0-dim."""
        logits: Tensor = self.network(self.features(x_vp, tau), tau, *classes)
        return logits.view(-1)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        loss, rows = self.used["validation_loss"], len(self.history)
        return f"TrainedDiscriminator({parameters:,} parameters, validation loss {loss:.3f}, {rows} validations)"

    @property
    def calibration(self) -> list[CalibrationBin]:
        """Mean probability and fraction of real images by VP time, on held-out images."""
        return calibration_bins(self.tested["logits"], self.tested["labels"], self.tested["time"])

    @property
    def losses(self) -> dict[float, tuple[float, float]]:
        """Cross-entropy on held-out images and its standard error, in nats, by VP time; chance is ln 2 = 0.693."""
        logits, labels = (torch.from_numpy(self.tested[name]) for name in ("logits", "labels"))
        losses = binary_cross_entropy(logits.double(), labels.double(), reduction="none").numpy()
        parts = {float(time): losses[self.tested["time"] == time] for time in np.unique(self.tested["time"])}
        return {time: (part.mean(), part.std(ddof=1) / math.sqrt(len(part))) for time, part in parts.items()}

    def card(self, name: str) -> str:
        """The model card, in Markdown: training data, and loss and calibration by noise level."""
        errors = expected_calibration_error(self.calibration)
        rows = (f"| {t:.2g} | {loss:.3f} | {error:.3f} | {errors[t]:.3f} |" for t, (loss, error) in self.losses.items())
        shown = {name: self.about[name] for name in ("real", "fake", "shape")}
        shown |= {part: len(getattr(self.split, part)) for part in SPLIT}
        source, settings = self.about["source"], json.dumps(self.about["settings"])
        shown |= {"source": f" ({source})" if source else "", "settings": settings, "rows": "\n".join(rows)}
        return CARD.format(name=name, chance=CHANCE, **shown)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write the weights for `load` and `load_discriminator`, and a model card; an `EncoderUNet` below them too.

        name: in the card; None: the folder's.
        """
        root, extractor = Path(folder), getattr(self.features, "__self__", None)
        if not hasattr(self.network, "arguments"):
            got, remedy = type(self.network).__name__, "keep its state_dict by torch.save"
            raise ConfigError("a network with `arguments`, of which it is built again", got, remedy)
        if isinstance(extractor, EncoderUNet):
            save_weights(root / "extractor", extractor.state_dict(), extractor.arguments)
        save_weights(root, self.network.state_dict(), self.network.arguments)  # type: ignore[arg-type]
        arrays = self.tested | {part: getattr(self.split, part) for part in SPLIT}
        write_npz(root / "training.npz", **arrays)
        kept = {"history": self.history, "used": self.used, "about": self.about}
        write_json(root / "training.json", {**kept, "extractor": self.features is not as_it_is})
        write_bytes(root / "README.md", self.card(name or root.resolve().name).encode())

    @classmethod
    def load(
        cls, folder: str | Path, extractor: Extractor | None = None, device: torch.device | str = "cpu"
    ) -> TrainedDiscriminator:
        """Read what `save` wrote; an extractor that is no `EncoderUNet` is not in it and has to be given."""
        root = Path(folder)
        with with_remedy(AGAIN):
            kept = read_json(root / "training.json", "discriminator")
            arrays = load_arrays(root / "training.npz", [*TESTED, *SPLIT], AGAIN)
            parts = [root, *([root / "extractor"] if (root / "extractor").exists() else [])]
            network, *below = (load_network(build_discriminator, part, "discriminator") for part in parts)
        for module in (network, *below):
            module.to(device).eval().requires_grad_(False)
        extractor = extractor or (below[0] if below else None)
        if kept["extractor"] and extractor is None:
            raise ConfigError(f"the extractor of the features that {root} is of", "none", "give extractor=")
        features = as_it_is if extractor is None else getattr(extractor, "features", extractor)
        split, tested = Split(*(arrays[part] for part in SPLIT)), {name: arrays[name] for name in TESTED}
        return cls(network, features, {}, kept["history"], kept["used"], split, tested, kept["about"])

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> TrainedDiscriminator:
        """As `load`, also from "user/repo" on the Hugging Face Hub."""
        return cls.load(local_folder(name), **options)

    def push_to_hub(self, repo: str, private: bool = False) -> None:
        """Put what `save` writes into the repository "user/repo" on the Hugging Face Hub."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder, repo)
            upload(Path(folder), repo, private)


def as_it_is(x_vp: Tensor, tau: Tensor) -> Tensor:
    """The image, for networks that need no features of it."""
    return x_vp

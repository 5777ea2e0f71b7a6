"""A trained discriminator: what it knows about itself, and how it is kept and shared."""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.core import files
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.runtime import usable
from discriminator_guidance.metrics.features import Floats
from discriminator_guidance.networks.adm import MemberLogits, build_discriminator
from discriminator_guidance.training.data import Features
from discriminator_guidance.training.loop import Row, State

CHANCE = math.log(2)  # the cross-entropy of a coin toss, in nats
CARD = """---
library_name: discriminator-guidance
tags: [diffusion, discriminator-guidance]
---
# {name}

A discriminator of noisy images: its logit estimates the log density ratio of real images to samples of a diffusion
model, and guides that model (Kim et al. 2023).

```python
guidance = DiscriminatorGuidance(TrainedDiscriminator.from_pretrained("{name}"))
```

On held-out images, where a cross-entropy of 0.693 is chance:

| VP time (0: clean, 1: noise) | cross-entropy | standard error | calibration error |
|---|---|---|---|
{rows}

Images and settings of its training:

```json
{about}
```
"""


@dataclass(frozen=True)
class CalibrationBin:
    """The images of one VP time with a probability in [bin_low, bin_high), 1 included in the last bin."""

    time: float
    bin_low: float
    bin_high: float
    mean_probability: float
    fraction_real: float
    count: int


def calibration_bins(log_ratio: Floats, labels: NDArray[Any], time: Floats, bins: int = 10) -> list[CalibrationBin]:
    """Mean probability and share of real images, for every VP time and every bin that holds images, in this order.

    Guo et al. 2017, Section 2, with the probability of the positive class.
    """
    probability = torch.sigmoid(torch.from_numpy(log_ratio).double()).numpy()
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.minimum(np.searchsorted(edges, probability, side="right") - 1, bins - 1)
    entries = []
    for moment in np.unique(time):
        for index in np.unique(bin_index[time == moment]):
            inside = (time == moment) & (bin_index == index)
            low, high = float(edges[index]), float(edges[index + 1])
            expected, observed = float(probability[inside].mean()), float(labels[inside].mean())
            entries.append(CalibrationBin(float(moment), low, high, expected, observed, int(inside.sum())))
    return entries


def calibration_errors(entries: list[CalibrationBin]) -> dict[float, float]:
    """Mean |mean_probability - fraction_real| over images, in [0, 1], by VP time (Guo et al. 2017, Eq. 3)."""
    errors = {}
    for moment in dict.fromkeys(entry.time for entry in entries):
        here = [entry for entry in entries if entry.time == moment]
        gap = sum(entry.count * abs(entry.mean_probability - entry.fraction_real) for entry in here)
        errors[moment] = gap / sum(entry.count for entry in here)
    return errors


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator (x_vp, tau[, classes]) -> logits (N,), and the network in it that was trained.

    Attributes:
        history: losses and accuracies, a row for each validation.
        used: the row whose weights the network has; without training only the scores.
        tested: on held-out images: logits, labels, VP time, and image (a row of real ++ fake).
        about: numbers of images by kind and by part of the split, their shape and file, and settings.

    >>> real, fake = (np.full((20, 8, 8, 1), grey, np.uint8) for grey in (200, 50))
    >>> trained = train_discriminator(real, fake, steps=20, progress=False)
    >>> trained.save("discriminator")
    >>> TrainedDiscriminator.load("discriminator").losses == trained.losses
    True
    """

    members: ClassVar = 1  # so that guidance takes what it returns for logits, also if all are in [0, 1]
    network: nn.Module  # on the features
    features: Features  # of the extractor, or x_vp itself
    last: State  # the network's weights after the last step, where others are used; a folder does not keep them
    history: list[Row]
    used: Row
    tested: dict[str, NDArray[Any]]
    about: dict[str, Any]

    def __call__(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        """The logits (N,) of noisy images.

        Args:
            x_vp: images (N, C, H, W), noised as at these VP times.
            tau: VP times (N,) or 0-dim.
            classes: class indices (N,), for a conditional network.
        """
        classes = classes if getattr(self.network, "conditional", True) else ()
        return self.network(self.features(x_vp, tau), tau, *classes).view(-1)

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
        losses, times = self._cross_entropy(), self.tested["time"]
        return {float(time): _mean_and_error(losses[times == time]) for time in np.unique(times)}

    @property
    def at_chance(self) -> bool:
        """Whether no loss is two standard errors below chance: of no VP time, nor the mean over all, by image."""
        _, image, count = np.unique(self.tested["image"], return_inverse=True, return_counts=True)
        overall = _mean_and_error(np.bincount(image, weights=self._cross_entropy()) / count)
        return not any(loss <= CHANCE - 2 * error for loss, error in (overall, *self.losses.values()))  # or NaN

    def _cross_entropy(self) -> NDArray[np.float64]:
        logits, labels = (torch.from_numpy(self.tested[name]).double() for name in ("logits", "labels"))
        return binary_cross_entropy(logits, labels, reduction="none").numpy()

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write weights, also of an extractor below them, what is known of them, and a model card.

        Args:
            folder: where to.
            name: in the card; None: the folder's.
        """
        root, network = check_folder(Path(folder)), self.network
        if self.features is not as_it_is:
            network = MemberLogits(getattr(self.features, "__self__", None), self.network)
        if not hasattr(network, "arguments"):
            raise ConfigError("a network has no `arguments` to build it again", "keep a state_dict by torch.save")
        files.save_weights(root, network.state_dict(), network.arguments)  # type: ignore[arg-type]
        files.write_npz(root / "tested.npz", **self.tested)
        files.write_json(root / "training.json", {"history": self.history, "used": self.used, "about": self.about})
        errors = calibration_errors(self.calibration)
        rows = [f"| {t:.2g} | {loss:.3f} | {error:.3f} | {errors[t]:.3f} |" for t, (loss, error) in self.losses.items()]
        about, name = json.dumps(self.about, indent=2), name or root.resolve().name
        files.write_bytes(root / "README.md", CARD.format(name=name, rows="\n".join(rows), about=about).encode())

    @classmethod
    @torch.inference_mode(False)
    def load(cls, folder: str | Path, device: torch.device | str = "cpu", **hub: Any) -> Self:
        """Read what `save` wrote; `from_pretrained` is the same.

        Args:
            folder: where it is, or "user/repo" on the Hugging Face Hub.
            device: where the network goes.
            hub: of the Hub, such as revision.
        """
        root = files.local_folder(folder, **hub)
        with files.damage_refused(f"{root} has no complete discriminator", files.AGAIN):
            network = files.load_network(build_discriminator, root, "discriminator")
            kept = files.read_json(root / "training.json", "discriminator")
            tested = files.load_arrays(root / "tested.npz", ("logits", "labels", "time", "image"), files.AGAIN)
            history, used, about = kept["history"], kept["used"], kept["about"]
        return cls(network.to(usable(device)).eval().requires_grad_(False), as_it_is, {}, history, used, tested, about)

    from_pretrained = load

    def push_to_hub(self, repo: str, private: bool = False) -> None:
        """Put what `save` writes on the Hugging Face Hub.

        Args:
            repo: "user/repo", which is made if need be.
            private: whether others cannot read it, if it is made.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder, repo)
            with files.damage_refused(f"the repository {repo} on the Hub cannot be written", files.HUB):
                from huggingface_hub import HfApi

                HfApi().create_repo(repo, private=private, exist_ok=True)
                HfApi().upload_folder(repo_id=repo, folder_path=folder)


def check_folder(folder: Path) -> Path:
    """A folder for `save`, refused where it would replace another README.md or config.json."""
    others = [name for name in ("README.md", "config.json") if (folder / name).exists()]
    if others and not (folder / "training.json").exists():
        raise InputError(f"{folder} has {' and '.join(others)} of something else", "choose another folder")
    return folder


def as_it_is(x_vp: Tensor, tau: Tensor) -> Tensor:
    """The image, for networks that need no features of it."""
    return x_vp

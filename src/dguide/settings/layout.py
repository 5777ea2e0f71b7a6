"""The folders of a profile, what interrupted stages leave in them, and pretrained weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import Resumable, damage_refused, read_json, sha256, source_hash
from discriminator_guidance.core.runtime import Compute, Network

REPLICATED = ("score", "extractor", "fake", "discriminator", "guided")  # stages that run once for each replicate


class Layout:
    """The folders of one profile in the project folder `root`, or of its training replicate "r0"; "" if it is alone."""

    def __init__(self, root: Path, profile: str, replicate: str = "") -> None:
        self.root, self.profile, self.replicate = root, profile, replicate
        self.data = root / "data" / profile
        self.real = self.data / "real"  # train.npz or its splits, holdout.npz, card.json, grid.png
        self.report = root / "reports" / profile  # tables, figures, index.html, and what other stages report
        self.study = self.report / "study"  # journals, tables and figures of the studies
        self.partial = root / ".partial" / profile / replicate  # of interrupted stages; not needed when nothing runs

    def replicates(self, count: int) -> list["Layout"]:
        """The folders of each replicate."""
        return [Layout(self.root, self.profile, f"r{number}" if count > 1 else "") for number in range(count)]

    def card(self) -> tuple[int, int, int, int] | None:
        """Numbers of training and of held-out images, of classes and of channels, once stage `real` has run."""
        if not (path := self.real / "card.json").is_file():
            return None
        card = read_json(path, "real")
        with damage_refused(f"{path} is damaged", "run `dguide real` again"):
            return int(card["train"]), int(card["holdout"]), len(card["classes"]), int(card["shape"][2])

    def part(self, split: str) -> Path:
        """The real images of a split; all training images where the profile has no splits."""
        file = self.real / f"{split}.npz"
        return file if file.exists() else self.real / "train.npz"

    def fake(self, network: str | None = None) -> Path:
        """samples.npz, grid.png of unguided samples, of the final score network or of another one."""
        return self.data / "fake" / (network or "") / self.replicate

    def guided(self, variant: str) -> Path:
        """samples.npz, grid.png of a variant."""
        return self.data / "guided" / variant / self.replicate

    def model(self, word: str) -> Path:
        """model.safetensors, config.json, history.csv of `score`, `extractor` or `fid_network`."""
        return self.root / "models" / self.profile / word / ("" if word == "fid_network" else self.replicate)

    def discriminator(self, member: str) -> Path:
        """Weights and test logits of a member."""
        return self.model(f"discriminator/{member}")

    def discriminator_report(self, member: str) -> Path:
        """metrics.json, history.csv, calibration.csv of a member."""
        return self.report / "discriminator" / member / self.replicate


def resumable(layout: Layout, name: str, inputs: list[Path], settings: dict[str, Any], compute: Compute) -> Resumable:
    """The shards and checkpoints of a stage run, under a key of everything that determines its result."""
    hashes = {str(path.relative_to(layout.root)): sha256(path) for path in inputs}
    key = {"inputs": hashes, "settings": settings, "stages": source_hash(Path(__file__).parents[1] / "stages")}
    return Resumable(layout.partial, name, key | {"device": compute.device.type, "precision": compute.mode})


def released_file(root: Path, path: str, key: str) -> Path:
    """A file of pretrained weights under data/raw, which the setting `key` names."""
    if not (root / path).is_file():
        raise InputError(f"the file of {key} at {path} does not exist", "run `dguide fetch`, or put it there by hand")
    return root / path


def read_released(
    read: Callable[[Path], tuple[Network, dict[str, Any]]], root: Path, path: str, key: str, wanted: Mapping[str, Any]
) -> tuple[Network, dict[str, Any]]:
    """The network of pretrained weights that the setting `key` names, and its arguments, if they are those wanted."""
    network, arguments = read(released_file(root, path, key))
    for name, value in wanted.items():
        if (got := arguments.get(name, 0)) != value:  # no label_dim is 0
            remedy = f"change {key}, or what it must fit: real.image_size, the extractor or cond"
            raise InputError(f"the network in {path} has {name} {got} instead of {value}", remedy)
    return network, arguments

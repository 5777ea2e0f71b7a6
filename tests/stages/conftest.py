"""A tiny study in a temporary folder: random images, untrained networks, settings that take a stage about a second."""

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dguide.settings import Config, Layout, load_config
from discriminator_guidance.core.files import load_network, save_weights, write_json, write_npz
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.metrics.features import FidNetwork, load_fid_network
from discriminator_guidance.networks.adm import EncoderUNet, build_extractor, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from tests.settings.settings import MINI, changed

Tiny = tuple[Config, Layout]
CPU = Compute(torch.device("cpu"), "float32")
IMAGES = 40  # real ones for training, and fakes
VARIANTS = ("edm", "d0", "d0_table1", "mean_prob", "clip_logit")
ENCODER = {"model_channels": 8, "channel_mult": [1, 1], "num_head_channels": 8}
HEAD = {"model_channels": 8, "num_res_blocks": 1, "num_head_channels": 8, "dropout": 0.0}
LOOP = {"iterations": 40, "batch_size": 16, "checkpoint_every": 20}
SMALL = {
    "runtime": MINI["runtime"] | {"threads": 1, "sampling_precision": "float32"},
    "real.image_size": 8,
    "score.network": MINI["score"]["network"] | {"model_channels": 8, "channel_mult": [1, 1]},
    "extractor.network": MINI["extractor"]["network"] | ENCODER,
    "fid_network": MINI["fid_network"] | {"channels": [4, 4, 8, 8], "features": 6},
    **{f"{word}.training": MINI[word]["training"] | LOOP for word in ("score", "extractor", "fid_network")},
    "sampler.steps": 4,
    "fake": MINI["fake"] | {"images": IMAGES, "batch_size": 16},
    "discriminator": MINI["discriminator"]
    | {"batch_size": 16, "epoch_factor": 1.0, "checkpoint_every": 2}
    | {"grid_times": 4, "grid_times_per_image": 2, "network": HEAD},
    "members": {name: MINI["members"][name] | {"epochs": 3} for name in ("d0", "d1")},
    "guided": MINI["guided"] | {"images": 24, "batch_size": 8},
    "variants": {
        name: MINI["variants"][name] | ({"members": ["d0", "d1"]} if name in ("mean_prob", "clip_logit") else {})
        for name in VARIANTS
    },
    "report": MINI["report"]
    | {"images": 4, "dpi": 60, "primary": ["d0", "edm"], "trajectory_images": 2}
    | {"samples": VARIANTS[:2], "log_ratios": ["d0"], "sampling": VARIANTS[:3]},
    "study.tuning": MINI["study"]["tuning"] | {"images": 16, "batch_size": 8},
    "study.discriminator": MINI["study"]["discriminator"] | {"model_channels": [8, 16], "epochs": [1, 3]},
    "study.factorial": MINI["study"]["factorial"] | {"sets": {"fresh": ["d0", "d1"]}, "images": 16},
}


def tiny_settings(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of profile mini with small numbers and other values for dotted keys."""
    own = dict(changes or {})  # applied after all others
    if own.get("cond"):
        own = {"study.ensemble.fitted": False} | own
    return changed(deepcopy({key: value for key, value in SMALL.items() if key not in own} | own))


def only(*variants: str) -> dict[str, Any]:
    """Changes that leave the settings these variants alone, the last of which is the planned comparison."""
    rows = {name: dict(SMALL["variants"][name]) for name in variants}
    shown = {"primary": [variants[-1], "edm"], "samples": [], "log_ratios": [], "sampling": []}
    return {"variants": rows, "report": SMALL["report"] | shown, "study": None}


def write_params(root: Path, settings: Mapping[str, Any]) -> Tiny:
    """Write params.yaml and read it as a stage does."""
    (root / "params.yaml").write_text(json.dumps(settings).replace("Infinity", ".inf"))  # JSON is YAML
    config = load_config(root / "params.yaml")
    return config, Layout(root, config.profile)


def prepare_study(root: Path, settings: Mapping[str, Any]) -> Tiny:
    """Write images and untrained networks of every kind, but no samples and no results."""
    root.mkdir(parents=True, exist_ok=True)
    config, layout = write_params(root, settings)
    rng, size = np.random.default_rng(0), config.real.image_size
    paths = (layout.real / "train.npz", layout.real / "holdout.npz", layout.fake() / "samples.npz")
    for path, count, low in zip(paths, (IMAGES, IMAGES // 2, IMAGES), (100, 100, 0), strict=True):
        images = rng.integers(low, low + 150, (count, size, size, 1)).astype(np.uint8)
        write_npz(path, images=images, labels=np.arange(count) % 10, index=np.arange(count))
    card = {"train": IMAGES, "holdout": IMAGES // 2, "classes": list("0123456789"), "shape": [size, size, 1]}
    write_json(layout.real / "card.json", card)
    score = {"img_resolution": size, "img_channels": 1, "label_dim": 10 * config.cond, **settings["score"]["network"]}
    save_untrained(layout.model("score"), EDMPrecond(**score), score)
    extractor = build_extractor(size, 1, 10, **settings["extractor"]["network"])
    save_untrained(layout.model("extractor"), extractor, extractor.arguments)
    fid = {"image_size": size, "in_channels": 1, "channels": [4, 4, 8, 8], "features": 6, "classes": 10}
    save_untrained(layout.model("fid_network"), FidNetwork(**fid), fid)
    features = rng.standard_normal((2 * IMAGES, 6)).astype(np.float32)
    write_npz(layout.model("fid_network") / "features.npz", train=features[:IMAGES], holdout=features[-IMAGES // 2 :])
    for member in config.members:
        head = build_head(extractor.feature_shape, **settings["discriminator"]["network"], condition=config.cond)
        save_untrained(layout.discriminator(member), head, head.arguments)
        rows = {"logits": rng.standard_normal(32).astype(np.float32), "labels": np.repeat([1, 0], 16)}
        rows |= {"time": np.tile([0.01, 0.1, 0.4, 0.8], 8), "image": np.arange(32)}
        write_npz(layout.discriminator(member) / "test_logits.npz", **rows)
    return config, layout


def save_untrained(folder: Path, network: nn.Module, arguments: Mapping[str, Any], seed: int = 0) -> None:
    """Write a network whose every parameter is random, those that start at 0 included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    save_weights(folder, network.state_dict(), arguments)


def load(layout: Layout, part: str) -> Any:
    """A network that a stage wrote: `score`, `extractor`, `fid_network` or `discriminator/<member>`, frozen."""
    folder = layout.model(part)
    if part == "fid_network":
        return load_fid_network(folder, CPU)
    return CPU.place(load_network(EDMPrecond if part == "score" else EncoderUNet, folder, part.partition("/")[0]))


@dataclass
class Recorder:
    """A tracker that remembers."""

    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.curve.append((step, dict(values)))

    def params(self, values: Mapping[str, Any]) -> None:
        self.settings |= values

    def artifact(self, *paths: Path) -> None:
        assert all(path.is_file() for path in paths)

    def model(self, name: str, weights: Path, loss: float | None = None) -> None:
        self.models[name] = weights


def run_stage(word: str, tiny: Tiny, *name: str) -> tuple[dict[str, Any], Recorder]:
    """Run a stage, of a member or variant if it has them."""
    tracker = Recorder()
    return import_module(f"dguide.stages.{word}").run(*tiny, tracker, *name), tracker


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copies the unconditional tiny study to a folder that does not exist."""
    original = tmp_path_factory.mktemp("tiny")
    prepare_study(original, tiny_settings())
    return lambda root: Path(shutil.copytree(original, root))


@pytest.fixture
def tiny(made: Callable[[Path], Path], tmp_path: Path) -> Tiny:
    """(config, layout) of a tiny study of the test's own; `write_params` changes its settings."""
    root = made(tmp_path / "study")
    return load_config(root / "params.yaml"), Layout(root, "mini")

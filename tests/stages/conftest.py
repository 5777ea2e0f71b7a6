"""A tiny study in a temporary folder, built stage by stage, and a view of the settings a stage has declared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from discriminator_guidance.config import Config, Discriminator, parse_config
from discriminator_guidance.stages.chain import of_member
from discriminator_guidance.stages.context import Context, StageResult
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.sharing import shares
from tests.project_files import project_yaml

PROJECT = Path(__file__).resolve().parents[2]
VARIANTS = ("edm", "d0", "d0_table1", "ensemble_probability", "ensemble_clipped_logit")


def tiny_settings() -> dict[str, Any]:
    """The mini profile with everything reduced until a stage takes about a second."""
    data: dict[str, Any] = project_yaml("configs/mini.yaml")
    data["runtime"] = {
        "device": "cpu",
        "training_precision": "float32",
        "sampling_precision": "float32",
        "threads": 1,
    }
    data["real"] |= {"image_size": 8}
    data["score"]["network"] |= {"model_channels": 8, "channel_mult": [1, 1], "attn_resolutions": [4]}
    data["extractor"]["network"] |= {"model_channels": 8, "channel_mult": [1, 1], "num_head_channels": 8}
    data["discriminator"]["network"] |= {"model_channels": 8, "num_res_blocks": 1, "num_head_channels": 8}
    for word in ("score", "extractor", "fid_network"):
        data[word]["training"] |= {"iterations": 40, "batch_size": 16, "checkpoint_every": 20}
    data["fid_network"] |= {"channels": [4, 4, 8, 8], "features": 6}
    data["sampler"] |= {"steps": 6}
    data["fake"] |= {"images": 40, "batch_size": 16, "shard_size": 16}
    data["guided"] |= {"images": 24, "batch_size": 8, "shard_size": 16, "trajectory_images": 2}
    data["guided"]["variants"] = {name: data["guided"]["variants"][name] for name in VARIANTS}
    for name in ("ensemble_probability", "ensemble_clipped_logit"):
        data["guided"]["variants"][name]["members"] = ["d0", "d1"]
    data["discriminator"] |= {
        "batch_size": 256,
        "checkpoint_every": 2,
        "grid_times": 4,
        "grid_times_per_image": 2,
    }
    data["discriminator"]["epoch_factor"] = 1.0
    data["discriminator"]["members"] = {
        name: data["discriminator"]["members"][name] | {"epochs": 4} for name in ("d0", "d1")
    }
    data["evaluation"] |= {"kid_subsets": 2, "kid_subset_size": 10}
    data["factorial"] |= {"members": ["d0", "d1"], "training_images": 20}
    data["report"] |= {"pictures": 4, "dpi": 60}
    return data


def spare_members(settings: dict[str, Any]) -> None:
    """Add members for the section `factorial`, which wants two without peculiarities, so that the others are free."""
    members = settings["discriminator"]["members"]
    for name, seed in (("plain0", 200), ("plain1", 201)):
        members[name] = {key: value for key, value in members["d0"].items() if key != "differs"} | {"seed": seed}
    settings["factorial"]["members"] = ["plain0", "plain1"]


@dataclass
class Study:
    """A project folder with whatever stages were run in it."""

    root: Path
    settings: dict[str, Any] = field(default_factory=tiny_settings)
    results: dict[tuple[str, str], StageResult] = field(default_factory=dict)
    metrics: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(self.root, "tiny")

    def resize(self, image_size: int) -> None:
        """Change the picture size, and with it the sizes at which networks attend."""
        self.settings["real"]["image_size"] = image_size
        self.settings["score"]["network"]["attn_resolutions"] = [image_size // 2]
        self.settings["extractor"]["network"]["attention_resolutions"] = [image_size // 2]

    @property
    def config(self) -> Config:
        return parse_config(self.settings, "configs/tiny.yaml")

    @property
    def context(self) -> Context:
        @contextmanager
        def bar(description: str, total: int, unit: str):
            done = 0

            def advance(amount: int) -> None:
                nonlocal done
                done += amount

            yield advance
            assert done == total, f"{description}: progress ended at {done} of {total} {unit}"

        return Context(
            self.layout, bar, lambda step, values: self.metrics.append((step, dict(values))), self.notices.append
        )

    def run(self, word: str, name: str = "") -> StageResult:
        """Run a stage with the settings that dvc.yaml declares for it, and no others."""
        view = declared(self.config, word, name)
        module = import_module(f"discriminator_guidance.stages.{word}")
        result: StageResult = module.run(view, self.context, *([name] if name else []))
        self.results[word, name] = result
        return result

    def ensure(self, word: str, name: str = "") -> StageResult:
        """Run a stage and what it needs, once."""
        if (word, name) not in self.results:
            for needed in self.needs(word, name):
                self.ensure(*needed)
            self.run(word, name)
        return self.results[word, name]

    def needs(self, word: str, name: str) -> list[tuple[str, str]]:
        members = self.settings["guided"]["variants"].get(name, {}).get("members", [])
        heads = [("discriminator", member) for member in members]
        return {
            "real": [],
            "score": [("real", "")],
            "extractor": [("real", "")],
            "fid_network": [("real", "")],
            "fake": [("score", "")],
            "discriminator": [("fake", ""), ("extractor", "")],
            "guided": [("score", ""), *heads],
            "evaluation": [("fid_network", ""), ("guided", "edm"), ("guided", name), *heads],
            "report": [("evaluation", v) for v in self.settings["guided"]["variants"]],
        }[word]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The shared tiny study; tests that change something make their own."""
    return Study(tmp_path_factory.mktemp("study"))


class Undeclared(AttributeError):
    """A stage read a setting that its entry in dvc.yaml does not declare."""


class DeclaredView:
    """A configuration of which only the declared keys can be read."""

    def __init__(self, value: Any, keys: set[str], path: str) -> None:
        self._value, self._keys, self._path = value, keys, path

    def __getattr__(self, name: str) -> Any:
        if name in ("model_dump", "items", "values", "keys", "__iter__"):
            raise Undeclared(f"{self._path} as a whole is not declared in dvc.yaml, only {sorted(self._keys)}")
        return self._child(getattr(self._value, name), name)

    def __getitem__(self, name: str) -> Any:
        return self._child(self._value[name], name)

    def _child(self, value: Any, name: str) -> Any:
        path = f"{self._path}.{name}".lstrip(".")
        if any(path == key or path.startswith(f"{key}.") for key in self._keys):
            return value
        inner = {key for key in self._keys if key.startswith(f"{path}.")}
        if not inner or not isinstance(value, BaseModel | dict):
            raise Undeclared(f"{path} is read but not declared in dvc.yaml")
        return DeclaredView(value, inner, path)


def dvc_stages() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as written."""
    stages: dict[str, dict[str, Any]] = project_yaml("dvc.yaml")["stages"]
    return stages


def entry_of(word: str, name: str) -> str:
    """Which block of dvc.yaml runs a stage for a member or variant."""
    if name in ("tuned", "ensemble_tuned"):
        return f"{word}_{name}"
    if word not in ("guided", "evaluation"):
        return word
    block = {"edm": "edm", "d0_w1": "d0", "d0_table1": "d0"}.get(name)
    return f"{word}_{block or ('ensemble' if name.startswith('ensemble') else 'member')}"


def is_sequential(settings: Discriminator, member: str) -> bool:
    """Whether a member may go on from another."""
    return not hasattr(settings.members[member], "path") and of_member(settings, member, "init") == "sequential"


def declared(config: Config, word: str, name: str = "") -> Any:
    """The configuration as a stage may read it."""
    entry = dvc_stages()[entry_of(word, name)]
    keys = [key for params in entry["params"] for keys in params.values() for key in keys]
    named = {key.replace("${item.member}", name).replace("${item.variant}", name) for key in keys}
    if word == "discriminator" and (is_sequential(config.discriminator, name) or shares(config.discriminator, name)):
        # What a member goes on from; DVC is not told, the report compares. And what can use its features, which
        # changes nothing of its own.
        named.add("discriminator.members")
    settings = {key for key, field in Config.model_fields.items() if not field.exclude}
    return config if named == settings else DeclaredView(config, named, "")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The shared class-conditional study of released networks; tests that change something make their own."""
    from .released import released_study

    return released_study(tmp_path_factory.mktemp("conditional"), cond=True)

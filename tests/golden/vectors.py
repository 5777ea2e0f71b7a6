"""Reads golden vectors: arrays, parameters, runs and tolerances, all from the files themselves."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond

FLOAT64_RELATIVE = 1e-9  # of the root mean square of the reference


class Vectors:
    """An `.npz` of arrays `in/..`, `param/..`, `out/..`, `out64/..` and a JSON `meta`; counts what was checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays.pop("meta")))
        self.checked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        """An array as a tensor of the same dtype."""
        return torch.from_numpy(self.arrays[name])

    def get(self, name: str) -> Tensor | None:
        """An array, or None where the file has none of that name."""
        array = self.arrays.get(name)
        return None if array is None else torch.from_numpy(array)

    def names(self, prefix: str) -> list[str]:
        """The names of the arrays that start with a prefix."""
        return [name for name in self.arrays if name.startswith(prefix)]

    def params(self, network: str = "") -> dict[str, Tensor]:
        """The state dict of a network; "" where the file holds a single, unnamed one."""
        prefix = f"param/{network}/" if network else "param/"
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}

    def network(self, name: str = "", kind: str = "") -> EDMPrecond | EncoderUNet:
        """A network in evaluation mode, built from `meta`; members of an ensemble share those of their `kind`."""
        arguments = self.meta["ctor_kwargs"]
        network = build_network(arguments[kind or name] if name else arguments, self.meta)
        network.load_state_dict(self.params(name))
        return network.eval().requires_grad_(False)

    def tolerance(self, name: str) -> float:
        """The absolute tolerance: the file's for `out/..`, 1e-9 of the root mean square for `out64/..`."""
        if name.startswith("out64/"):
            return FLOAT64_RELATIVE * float(self[name].square().mean().sqrt())
        return float(self.meta["agreement"][name]["recommended_atol"])

    def check(self, name: str, computed: Tensor, atol: float | None = None) -> None:
        """Compare with a reference array, `out/..` in float32 or `out64/..` in float64, and remember that it was."""
        reference = self[name].double()
        atol = self.tolerance(name) if atol is None else atol
        assert computed.shape == reference.shape, f"{self.path.name} {name}: shape {tuple(computed.shape)}"
        worst = float((computed.double() - reference).abs().max())
        assert worst <= atol, f"{self.path.name} {name}: differs by {worst:.3g}, allowed {atol:.3g}"
        self.checked.add(name)

    def check_all(self, prefix: str, computed: Mapping[str, Tensor]) -> None:
        """Compare those values, by name, of which the file holds references."""
        for name, value in computed.items():
            if f"{prefix}/{name}" in self:
                self.check(f"{prefix}/{name}", value)

    def unchecked(self, names: Iterable[str] | None = None) -> set[str]:
        """The reference arrays (all of the file's, or of those named) that no `check` has seen."""
        wanted = names if names is not None else self.names("out/") + self.names("out64/")
        return set(wanted) - self.checked


def build_network(arguments: dict[str, Any], meta: dict[str, Any]) -> EDMPrecond | EncoderUNet:
    """A network from the constructor arguments of its original, whose names tell which kind it is."""
    given = {name: value for name, value in arguments.items() if not name.endswith("use_fp16")}
    if "img_resolution" in given:
        assert given.pop("model_type", "SongUNet") == "SongUNet"
        sigmas = {name: float(meta[name]) for name in ("sigma_min", "sigma_max", "sigma_data") if name in meta}
        return EDMPrecond(**{**sigmas, **given})
    given = {name.removeprefix("classifier_"): value for name, value in given.items()}
    fixed = {"use_scale_shift_norm": True, "resblock_updown": True, "pool": "attention"}
    assert {name: given.pop(name, value) for name, value in fixed.items()} == fixed
    if "width" in given:  # of the original's create_classifier, which takes attention at image sizes
        size, pixels = given["image_size"], given["attention_resolutions"].split(",")
        given |= {"model_channels": given.pop("width"), "num_res_blocks": given.pop("depth")}
        given |= {"attention_resolutions": [size // int(width) for width in pixels], "channel_mult": CHANNEL_MULT[size]}
    return EncoderUNet(**given | {"condition": bool(given.get("condition"))})


read = cache(Vectors)  # to tell its kind; tests read a file again, and count what they check


def golden_folder() -> Path:
    """The folder with golden files: DG_GOLDEN_DIR, or the one next to the tests."""
    return Path(os.environ.get("DG_GOLDEN_DIR") or Path(__file__).parent / "data")


def find(wanted: Callable[[Vectors], bool]) -> list[Path]:
    """The golden files of a kind, known by what they hold, whatever they are called."""
    found = [path for path in sorted(golden_folder().glob("*.npz")) if wanted(read(path))]
    assert found or "DG_GOLDEN_DIR" in os.environ, "another folder may lack some"
    return found

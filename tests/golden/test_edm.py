"""EDM denoisers against vectors from the public implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.edm import EDMPrecond
from tests.golden.vectors import Vectors, find, with_array, wrong_copies

FILES = find(lambda vectors: vectors.meta.get("ctor") == "EDMPrecond")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def denoised(vectors: Vectors, denoiser: EDMPrecond) -> dict[str, Tensor]:
    """What the reference arrays hold, by name; those with fewer rows belong to the last pictures."""
    values: dict[str, Tensor] = {}
    sigma, labels = vectors["in/sigma"], vectors.get("in/class_labels")

    def run(name: str, level: Tensor, classes: Tensor | None, augment: Tensor | None = None) -> None:
        if f"out/{name}" in vectors:
            last = slice(-len(vectors[f"out/{name}"]), None)
            given = [None if told is None else told[last] for told in (classes, augment)]
            values[name] = denoiser(vectors["in/x"][last], level[last] if level.dim() else level, *given)

    hook = denoiser.model.map_layer1.register_forward_hook(
        lambda _layer, _inputs, embedding: values.__setitem__("emb_prelast", embedding)
    )
    run("D", sigma, labels)
    hook.remove()
    run("D_scalar_sigma", vectors["in/scalar_sigma"], labels)
    run("D_augment", sigma, labels, vectors.get("in/augment_labels"))
    run("D_no_labels", sigma, None)
    return values


@torch.no_grad()
def verify(path: Path) -> None:
    """Check every reference array of a file, in float32 and in float64."""
    vectors = Vectors(path)
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        denoiser = vectors.network().to(dtype)
        assert isinstance(denoiser, EDMPrecond)
        for name, value in denoised(vectors, denoiser).items():
            if f"{prefix}/{name}" in vectors:
                vectors.check(f"{prefix}/{name}", value)
    assert not vectors.unchecked()


@each_file
def test_every_array_agrees(path: Path) -> None:
    verify(path)


@each_file
def test_a_wrong_array_is_noticed(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / path.name
    for name in wrong_copies(path, Vectors(path).names("out"), wrong):
        with pytest.raises(AssertionError, match=f"{name}: differs"):
            verify(wrong)


@each_file
def test_an_array_nobody_computes_is_noticed(path: Path, tmp_path: Path) -> None:
    wrong = with_array(path, tmp_path / "more.npz", "out/unknown", np.zeros(1))
    with pytest.raises(AssertionError, match="unknown"):
        verify(wrong)


@each_file
def test_a_wrong_parameter_is_noticed(path: Path, tmp_path: Path) -> None:
    name = next(name for name in Vectors(path).names("param/") if name.endswith("block0.conv1.weight"))
    weight = Vectors(path).arrays[name] * np.float32(1.01)
    wrong = with_array(path, tmp_path / "parameter.npz", name, weight)
    with pytest.raises(AssertionError, match="differs"):
        verify(wrong)

"""EDM denoisers against vectors from the public implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.edm import EDMPrecond
from tests.golden.vectors import Vectors, find

FILES = find(lambda vectors: vectors.meta.get("ctor") == "EDMPrecond")


def denoised(vectors: Vectors, denoiser: EDMPrecond) -> dict[str, Tensor]:
    """What the reference arrays hold, by name; those with fewer rows belong to the last images."""
    values: dict[str, Tensor] = {}
    sigma, labels = vectors["in/sigma"], vectors.get("in/class_labels")

    def run(name: str, level: Tensor, classes: Tensor | None) -> None:
        if f"out/{name}" in vectors:
            last = slice(-len(vectors[f"out/{name}"]), None)
            labels = None if classes is None else classes[last]
            values[name] = denoiser(vectors["in/x"][last], level[last] if level.dim() else level, labels)

    hook = denoiser.model.map_layer1.register_forward_hook(
        lambda _layer, _inputs, embedding: values.__setitem__("emb_prelast", embedding)
    )
    run("D", sigma, labels)
    hook.remove()
    run("D_scalar_sigma", vectors["in/scalar_sigma"], labels)
    if (augment := vectors.get("in/augment_labels")) is not None:  # which the product leaves out
        last = augment[-len(vectors["out/D_augment"]) :]
        hook = denoiser.model.map_layer0.register_forward_pre_hook(
            lambda layer, inputs: inputs[0] + denoiser.model.map_augment(last.to(inputs[0].dtype))
        )
        run("D_augment", sigma, labels)
        hook.remove()
    run("D_no_labels", sigma, None)
    return values


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@torch.no_grad()
def test_every_array_agrees_in_float32_and_float64(path: Path) -> None:
    vectors = Vectors(path)
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        denoiser = vectors.network().to(dtype)
        assert isinstance(denoiser, EDMPrecond)
        vectors.check_all(prefix, denoised(vectors, denoiser))
    assert not vectors.unchecked()

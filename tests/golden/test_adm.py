"""ADM classifier, its features and the discriminator heads against vectors from the public implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.networks.adm import EncoderUNet
from tests.golden.vectors import Vectors, find

INPUTS = (("in/x", "in/t"), ("in/fw_x", "in/fw_t"))  # networks alone; networks beside guidance runs


def forward_inputs(vectors: Vectors) -> tuple[Tensor, Tensor] | None:
    """Images and VP times of the plain forward passes, where a file has them."""
    return next(((vectors[x], vectors[t]) for x, t in INPUTS if x in vectors and t in vectors), None)


def forward_names(vectors: Vectors) -> list[str]:
    """The reference arrays of the forward passes; those of guidance runs lie below a run's name."""
    return [name for name in vectors.names("out") if name.count("/") == 1]


FILES = find(lambda vectors: bool(vectors.params("classifier")) and forward_inputs(vectors) is not None)


def forward_values(vectors: Vectors, networks: dict[str, EncoderUNet]) -> dict[str, Tensor]:
    """What the reference arrays of the forward passes hold, by name."""
    inputs = forward_inputs(vectors)
    assert inputs is not None
    x, t = inputs
    classifier = networks["classifier"]
    feature = classifier.features(x, t)
    values = {"feature": feature, "classifier_logits": classifier(x, t)}
    for name, head in networks.items():
        if name.startswith("disc"):
            index = vectors["in/labels"].long() if head.label_emb is not None else None
            labels = None if index is None else one_hot(index)
            values[f"{name}_logit"] = head(feature, t, labels)
            values[f"{name}_sigmoid"] = values[f"{name}_logit"].sigmoid()
            values[f"{name}_feature_mean"] = head.features(feature, t, labels).mean(dim=(2, 3))
            if index is not None:
                values[f"{name}_logit_int"] = head(feature, t, index)
    return values


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@torch.no_grad()
def test_every_array_agrees_in_float32_and_float64(path: Path) -> None:
    vectors = Vectors(path)
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        networks = {name: vectors.network(name).to(dtype) for name in vectors.meta["ctor_kwargs"]}
        for name, value in forward_values(vectors, networks).items():
            if f"{prefix}/{name}" in vectors:
                vectors.check(f"{prefix}/{name}", value[: len(vectors[f"{prefix}/{name}"])])
    assert not vectors.unchecked(forward_names(vectors))

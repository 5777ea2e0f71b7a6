"""ADM classifier, its features and the discriminator heads against vectors from the public implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.discriminator import Discriminator
from tests.golden.vectors import Vectors, find, with_array, wrong_copies

INPUTS = (("in/x", "in/t"), ("in/fw_x", "in/fw_t"))  # networks alone; networks beside guidance runs


def forward_inputs(vectors: Vectors) -> tuple[Tensor, Tensor] | None:
    """Pictures and VP times of the plain forward passes, where a file has them."""
    return next(((vectors[x], vectors[t]) for x, t in INPUTS if x in vectors and t in vectors), None)


def forward_names(vectors: Vectors) -> list[str]:
    """The reference arrays of the forward passes; those of guidance runs lie below a run's name."""
    return [name for name in vectors.names("out") if name.count("/") == 1]


FILES = find(lambda vectors: bool(vectors.params("classifier")) and forward_inputs(vectors) is not None)
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


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


@torch.no_grad()
def verify(path: Path) -> None:
    """Check every forward value of a file, in float32 and in float64."""
    vectors = Vectors(path)
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        networks = {name: vectors.network(name).to(dtype) for name in vectors.meta["ctor_kwargs"]}
        for name, value in forward_values(vectors, networks).items():
            if f"{prefix}/{name}" in vectors:
                vectors.check(f"{prefix}/{name}", value[: len(vectors[f"{prefix}/{name}"])])
    assert not vectors.unchecked(forward_names(vectors))


@each_file
def test_every_array_agrees(path: Path) -> None:
    verify(path)


@each_file
def test_a_wrong_array_is_noticed(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / path.name
    for name in wrong_copies(path, forward_names(Vectors(path)), wrong):
        with pytest.raises(AssertionError, match=f"{name}: differs"):
            verify(wrong)


@each_file
def test_an_array_nobody_computes_is_noticed(path: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unknown"):
        verify(with_array(path, tmp_path / "more.npz", "out/unknown", np.zeros(1)))


@each_file
def test_a_wrong_parameter_is_noticed(path: Path, tmp_path: Path) -> None:
    name = "param/classifier/middle_block.1.qkv.weight"
    weight = Vectors(path).arrays[name] * np.float32(1.01)
    wrong = with_array(path, tmp_path / "parameter.npz", name, weight)
    with pytest.raises(AssertionError, match="differs"):
        verify(wrong)


@each_file
@torch.no_grad()
def test_discriminator_composes_extractor_and_head(path: Path) -> None:
    vectors = Vectors(path)
    inputs = forward_inputs(vectors)
    assert inputs is not None
    discriminator = Discriminator(vectors.network("classifier"), vectors.network("disc"))
    vectors.check("out/disc_logit", discriminator.logits(*inputs)[:, None])

"""EDM denoisers, the ADM classifier, its features and heads against vectors from the public implementations."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tests.golden.test_guidance import PRECISIONS
from tests.golden.vectors import Vectors, find

EDM = find(lambda vectors: vectors.meta.get("ctor") == "EDMPrecond")
INPUTS = (("in/x", "in/t"), ("in/fw_x", "in/fw_t"))  # networks alone; networks beside guidance runs


def forward_inputs(vectors: Vectors) -> tuple[Tensor, Tensor] | None:
    """Images and VP times of the plain forward passes, where a file has them."""
    return next(((vectors[x], vectors[t]) for x, t in INPUTS if x in vectors and t in vectors), None)


def forward_names(vectors: Vectors) -> list[str]:
    """The reference arrays of the forward passes; those of guidance runs lie below a run's name."""
    return [name for name in vectors.names("out") if name.count("/") == 1]


ADM = find(lambda vectors: bool(vectors.params("classifier")) and forward_inputs(vectors) is not None)


def forward_values(vectors: Vectors, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the reference arrays of the forward passes hold, by name."""
    networks = {name: vectors.network(name).to(dtype) for name in vectors.meta["ctor_kwargs"]}
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


def denoised(vectors: Vectors, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the reference arrays hold, by name; those with fewer rows belong to the last images."""
    denoiser, values = vectors.network().to(dtype), dict[str, Tensor]()
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


@pytest.mark.parametrize(("path", "computed"), [(p, denoised) for p in EDM] + [(p, forward_values) for p in ADM])
@torch.no_grad()
def test_every_array_agrees(path: Path, computed: Callable[[Vectors, torch.dtype], dict[str, Tensor]]) -> None:
    vectors = Vectors(path)
    for prefix, dtype in PRECISIONS:
        for name, value in computed(vectors, dtype).items():
            if f"{prefix}/{name}" in vectors:
                vectors.check(f"{prefix}/{name}", value[: len(vectors[f"{prefix}/{name}"])])
    assert not vectors.unchecked(forward_names(vectors))

"""A device that computes on the CPU and, as a GPU does, refuses to mix its tensors with those of the CPU.

A process that imports this has that device for good. `python -m tests.remote FOLDER` runs stages and library on it.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from discriminator_guidance import DiscriminatorGuidance, sample, train_discriminator
from discriminator_guidance.core import runtime
from discriminator_guidance.metrics.distances import KernelSet

from .stages.conftest import LOOP, MINI, SMALL, only, prepare_study, run_stage, tiny_settings

STAGES = ("score", "extractor", "fid_network", "fake", "discriminator d0", "discriminator whole", "guided edm",
          "guided mean_prob", "evaluation", "report")  # fmt: skip

_setup_privateuseone_for_python_backend("remote")
torch.remote.get_amp_supported_dtype = lambda: [torch.bfloat16]
DEVICE, CPU, aten = torch.device("remote", 0), torch.device("cpu"), torch.ops.aten
MIXED = (aten._to_copy, aten.copy_, aten._copy_from)


class Remote(torch.Tensor):
    """A tensor of the device, which holds one of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Any:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        remote = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=DEVICE)
        remote.held = held
        return remote

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(operator, *args, **kwargs or {})

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    def tolist(self) -> Any:
        return self.held.tolist()


def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operator returns, with the tensors that the device holds."""
    values, structure = tree_flatten((args, kwargs))
    remote = {id(value.held): value for value in values if isinstance(value, Remote)}
    local = [value for value in values if isinstance(value, torch.Tensor) and not isinstance(value, Remote)]
    kind = operator.overloadpacket
    if remote and kind not in MIXED and any(value.dim() for value in local):
        assert kind in (aten.index, aten.index_put_), f"{operator} mixes devices"
        assert isinstance(args[0], Remote), "indices of the device, and a tensor of the CPU"
        assert kind is aten.index or isinstance(args[2], Remote) or not args[2].dim(), "values of the CPU"
    devices = [value.type for value in values if isinstance(value, torch.device)]
    kept = isinstance(args[0], Remote) if kind is aten.copy_ else bool(remote)
    kept = devices[0] == DEVICE.type if devices else kept
    held = {torch.device: lambda _: CPU, Remote: lambda value: value.held}
    args, kwargs = tree_unflatten([held.get(type(value), lambda value: value)(value) for value in values], structure)
    result = args[1].copy_(args[0]) if kind is aten._copy_from else operator(*args, **kwargs)
    wrap = lambda value: remote[id(value)] if id(value) in remote else Remote(value) if kept else value  # noqa: E731
    return tree_map_only(torch.Tensor, wrap, result)


LIBRARIES = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
LIBRARIES[0].fallback(call, "PrivateUse1")
for operator in (aten.empty.memory_format, aten.empty_strided.default, aten._copy_from.default):
    LIBRARIES[1].impl(operator, partial(call, operator), "PrivateUse1")


def run_stages(root: Path) -> None:
    """Every stage of a tiny study, with a head, a whole network and fitted weights."""
    changes = {"guided.images": 8, "sampler.steps": 2, **only("edm", "mean_prob")}
    for word in STAGES[:3]:
        changes[f"{word}.training"] = MINI[word]["training"] | LOOP | {"iterations": 2}
    head = SMALL["members"]["d0"] | {"epochs": 1}
    changes["members"] = {"d0": head, "whole": head | {"kind": "whole"}}
    changes["variants"]["mean_prob"] |= {"members": ["d0", "whole"], "rule": "mean_logit", "weights": "fitted"}
    tiny, made, of = prepare_study(root, tiny_settings(changes)), [], KernelSet.of
    KernelSet.of = lambda *arguments: made.append(of(*arguments)) or made[-1]  # type: ignore[method-assign]
    for stage in STAGES:
        word, *row = stage.split()
        run_stage(word, tiny, *row)
    assert {type(kernels.features) for kernels in made} == {Remote}, "KID is computed on the device"
    assert np.load(tiny[1].guided("mean_prob") / "samples.npz")["images"].std() > 0


def run_library() -> None:
    """Training and sampling for a device that the caller names."""
    images, labels = torch.rand(2, 40, 1, 8, 8) - 0.9, np.arange(40) % 4
    trained = train_discriminator((images[0], labels), (images[1], labels), steps=2, device=DEVICE)
    options = {"guidance": DiscriminatorGuidance([trained, trained], rule="shrunk_mean_logit"), "classes": np.arange(4)}
    shape, denoiser = (4, 1, 8, 8), lambda x, sigma, classes: x / 2
    assert sample(denoiser, shape, steps=3, boosting=True, device=DEVICE, **options).isfinite().all()


if __name__ == "__main__":
    torch.inference_mode = lambda mode=True: torch.no_grad()  # its transfers bypass the device
    run_library()
    runtime.usable = lambda _: DEVICE
    run_stages(Path(sys.argv[1]))

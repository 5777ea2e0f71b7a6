"""FLOPs and memory of a pass, from shapes alone: the networks run on torch's meta device, which computes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from discriminator_guidance.planning.blueprints import (
    INCEPTION_ACTIVATIONS,
    INCEPTION_BYTES,
    INCEPTION_FLOPS,
    Blueprints,
)
from discriminator_guidance.planning.commands import Command
from discriminator_guidance.planning.work import Pass

BATCH = 4  # large enough that what does not grow with the batch is a small part


@dataclass(frozen=True)
class Trace:
    """What one picture costs.

    Args:
        flops: floating-point operations in convolutions and matrix products, 2 for each multiply-add; the gradient
            passes included.
        bytes: of tensors alive at the same time, float32.
    """

    flops: float
    bytes: float


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest number of bytes that results of operations hold at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages it makes."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _freed(self, count: int) -> None:
        self.now -= count


def traced(run: Callable[[], object], pictures: int) -> Trace:
    """FLOPs and memory of something that runs on the meta device.

    Args:
        run: what is counted.
        pictures: that it handles.

    Returns:
        Both for one picture.
    """
    counter, live = FlopCounterMode(display=False), LiveBytes()
    with counter, live:
        kept = run()
    del kept
    return Trace(counter.get_total_flops() / pictures, live.most / pictures)


class Traces:
    """Costs of the passes of a profile; each network is built once, on the meta device.

    Args:
        blueprints: of the profile.
    """

    def __init__(self, blueprints: Blueprints) -> None:
        self._pictures, self._cond = blueprints.pictures, blueprints.config.cond
        self.sized = blueprints.alike()
        with torch.device("meta"):
            self.score, self.extractor = blueprints.score(), blueprints.extractor()
            self.fid_network = blueprints.fid_network()
            self.heads = {
                name: blueprints.head(name, self.extractor.feature_shape) for name in set(self.sized.values())
            }
        self._known: dict[Pass, Trace] = {}

    def alike(self, way: Pass) -> Pass:
        """The same pass with each head named after the first one of its size.

        Args:
            way: a pass.

        Returns:
            What stands for all passes that cost the same.
        """
        return Pass(way.kind, tuple(self.sized[head] for head in way.heads))

    def of(self, way: Pass) -> Trace:
        """What one picture of a pass costs.

        Args:
            way: the pass.

        Returns:
            FLOPs and bytes.
        """
        sized = self.alike(way)
        if sized not in self._known:
            self._known[sized] = self._trace(sized)
        return self._known[sized]

    def weights_of(self, command: Command) -> list[int]:
        """Bytes of the networks that a stage run holds.

        Args:
            command: the run.

        Returns:
            float32 bytes of each; of a run that makes a network, its own is the last.
        """
        if command.stage == "fid_network" or command.stage == "evaluation":
            return [INCEPTION_BYTES if self.fid_network is None else _bytes(self.fid_network)]
        networks: list[nn.Module] = []
        kinds = {way.kind for way in command.passes}
        if command.stage == "score" or "score" in kinds:
            networks.append(self.score)
        if command.stage in ("extractor", "discriminator") or "guidance" in kinds:
            networks.append(self.extractor)
        heads = dict.fromkeys(head for way in command.passes for head in way.heads)
        networks.extend(self.heads[self.sized[head]] for head in heads)
        return [_bytes(network) for network in networks]

    def _trace(self, way: Pass) -> Trace:
        if way.kind == "fid features" and self.fid_network is None:
            return Trace(INCEPTION_FLOPS, INCEPTION_ACTIVATIONS)
        with torch.device("meta"):
            x, t = torch.empty(BATCH, *self._pictures.shape), torch.empty(BATCH)
            features = torch.empty(BATCH, *self.extractor.feature_shape)
            classes = torch.empty(BATCH, dtype=torch.int64) if self._cond else None
            labels = torch.empty(BATCH, self.score.label_dim) if self._cond else None
        heads = [self.heads[name] for name in way.heads]

        def guidance() -> object:
            inside = x.detach().requires_grad_(True)
            shared = self.extractor.features(inside, t)
            logits = torch.stack([head(shared, t, classes).squeeze(1) for head in heads])
            # The counter cannot follow autograd.grad; with frozen parameters both are one.
            logits.sum().backward()  # type: ignore[no-untyped-call]
            return inside.grad

        def member_step() -> object:
            with torch.no_grad():
                frozen = self.extractor.features(x, t)
            _step(heads[0], lambda: heads[0](frozen, t, classes))
            return frozen

        runs: dict[str, Callable[[], object]] = {
            "score": _quiet(lambda: self.score(x, t, labels)),
            "features": _quiet(lambda: self.extractor.features(x, t)),
            "head": _quiet(lambda: heads[0](features, t, classes)),
            "guidance": guidance,
            "member step": member_step,
            "score step": lambda: _step(self.score, lambda: self.score(x, t, labels)),
            "extractor step": lambda: _step(self.extractor, lambda: self.extractor(x, t)),
        }
        if self.fid_network is not None:
            network = self.fid_network
            runs["fid features"] = _quiet(lambda: network.features(x))
            runs["fid step"] = lambda: _step(network, lambda: network(x))
        frozen = way.kind == "guidance"
        for module in (self.extractor, *heads):
            module.requires_grad_(not frozen)
        return traced(runs[way.kind], BATCH)


def _quiet(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def without_gradients() -> Tensor:
        with torch.no_grad():
            return run()

    return without_gradients


def _step(network: nn.Module, forward: Callable[[], Tensor]) -> None:
    network.zero_grad(set_to_none=True)
    forward().sum().backward()  # type: ignore[no-untyped-call]
    network.zero_grad(set_to_none=True)


def _bytes(network: nn.Module) -> int:
    return sum(4 * tensor.numel() for tensor in network.state_dict().values())

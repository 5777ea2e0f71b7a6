"""Several processes that share one stage: torch.distributed under torchrun, nothing at all for one process.

torchrun sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; every function is an identity without them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # stages that compute nothing start without torch
    from torch import Tensor

Value = TypeVar("Value")


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """The number of processes that share the stage."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes, tracks and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        _group().barrier()


def broadcast(value: Value) -> Value:
    """The value that the first process has."""
    if world_size() == 1:
        return value
    held: list[Any] = [value]
    _group().broadcast_object_list(held, src=0)
    found: Value = held[0]
    return found


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if world_size() > 1:
        for tensor in tensors:
            _group().all_reduce(tensor)


def add_up_numbers(row: dict[str, float]) -> dict[str, float]:
    """The sums over the processes of numbers that all of them name alike."""
    if world_size() == 1:
        return row
    import torch

    device = f"cuda:{local_rank()}" if _group().get_backend() == "nccl" else "cpu"
    sums = torch.tensor(list(row.values()), dtype=torch.float64, device=device)
    add_up([sums])
    return dict(zip(row, sums.tolist(), strict=True))


def share(count: int) -> range:
    """This process's contiguous part of a number of rows."""
    return range(count * rank() // world_size(), count * (rank() + 1) // world_size())


def own_jobs(jobs: Sequence[int]) -> Sequence[int]:
    """This process's part of several independent jobs, which from here on it does as if it were the only process."""
    own = jobs[rank() :: world_size()]
    for variable in ("RANK", "WORLD_SIZE"):
        os.environ.pop(variable, None)
    return own


def gather_rows(own: Tensor, count: int) -> Tensor:
    """All rows, each process having those of `share(count)`; on the CPU."""
    if world_size() == 1:
        return own.cpu()
    import torch

    parts: list[Any] = [None] * world_size()
    _group().all_gather_object(parts, own.cpu())
    rows = torch.cat([part for part in parts if len(part)])
    assert len(rows) == count, "every process takes its share of the rows"
    return rows


def _group() -> Any:
    import torch

    if not torch.distributed.is_initialized():
        # The others wait while the first process computes metrics alone.
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(hours=12))
    return torch.distributed

"""Several processes that share the work of one stage, as torchrun starts them; each knows its rank, from 0.

Until `start` was called, and wherever one process was started, every function here does nothing and costs nothing.
What the ranks tell each other are numbers and JSON; nothing that arrives is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from discriminator_guidance.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Ranks may wait for each other as long as a shard takes. A dead one is no matter of patience: whoever started the ranks
# ends them all.
PATIENCE = timedelta(days=7)
TIME_TO_JOIN = timedelta(minutes=10)
BEFORE_THE_END_S = 10.0


class Dismissed(Exception):
    """This rank has done its part; the first one goes on alone."""


@dataclass
class _Crew:
    rank: int = 0
    size: int = 1
    local: int = 0


_crew = _Crew()


def rank() -> int:
    """Which of the processes this is.

    Returns:
        From 0.
    """
    return _crew.rank


def world_size() -> int:
    """How many processes share the work.

    Returns:
        1 where nothing is shared.
    """
    return _crew.size


def local_rank() -> int:
    """Which of the processes of this machine this is; the number of its GPU.

    Returns:
        From 0.
    """
    return _crew.local


def is_first() -> bool:
    """Whether this process tracks, shows and writes results.

    Returns:
        True where there is no other.
    """
    return _crew.rank == 0


def started() -> tuple[int, int]:
    """What torchrun's variables say, before `start` has acted on it.

    Returns:
        Rank and number of ranks; (0, 1) where they say nothing.
    """
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    """Join the other ranks, if torchrun started several.

    Raises:
        UserError: they do not answer.
    """
    place, size = started()
    if size == 1:
        return
    import torch
    import torch.distributed as dist

    fast = torch.cuda.is_available() and dist.is_nccl_available()
    with _together():
        store, _, _ = next(dist.rendezvous("env://", timeout=TIME_TO_JOIN))  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if fast else "gloo"
        dist.init_process_group(backend, store=store, rank=place, world_size=size, timeout=PATIENCE)
    _crew.rank, _crew.size, _crew.local = place, size, int(os.environ.get("LOCAL_RANK", "0"))


def go_on_alone() -> None:
    """Wait for all ranks and part: the first goes on as if it were the only one.

    Raises:
        Dismissed: on every other rank.
    """
    if _crew.size == 1:
        return
    import torch.distributed as dist

    wait()
    dist.destroy_process_group()
    dismissed = not is_first()
    _crew.rank, _crew.size, _crew.local = 0, 1, 0
    if dismissed:
        raise Dismissed


def wait() -> None:
    """Return when all ranks have arrived here."""
    added({})


def told_by_first(value: Any) -> Any:
    """What the first rank says.

    Args:
        value: JSON-like; ignored on the other ranks.

    Returns:
        The first rank's value, on all of them.
    """
    return value if _crew.size == 1 else _told_by(0, value)


def told_by_all(value: Any) -> list[Any]:
    """What each rank says.

    Args:
        value: JSON-like.

    Returns:
        The values, by rank.
    """
    return [value] if _crew.size == 1 else [_told_by(place, value) for place in range(_crew.size)]


def require_same(value: Any, what: str) -> None:
    """Refuse ranks that did not find the same.

    Args:
        value: JSON-like, what this rank found.
        what: it is, for the error.

    Raises:
        UserError: another rank found something else.
    """
    if (first := told_by_first(value)) != value:
        raise UserError(
            f"the same {what} on every rank",
            f"{value} on rank {rank()} and {first} on rank 0",
            "give all machines one and the same project folder",
        )


def share(count: int) -> range:
    """The part of a batch that this rank takes.

    Args:
        count: rows of the whole batch.

    Returns:
        Its rows: contiguous, as even as it goes, none where there are fewer rows than ranks.
    """
    return range(count * _crew.rank // _crew.size, count * (_crew.rank + 1) // _crew.size)


def own_rows(count: int, size: int) -> slice | np.ndarray:
    """The rows that this rank takes of a set that is worked through in batches, which are the same for all ranks.

    Args:
        count: rows of the set.
        size: rows of a batch.

    Returns:
        An index of its rows, in order: batch 0 is the first rank's, batch 1 the second's, and so on.
    """
    return slice(0, count) if _crew.size == 1 else _rows(_crew.rank, count, size)


def collected(own: Tensor, count: int, size: int) -> Tensor:
    """The rows of all ranks.

    Args:
        own: float32, one row for each of `own_rows`; of any shape where there are none.
        count: rows of the set.
        size: rows of a batch.

    Returns:
        (count, ...) in order, on every rank; in main memory if there are several.
    """
    if _crew.size == 1:
        return own
    import torch
    import torch.distributed as dist

    shape = told_by_first(list(own.shape[1:]))
    whole = torch.empty(count, *shape)
    for place in range(_crew.size):
        rows = _rows(place, count, size)
        part = own.cpu().contiguous() if place == rank() else torch.empty(len(rows), *shape)
        if len(rows):
            with _together():
                dist.broadcast(part, place)
            whole[rows] = part
    return whole


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over all ranks.

    Args:
        tensors: of the same shapes and format on every rank.
    """
    if _crew.size == 1:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message in place of hundreds
    with _together():
        dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def added(values: Mapping[str, float]) -> dict[str, float]:
    """Sums over all ranks.

    Args:
        values: by name; the same names on every rank.

    Returns:
        Their sums, by name.
    """
    if _crew.size == 1:
        return dict(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor([*values.values(), 0.0], dtype=torch.float64)
    with _together():
        dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=False))


def own_stream(purpose: str) -> str:
    """The name of a random stream that is drawn by each rank for its rows alone.

    Args:
        purpose: its name where one process draws for all.

    Returns:
        That name on the first rank, others on the others.
    """
    return purpose if is_first() else f"{purpose} of rank {rank()}"


def _told_by(place: int, value: Any) -> Any:
    import torch
    import torch.distributed as dist

    words = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(words)])
    with _together():
        dist.broadcast(length, place)
        words = words if place == rank() else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(words, place)
    return json.loads(words.numpy().tobytes())


def _rows(place: int, count: int, size: int) -> np.ndarray:
    import numpy as np

    starts = range(place * size, count, _crew.size * size)
    return np.concatenate([np.arange(0), *(np.arange(start, min(start + size, count)) for start in starts)])


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Another rank is gone. Who started the ranks knows which and why, says so, and ends this one too.
        time.sleep(BEFORE_THE_END_S)
        raise UserError(
            "an answer from every rank",
            " ".join(str(error).split())[:120],
            "run the same command again: what is complete is kept",
        ) from error

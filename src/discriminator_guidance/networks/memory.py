"""How much is done at once where memory is short, and what becomes of memory that is free again."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from discriminator_guidance import ranks
from discriminator_guidance.errors import UserError

Result = TypeVar("Result")

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
# Where glibc's own thresholds arrive after the first large block was freed; its other values at the start of a process.
RETURNED = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26, M_TOP_PAD: 2**17}

# How CUDA, cuBLAS and cuDNN say in a RuntimeError that they have no room, handles and work space included.
EXHAUSTED = (
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute",
)


def keep_memory() -> None:
    """Keep freed blocks for the next allocation.

    glibc hands every large block back to the kernel, which zeroes it anew for each layer's result. Told to keep them, a
    float32 forward pass of a small network takes two thirds of the time. Other C libraries need no such switch.
    """
    _tell_glibc(KEPT)


def return_memory() -> None:
    """Hand free memory back to the kernel, now and from now on, as glibc does unless told otherwise."""
    _tell_glibc(RETURNED)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _tell_glibc(parameters: Mapping[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in parameters.items():
            libc.mallopt(parameter, value)


class BatchSize:
    """A number of pictures that is halved, for the rest of the run, whenever the device's memory is exhausted.

    Args:
        size: pictures at once, to begin with.
        on_halved: told in words what happened.

    Attributes:
        halved: the sizes it came down to, the largest first.
    """

    def __init__(self, size: int, on_halved: Callable[[str], None]) -> None:
        self.size, self.on_halved = size, on_halved
        self.halved: tuple[int, ...] = ()

    def record(self, key: str = "halved_batches") -> dict[str, list[int]]:
        """What a result says of it.

        Args:
            key: its name there.

        Returns:
            The sizes it was halved to under the key; nothing where it never was: such results are the same bytes on
            every machine.
        """
        return {key: list(self.halved)} if self.halved else {}

    def resume(self, halved: Iterable[int]) -> None:
        """Go on as an interrupted run did: with its smallest size, and with its halvings on record.

        Args:
            halved: of that run.
        """
        self.halved = tuple(sorted({*self.halved, *halved}, reverse=True))
        self.size = min([self.size, *self.halved])

    def take_in_others(self) -> None:
        """Put on record what the batches of other ranks came down to."""
        self.resume(size for halved in ranks.told_by_all(list(self.halved)) for size in halved)

    def attempt(self, run: Callable[[int], Result]) -> Result:
        """Run something that can be repeated, with as many pictures at once as fit.

        Args:
            run: is given the number of pictures it may hold at once; called again with half of them if that was
                too much.

        Returns:
            What `run` returns.

        Raises:
            UserError: a single picture is too much.
        """
        while True:
            try:
                return run(self.size)
            except RuntimeError as error:
                if not tells_of_exhaustion(error):
                    raise
                if self.size == 1:
                    raise UserError(
                        "memory for one picture at a time",
                        " ".join(str(error).split())[:120],
                        "free the device, or choose runtime.device: cpu",
                    ) from error
            # After the except clause: inside it the traceback still holds the tensors that filled the memory.
            empty_caches()
            self.resume([-(-self.size // 2)])
            self.on_halved(f"the device's memory is exhausted: going on with {self.size} pictures at once")


def empty_caches() -> None:
    """Give the device back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tells_of_exhaustion(error: RuntimeError) -> bool:
    """Whether an error means that the device's memory is exhausted.

    Args:
        error: of torch; what CUDA, cuBLAS and cuDNN cannot allocate for themselves is none of its OutOfMemoryError.

    Returns:
        Whether less at once may help.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in EXHAUSTED)

"""How much is done at once, when the memory of the device does not suffice for what was asked."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from discriminator_guidance.errors import UserError

Result = TypeVar("Result")


class BatchSize:
    """A number of pictures that is halved, for the rest of the run, whenever the device's memory is exhausted.

    Args:
        size: pictures at once, to begin with.
        on_halved: told in words what happened.
    """

    def __init__(self, size: int, on_halved: Callable[[str], None]) -> None:
        self.size, self.on_halved = size, on_halved

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
            except torch.OutOfMemoryError as error:
                if self.size == 1:
                    raise UserError(
                        "memory for one picture at a time",
                        " ".join(str(error).split())[:120],
                        "free the device, or choose runtime.device: cpu",
                    ) from error
            # After the except clause: inside it the traceback still holds the tensors that filled the memory.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.size = -(-self.size // 2)
            self.on_halved(f"the device's memory is exhausted: going on with {self.size} pictures at once")

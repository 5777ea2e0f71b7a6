"""Pickles of other programs, read by an allow-list of names, none of which is looked up, called or made."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Collection
from typing import Any


class Call:
    """A call or an object that a pickle asks for: its arguments and state are kept, it is never made."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


def read_pickle(content: bytes, allowed: Collection[str], encoding: str = "ASCII") -> Any:
    """The content of a pickle, with a `Call` for each class or function; a name that is not allowed is an error."""
    return _Unpickler(io.BytesIO(content), allowed, encoding).load()


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C reserves as much memory as a file asks for
    def __init__(self, stream: io.BytesIO, allowed: Collection[str], encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> type:
        """A stand-in for an allowed class or function."""
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise pickle.UnpicklingError(f"a pickle that names {full}, which is refused")
        return OrderedDict if full == "collections.OrderedDict" else type(full, (Call,), {"name": full})

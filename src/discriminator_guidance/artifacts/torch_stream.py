"""Tensors in PyTorch's own formats, checked instruction by instruction before `torch.load(weights_only=True)`."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from discriminator_guidance.artifacts.inert_pickle import (
    ORDERED_DICT,
    REMEDY,
    Global,
    Record,
    printable,
    read_inert,
)
from discriminator_guidance.errors import InputError

REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
}
MAX_DIMENSIONS = 8
_ZIP_START = b"PK\x03\x04"
# What `zipfile` and the checks below raise on bytes that are no such file.
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def load_state(content: bytes, what: str) -> Any:
    """Read a state dict that `torch.save` wrote, in the zip format or the legacy one.

    Args:
        content: the whole stream.
        what: what is read, for the error.

    Returns:
        Whatever plain containers and tensors it holds, on the CPU.

    Raises:
        InputError: it names anything but storages, tensors and ordered dictionaries, declares more than it
            holds, or is damaged.
    """
    return _load(content, what, {*STORAGES, REBUILD_TENSOR, ORDERED_DICT})


def load_storage(content: bytes, what: str) -> Tensor:
    """Read a single storage that `torch.save` wrote, in either format.

    Args:
        content: the whole stream.
        what: what is read, for the error.

    Returns:
        Its elements, (numel,), on the CPU.

    Raises:
        InputError: as for `load_state`, or it holds something else.
    """
    storage = _load(content, what, {*STORAGES})
    if type(storage) is not torch.storage.TypedStorage:
        raise InputError(what, f"a {type(storage).__name__} in place of a storage", REMEDY)
    with _quiet():
        return torch.empty(0, dtype=storage.dtype).set_(storage.untyped())  # type: ignore[no-untyped-call]


def check_view(numel: int, offset: Any, size: Any, stride: Any) -> None:
    """Refuse a tensor that reaches outside its storage or repeats it.

    Args:
        numel: elements of the storage.
        offset: of the first element.
        size: of the tensor.
        stride: of the tensor, in elements.

    Raises:
        ValueError: it does.
    """
    shape = (size, stride)
    if not all(type(numbers) is tuple and len(numbers) <= MAX_DIMENSIONS for numbers in shape):
        raise ValueError("a tensor whose shape is no short tuple")
    if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor of impossible shape")
    count, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        count, last = count * length, last + max(length - 1, 0) * step
    if count > numel or (count and last >= numel) or max(0, offset, *size, *stride) > max(numel, 1):
        raise ValueError(f"a tensor of shape {size} beyond its storage of {numel} elements")


def tensor_arguments(record: Record) -> tuple[Any, Any, Any, Any]:
    """What a call of `_rebuild_tensor_v2` says about its tensor.

    Args:
        record: the call.

    Returns:
        Storage, offset of the first element, size and stride (both in elements); not yet checked.

    Raises:
        ValueError: another layout.
    """
    if len(record.arguments) != 6 or type(record.arguments[4]) is not bool or record.arguments[5] != OrderedDict():
        raise ValueError("a tensor of unknown layout")
    storage, offset, size, stride = record.arguments[:4]
    return storage, offset, size, stride


def _load(content: bytes, what: str, allowed: set[str]) -> Any:
    _Check(content, what, allowed).run()
    try:
        with _quiet():
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises some dozen types on damaged files
        reason = printable(str(error).split("\n")[0])
        raise InputError(what, f"a damaged PyTorch file ({reason})", "get the file again") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of formats that PyTorch would rather not see any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Check:
    """One pass over the pickles of a stream, with what they declare about storages."""

    def __init__(self, content: bytes, what: str, allowed: set[str]) -> None:
        self.content, self.what, self.allowed = content, what, allowed
        self.storages: dict[str, tuple[str, int]] = {}

    def run(self) -> None:
        try:
            if self.content.startswith(_ZIP_START):
                self._zip()
            else:
                self._legacy()
        except _DAMAGE as error:
            reason = f"a PyTorch file that declares the impossible ({printable(error)})"
            raise InputError(self.what, reason, REMEDY) from error

    def _zip(self) -> None:
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("compressed entries, which PyTorch does not write")
            if sum(entry.file_size for entry in entries) > len(self.content):
                raise ValueError("entries larger than the file")
            (start,) = [e.filename for e in entries if e.filename.endswith("/data.pkl") and e.filename.count("/") == 1]
            self._objects(io.BytesIO(archive.read(start)))
            for key, (kind, numel) in self.storages.items():
                held = archive.getinfo(f"{start.removesuffix('data.pkl')}data/{key}").file_size
                if held != numel * STORAGES[kind].itemsize:
                    raise ValueError(f"storage {key} of {numel} elements in {held} bytes")

    def _legacy(self) -> None:
        stream = io.BytesIO(self.content)
        for _ in ("magic number", "protocol", "system"):
            read_inert(stream, (), self.what)
        self._objects(stream)
        keys = read_inert(stream, (), self.what)
        if type(keys) is not list or any(type(key) is not str for key in keys):
            raise ValueError("a list of storages of unknown layout")
        if sorted(keys) != sorted(self.storages):
            raise ValueError("a list of storages other than those used")
        for key in keys:
            kind, numel = self.storages[key]
            if int.from_bytes(stream.read(8), "little") != numel:
                raise ValueError(f"storage {key} not of {numel} elements")
            stream.seek(numel * STORAGES[kind].itemsize, io.SEEK_CUR)
        if stream.tell() != len(self.content):
            raise ValueError("a length that does not fit its storages")

    def _objects(self, stream: io.BytesIO) -> None:
        read_inert(
            stream, self.allowed, self.what, persistent=True, largest=len(self.content), on_record=self._on_record
        )

    def _on_record(self, record: Record) -> None:
        if record.callee == "":
            self._storage(record)
        elif record.callee == REBUILD_TENSOR:
            storage, *view = tensor_arguments(record)
            if type(storage) is not Record or storage.callee != "":
                raise ValueError("a tensor without a storage")
            check_view(self._storage(storage), *view)
        else:
            raise ValueError(f"a call of {record.callee}")

    def _storage(self, record: Record) -> int:
        """The number of elements of a storage, noted for the comparison with what the file holds."""
        (identifier,) = record.arguments
        if type(identifier) is not tuple or not 5 <= len(identifier) <= 6 or identifier[5:] not in ((), (None,)):
            raise ValueError("a persistent identifier of unknown layout")
        word, kind, key, _, numel = identifier[:5]
        if word != "storage" or type(kind) is not Global or kind.name not in STORAGES or type(key) is not str:
            raise ValueError("a persistent identifier that is no storage")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage of impossible size")
        if self.storages.setdefault(key, (kind.name, numel)) != (kind.name, numel):
            raise ValueError(f"two sizes for storage {printable(key)}")
        return numel

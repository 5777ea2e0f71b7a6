"""Files that are complete or absent: JSON, tables, arrays, work that survives a kill, weights, also on a hub."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from discriminator_guidance.core.errors import InputError, UserError

if TYPE_CHECKING:  # commands that compute nothing start without torch
    import pandas as pd
    from torch import Tensor, nn

DIGITS = 9  # significant ones of every number in JSON and CSV: the same on every machine, unlike the last ones
MAX_EXPANSION, SMALL_BYTES = 100, 2**26  # an archive unpacks to so many times its size, or to so many bytes, at most


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a file so that no reader sees a part of it and a failure leaves the previous one; make its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = "free disk space or correct its name or permissions, and run it again; complete results are kept"
        raise UserError(f"{path} cannot be written: {error.strerror or error}", remedy) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replaced(path) as stream:
        stream.write(content)


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON, keys in the order given, floats to 9 significant digits; NaN and infinity are a ValueError."""
    write_bytes(path, (json.dumps(rounded(data), indent=2, allow_nan=False) + "\n").encode())


def rounded(data: Any) -> Any:
    """Data with its floats as JSON files have them."""
    return json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.{DIGITS}g}"))


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read the JSON object that a stage wrote."""
    require(path, stage)
    with damage_refused(f"{path} is not a JSON object", f"run stage {stage} again"):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write plain arrays; the same arrays give the same bytes, with any version of Python (not so `np.savez`)."""
    with replaced(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getbuffer())


RANKS = {"images": 4, "labels": 1, "index": 1, "logits": 1, "train": 2, "holdout": 2}  # of the arrays of stages


def read_npz(path: Path, names: Sequence[str], stage: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` of the .npz that a stage wrote."""
    require(path, stage)
    arrays = load_arrays(path, names, f"run stage {stage} again")
    for name, array in arrays.items():
        right = array.dtype.kind in "biuf" and array.ndim == RANKS.get(name, array.ndim) and array.size > 0
        if not right or not np.isfinite(array).all():
            problem = f"{name} in {path} is {array.dtype} of {array.shape}{', not finite' * right}"
            raise InputError(problem, f"run stage {stage} again")
    return arrays


def load_arrays(path: Path, names: Sequence[str] | None, remedy: str) -> dict[str, np.ndarray]:
    """Read named plain arrays (None: all) of an .npz from anywhere, checksums compared, nothing unpickled."""
    with damage_refused(f"{path} is not a complete .npz file", remedy), open_archive(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        # Whole entries are read, because only then are checksums compared.
        contents = {name: io.BytesIO(archive.read(entries[name])) for name in names or entries}
        return {name: np.lib.format.read_array(part, allow_pickle=False) for name, part in contents.items()}


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip whose entries, of which none is unpacked here, do not grow beyond measure; reading compares checksums."""
    with zipfile.ZipFile(regular(path)) as archive:
        entries = archive.infolist()
        if odd := [e.filename for e in entries if e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]:
            raise ValueError(f"{odd[0]} is compressed, but not by deflate")  # others unpack without limit
        size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
        if unpacked > max(SMALL_BYTES, MAX_EXPANSION * size):
            raise ValueError(f"it has {size:,} bytes and unpacks to {unpacked:,}")
        yield archive


def regular(path: Path) -> Path:
    """The path, unless it is a pipe or a device, from which reading may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is a pipe or a device")
    return path


def reason(error: Exception) -> str:
    """What an exception says, in one line of at most 200 characters."""
    text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


@contextmanager
def damage_refused(problem: str, remedy: str) -> Iterator[None]:
    """Inside, what is raised on damaged bytes, of some dozen types, becomes an InputError, and all have this remedy."""
    try:
        yield
    except InputError as error:
        raise InputError(error.problem, remedy) from error
    except UserError:
        raise
    except Exception as error:
        raise InputError(f"{problem}: {reason(error)}", remedy) from error


def write_csv(path: Path, rows: Sequence[Mapping[str, object]] | pd.DataFrame, columns: Sequence[str] = ()) -> None:
    """Write a table with a header (of no rows `columns`), floats to 9 significant digits."""
    import pandas as pd

    table = pd.DataFrame(rows) if len(rows) else pd.DataFrame(columns=list(columns))
    write_bytes(path, table.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g").encode())


def require(path: Path, stage: str) -> None:
    """Refuse to start without a file that a stage makes."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", f"run `dvc repro` (stage {stage} makes it)")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(data: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON-like settings, whatever the order of their keys; infinity is allowed."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@cache
def source_hash(package: Path | None = None) -> str:
    """The SHA-256 of the Python files in a folder, this library if none is given, as this process found them."""
    package = package or Path(__file__).parents[1]
    return fingerprint({str(path.relative_to(package)): sha256(path) for path in package.rglob("*.py")})


class Resumable:
    """The resumable part of one run: a folder `root`/`name`/<hash of `key`, this library's source, versions, threads>.

    Damaged files count as missing.
    """

    def __init__(self, root: Path, name: str, key: Mapping[str, Any]) -> None:
        import torch

        machine = [torch.__version__, np.__version__, torch.get_num_threads()]
        self.folder = root / name / fingerprint({**key, "code": source_hash(), "machine": machine})[:20]

    def load_shard(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of a finished shard by name; InputError if it is not finished."""
        return load_arrays(self.folder / f"shard-{number:05d}.npz", None, "share its folder among all processes")

    def save_shard(self, number: int, **arrays: np.ndarray) -> None:
        """Keep a finished shard, counted from 0."""
        write_npz(self.folder / f"shard-{number:05d}.npz", **arrays)

    def load(self) -> dict[str, Any] | None:
        """The state last given to `save`, on the CPU: networks and optimizers move it to their own device."""
        path = self.folder / "checkpoint.pt"
        with suppress(Exception), zipfile.ZipFile(path) as archive:  # these raise some dozen types on damaged bytes
            if archive.testzip() is None:  # PyTorch writes checksums and does not compare them
                return load_torch(path)
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the training state: tensors and plain values, nested in dictionaries and lists."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_bytes(self.folder / "checkpoint.pt", buffer.getvalue())

    def remove(self) -> None:
        """Delete the folder, once the outputs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # others are in it, or it is gone
            self.folder.parent.rmdir()


WEIGHT_FILES = ("model.safetensors", "config.json")
AS_PUBLISHED = "use the file as its authors published it"
Network = TypeVar("Network", bound="nn.Module")


def save_weights(folder: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write `model.safetensors` (tensors by their original names) and `config.json` (constructor arguments)."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    write_json(folder / "config.json", arguments)


def load_weights(folder: Path, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and constructor arguments, as `save_weights` wrote them."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    require(path, stage)
    arguments = read_json(folder / "config.json", stage)
    with damage_refused(f"{path} has no complete weights", f"run stage {stage} again"):
        return load_file(path), arguments


def load_torch(file: Path | io.BytesIO) -> Any:
    """The content of a file by `torch.save`, on the CPU, if it has only tensors and plain containers."""
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch wraps what it met in advice to load the file all the same.
        raise ValueError(str(error.__context__ or error).partition(" Please")[0]) from error


def load_network(build: Callable[..., Network], folder: Path, stage: str) -> Network:
    """The network of which a stage wrote the arguments and the weights."""
    state, arguments = load_weights(folder, stage)
    problem = f"the weights in {folder} do not fit their config.json"
    return fit_network(build, arguments, state, problem, f"run stage {stage} again")


def fit_network(
    build: Callable[..., Network], arguments: Mapping[str, Any], state: Mapping[str, Tensor], problem: str, remedy: str
) -> Network:
    """A network with weights that fit it, whose arguments come from a file."""
    import torch

    with damage_refused(problem, remedy):
        text, most = json.dumps(arguments), len(state)
        if len(text) > 1000 + 100 * most or any(int(depth) > most for depth in re.findall(r'blocks": (\d+)', text)):
            raise ValueError("they ask for more layers than there are tensors")  # it would take for ever to build them
        with torch.device("meta"):  # takes no memory; but *, / and randn import torch._dynamo there
            network = build(**arguments)
        kinds = {name: torch.float32 if tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
        network.load_state_dict({name: state[name].to(kind, copy=True) for name, kind in kinds.items()}, assign=True)
    return network


SHARED = ["*.json", "*.md", "*.npz", "*.safetensors"]
AGAIN = "save it again, or download it again, or correct the name"
HUB = "check the name, the connection, `pip install huggingface_hub` and `hf auth login`"


def local_folder(name: str | Path, **hub: Any) -> Path:
    """The path of that name, or else a copy of the repository "user/repo" on the Hub."""
    path = Path(name)
    if path.exists() or path.parent.is_dir() or len(path.parts) != 2:
        return path
    with damage_refused(f"{path} is no folder, and no repository on the Hub that can be read", HUB):
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(path.as_posix(), allow_patterns=SHARED, **hub))

"""The .npz of mu and sigma: two plain arrays, or one clear error."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance.artifacts.reference_statistics import read_statistics
from discriminator_guidance.errors import InputError


def test_both_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    mu, sigma = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "ref.npz", mu=mu, sigma=sigma, other=np.zeros(1))
    read = read_statistics(tmp_path / "ref.npz")
    np.testing.assert_array_equal(read[0], mu)
    np.testing.assert_array_equal(read[1], sigma)


@pytest.mark.parametrize("name", ["mu", "sigma"])
@pytest.mark.parametrize("shape", [(2**26,), (2**40,)])
def test_a_bomb_is_refused_before_it_is_given_memory(tmp_path: Path, name: str, shape: tuple[int]) -> None:
    path = tmp_path / "ref.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    small = io.BytesIO()
    np.save(small, np.zeros(3))
    with zipfile.ZipFile(path, "w") as archive:
        for entry in ("mu", "sigma"):
            archive.writestr(f"{entry}.npy", (header if entry == name else small).getvalue())
    with pytest.raises(InputError, match=rf"expected {name} of at most 268,435,456 bytes in .*got [0-9,]+;"):
        read_statistics(path)


def test_a_header_that_tells_of_fewer_numbers_is_refused(tmp_path: Path) -> None:
    """numpy itself would read the shorter array without a word."""
    path = tmp_path / "ref.npz"
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(path, "w") as archive:
        for entry in ("mu", "sigma"):
            archive.writestr(f"{entry}.npy", content.getvalue() + bytes(8))
    with pytest.raises(InputError, match="array mu has more bytes than its header says"):
        read_statistics(path)


def written(path: Path, kind: str) -> Path:
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (path.with_suffix(".executed"),)

    match kind:
        case "no sigma":
            np.savez(path, mu=np.zeros(3), cov=np.eye(3))
        case "one array":
            with path.open("wb") as stream:
                np.save(stream, np.zeros(3))
        case "truncated":
            np.savez(path, mu=np.zeros(300), sigma=np.eye(300))
            path.write_bytes(path.read_bytes()[:1000])
        case "pickle":
            path.write_bytes(pickle.dumps(Hostile()))
        case "pickle inside":
            np.savez(path, mu=np.array([Hostile()], dtype=object), sigma=np.eye(1))
    return path


@pytest.mark.parametrize("kind", ["absent", "no sigma", "one array", "truncated", "pickle", "pickle inside"])
def test_anything_else_is_one_clear_error_and_executes_nothing(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "ref.npz", kind)
    with pytest.raises(InputError, match=r"mu and sigma in .*ref\.npz") as caught:
        read_statistics(path)
    assert "\n" not in str(caught.value)
    assert not path.with_suffix(".executed").exists()

"""The .npz of mu and sigma: two plain arrays, or one clear error."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from discriminator_guidance.checkpoints.reference_statistics import read_statistics
from discriminator_guidance.errors import InputError


def test_both_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.arange(3.0), sigma=np.eye(3), other=np.zeros(1))
    mu, sigma = read_statistics(tmp_path / "ref.npz")
    np.testing.assert_array_equal(mu, np.arange(3.0))
    np.testing.assert_array_equal(sigma, np.eye(3))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: np.savez(path, mu=np.zeros(3), cov=np.eye(3)),
        lambda path: np.savez(path, mu=np.zeros(3), sigma=np.eye(4)),
        lambda path: np.savez(path, mu=np.array(["a"]), sigma=np.eye(1)),
        lambda path: path.write_bytes(pickle.dumps(Hostile())),
        lambda path: np.savez(path, mu=np.array([Hostile()]), sigma=np.eye(1)),
    ],
    ids=["absent", "no sigma", "other shapes", "words", "pickle", "pickle inside"],
)
def test_anything_else_is_one_clear_error_and_executes_nothing(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "ref.npz")
    with pytest.raises(InputError, match=r"ref\.npz.*evaluation\.reference") as caught:
        read_statistics(tmp_path / "ref.npz")
    assert "\n" not in str(caught.value)

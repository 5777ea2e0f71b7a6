"""The reader of golden vectors: no file is passed over, nothing is unpickled, wrong values fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.vectors import Vectors, golden_folder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    meta = '{"agreement": {"out/y": {"recommended_atol": 0.1}}, "ctor_kwargs": {}}'
    np.savez(tmp_path / "y.npz", meta=np.array(meta), **{"out/y": np.ones(3, np.float32), "out64/y": np.ones(3)})
    return tmp_path / "y.npz"


def test_the_golden_folder_has_files() -> None:
    assert list(golden_folder().glob("*.npz")), f"no golden vectors in {golden_folder()}"


def test_another_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DG_GOLDEN_DIR", str(tmp_path))
    assert golden_folder() == tmp_path


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", meta=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Vectors(tmp_path / "objects.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [("out/y", 1.11), ("out/y", float("nan")), ("out64/y", 1 + 2e-9), ("out64/y", float("inf"))],
)
def test_wrong_values_fail(written: Path, name: str, value: float) -> None:
    vectors = Vectors(written)
    computed = torch.ones(3, dtype=torch.float64)
    computed[1] = value
    with pytest.raises(AssertionError, match=f"{name}: differs"):
        vectors.check(name, computed)
    assert name in vectors.unchecked()


def test_wrong_shapes_fail(written: Path) -> None:
    with pytest.raises(AssertionError, match="shape"):
        Vectors(written).check("out/y", torch.ones(1))


def test_values_within_tolerance_pass_and_are_counted(written: Path) -> None:
    vectors = Vectors(written)
    vectors.check("out/y", torch.full((3,), 1.09))
    assert vectors.unchecked() == {"out64/y"}
    vectors.check("out64/y", torch.full((3,), 1 + 5e-10, dtype=torch.float64))
    assert not vectors.unchecked()

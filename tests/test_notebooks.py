"""The notebooks run from top to bottom with small settings; what is in git has small outputs of a complete run."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from dguide.stages import release
from tests.commands import PROJECT
from tests.stages.conftest import prepare_study, tiny_settings

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
NOTEBOOKS = PROJECT / "notebooks"
REAL = str(PROJECT / "data" / "raw" / "digits.npz")
NUMBER = r"([+-]?\d+\.\d\d)"
DIFFERENCE = rf"difference:? {NUMBER},?(?: 95 % interval)? \[{NUMBER}, {NUMBER}\]"


def run(folder: Path, name: str, **settings: object) -> tuple[str, list[tuple[float, ...]], list[tuple[int, int]]]:
    """What a notebook prints with other settings in its first code cell; the differences in it; sizes of its images."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for key, value in settings.items():
        code[0].source, found = re.subn(rf"(?m)^{key} = .*", lambda _, line=f"{key} = {value!r}": line, code[0].source)
        assert found == 1, key
    nbclient.NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    sizes = [Image.open(io.BytesIO(base64.b64decode(each.data["image/png"]))).size for each in shown if "data" in each]
    return text, [tuple(map(float, found)) for found in re.findall(DIFFERENCE, text)], sizes


def test_quickstart(tmp_path: Path) -> None:
    release.run(*prepare_study(tmp_path / "study", tiny_settings()), tmp_path / "dist")
    weights = load_file(path := tmp_path / "dist" / "fid_network" / "model.safetensors")
    save_file({name: 10 * tensor for name, tensor in weights.items()}, path)  # untrained ones see no difference
    text, differences, sizes = run(tmp_path, "quickstart", RELEASE=str(tmp_path / "dist"), DIGITS=REAL, SAMPLES=24)
    ((value, low, high),) = differences
    assert low < high
    unguided, guided = map(float, re.findall(rf"guidance: {NUMBER}, 95 % interval", text))
    assert value == pytest.approx(guided - unguided, abs=0.011)
    assert sizes == [(16 * 8 * 3, 8 * 3)] * 3


def test_quickstart_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="run `make repro && make release`"):
        run(tmp_path, "quickstart", RELEASE="absent")


def test_your_model(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    text, differences, sizes = run(tmp_path, "your_model", DIGITS=REAL, ITERATIONS=20, FAKES=100, STEPS=50, SAMPLES=32)
    assert (len(differences), len({*differences[:3]})) == (8, 3)  # two references: three training seeds, their mean
    assert all(low <= value <= high for value, low, high in differences)
    assert differences[6][0] == pytest.approx(sum(value for value, _, _ in differences[:3]) / 3, abs=0.011)
    assert sizes == [(16 * 8 * 4, 8 * 4)] * 3
    assert "accuracy on held-out digits: 0.9" in text


def test_outputs_in_git() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert path.stat().st_size < 200_000
        counts = [cell.execution_count for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

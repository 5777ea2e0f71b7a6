"""The notebooks run from top to bottom with small settings; what is in git has small outputs of a complete run."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from dguide.tools import release
from discriminator_guidance.core.errors import ConfigError
from tests.commands import PROJECT
from tests.sources.test_fashion import write_fashion
from tests.stages.conftest import prepare_study, tiny_settings

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
NOTEBOOKS = PROJECT / "docs" / "notebooks"
REAL = str(PROJECT / "data" / "raw" / "digits.npz")
COUNTS = {"train": 300, "t10k": 60}
NUMBER = r"([+-]?\d+\.\d+)"
DIFFERENCE = rf"(?:difference|weight ., seed \w+): {NUMBER},?(?: 95 % interval)? \[{NUMBER}, {NUMBER}\]"


def run(
    folder: Path, name: str, digests: Sequence[str] = (), **settings: object
) -> tuple[str, list[tuple[float, ...]], list[tuple[int, int]]]:
    """What a notebook prints with other settings in its first code cell; the differences in it; sizes of its images.

    digests: of other files in place of the official ones.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for key, value in settings.items():
        code[0].source, found = re.subn(rf"(?m)^{key} = .*", lambda _, line=f"{key} = {value!r}": line, code[0].source)
        assert found == 1, key
    for digest in digests:
        code[2].source = re.sub(r'"[0-9a-f]{64}"', f"{digest!r}", code[2].source, count=1)
    nbclient.NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    sizes = [Image.open(io.BytesIO(base64.b64decode(each.data["image/png"]))).size for each in shown if "data" in each]
    return text, [tuple(map(float, found)) for found in re.findall(DIFFERENCE, text)], sizes


def test_quickstart(tmp_path: Path) -> None:
    study = prepare_study(tmp_path / "study", tiny_settings())
    (tmp_path / "dist/discriminator/old").mkdir(parents=True)
    with pytest.raises(ConfigError, match="dist has discriminators of another release: old; remove the folder"):
        release.run(*study, tmp_path / "dist")
    (tmp_path / "dist/discriminator/old").rmdir()
    release.run(*study, tmp_path / "dist")
    weights = load_file(path := tmp_path / "dist" / "fid_network" / "model.safetensors")
    save_file({name: 10 * tensor for name, tensor in weights.items()}, path)  # untrained ones see no difference
    text, differences, sizes = run(tmp_path, "quickstart", RELEASE=str(tmp_path / "dist"), DIGITS=REAL, SAMPLES=24)
    ((value, low, high),) = differences
    assert low < high
    unguided, guided = map(float, re.findall(rf"guidance: {NUMBER}, 95 % interval", text))
    assert value == pytest.approx(guided - unguided, abs=0.011)
    assert sizes == [(16 * 8 * 3, 8 * 3)] * 3


def test_quickstart_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="run `make repro`"):
        run(tmp_path, "quickstart", RELEASE="absent")


def test_your_model(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    digests = [*write_fashion(tmp_path / "fashion", COUNTS).values()]
    few = {
        "ITERATIONS": 5,
        "IMAGES": 40,
        "SAMPLES": 70,
        "STEPS": 3,
        "FEATURES": 5,
        "TRAINING": {"steps": 20, "batch_size": 16},
    }
    text, differences, sizes = run(tmp_path, "your_model", digests, FASHION="fashion", **few)
    assert len(differences) == 2 * 2 * 2 * 3  # references, distances, weights; two seeds and both
    assert all(low <= value <= high for value, low, high in differences)
    for first, second, both in zip(*(differences[start::3] for start in range(3)), strict=True):
        assert both[0] == pytest.approx((first[0] + second[0]) / 2, abs=0.0011)
    assert sizes == [(16 * 16 * 3, 16 * 3)] * 3
    assert len(re.findall(r"seed \d: \d+ processor seconds", text)) == 2


def test_toy(tmp_path: Path) -> None:
    text, _, sizes = run(tmp_path, "toy", SAMPLES=400, FIGURES=str(tmp_path))
    shares, far = zip(*re.findall(rf": (\d+) % .*, {NUMBER} %", text), strict=True)
    assert [int(share) for share in shares] == pytest.approx([50, 10, 50, 50], abs=8)
    assert max(map(float, far[:3])) < 1 < 5 < float(far[3]), "by the clipped logit alone, modes lose their shape"
    assert len(sizes) == len([*tmp_path.glob("*.png")]) == 2


def test_outputs_in_git() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert path.stat().st_size < 200_000
        counts = [cell.execution_count for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

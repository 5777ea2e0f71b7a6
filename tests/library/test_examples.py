"""The examples in docstrings, in README.md and in the docs run as they stand, with the files that they name."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import discriminator_guidance
from tests.commands import PROJECT
from tests.stages import released
from tests.stages.conftest import prepare_study, tiny_settings

NAMES = [name for name in discriminator_guidance.__all__ if not name.endswith("Error")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files under the names that examples read."""
    from dguide.tools import release

    folder = tmp_path_factory.mktemp("examples")
    released.edm_file(folder / "edm-cifar10-32x32-uncond-vp.pkl")
    released.classifier_file(folder / "32x32_classifier.pt")
    released.head_file(folder / "discriminator_60.pt")
    release.run(*prepare_study(folder / "study", tiny_settings()), folder / "dist" / "mini")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_docstring_example(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = getattr(discriminator_guidance, name)
    if name in ("from_diffusers", "guided_unet"):
        pytest.importorskip("diffusers")
    monkeypatch.chdir(files)
    names = {each: getattr(discriminator_guidance, each) for each in NAMES}
    found = doctest.DocTestFinder().find(public, name, globs={"np": np, "torch": torch, **names})
    for each in found:
        assert doctest.DocTestRunner().run(each) == doctest.TestResults(0, len(each.examples)), each.name
    assert any(each.name == name and each.examples for each in found)


def test_ten_lines_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    exec(code, {})
    unguided, guided = map(float, re.findall(r"tensor\((.*?)\)", capsys.readouterr().out))
    assert unguided == pytest.approx(-0.3, abs=0.02)
    assert guided == pytest.approx(-0.02, abs=0.06), "as README says"


def test_blocks_of_your_model(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.chdir(files)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "your_model.md").read_text(), re.DOTALL):
        exec(block.replace("steps=200", "steps=50"), names)
    means = [np.mean(names[name]) for name in ("unguided", "guided", "reference")]
    assert means == sorted(means), "guidance moves the mean of the model towards that of the data"

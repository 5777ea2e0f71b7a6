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

SMALL = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
SMALL |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
NAMES = [name for name in discriminator_guidance.__all__ if not name.endswith("Error")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files under the names that examples read."""
    from dguide.stages import release

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


def test_ten_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    section = (PROJECT / "README.md").read_text().split("## Guide your own model")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    diffusers.UNet2DModel(**SMALL).save_pretrained("my_model")
    diffusers.DDPMScheduler().save_pretrained("my_model")
    real = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez("my_images.npz", images=real)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["images"].shape == (16, 32, 32, 3)


def test_blocks_of_your_model(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.chdir(files)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "your_model.md").read_text(), re.DOTALL):
        exec(block, names)
    means = [np.mean(names[name]) for name in ("unguided", "guided", "reference")]
    assert means == sorted(means), "guidance moves the mean of the model towards that of the data"

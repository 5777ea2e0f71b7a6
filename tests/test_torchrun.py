"""Two processes under torchrun make of a stage what one process makes of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dguide.settings import Layout
from discriminator_guidance import ConfigError, sample, train_discriminator
from discriminator_guidance.core import runtime
from discriminator_guidance.training import discriminator as training

from .commands import TORCHRUN, succeed
from .stages.conftest import only, prepare_study, run_stage, tiny_settings, write_params

STAGES = {"fid_network": {}, "guided": {"variant": "own"}, "evaluation": {},
          "discriminator": {"member": "d1"}}  # the processes part for the first, and meet again  # fmt: skip
PROGRAM = f"""
from pathlib import Path
from dguide.run import run_stage
for stage, row in {STAGES}.items():
    run_stage(stage, Path("params.yaml"), **row)
"""


def test_samples_metrics_and_head_are_the_same(tmp_path: Path) -> None:
    own = tiny_settings()["variants"]["mean_prob"] | {"rule": "mean_logit", "weights": "fitted"}
    changes = only("edm", "mean_prob") | {"evaluation.batch_size": 7}
    changes["variants"] = {"edm": changes["variants"]["edm"], "own": own}
    changes["report"] |= {"primary": ["own", "edm"]}
    alone = prepare_study(tmp_path / "alone", tiny_settings(changes))
    folder = Path(shutil.copytree(tmp_path / "alone", tmp_path / "shared"))
    run_stage("guided", alone, "edm")
    layouts = (alone[1], Layout(folder, "mini"))
    shutil.copytree(alone[1].guided("edm"), layouts[1].guided("edm"))
    shown = succeed(folder, *TORCHRUN, "python", "-c", PROGRAM)
    for stage, row in STAGES.items():
        run_stage(stage, alone, *row.values())
        assert shown.splitlines().count("/".join([stage, *row.values()])) == 1, "the first process alone reports"
    for file in ("data/mini/guided/own/samples.npz", "models/mini/fid_network/model.safetensors"):
        assert (tmp_path / "alone" / file).read_bytes() == (folder / file).read_bytes()
    for path in [*layouts[0].report.glob("evaluation/*"), *layouts[0].report.glob("details/*")]:
        assert path.read_bytes() == (layouts[1].report / path.relative_to(layouts[0].report)).read_bytes()
    logits, others = (np.load(layout.discriminator("d1") / "test_logits.npz")["logits"] for layout in layouts)
    np.testing.assert_allclose(logits, others, rtol=1e-4, atol=1e-5)  # equal up to rounding
    assert logits.std() > 1e-4
    curves = [layout.discriminator_report("d1") / "history.csv" for layout in layouts]
    np.testing.assert_allclose(*(np.loadtxt(path, delimiter=",", skiprows=1) for path in curves), rtol=1e-3)
    assert not [path for path in layouts[1].partial.rglob("*") if path.is_file()]


GREY = np.full((20, 8, 8, 1), 128, np.uint8)
LIBRARY = """
import os, warnings
import numpy as np, torch
from discriminator_guidance import sample, train_discriminator

drawn = []

def denoiser(x, sigma):
    drawn.append(len(x))
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

torch.set_num_threads(1)
rank = os.environ.get("RANK", "")
of = {"rows": sample(denoiser, (11, 1, 8, 8), batch_size=3, steps=4)}
of["drawn"] = sum(drawn)
of["written"] = np.load(sample(denoiser, (10, 1, 8, 8), out="samples.npy", batch_size=3, steps=4))
real = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype("float32"))
with warnings.catch_warnings(action="ignore"):
    for name, folder in (("kept", "training"), ("in memory", None)):
        how = {"steps": 20, "row_steps": 10, "batch_size": 16}
        of[name] = train_discriminator(real, denoiser, checkpoints=folder, **how).tested["logits"]
np.savez(f"of{rank}.npz", **of)
"""


def test_the_library_divides_samples_and_training(tmp_path: Path) -> None:
    for name, launcher in (("alone", ()), ("shared", TORCHRUN)):
        (tmp_path / name).mkdir()
        succeed(tmp_path / name, *launcher, "python", "-c", LIBRARY)
    alone, *parts = (dict(np.load(tmp_path / name)) for name in ("alone/of.npz", "shared/of0.npz", "shared/of1.npz"))
    total, *drawn = (arrays.pop("drawn") for arrays in (alone, *parts))
    assert [round(11 * images / total) for images in drawn] == [5, 6], "each process draws its share"
    for name, values in alone.items():
        np.testing.assert_array_equal(parts[0][name], parts[1][name])
        np.testing.assert_allclose(values, parts[0][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "call", "words"),
    [
        (runtime, lambda seed: sample(lambda x, sigma: x, (11, 1, 8, 8), steps=4, seed=seed), "ask for other samples"),
        (training, lambda seed: train_discriminator(GREY, GREY, steps=2, seed=seed), "have other images or settings"),
    ],
)
def test_processes_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch, module, call, words: str) -> None:
    asked = []

    def broadcast(value):  # the first process ends here; the second is given what it asked for
        asked.append(value)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return asked[0]

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module, "broadcast", broadcast)
    with pytest.raises(KeyboardInterrupt):
        call(0)
    with pytest.raises(ConfigError, match=f"processes of torchrun {words}"):
        call(1)


def test_a_plan_times_what_all_share_and_is_printed_once(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_settings())
    shown = succeed(tmp_path, *TORCHRUN, "dguide", "plan", "--seconds", "0.1")
    assert shown.count("discriminator/d1") == shown.count("evaluation") == 1

"""Two processes under torchrun make of a stage what one process makes of it."""

import shutil
from pathlib import Path

import numpy as np

from dguide.settings import Layout

from .commands import TORCHRUN, run, succeed
from .stages.conftest import only, prepare_study, run_stage, tiny_settings

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


LIBRARY = """
import os, sys, warnings
import numpy as np, torch
from discriminator_guidance import sample, train_discriminator

drawn = []

def denoiser(x, sigma):
    drawn.append(len(x))
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

torch.set_num_threads(1)
rank = os.environ.get("RANK", "")
other = {sys.argv[1]: {"seed": int(rank or 0)}}  # in each process
of = {"rows": sample(denoiser, (11, 1, 8, 8), batch_size=3, steps=4, **other.get("sample", {}))}
of["drawn"] = sum(drawn)
of["written"] = np.load(sample(denoiser, (10, 1, 8, 8), out="samples.npy", batch_size=3, steps=4))
real = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype("float32"))
with warnings.catch_warnings(action="ignore"):
    for name, folder in (("kept", "training"), ("in memory", None)):
        how = {"steps": 20, "row_steps": 10, "batch_size": 16, **other.get("training", {})}
        of[name] = train_discriminator(real, denoiser, checkpoints=folder, **how).tested["logits"]
np.savez(f"of{rank}.npz", **of)
"""


def test_the_library_divides_samples_and_training(tmp_path: Path) -> None:
    for name, launcher in (("alone", ()), ("shared", TORCHRUN)):
        (tmp_path / name).mkdir()
        succeed(tmp_path / name, *launcher, "python", "-c", LIBRARY, "nothing")
    alone, *parts = (dict(np.load(tmp_path / name)) for name in ("alone/of.npz", "shared/of0.npz", "shared/of1.npz"))
    total, *drawn = (arrays.pop("drawn") for arrays in (alone, *parts))
    assert [round(11 * images / total) for images in drawn] == [5, 6], "each process draws its share"
    for name, values in alone.items():
        np.testing.assert_array_equal(parts[0][name], parts[1][name])
        np.testing.assert_allclose(values, parts[0][name], rtol=1e-3, atol=1e-4)
    for call, words in (("sample", "ask for other samples"), ("training", "have other images or settings")):
        refused = run(tmp_path / "shared", *TORCHRUN, "python", "-c", LIBRARY, call)
        assert f"processes of torchrun {words}" in refused.stderr

"""The command line: one line with exit code 2 for every mistake of a user."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from dguide import cli, tracking
from dguide.__main__ import main
from dguide.report.format import fid_text
from dguide.tools import plan
from dguide.tools.profile import use_profile
from discriminator_guidance.core.files import load_network, write_json, write_npz
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond

from .commands import PROJECT, refused, run, succeed
from .stages.released import edm_file, head_file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    use_profile(tmp_path, "mini")  # whichever is active here
    (tmp_path / "data/raw").mkdir(parents=True)
    shutil.copy(PROJECT / "data/raw/digits.npz", tmp_path / "data/raw")
    return tmp_path


def dguide(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has imported what it needs."""
    shown, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown), redirect_stderr(complained):
        patch.chdir(folder)
        for variable, value in {"DGUIDE_TRACKING": "off", "COLUMNS": "200", **variables}.items():
            patch.setenv(variable, value)
        patch.setattr(sys, "argv", ["dguide", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), shown.getvalue(), complained.getvalue())


def test_a_stage_runs_and_says_what_it_did(project: Path) -> None:
    shutil.move(project / "params.yaml", project / "other.yaml")
    assert "1438" in dguide(project, "real", "--params", "other.yaml").stdout
    assert (project / "data/mini/real/train.npz").is_file()
    assert not (project / "mlflow.db").exists(), "tracking is off"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["discriminator", "d9"], ["params.yaml has no member 'd9'", "d0, d1"]),
        (["guided", "best"], ["params.yaml has no variant 'best'", "mean_logit"]),
        (["score"], ["data/mini/real/train.npz", "stage real"]),
        (["guided", "edm", "--replicate", "1"], ["--replicate is 1; choose from 0 to 0"]),
        (["summary"], ["reports/mini/", "stage evaluation"]),
        (["evaluation"], ["does not exist", "dvc repro"]),
        (["fetch", "nothing"], ["'nothing'"]),
        *(
            (["sample", "--variant", "edm", "--indices", seeds, "--out", "x"], [repr(seeds), "give 1 to"])
            for seeds in ("3-1", "", "a", "1-", "0-3,9-5", "0-99999999", "1" * 30)
        ),
        (["sample", "--variant", "edm", "--indices", "0-3", "--out", "x"], ["models/mini/score", "dvc repro"]),
        (["fid", "--images", "absent", "--reference", "data/raw"], ["images in absent", "give a folder"]),
        (["sample", "--model", "data", "--discriminator", "data", "--indices", "0", "--out", "x"], ["data/model.safe"]),
        (["sample", "--model", "data", "--indices", "0", "--out", "x"], ["data is no unconditional diffusers model"]),
    ],
)
def test_a_mistake_is_one_line(project: Path, arguments: list[str], words: list[str]) -> None:
    before = sorted(project.rglob("*"))
    refused(dguide(project, *arguments), *words)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("command", ["config", "plan", "score"])
def test_a_damaged_card_is_one_line(project: Path, command: str) -> None:
    write_json(card := project / "data/mini/real/card.json", {"train": "x"})
    refused(dguide(project, command), "card.json is damaged", "run `dguide real` again")
    write_json(card, {"train": 9, "holdout": 1, "classes": [0, 1], "shape": [8, 8, 1]})  # of another holdout_fraction
    assert dguide(project, "config").returncode == 0


def test_a_wrong_setting_stops_before_anything_is_written(project: Path) -> None:
    kept = project / "data/mini/real/train.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"earlier result")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("  steps: 12", "  stepz: 12"))
    refused(run(project, "dguide", "real"), "params.yaml, line", "sampler.stepz", "did you mean steps?")
    params.write_text("a: [1,")
    refused(dguide(project, "real"), "params.yaml, line 1, is no YAML")
    assert kept.read_bytes() == b"earlier result"
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), RuntimeError("can't allocate memory"), MemoryError()])
def test_out_of_memory_names_the_batch_size(project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run_stage", fail)
    refused(dguide(project, "real"), "lower batch_size")


def test_released_files_become_weights_that_load_back(project: Path) -> None:
    weights = edm_file(project / "edm.pkl")
    head = head_file(project / "head.pt", (8, 4, 4), condition=True)
    for kind, file in (("edm", "edm.pkl"), ("adm", "head.pt")):
        assert dguide(project, "convert", kind, file, f"converted/{kind}").returncode == 0
    assert set(load_network(EDMPrecond, project / "converted/edm", "score").state_dict()) == set(weights)
    again = load_network(EncoderUNet, project / "converted/adm", "discriminator").eval()
    x, t, labels = torch.randn(2, 8, 4, 4), torch.tensor([0.1, 0.7]), torch.tensor([0, 3])
    assert torch.equal(again(x, t, labels), head(x, t, labels))
    refused(dguide(project, "convert", "edm", "edm.pkl", "converted/adm"), "converted/adm has a config.json")


def test_a_saved_diffusers_pipeline_needs_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    small: dict = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    small |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    plain, classes = (diffusers.UNet2DModel(8, 1, 1, num_class_embeds=number, **small) for number in (None, 9))
    scheduler, inpainting = diffusers.DDPMScheduler(), diffusers.RePaintScheduler()
    for name, network, noise, parts in (
        ("model", plain, scheduler, ("", "")),
        *(("latents", plain, scheduler, (part, "scheduler")) for part in ("unet", "vqvae")),
        ("classes", classes, scheduler, ("transformer", "scheduler")),
        ("repaint", plain, inpainting, ("unet", "scheduler")),
    ):
        network.save_pretrained(tmp_path / name / parts[0])
        noise.save_pretrained(tmp_path / name / parts[1])
    for name, size in (("real", 8), ("large", 16)):
        np.savez(tmp_path / name, images=np.random.default_rng(0).integers(0, 255, (40, size, size, 1), np.uint8))
    train = ["train-discriminator", "--out", "d", "--steps", "20", "--model"]
    for model, data, word in (
        ("classes", "real", "class_labels"),
        ("repaint", "real", "RePaintScheduler"),
        ("latents", "real", "latents"),
        ("model", "large", "are (1, 16, 16), and model draws (1, 8, 8)"),
    ):
        refused(dguide(tmp_path, *train, model, "--data", f"{data}.npz"), word)
    refused(dguide(tmp_path, *train, "model", "--data", "real.npz", "--out", "model/new"), "--out model/new lies in")
    assert "validation loss" in dguide(tmp_path, *train, "model", "--data", "real.npz").stdout
    (tmp_path / "README.md").write_text("mine")
    refused(dguide(tmp_path, *train, "model", "--data", "real.npz", "--out", "."), "README.md of something")
    draw = ["sample", "--model", "model", "--indices", "3,5-7", "--steps", "3", "--out"]
    assert dguide(tmp_path, *draw, "plain").returncode == dguide(tmp_path, *draw, "grid.png").returncode == 0
    assert dguide(tmp_path, *draw, "guided", "--discriminator", "d", "--weight", "2").returncode == 0
    images = [{path.stem: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("plain", "guided")]
    assert [sorted(named) for named in images] == [["000003", "000005", "000006", "000007"]] * 2
    assert images[0] != images[1]
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(dguide(tmp_path, *draw, "x"), "the package diffusers is not installed; pip install '.[diffusers]'")


def test_config_and_profile(project: Path) -> None:
    assert re.search(r"\d members, \d+ variants", dguide(project, "config").stdout)
    assert "profile cifar10" in dguide(project, "profile", "cifar10").stdout
    refused(dguide(project, "config"), "cifar-10-binary.tar.gz (real.path)", "`dguide fetch --list`")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("steps: 35", "steps: 18", 1))
    refused(dguide(project, "profile", "mini"), "--force")
    assert dguide(project, "profile", "mini", "--force").returncode == 0


def test_a_profile_of_own_images_is_written_estimated_and_valid(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "estimate", lambda *_: {"score": 100.0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_npz(project / "pets.npz", images=np.zeros((300, 20, 20, 3), np.uint8), labels=np.arange(300) % 2)
    shown = dguide(project, "init", "--images", "pets.npz")
    assert re.search(r"at load \d+\.\d of .* 0:01:40", shown.stdout, re.DOTALL), shown.stderr
    assert "configs/pets.yaml; next: make repro PROFILE=pets" in shown.stdout
    params = project / "configs/pets.yaml"
    assert "1 members, 2 variants" in dguide(project, "config", "--params", str(params)).stdout
    written = params.read_text()
    params.write_text(written.replace("device: auto", "device: cuda"))
    if not torch.cuda.device_count():
        refused(dguide(project, "config", "--params", str(params)), "no device 'cuda'", "choose cpu")
    params.write_text(written.replace("fake: {images: 240}", "fake: {images: 3}"))
    refused(dguide(project, "config", "--params", str(params)), "3 images for discriminator.split and 60 held-out")


def test_options_that_would_have_no_effect_are_refused(project: Path) -> None:
    for options in ("--variant=d0 --weight=2", "--variant=d0 --steps=9", "--model=x --weight=2"):
        refused(dguide(project, "sample", "--indices=0", "--out=x", *options.split()), "options do not fit; give")


def test_a_summary_shows_the_results(project: Path) -> None:
    for part in ("evaluation", "details"):
        shutil.copytree(PROJECT / "reports" / "mini" / part, project / "reports" / "mini" / part)
    shown = dguide(project, "summary")
    (row,) = [line for line in shown.stdout.splitlines() if line.split()[:1] == ["clip_logit"]]
    metrics = json.loads((PROJECT / "reports" / "mini" / "evaluation" / "clip_logit.json").read_text())
    assert fid_text(metrics) in row
    assert "clipped logit" in row
    answer = r"Against edm \(.*\), mean_prob \(.*\) is \w+: paired .* FID \(digits network\) [-+][\d.]+ \[[-+]"
    assert re.match(answer, shown.stdout.splitlines()[-1])
    shown = dguide(project, "compare", "d0", "clip_logit")
    assert re.match(answer.replace("edm", "clip_logit").replace("mean_prob", "d0"), shown.stdout)
    refused(dguide(project, "compare", "d0", "d0"), "d0 and d0 are not compared; choose two of edm, d0")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("steps: 12", "steps: 13"))
    refused(dguide(project, "compare", "d0", "clip_logit"), "are of other settings; run `dvc repro`")


def test_a_narrow_terminal_cuts_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = [{"row": f"row {row}", **{f"metric {n}": f"{row}.{n}2345 [1, 2]" for n in range(9)}} for row in range(3)]
    tracking.table("results", rows)
    shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert all(text in shown for row in rows for text in (*row, *row.values()))
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("lost", ["dropped", "replaced"])
def test_a_signal_whose_error_is_lost_ends_the_command(
    project: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, lost: str
) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(number)

    def work(*_: object, **__: object) -> None:
        if lost == "dropped":  # by Python
            type("Dropped", (), {"__del__": interrupt})()
            time.sleep(5)
        else:  # torch raises a TypeError
            torch.tensor(type("Read", (), {"__len__": lambda _: 1, "__getitem__": interrupt})())

    monkeypatch.setattr(cli, "run_stage", work)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    done = dguide(project, "real")
    assert (done.returncode, done.stderr) == (130, "interrupted: the same command resumes a stage, study or training\n")


def test_a_command_starts_without_what_it_does_not_need(project: Path) -> None:
    code = "import sys, dguide.cli, dguide.settings; print({'torch', 'mlflow', 'pandas', 'optuna'} & set(sys.modules))"
    assert succeed(project, sys.executable, "-c", code) == "set()\n"

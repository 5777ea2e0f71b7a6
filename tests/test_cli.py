"""The command line: errors are one line and exit code 2, before anything is written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from discriminator_guidance import cli
from discriminator_guidance.artifacts.files import write_json
from discriminator_guidance.config import load_config
from discriminator_guidance.stages.layout import Layout

from .report.conftest import evaluation
from .stages.conftest import Study
from .stages.released import classifier_file, edm_file, head_file
from .stages.untrained import FEATURES, untrained_study

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    return tmp_path


def dguide(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has imported what it needs; `started` is one of its own."""
    told, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(complained):
        patch.chdir(folder)
        patch.setenv("DGUIDE_TRACKING", "off")
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["dguide", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = int(ended.value.code or 0)
    return subprocess.CompletedProcess(arguments, code, told.getvalue(), complained.getvalue())


def started(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "discriminator_guidance.cli", *arguments]
    environment = {**os.environ, "DGUIDE_TRACKING": "off", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: expected ")
    for word in words:
        assert word in lines[0]


def test_unknown_profile(project):
    refused(started(project, "real", "--profile", "nano"), "configs/nano.yaml", "mini")


def test_unknown_member_and_variant(project):
    refused(dguide(project, "discriminator", "--profile", "mini", "--member", "d9"), "'d9'", "d0, d1")
    refused(dguide(project, "guided", "--profile", "mini", "--variant", "best"), "'best'", "ensemble_logit")


def test_a_quota_that_is_hit_is_one_line_and_keeps_the_earlier_result(project):
    kept = project / "data" / "mini" / "real" / "train.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"earlier result")
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "from discriminator_guidance.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "real", "--profile", "mini"]
    # The quota holds for every file of the process, that of `make coverage` too.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**outer, "DGUIDE_TRACKING": "off", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    refused(done, "data/mini/real/", "File too large", "give it room")
    assert kept.read_bytes() == b"earlier result"
    assert [path.name for path in kept.parent.iterdir()] == ["train.npz"]


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(project):
    small = project / "data"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=200k none data && {sys.executable} -m discriminator_guidance.cli real --profile mini; "
        "code=$?; find data -type f >&2; exit $code"
    )
    private = ["unshare", "--mount", "--map-root-user"]
    environment = {**os.environ, "DGUIDE_TRACKING": "off", "COLUMNS": "200"}
    able = subprocess.run(
        [*private, "sh", "-c", "mount -t tmpfs none data"], cwd=project, capture_output=True, check=False
    )
    if able.returncode:
        pytest.skip("this machine cannot mount a small file system: `unshare --mount` failed")
    done = subprocess.run(
        [*private, "sh", "-c", script], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    error, *left = done.stderr.splitlines()
    assert "No space left on device; give it room" in error
    assert not any(".tmp" in line or "train.npz" in line for line in left), left


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "to read or write x.npz"),
        (errno.EIO, "disk that can be read at x.npz"),
        (errno.EROFS, "to write"),
    ],
)
def test_a_refusal_of_the_system_is_one_line(project, monkeypatch, number, words):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "x.npz")

    monkeypatch.setattr("discriminator_guidance.config.load_config", refuse)
    refused(dguide(project, "config", "--profile", "mini"), words, os.strerror(number))


def test_bad_setting_stops_before_anything_is_written(project):
    path = project / "configs" / "mini.yaml"
    path.write_text(path.read_text().replace("steps: 12 ", "steps: 1 "))
    kept = project / "data" / "mini" / "real" / "train.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"earlier result")
    refused(dguide(project, "real", "--profile", "mini"), "configs/mini.yaml", "sampler.steps = 1")
    assert kept.read_bytes() == b"earlier result"
    assert [p.name for p in kept.parent.iterdir()] == ["train.npz"]


def test_missing_input_names_the_stage_that_makes_it(project):
    refused(dguide(project, "score", "--profile", "mini"), "data/mini/real/train.npz", "stage real")


def test_a_stage_runs_and_says_what_it_did(project):
    done = started(project, "real", "--profile", "mini")
    assert done.returncode == 0, done.stderr
    assert "1438" in done.stdout
    status = dguide(project, "status", "--profile", "mini")
    assert status.returncode == 0
    rows = {line.split()[0]: line.split()[1:] for line in status.stdout.splitlines()[2:]}
    assert rows["real"] == ["1", "1"]
    assert rows["guided"] == ["0", "14"]


def test_config_command(project):
    done = dguide(project, "config", "--profile", "mini")
    assert done.returncode == 0
    assert "7 members, 16 variants" in done.stdout


@pytest.mark.parametrize(
    ("key", "value"),
    [("fid", "8"), ("fid_ci95", [1]), ("n", [1])],
)
def test_an_evaluation_of_another_kind_is_one_line(project, key, value):
    write_evaluations(project, **{key: value})
    refused(dguide(project, "summary", "--profile", "mini"), f"as {key!r}", "run stage `evaluation` again")


def test_a_summary_shows_what_there_is(project):
    write_evaluations(project, fid_ci95=None, delta_fid_ci95=None, delta_fid_vs_edm=None)
    done = dguide(project, "summary", "--profile", "mini")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["d0"])[1:3] == ["3.56", "–"]
    assert next(row for row in rows if row[:1] == ["edm"])[1:3] == ["4.06", "[3.86,"]


def write_evaluations(project: Path, **changes: object) -> None:
    """Of every variant; what is changed is so in that of d0."""
    for name, variant in load_config("mini", project).guided.variants.items():
        record = evaluation(name, 0 if name == "edm" else 1, variant.model_dump(mode="json"))
        write_json(Layout(project, "mini").evaluation(name), record | (changes if name == "d0" else {}))


def test_fetch_without_files(project):
    done = dguide(project, "fetch", "--profile", "mini", "--list")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "profile mini needs no files of others\n"


def test_fetch_lists_what_is_missing_and_refuses_unknown_names(project):
    path = project / "configs" / "mini.yaml"
    official = (
        "url: null, redirect_hosts: [], size: null, md5: null, sha256: null, path: data/a.pt, by_hand: from its page"
    )
    path.write_text(path.read_text().replace("files: {} ", f"files: {{a: {{{official}}}}} "))
    listed = dguide(project, "fetch", "--profile", "mini", "--list")
    assert listed.returncode == 0, listed.stderr
    assert "a     missing  ?   data/a.pt" in listed.stdout
    assert "put the file at data/a.pt by hand (from its page)" in listed.stdout
    refused(dguide(project, "fetch", "--profile", "mini", "b"), "'b'", "choose one of: a")
    refused(dguide(project, "fetch", "--profile", "mini", "a"), "put the file at data/a.pt by hand (from its page)")
    everything = dguide(project, "fetch", "--profile", "mini")
    assert everything.returncode == 0, everything.stderr
    assert "missing: put the file" in everything.stdout


def test_plan_names_missing_files_and_touches_nothing(project):
    path = project / "configs" / "mini.yaml"
    text = path.read_text().replace("reference_statistics: null ", "reference_statistics: data/reference.npz ")
    path.write_text(text.replace("threads: 2 ", "threads: 1 "))
    before = {file: file.stat().st_mtime_ns for file in project.rglob("*")}
    done = dguide(project, "plan", "--profile", "mini", "--seconds", "0.1", "--compare")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in project.rglob("*")} == before
    table = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "33,074" in table["fake"]  # 1,438 pictures, 23 evaluations of the denoiser each
    assert "156,000" in table["guided-ensemble_probability"]
    assert {"discriminator-d5", "report", "total"} <= set(table)
    assert "missing: evaluation.reference_statistics: no file at data/reference.npz" in done.stdout
    assert "no finished run of this profile" in done.stdout
    refused(dguide(project, "plan", "--profile", "nano"), "configs/nano.yaml")


def test_help_names_every_stage(project):
    done = dguide(project, "--help")
    for word in (
        "real",
        "score",
        "extractor",
        "fid_network",
        "fake",
        "discriminator",
        "guided",
        "evaluation",
        "report",
        "fetch",
        "plan",
    ):
        assert word in done.stdout


RELEASED = {
    "score": {"score": {"source": "edm", "path": "released"}},
    "extractor": {"extractor": {"source": "adm", "path": "released"}},
    "member": {"discriminator": {"members": {"d0": {"path": "released"}}}},
    "start": {"discriminator": {"init": "pretrained", "pretrained": "released"}},
}


def write_released(kind: str, path: Path, fits: bool) -> None:
    """A released file of the kind that a setting names, or one of other pictures or feature maps."""
    if kind == "score":
        edm_file(path, img_resolution=8 if fits else 16)
    elif kind == "extractor":
        classifier_file(path, image_size=8 if fits else 16)
    else:
        head_file(path, FEATURES if fits else (16, 4, 4))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A project with a profile `tiny` and the results of the early stages."""
    return untrained_study(tmp_path)


def run_in(study: Study, monkeypatch, *arguments: str) -> int:
    path = study.root / "configs" / "tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(study.settings).replace("Infinity", ".inf"))
    monkeypatch.chdir(study.root)
    monkeypatch.setenv("DGUIDE_TRACKING", "off")
    monkeypatch.setattr(sys, "argv", ["dguide", *arguments, "--profile", "tiny"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def changed(study: Study, kind: str) -> list[str]:
    """Change the settings of a study to those of a released file, and give the command that reads it."""
    ((section, settings),) = RELEASED[kind].items()
    if section in ("score", "extractor"):
        study.settings[section] = settings
        return [section]
    members = study.settings["discriminator"]["members"] | settings.get("members", {})
    study.settings["discriminator"] |= settings | {"members": members}
    return ["discriminator", "--member", "d0"]


def files(study: Study) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in study.root.rglob("*")
        if path.is_file() and path.suffix not in (".yaml", ".claim")
    }


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another shape"])
@pytest.mark.parametrize("kind", RELEASED)
def test_a_released_file_that_cannot_be_used_is_one_line_and_leaves_nothing(study, monkeypatch, capfd, kind, fault):
    command = changed(study, kind)
    if fault != "missing":
        write_released(kind, study.root / "released", fits=fault == "damaged")
    if fault == "damaged":
        path = study.root / "released"
        path.write_bytes(path.read_bytes()[:1000])
    before = files(study)
    assert run_in(study, monkeypatch, *command) == 2
    shown = capfd.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("error: expected ")
    assert "released" in line
    assert shown.out == ""
    assert files(study) == before


@pytest.mark.parametrize("kind", RELEASED)
def test_a_released_file_that_fits_is_used(study, monkeypatch, kind):
    command = changed(study, kind)
    write_released(kind, study.root / "released", fits=True)
    assert run_in(study, monkeypatch, *command) == 0


def test_cuda_on_a_machine_without_it_is_one_line(study, monkeypatch, capfd):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    study.settings["runtime"]["device"] = "cuda"
    before = files(study)
    for command in (["score"], ["fake"], ["discriminator", "--member", "d0"], ["guided", "--variant", "edm"]):
        assert run_in(study, monkeypatch, *command) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert "a CUDA device, as runtime.device says; got none; choose runtime.device: auto or cpu" in line
    assert files(study) == before


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_driver_that_this_torch_cannot_use_is_told_of(study, monkeypatch, capfd, tmp_path, device):
    import torch

    from discriminator_guidance.networks import precision

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "NVIDIA_DRIVER", tmp_path)
    study.settings["runtime"]["device"] = device
    assert run_in(study, monkeypatch, "score") == 0
    assert ("an NVIDIA driver is here, but" in capfd.readouterr().err) == (device == "auto")


def test_a_device_without_room_is_one_line(study, monkeypatch, capfd):
    """Where no batch can be halved: parameters that do not fit."""
    import torch

    from discriminator_guidance.stages import score

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(score, "train_score", full)
    before = files(study)
    assert run_in(study, monkeypatch, "score") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "expected memory on the device; got CUDA out of memory. Tried to allocate 2 GiB; free the device" in line
    assert files(study) == before


def test_another_error_of_torch_keeps_its_traceback(study, monkeypatch):
    from discriminator_guidance.stages import score

    def wrong(*given):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(score, "train_score", wrong)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_in(study, monkeypatch, "score")

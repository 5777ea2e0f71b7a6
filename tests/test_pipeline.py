"""The real dvc.yaml with tiny settings in a temporary folder, the network cut off."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import promote
from tests.amount import FULL
from tests.preforked import served, write_client
from tests.project_files import project_yaml
from tests.stages.conftest import tiny_settings
from tests.watching import noted, watched

PROJECT = Path(__file__).resolve().parents[1]
MEMBERS = ("d0", "d1", "d2", "d3", "d4", "d5")
ENSEMBLES = ("ensemble_probability", "ensemble_logit", "ensemble_clipped_logit")
VARIANTS = ("edm", *MEMBERS, "d0_table1", *ENSEMBLES)

pytestmark = pytest.mark.pipeline


def pipeline_settings() -> dict:
    """Tiny settings with the members and variants of params.yaml below."""
    tiny = tiny_settings()
    mini = project_yaml("configs/mini.yaml")
    for name in MEMBERS:
        tiny["discriminator"]["members"][name] = mini["discriminator"]["members"][name] | {"epochs": 1}
    tiny["guided"]["variants"] = {name: mini["guided"]["variants"][name] for name in VARIANTS}
    return tiny


def write_yaml(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        YAML().dump(data, stream)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(PROJECT / "closures", root / "closures", symlinks=True)
    shutil.copy(PROJECT / "dvc.yaml", root)
    shutil.copytree(PROJECT / ".dvc" / "plots", root / ".dvc" / "plots")
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc")
    write_yaml(root / "configs" / "mini.yaml", pipeline_settings())
    write_yaml(
        root / "params.yaml",
        {
            "profile": "mini",
            "root": ".",
            "families": [],
            "members": list(MEMBERS),
            "d0_variants": ["d0_table1"],
            "ensembles": list(ENSEMBLES),
            "tuned_members": [],
            "tuned_ensembles": [],
        },
    )
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def quick_starts(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let `dguide` and `dvc` begin as forks, but not in `make test-full`: there each starts as users start it."""
    if FULL:
        yield
        return
    address = tmp_path_factory.mktemp("server") / "socket"
    for program in ("dguide", "dvc"):
        write_client(project / "bin" / program, address)
    with served(address, without_network(), watched(project / "watched.txt")):
        yield


def without_network() -> list[str]:
    """A command prefix that cuts the network off, empty where this machine cannot."""
    prefix = ["unshare", "--net", "--map-root-user"]
    able = (
        shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    )
    return prefix if able else []


def called(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DGUIDE_TRACKING": "off",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "300",
        **watched(root / "watched.txt"),
    }
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def dvc(root: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    done = called(root, *prefix, "dvc", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def stages_run(log: str) -> list[str]:
    return [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="module")
def first_run(project: Path) -> list[str]:
    return stages_run(dvc(project, "repro", prefix=tuple(without_network())))


def test_a_fresh_repro_runs_every_stage_and_writes_the_report(project: Path, first_run: list[str]):
    words = ["real", "score", "extractor", "fid_network", "fake", "report"]
    expected = {f"{word}@mini" for word in words}
    expected |= {f"discriminator@mini-{member}" for member in MEMBERS}
    assert expected <= set(first_run)
    assert len(first_run) == len(set(first_run)) == len(words) + len(MEMBERS) + 2 * len(VARIANTS)
    assert (project / "reports" / "mini" / "index.html").is_file()
    for variant in VARIANTS:
        assert json.loads((project / "reports" / "mini" / "evaluation" / f"{variant}.json").read_text())["n"] == 24


def test_the_network_was_cut_off(first_run: list[str]):
    if not without_network():
        pytest.skip("this machine cannot make a network namespace: `unshare --net` failed")
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in done.stderr


def test_a_second_repro_runs_nothing(project: Path, first_run: list[str]):
    assert stages_run(dvc(project, "repro")) == []


def verify(project: Path) -> subprocess.CompletedProcess[str]:
    return called(project, "dguide", "verify", "--profile", "mini")


def test_verify_names_what_is_damaged_and_its_commands_mend_it(project: Path, first_run: list[str]):
    whole = verify(project)
    assert whole.returncode == 0, whole.stderr
    assert "all of it is as it was written" in whole.stdout
    damaged = [
        "models/mini/score/model.safetensors",
        "reports/mini/evaluation/d0.json",
        "data/mini/guided/d1/samples.npz",
    ]
    before = {path: (project / path).read_bytes() for path in damaged}
    for path, content in before.items():
        middle = len(content) // 2
        (project / path).unlink()  # it may be a link into DVC's cache
        (project / path).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    found = verify(project)
    assert found.returncode == 2
    assert found.stderr.startswith("error: expected every file of profile mini as it was written; got 3 that are not")
    told = {
        path: line.split("  ")[-1].strip() for line in found.stdout.splitlines() for path in damaged if path in line
    }
    assert told["models/mini/score/model.safetensors"] == f"dvc checkout --force {damaged[0]}"
    for command in told.values():
        dvc(project, *shlex.split(command)[1:])
    assert {path: (project / path).read_bytes() for path in damaged} == before
    assert verify(project).returncode == 0
    assert stages_run(dvc(project, "repro")) == []


def test_one_learning_rate_reruns_what_depends_on_it_and_nothing_else(project: Path, first_run: list[str]):
    settings = pipeline_settings()
    settings["discriminator"]["members"]["d3"] = settings["discriminator"]["members"]["d3"] | {"learning_rate": 2e-4}
    write_yaml(project / "configs" / "mini.yaml", settings)
    assert set(stages_run(dvc(project, "repro"))) == {
        "discriminator@mini-d3",
        "guided_member@mini-d3",
        "evaluation_member@mini-d3",
        *(f"guided_ensemble@mini-{name}" for name in ENSEMBLES),
        *(f"evaluation_ensemble@mini-{name}" for name in ENSEMBLES),
        "report@mini",
    }


def test_a_promoted_ensemble_runs_its_own_stages_and_nothing_else(project: Path, first_run: list[str]):
    chosen = pipeline_settings()["guided"]["variants"]["ensemble_logit"] | {"weights": [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]}
    provenance = {"study": "ensemble", "trial": 1, "seed": 0, "parameters": {}, "values": {}, "commit": "none"}
    promote(project, "mini", "ensemble", {"variant": chosen | {"window": [0.1, 0.9]}}, provenance)
    assert stages_run(dvc(project, "repro")) == [
        "guided_ensemble_tuned@mini-ensemble_tuned",
        "evaluation_ensemble_tuned@mini-ensemble_tuned",
        "report@mini",
    ]
    assert "D0 0.50, D1 0.10" in (project / "reports" / "mini" / "tables" / "table3.csv").read_text()
    assert stages_run(dvc(project, "repro")) == []


def test_a_refused_setting_stops_before_compute_and_loses_nothing(project: Path, first_run: list[str]):
    results = [p for top in ("data", "models", "reports") for p in (project / top).rglob("*") if p.is_file()]
    before = {path: path.read_bytes() for path in results}
    settings = pipeline_settings()
    settings["sampler"]["steps"] = 1
    write_yaml(project / "configs" / "mini.yaml", settings)
    with pytest.raises(AssertionError, match=r"sampler\.steps = 1"):
        dvc(project, "repro")
    assert {path: path.read_bytes() for path in results} == before


def test_no_stage_looked_up_what_a_file_names(project: Path, first_run: list[str]):
    """All of the above, DVC included, whose commands are those of dvc.yaml."""
    assert noted(project / "watched.txt") == {("dvc.stage.run", "a shell")}

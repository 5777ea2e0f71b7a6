"""Profiles on released files from end to end: networks at full size, the real formats, few images, random weights.

They take minutes and a gigabyte, so they run only when asked for: `make fullsize`.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dguide.report.gather import read_evaluation
from dguide.settings import Layout, load_config
from dguide.tools.profile import use_profile

from .commands import PROJECT, environment
from .standins import write_all

IMAGES = 16
# All discriminators, for the ensembles need them, and one variant of each kind.
VARIANTS = {
    "cifar10": ("edm", "d0", "authors", "d0_table1", "mean_prob", "mean_logit", "clip_logit"),
    "cifar10-reproduction": ("edm", "r0_prob", "r0_clip", "r_prob", "r_clip"),
}

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.environ.get("DG_FULLSIZE") != "1", reason="takes minutes: run `make fullsize`"),
]


def few(settings: dict[str, Any]) -> dict[str, Any]:
    """The profile with nothing changed but counts."""
    settings["runtime"]["threads"] = os.cpu_count()
    settings["sampler"]["steps"] = 2
    settings["fake"] |= {"images": IMAGES}
    settings["discriminator"] |= {"images": IMAGES, "epoch_factor": 1e-3}
    settings["guided"] |= {"images": IMAGES}
    settings["variants"] = {name: settings["variants"][name] for name in VARIANTS[settings["profile"]]}
    rows = {key: names for key, names in settings["report"].items() if key in ("samples", "log_ratios", "sampling")}
    settings["report"] |= {key: [name for name in names if name in settings["variants"]] for key, names in rows.items()}
    settings["report"]["images"] = 8
    return settings


@pytest.fixture(params=VARIANTS)
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the project with look-alikes of the released files in place."""
    for folder in ("src", "configs", ".dvc/plots"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("dvc.yaml", ".dvc/config", ".dvcignore"):
        shutil.copy(PROJECT / file, tmp_path / file)
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "reports" / request.param / "study").mkdir(parents=True)
    use_profile(tmp_path, request.param)
    params = tmp_path / "params.yaml"
    settings = few(YAML(typ="safe").load(params.read_text()))
    with params.open("w") as stream:
        YAML().dump(settings, stream)
    official, written = write_all(tmp_path, load_config(params))
    reader = tmp_path / "src/dguide/sources.py"
    reader.write_text(reader.read_text().replace(official, written))
    return tmp_path


def test_every_stage_runs_at_full_size(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = environment(PYTHONPATH=str(project / "src"), OMP_NUM_THREADS=str(os.cpu_count()))
    log, stages, start = [], [], time.monotonic()
    with subprocess.Popen(
        ["dvc", "repro"], cwd=project, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if line.startswith("Running stage"):
                stages.append(line.split("'")[1])
                with capsys.disabled():
                    print(f"{time.monotonic() - start:8.1f} s  {stages[-1]}", flush=True)
    assert process.returncode == 0, "".join(log[-30:])

    config = load_config(project / "params.yaml")
    assert len(stages) == 7 + len(config.members) + len(config.variants)
    assert not list((project / "data/raw").glob("*.executed"))
    layout = Layout(project, config.profile)
    for name in config.variants:
        details = read_evaluation(layout.report, name)
        assert (details["n"], details["fid_network"], details["steps"]) == (IMAGES, "inception", 2)
    assert (layout.report / "index.html").is_file()
    shutil.rmtree(project)  # gigabytes, which pytest would keep for three runs

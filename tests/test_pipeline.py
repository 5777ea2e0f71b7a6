"""The real dvc.yaml with tiny settings in a git repository of its own, the network cut off.

The tests follow one another: a first run that is killed, then one change after the other.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from dguide.settings import Layout, load_config

from .commands import PROJECT, TORCHRUN, environment, run, succeed, unshared
from .preforked import preforked
from .stages.conftest import tiny_settings

pytestmark = pytest.mark.pipeline

SEQUENTIAL = "models/mini/discriminator/d0"  # d1 continues d0
VARIANTS = ("edm", "d1", "mean_prob")
METRICS = ["fid", "fid_low", "fid_high", "delta_fid", "delta_low", "delta_high", "kid", "kid_holdout", "precision",
           "recall"]  # fmt: skip
SINGLE = {"real", "score", "extractor", "fid_network", "fake", "evaluation", "report"}
OF_VARIANTS = {f"guided@{variant}" for variant in VARIANTS}
OF_D1 = {"discriminator@d1", "guided@d1", "guided@mean_prob", "evaluation", "report"}


def settings() -> dict[str, Any]:
    data = tiny_settings()
    data["members"]["d1"]["start"] = SEQUENTIAL
    data["discriminator"]["images"] = 40  # of 1,438
    shown = {"primary": ["d1", "edm"], "log_ratios": ["d1"]}
    data["report"] |= shown | {"samples": list(VARIANTS), "sampling": list(VARIANTS)}
    data["variants"] = {name: data["variants"].get(name, data["variants"]["d0"]) for name in VARIANTS}
    data["variants"]["d1"] = data["variants"]["d1"] | {"needs": "discriminator/d1", "members": ["d1"]}
    return data


def stages_run(log: str) -> list[str]:
    return [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]


def repro(root: Path, *arguments: str, **variables: str) -> list[str]:
    """Bring the pipeline up to date; the stages that were run."""
    return stages_run(succeed(root, *unshared("--net"), "dvc", "repro", *arguments, **variables))


def commit(root: Path) -> None:
    succeed(root, "git", "add", "--all")
    succeed(root, "git", "commit", "--quiet", "--message", "state")


def changes(root: Path, *revisions: str) -> str:
    """Tracked files that differ, staged or not, and files that are neither tracked nor ignored."""
    return succeed(root, "git", "diff", "--name-only", *(revisions or ["HEAD"])) + succeed(
        root, "git", "ls-files", "--others", "--exclude-standard"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project before its first run, committed."""
    root = tmp_path_factory.mktemp("pipeline") / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", ".dvc/plots"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=ignored)
    for file in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", "data/raw/digits.npz"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / file, root / file)
    (root / "reports/mini/study").mkdir(parents=True)
    (root / "reports/mini/study/.gitkeep").touch()
    with (root / "params.yaml").open("w") as stream:
        YAML().dump(settings(), stream)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("\nmembers:\n", "\nmembers:   # Table 2 of the reproduction\n"))
    succeed(root, "git", "init", "--quiet")
    for name, value in {"user.name": "t", "user.email": "t@example.org", "gc.auto": "0"}.items():
        succeed(root, "git", "config", name, value)
    commit(root)
    return root


@pytest.fixture(scope="module")
def first_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Stages that a run finished before it was killed, and those of the run after it."""
    command = [*unshared("--net"), "dvc", "repro"]
    log = root.parent / "log.txt"
    with log.open("w") as stream:
        killed = subprocess.Popen(
            command, cwd=root, env=environment(), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        while killed.poll() is None and not list(root.glob(".partial/mini/*/**/checkpoint.pt")):
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, log.read_text()
    begun = stages_run(log.read_text())
    with preforked(tmp_path_factory.mktemp("bin")):  # not for the run above: a fork would outlive it
        again = repro(root)
        yield [*(begun[:-1] if begun[-1] == again[0] else begun), *again]  # the last may have ended before the kill


def test_every_stage_runs_once_although_the_first_run_is_killed(root: Path, first_run: list[str]) -> None:
    assert sorted(first_run) == sorted({*SINGLE, "discriminator@d0", "discriminator@d1", *OF_VARIANTS})
    layout = Layout(root, "mini")
    assert (layout.report / "index.html").is_file()
    for variant in VARIANTS:
        assert list(json.loads((layout.report / f"evaluation/{variant}.json").read_text())) == METRICS
    assert not (root / ".partial").exists()
    commit(root)


def test_a_second_repro_runs_nothing_whatever_the_launcher(root: Path, first_run: list[str]) -> None:
    assert repro(root, DGUIDE_LAUNCH=" ".join(TORCHRUN)) == []
    assert repro(root, "--force", "--single-item", "evaluation") == ["evaluation"]
    assert changes(root) == ""
    (root / "reports/mini/discriminator/d0/metrics.json").write_text("{}")
    assert "reports/mini are damaged: it has no 'best_epoch'" in run(root, "dguide", "report").stderr.splitlines()[-1]
    succeed(root, "git", "checkout", "--quiet", "HEAD", "--", "reports")


def test_one_learning_rate_reruns_what_depends_on_it_and_keeps_comments(root: Path, first_run: list[str]) -> None:
    log = succeed(root, "dvc", "exp", "run", "--name", "other", "-S", "members.d1.learning_rate=2e-3")
    assert set(stages_run(log)) == OF_D1
    assert load_config(root / "params.yaml").members["d1"].learning_rate == 2e-3
    assert "members:   # Table 2 of the reproduction" in (root / "params.yaml").read_text()
    commit(root)


def test_an_earlier_setting_is_served_by_the_run_cache(root: Path, first_run: list[str]) -> None:
    succeed(root, "git", "checkout", "--quiet", "HEAD~1", "--", "params.yaml")
    assert repro(root) == ["report"]  # takes a second, and has outputs that DVC's run cache does not take
    assert changes(root, "HEAD~1") == ""


def test_a_variant_is_one_row(root: Path, first_run: list[str]) -> None:
    params = root / "params.yaml"
    chosen = "members: [d1], rule: mean_logit, weights: equal, w1: 1.0, w2: 1.0, boosting: false"
    row = f"  d1_w1: {{needs: discriminator/d1, {chosen}}}"
    params.write_text(params.read_text().replace("\nvariants:\n", f"\nvariants:\n{row}\n"))
    assert repro(root) == ["guided@d1_w1", "evaluation", "report"]


def test_revisions_can_be_compared_on_a_clone(root: Path, first_run: list[str]) -> None:
    clone = root.parent / "clone"
    succeed(root.parent, "git", "clone", "--quiet", str(root), str(clone))
    succeed(clone, "dvc", "config", "--local", "cache.dir", str(root / ".dvc/cache"))
    succeed(clone, "dvc", "checkout")
    assert "up to date" in succeed(clone, "dvc", "status")
    assert "reports/mini/evaluation/d1.json" in succeed(clone, "dvc", "metrics", "diff", "HEAD~1")
    assert "members.d1.learning_rate" in succeed(clone, "dvc", "params", "diff", "HEAD~1")
    assert "index.html" in succeed(clone, "dvc", "plots", "diff", "HEAD~1")
    kept = "Experiment|.*/(d1|mean_prob).json:fid$|members.d1.learning_rate"  # docs/scaling.md
    table = succeed(clone, "dvc", "exp", "show", "--drop", ".*", "--keep", kept, "--num", "2").splitlines()
    assert {"members.d1.learning_rate", "reports/mini/evaluation/d1.json:fid"} < set(table[1].split())
    succeed(clone, "dvc", "plots", "show", "loss", "accuracy", "fid", "reports/mini/figures")
    page = (clone / "dvc_plots/index.html").read_text()
    assert all(f"reports_mini_figures_{figure}.png" in page for figure in ("fig2", "fig3"))
    for field in ("loss", "accuracy", "fid_low", "fid_high"):
        assert f'"{field}": "' in page, "a value of the data"


def test_a_missing_input_loses_nothing_and_a_changed_one_reruns_its_stages(root: Path, first_run: list[str]) -> None:
    raw, away = root / "data/raw/digits.npz", root / "away.npz"
    raw.rename(away)
    assert subprocess.run(["dvc", "repro", "real"], cwd=root, env=environment(), capture_output=True).returncode
    assert (root / "data/mini/real/train.npz").is_file(), "a wrong path loses nothing"
    away.rename(raw)
    with np.load(raw) as arrays:
        np.savez(raw, images=arrays["images"][::-1], labels=arrays["labels"][::-1])
    assert repro(root, "real") == ["real"]
    outdated = json.loads(succeed(root, "dvc", "status", "--json"))
    assert {"score", "extractor", "fid_network", "discriminator@d0", "report"} <= set(outdated)

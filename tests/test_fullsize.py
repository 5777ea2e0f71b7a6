"""Profile `cifar10` from end to end: its networks at full size and its formats, few pictures, random weights.

It takes minutes and a gigabyte, so it runs only when asked for: `make fullsize`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import parse_config
from tests.standins import write_all
from tests.test_profiles import READER, copied

PROJECT = Path(__file__).resolve().parents[1]
PICTURES = 16
# All six discriminators, which the ensembles need, and of the variants one of each kind.
MEMBERS = ("d0", "d1", "d2", "d3", "d4", "d5", "authors")
ALONE = ("d0", "authors")
ENSEMBLES = ("ensemble_probability", "ensemble_logit", "ensemble_clipped_logit")
VARIANTS = ("edm", *ALONE, "d0_table1", *ENSEMBLES)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.environ.get("DG_FULLSIZE") != "1", reason="takes minutes: run `make fullsize`"),
]


def few(settings: dict[str, Any]) -> dict[str, Any]:
    """The profile with nothing changed but counts."""
    settings["runtime"]["threads"] = os.cpu_count()
    settings["sampler"]["steps"] = 2
    settings["fake"] |= {"images": PICTURES, "shard_size": PICTURES}
    settings["discriminator"] |= {"images": PICTURES, "epoch_factor": 1e-3}
    settings["guided"] |= {"images": PICTURES, "shard_size": PICTURES}
    settings["guided"]["variants"] = {name: settings["guided"]["variants"][name] for name in VARIANTS}
    settings["evaluation"] |= {"kid_subsets": 2, "kid_subset_size": 8}
    settings["report"] |= {"pictures": 8}
    return settings


def project(root: Path) -> Path:
    """A copy of the project with the files of others in place."""
    copied(root, "cifar10")
    settings = few(READER.load((root / "configs" / "cifar10.yaml").read_text()))
    names = {"members": list(MEMBERS), "d0_variants": ["d0_table1"], "ensembles": list(ENSEMBLES)}
    params = READER.load((root / "params.yaml").read_text()) | names
    for path, data in (("configs/cifar10.yaml", settings), ("params.yaml", params)):
        with (root / path).open("w") as stream:
            YAML().dump(data, stream)
    pipeline = (root / "dvc.yaml").read_text()
    everyone = 'variant: "${members}"'
    assert pipeline.count(everyone) == 2  # guided_member and evaluation_member
    (root / "dvc.yaml").write_text(pipeline.replace(everyone, f"variant: [{', '.join(ALONE)}]"))
    reader = root / "src" / "discriminator_guidance" / "artifacts" / "cifar10.py"
    source = reader.read_text()
    for official, standin in write_all(root, parse_config(settings, "configs/cifar10.yaml")).items():
        assert official in source
        source = source.replace(official, standin)
    reader.write_text(source)
    return root


def repro(root: Path) -> Iterator[tuple[str, float, float]]:
    """Run the pipeline; every stage, its seconds and its processor seconds."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "DGUIDE_TRACKING": "off",
    }
    command = [sys.executable, "-m", "dvc", "repro"]
    log, running, began = [], None, (0.0, 0.0)
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        times = psutil.Process(process.pid)
        for line in process.stdout:
            log.append(line)
            if running and (line.startswith("Running stage") or "dvc push" in line):
                now = clock(times)
                yield running, now[0] - began[0], now[1] - began[1]
                running = None
            if line.startswith("Running stage"):
                running, began = line.split("'")[1], clock(times)
    assert process.returncode == 0, "".join(log[-30:])


def clock(process: psutil.Process) -> tuple[float, float]:
    """Seconds that pass, and those that the finished children of a process have computed."""
    used = process.cpu_times()
    return time.monotonic(), used.children_user + used.children_system


def test_every_stage_runs_at_full_size(tmp_path, capsys):
    root = project(tmp_path)
    seconds = {}
    for stage, took, computed in repro(root):
        seconds[stage] = (took, computed)
        with capsys.disabled():
            print(f"{took:8.1f} s {computed:8.1f} CPU s  {stage}", flush=True)
    with capsys.disabled():
        print("{:8.1f} s {:8.1f} CPU s  in all".format(*map(sum, zip(*seconds.values(), strict=True))))

    assert len(seconds) == 6 + len(MEMBERS) + 2 * len(VARIANTS)
    assert not list(root.glob("data/downloads/*.executed"))
    reports = root / "reports" / "cifar10"
    for name in VARIANTS:
        result = json.loads((reports / "evaluation" / f"{name}.json").read_text())
        assert (result["n"], result["fid_network"], result["steps"]) == (PICTURES, "inception", 2)
    assert parameters(root) == {"score": 55_733_891, "extractor": 47_771_112, "authors": 2_883_841, "d0": 2_883_841}
    table = (reports / "tables" / "table3.md").read_text()
    assert "EDM-G++ (authors' discriminator)" in table
    assert "not evaluated" not in table
    assert (reports / "index.html").is_file()
    shutil.rmtree(root)  # gigabytes, which pytest would keep for three runs


def parameters(root: Path) -> dict[str, int]:
    """Trained numbers of each network, as its stage wrote them."""
    from safetensors import safe_open

    models = root / "models" / "cifar10"
    folders = {"score": models / "score", "extractor": models / "extractor"}
    folders |= {name: models / "discriminator" / name for name in ("authors", "d0")}
    counted = {}
    for name, folder in folders.items():
        with safe_open(folder / "model.safetensors", "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        counted[name] = sum(prod(shape) for key, shape in shapes.items() if not key.endswith("resample_filter"))
    return counted

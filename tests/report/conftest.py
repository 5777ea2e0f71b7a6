"""The committed results of profile mini, with random images in place of its data."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dguide.report.gather import ReportData
from dguide.settings import load_config, plain
from discriminator_guidance.core.files import write_json, write_npz
from tests.commands import PROJECT

MINI = plain(load_config(PROJECT / "configs/mini.yaml")) | {"delivered": {"d0": 2.0, "d0_table1": 0.85}}
IMAGES, LEVELS = (8, 16, 16, 1), 9


def report_data(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    note: str | None = None,
    damage: Callable[[Path], object] = lambda report: None,
) -> ReportData:
    """Writes all files to a folder and reads them; `changes` of every variant's details, and `damage` to files."""
    settings, random = copy.deepcopy(MINI), np.random.default_rng(0)
    settings["report"] |= {"dpi": 60, "images": 4, "samples": ["edm", "d0"], "log_ratios": ["d0"]}
    settings["report"]["describe"] = {"d0_table1": "as reproduced", "discriminator/d0": "the paper's"}
    settings["baselines"] = {name: None if name == "edm" else "edm" for name in settings["variants"]}
    report, data = folder / "report", folder / "data"
    for part in ("evaluation", "details", "discriminator", "study"):
        shutil.copytree(PROJECT / "reports" / "mini" / part, report / part)
    for path in (report / "details").glob("*.json"):
        write_json(path, json.loads(path.read_text()) | (changes or {}))
    write_json(data / "real" / "card.json", {"source": "digits", "note": note, "images": {"train": 8}})
    for path in (data / "real" / "train.npz", *(data / "guided" / name / "samples.npz" for name in ("edm", "d0"))):
        write_npz(path, images=random.integers(0, 256, IMAGES, dtype=np.uint8))
    damage(report)
    return ReportData(settings, data, report, "", {name: trajectory(random) for name in ("edm", "d0")})


def trajectory(random: np.random.Generator) -> dict[str, np.ndarray]:
    sigma = np.append(np.geomspace(80.0, 0.002, LEVELS - 1), 0.0)
    states = random.standard_normal((LEVELS, 2, *IMAGES[1:])).astype(np.float32)
    log_ratio = random.normal(0, 2, (LEVELS - 1, 2)).astype(np.float32)
    log_ratio[-1] = np.inf  # outside the time window
    arrays = {"sigma": sigma, "tau": sigma / (1 + sigma), "log_ratio": log_ratio}
    return arrays | {"states": states, "denoised": states[1:]}

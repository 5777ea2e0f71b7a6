"""A complete set of tiny inputs in the documented formats, as the other stages would have left them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dguide.report.gather import ReportData, Trajectory, gather
from dguide.settings import load_config, plain
from discriminator_guidance.core.files import write_csv, write_json, write_npz

PROJECT = Path(__file__).parents[2]
MINI = plain(load_config(PROJECT / "configs" / "mini.yaml"))
VARIANTS = ("edm", "d0", "d0_table1", "mean_prob", "clip_logit")
MEMBERS = ("d0", "d1", "d2")
SHAPE = IMAGES, *_ = (8, 16, 16, 1)
LEVELS = 9
Maker = Callable[..., ReportData]


def maker_in(folder: Path) -> Maker:
    """Writes all files to a folder and reads them; keyword arguments change what is written."""

    def make(
        variants: tuple[str, ...] = VARIANTS,
        changes: dict[str, dict[str, Any]] | None = None,
        steps: dict[str, float] | None = None,
        note: str | None = None,
        damage: Callable[[Path], None] = lambda folder: None,
    ) -> ReportData:
        settings = copy.deepcopy(MINI)
        shown = {"samples": ["edm", "d0"], "log_ratios": ["d0"], "compare": ["d0"], "sampling": ["edm", *variants[1:3]]}
        settings["report"] |= {"images": 4, "dpi": 60, "primary": ["d0", "edm"], **shown}
        settings["members"] = {name: settings["members"][name] for name in MEMBERS}
        alone = settings["variants"]["d0"]
        settings["variants"] = {name: settings["variants"].get(name, alone) for name in variants}
        report, data, random = folder / "report", folder / "data", np.random.default_rng(0)
        for row, name in enumerate(MEMBERS):
            write_member(report / "discriminator" / name, row, random)
        values = {name: -0.5 * row for row, name in enumerate(variants)} | (steps or {})
        write_csv(report / "details" / "differences.csv", [
            {"variant": name, "other": other, **difference(values[name] - values[other])}
            for name, other in permutations(values, 2)
        ])  # fmt: skip
        for row, (name, section) in enumerate(settings["variants"].items()):
            metrics, details = evaluation(row, section)
            for key, value in (changes or {}).get(name, {}).items():
                (metrics if key in metrics else details)[key] = value
            write_json(report / "evaluation" / f"{name}.json", metrics)
            write_json(report / "details" / f"{name}.json", details)
            images = random.integers(0, 256, SHAPE, dtype=np.uint8)
            write_npz(data / "guided" / name / "samples.npz", images=images, index=np.arange(IMAGES) + 1000000)
        speed = {"name": "guided_fp32", "ratio": 1.5, "rounds": 7, "conditions": {"threads": 2}}
        write_json(report / "benchmark.json", [speed])
        write_json(data / "real" / "card.json", {"source": "digits", "note": note, "images": {"train": 8}})
        write_npz(data / "real" / "train.npz", images=random.integers(0, 256, SHAPE, dtype=np.uint8))
        damage(report)
        return gather(settings, data, report, "", {name: trajectory(random) for name in ("edm", "d0")})

    return make


@pytest.fixture
def make_data(tmp_path: Path) -> Maker:
    """See `maker_in`."""
    return maker_in(tmp_path)


def difference(value: float) -> dict[str, float]:
    """A row of differences.csv, clear of zero by more than 0.1; both KIDs go the same way."""
    kids = {f"{kid}_difference": 0.002 * value for kid in ("kid", "kid_holdout")}
    return {"difference": value, "low": value - 0.1, "high": value + 0.1, "p": 0.01, **kids}


def evaluation(row: int, variant: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and details: better than edm by 0.5 a row, clear of zero."""
    guided = bool(variant["members"])
    fid, delta = 4.0625 - 0.5 * row, -0.5 * row
    scores = {"precision": 0.611, "recall": 0.722, "accuracy": 0.633, "auroc": 0.744}
    width = 0.1 if guided else 0.0
    metrics = {"fid": fid, "fid_low": fid - 0.2, "fid_high": fid + 0.2, "delta_fid": delta}
    metrics |= {"delta_low": delta - width, "delta_high": delta + width, "precision": 0.311, "recall": 0.922}
    kid = 0.001 * row
    metrics |= {"kid": 0.0123 - kid, "kid_holdout": 0.0145 - kid}
    details = {
        "n": IMAGES,
        "replicates": 1,
        "nfe": 2 * LEVELS - 3,
        "fid_debiased": fid - 0.1,
        **{f"{name}_ci95": [metrics[name] - 0.001, metrics[name] + 0.001] for name in ("kid", "kid_holdout")},
        "against_members": None,
        "delta_p_adjusted": 0.03,
        **dict.fromkeys(("delta_kid", "delta_kid_holdout"), -kid),
        **dict.fromkeys(("delta_kid_ci95", "delta_kid_holdout_ci95"), (-kid - 0.0005, -kid + 0.0005)),
        "floor": 0.19,
        **{"holdout_fid": 0.67, "holdout_fid_ci95": [0.6, 0.74], "holdout_fid_debiased": 0.13},
        **{"holdout_kid": 0.001, "holdout_kid_ci95": [-0.001, 0.003]},
        **{f"discriminator_{key}": value if guided else None for key, value in scores.items()},
        **{"steps": variant["steps"], "seed": 10, "seed_start": 1000000},
        **{"fid_network": "digits network", "reference_statistics": None, "reference_n": 1438, "holdout_n": 359},
    }
    return metrics, details


def write_member(folder: Path, row: int, random: np.random.Generator) -> None:
    epochs = np.arange(1, 13 + 6 * row)
    train = 0.69 * np.exp(-epochs / 12) + 0.3 + random.normal(0, 0.01, len(epochs))
    validation = train + 0.004 * epochs
    history = {"epoch": epochs, "train_loss": train, "validation_loss": validation}
    history |= {"train_accuracy": 1 - train / 1.5, "validation_accuracy": 1 - validation / 1.5}
    write_csv(folder / "history.csv", pd.DataFrame(history))
    best = int(validation.argmin())
    metrics = {"epochs": len(epochs), "learning_rate": 9e-4, "weight_decay": 1e-7, "t_min": 0.01, "iterations": 264}
    metrics |= {"parameters": 123456, "train_loss": train[-1], "train_accuracy": 0.8, "validation_loss": validation[-1]}
    metrics |= {"validation_accuracy": 0.7, "best_validation_loss": validation[best], "best_epoch": int(epochs[best])}
    metrics |= {"test_loss": 0.555}
    write_json(folder / "metrics.json", metrics)
    bins = [*((low + 0.1, low + 0.05, 80 - row) for low in (0.0, 0.4, 0.8)), (np.nan, np.nan, 0)]
    curve = pd.DataFrame(bins, columns=["mean_probability", "fraction_real", "count"])
    write_csv(folder / "calibration.csv", pd.concat([curve.assign(time=time) for time in (1e-5, 0.3, 1.0)]))


def trajectory(random: np.random.Generator) -> Trajectory:
    sigma = np.append(np.geomspace(80.0, 0.002, LEVELS - 1), 0.0)
    clean = np.broadcast_to(np.linspace(-1, 1, SHAPE[1])[:, None, None], (2, *SHAPE[1:]))
    noise = np.random.default_rng(1).standard_normal(clean.shape)
    states = np.stack([clean + s * noise for s in sigma]).astype(np.float32)
    denoised = np.stack([clean / (1 + s) for s in sigma[:-1]]).astype(np.float32)
    log_ratio = random.normal(0, 2, (LEVELS - 1, 2)).astype(np.float32)
    log_ratio[-1] = np.inf  # outside the time window
    return Trajectory(sigma, sigma / (1 + sigma), states, denoised, log_ratio)

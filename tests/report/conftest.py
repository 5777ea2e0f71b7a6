"""A whole set of tiny inputs in the documented formats, as the other stages would have left them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from discriminator_guidance.config import parse_config
from discriminator_guidance.report.gather import BASELINES, Difference, ReportInputs, Standing
from tests.project_files import project_yaml

PROJECT = Path(__file__).parents[2]
VARIANTS = ("edm", "d0", "d0_table1", "ensemble_probability", "ensemble_clipped_logit")
MEMBERS = ("d0", "d1", "d2")
IMAGES, SIZE, LEVELS = 8, 16, 9
Maker = Callable[..., ReportInputs]


def untuned() -> dict[str, Any]:
    """Profile `mini` without what its searches chose."""
    return parse_config(project_yaml("configs/mini.yaml"), "mini.yaml").model_dump()


def maker_in(folder: Path) -> Maker:
    """Writes all files to a folder and returns the inputs that name them; keyword arguments change what is written."""

    def make(
        variants: tuple[str, ...] = VARIANTS,
        members: tuple[str, ...] = MEMBERS,
        changes: dict[str, dict[str, Any]] | None = None,
        channels: int = 1,
        settings: dict[str, Any] | None = None,
        differences: dict[str, dict[str, Difference]] | None = None,
        standings: dict[str, Standing] | None = None,
    ) -> ReportInputs:
        settings = settings or untuned()
        settings["report"] = {"pictures": 4, "dpi": 60}
        random = np.random.default_rng(0)
        for place, name in enumerate(members):
            write_member(folder / "discriminator" / name, place, random)
        for place, name in enumerate(variants):
            section = settings["guided"]["variants"].setdefault(
                name, settings["guided"]["variants"]["d0"] | {"members": ("d0",)}
            )
            record = evaluation(name, place, section) | (changes or {}).get(name, {})
            write_json(folder / "evaluation" / f"{name}.json", record)
            write_samples(folder / "guided" / name, channels, section, random)
        real = folder / "real"
        real.mkdir(exist_ok=True)
        images = random.integers(0, 256, (IMAGES, SIZE, SIZE, channels), dtype=np.uint8)
        np.savez(real / "train.npz", images=images, labels=np.arange(IMAGES) % 10)
        write_json(real / "card.json", {"source": "digits", "images": {"train": 8, "holdout": 2}})
        return ReportInputs(
            profile="mini",
            settings=settings,
            evaluation=folder / "evaluation",
            studies=folder / "study",
            discriminator=folder / "discriminator",
            guided=folder / "guided",
            real_images=real / "train.npz",
            card=real / "card.json",
            destination=folder / "report",
            members=members,
            variants=variants,
            differences=differences or apart(variants),
            standings=standings or {},
            probability_clip=1e-5,
            provenance={
                "commit": "0" * 40,
                "dirty": False,
                "versions": {"torch": "2.13"},
                "precision": "float32",
            },
        )

    return make


@pytest.fixture
def make_inputs(tmp_path: Path) -> Maker:
    """See `maker_in`."""
    return maker_in(tmp_path)


def apart(variants: tuple[str, ...]) -> dict[str, dict[str, Difference]]:
    """Half a unit a place, clear of zero, as in `evaluation`."""
    places = {name: -0.5 * place for place, name in enumerate(variants)}
    return {
        baseline: {
            name: Difference(delta, (delta - 0.1, delta + 0.1))
            for name, place in places.items()
            if name != baseline
            for delta in [place - places[baseline]]
        }
        for baseline in BASELINES
        if baseline in variants
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def evaluation(name: str, place: int, section: dict[str, Any]) -> dict[str, Any]:
    """Better than edm by 0.5 a place, clear of zero."""
    fid, delta = 4.0625 - 0.5 * place, -0.5 * place
    guided = bool(section["members"])
    scores = {"precision": 0.611, "recall": 0.722, "accuracy": 0.633, "auroc": 0.744}
    return {
        "variant": name,
        "n": IMAGES,
        "fid": fid,
        "fid_ci95": [fid - 0.2, fid + 0.2],
        "fid_ranges": [fid],
        "fid_ranges_mean": fid,
        "fid_ranges_ci95": None,
        "ranges": 1,
        "delta_fid_vs_edm": delta,
        "delta_fid_ci95": [delta - 0.1, delta + 0.1] if guided else [0.0, 0.0],
        "kid": 0.0123 - 0.001 * place,
        "kid_std": 0.001,
        "kid_holdout": 0.0145 - 0.001 * place,
        "kid_holdout_std": 0.001,
        "precision": 0.311,
        "recall": 0.922,
        **{f"discriminator_{key}": value if guided else None for key, value in scores.items()},
        "members": list(section["members"]),
        "rule": section["rule"],
        "w1": section["w1"],
        "w2": section["w2"],
        "boosting": section["boosting"],
        "steps": LEVELS - 1,
        "fid_network": "digits network",
        "reference_statistics": None,
        "reference_n": 1438,
        "holdout_n": 359,
        "seed": 10,
        "seed_start": 1000000,
        "params_hash": "abc",
        "precision_mode": "float32",
    }


def write_member(folder: Path, place: int, random: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    epochs = np.arange(1, 13 + 6 * place)
    train = 0.69 * np.exp(-epochs / 12) + 0.3 + random.normal(0, 0.01, len(epochs))
    validation = train + 0.004 * epochs
    lines = ["epoch,train_loss,train_accuracy,validation_loss,validation_accuracy"]
    lines += [
        f"{e},{t:.5f},{1 - t / 1.5:.5f},{v:.5f},{1 - v / 1.5:.5f}"
        for e, t, v in zip(epochs, train, validation, strict=True)
    ]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    best = int(validation.argmin())
    metrics = {
        "member": folder.name,
        "epochs": len(epochs),
        "iterations": 264,
        "parameters": 123456,
        "train_loss": float(train[-1]),
        "train_accuracy": 0.8,
        "validation_loss": float(validation[-1]),
        "validation_accuracy": 0.7,
        "best_validation_loss": float(validation[best]),
        "best_epoch": int(epochs[best]),
        "test_loss": 0.555,
        "n_train": 2300,
        "n_validation": 288,
        "n_test": 288,
    }
    write_json(folder / "metrics.json", metrics)
    rows = ["time,bin_low,bin_high,mean_probability,fraction_real,count"]
    for time in (1e-5, 0.3, 0.7, 1.0):
        for low in (0.0, 0.2, 0.4, 0.6, 0.8):
            middle = low + 0.1
            real = np.clip(middle + (1 - time) * 0.3 * (middle - 0.5) + random.normal(0, 0.02), 0, 1)
            rows.append(f"{time},{low},{low + 0.2:.1f},{middle:.2f},{real:.3f},{int(80 - 60 * abs(middle - 0.5))}")
        rows.append(f"{time},0.9,1.0,,,0")
    (folder / "calibration.csv").write_text("\n".join(rows) + "\n")


def write_samples(folder: Path, channels: int, section: dict[str, Any], random: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = random.integers(0, 256, (IMAGES, SIZE, SIZE, channels), dtype=np.uint8)
    np.savez(folder / "samples.npz", images=images, index=np.arange(IMAGES) + 1000000)
    sigma = np.append(np.geomspace(80.0, 0.002, LEVELS - 1), 0.0)
    grid = np.linspace(-1, 1, SIZE)
    ring = np.where(np.abs(np.hypot(grid[:, None], grid[None]) - 0.55) < 0.2, 1.0, -1.0)
    clean = np.broadcast_to(ring[None, :, :, None], (2, SIZE, SIZE, channels))
    noise = np.random.default_rng(1).standard_normal(clean.shape)
    states = np.stack([clean + s * noise for s in sigma]).astype(np.float32)
    denoised = np.stack([clean / (1 + s) for s in sigma[:-1]]).astype(np.float32)
    log_ratio = random.normal(0, 2, (LEVELS - 1, IMAGES)).astype(np.float32)
    if section["rule"] == "clipped_logit_mean":
        log_ratio = np.where(log_ratio < 0, -11.512915, 11.512915).astype(np.float32)
    log_ratio[-1] = np.inf  # outside the time window
    np.savez(folder / "trajectory.npz", sigma=sigma, states=states, denoised=denoised, log_ratio=log_ratio)

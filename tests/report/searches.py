"""A search as its command leaves it, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.files import sha256, write_csv, write_json

RECORD: dict[str, Any] = {
    "study": "mini-ensemble",
    "n_trials": 7,
    "states": {"complete": 4, "fail": 1, "pruned": 2},
    "seed": 20,
    "objective": "FID of 500 guided tuning samples",
    "parameters": [
        {"name": "weight_d0", "low": 0.0, "high": 1.0, "log": False},
        {"name": "rate", "low": 1e-5, "high": 1e-2, "log": True},
        {"name": "bagging", "choices": [None, 0.6, 1.0]},
        {"name": "channels", "choices": [24, 48]},
        {"name": "boosting", "choices": [False, True]},
    ],
    "best": {"trial": 3, "value": 1.25},
    "importances": {"weight_d0": 0.7, "rate": 0.3},
    "pareto": {"cost": {"column": "members", "label": "members"}, "value": {"column": "value", "label": "FID"}},
    "tuning": {"images": 500, "seed": 10, "seed_start": 2000000},
}


def rows() -> list[dict[str, Any]]:
    """Two trials every study begins with, two that were searched, two pruned, one that failed."""
    told = [
        ("complete", "plain mean", 2.0, 6, 0.2, 1e-3, "", 24, "false"),
        ("complete", "d0", 2.5, 1, 1.0, 1e-3, 0.6, 24, "false"),
        ("pruned", "", 9.0, 3, 0.1, 1e-5, 1.0, 48, "true"),
        ("complete", "", 1.25, 3, 0.4, 1e-2, 1.0, 24, "true"),
        ("pruned", "", 8.0, 2, 0.3, 1e-4, "", 48, "false"),
        ("complete", "", 1.5, 4, 0.5, 1e-4, 0.6, 48, "true"),
        ("fail", "", "", 2, 0.7, "", "", "", ""),
    ]
    names = ("state", "grid", "value", "members", *(f"params_{one['name']}" for one in RECORD["parameters"]))
    return [{"number": number} | dict(zip(names, row, strict=True)) for number, row in enumerate(told)]


def leave(studies: Path, evaluation: Path, word: str = "ensemble", **changes: Any) -> Path:
    """Write record, table, a chart of one dot, and the digest in the folder of evaluations."""
    from PIL import Image

    record = studies / f"{word}.json"
    write_json(record, RECORD | changes)
    write_csv(studies / f"{word}.csv", rows())
    Image.new("RGB", (60, 30), "white").save(studies / f"{word}_history.png")
    write_json(evaluation / "studies.json", {word: sha256(record)})
    return record

"""No stage pays at its start for what it does not use."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch",
    "torchvision",
    "torchmetrics",
    "torch_fidelity",
    "mlflow",
    "pandas",
    "sklearn",
    "matplotlib",
    "optuna",
)
LIGHT = ("cli", "stages.fetch", "stages.needed", "stages.real", "stages.report", "stages.verify")
STAGES = ("score", "extractor", "fid_network", "fake", "discriminator", "guided", "evaluation")


def loaded(*modules: str) -> list[str]:
    """The heavy libraries in a fresh process that has imported some modules of the package."""
    code = f"""
import importlib, json, sys
for name in {modules!r}:
    importlib.import_module("discriminator_guidance." + name)
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: list[str] = json.loads(ran.stdout)
    return found


def test_what_computes_nothing_starts_without_heavy_libraries():
    assert loaded(*LIGHT) == []


def test_what_computes_starts_with_torch_alone():
    assert loaded(*(f"stages.{name}" for name in STAGES)) == ["torch"]

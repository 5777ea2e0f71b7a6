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
# What `evaluation` asks of its features.
METRICS = """
import json, sys
import numpy as np
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.evaluation.distances import kid
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.evaluation.reference import reference_of_features
from discriminator_guidance.evaluation.significance import influence_on, ranges_interval
import discriminator_guidance.stages.evaluation
import discriminator_guidance.stages.calibration
first, real = np.random.default_rng(0).standard_normal((2, 30, 4))
reference = reference_of_features(real)
distance = reference.distance(first)
influence_on(first, reference.mean, reference.root)
ranges_interval([distance])
kid(first, real, 2, 10, 0)
precision_recall(first, real, 3)
classification_scores(first[:, 0], np.arange(30) % 2)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
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


def test_metrics_without_inception_need_torch_alone():
    ran = subprocess.run([sys.executable, "-c", METRICS], check=True, capture_output=True, text=True)
    assert not ({*HEAVY, "scipy"} - {"torch"}) & set(json.loads(ran.stdout))


def test_digits_need_neither_torch_nor_scikit_learn():
    code = """
import json, sys
from discriminator_guidance.artifacts.images import digits
digits(16)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {*HEAVY, "scipy"} & set(json.loads(ran.stdout))

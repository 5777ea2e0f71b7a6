"""Whole trajectories of the guided sampler against vectors from the public implementations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import heun as sample
from tests.golden.test_guidance import PRECISIONS, marked, official_score
from tests.golden.vectors import Vectors, find

FILES = find(lambda vectors: "in/latents" in vectors)


def settings_of(schedule: dict[str, Any], run: dict[str, Any]) -> SamplerSettings:
    """A run as this project names its settings."""
    names = {"s_churn": "S_churn", "s_min": "S_min", "s_max": "S_max", "s_noise": "S_noise", "eps_scale": "eps_scaler"}
    own = {ours: run[theirs] for ours, theirs in names.items() if theirs in run}
    own |= {weight: run.get(weight, 0.0) for weight in ("w1", "w2")}
    schedule = {key: schedule[key] for key in ("sigma_min", "sigma_max", "rho")} | {"steps": schedule["num_steps"]}
    return replace(SamplerSettings(), **schedule, **own, boosting=bool(run.get("boosting", 0)))


def trajectory(
    vectors: Vectors, edm: EDMPrecond, discriminator: MemberLogits, run: dict[str, Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Final image, images at the recorded steps, and log ratios of a run."""
    labels, meta = vectors.get("in/class_labels"), vectors.meta
    states: list[tuple[Tensor, Tensor, Tensor]] = []
    window = meta["time_min"], meta["time_max"]
    options = {"window": window, "dtype": dtype, "clip": 1e-5}
    guided = DiscriminatorGuidance(lambda x, t: discriminator(x, t, labels), **options)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return edm(x.to(dtype), sigma.to(dtype), labels)

    def guidance(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return official_score(guided, x, sigma)

    def noise(step: int, raised: Tensor) -> Tensor:
        return vectors["in/noise"][step]

    settings = settings_of(meta["schedule"], run)
    final = sample(denoiser, guidance, vectors["in/latents"].double(), noise, settings, states)
    steps, _, ratios = zip(*states, strict=True)
    return {
        "x_final": final,
        "x_steps": torch.stack([steps[index] for index in meta["x_steps_index"]]),
        "log_ratio": marked(torch.stack(ratios)),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_trajectory_agrees(path: Path) -> None:
    vectors = Vectors(path)
    for prefix, dtype in PRECISIONS:
        edm = vectors.network("edm").to(dtype)
        discriminator = MemberLogits(vectors.network("classifier"), vectors.network("disc")).to(dtype)
        for run, changes in vectors.meta["runs"].items():
            vectors.check_all(f"{prefix}/{run}", trajectory(vectors, edm, discriminator, changes, dtype))
    assert not vectors.unchecked()

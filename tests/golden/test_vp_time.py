"""VP time against vectors from the public implementation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from discriminator_guidance.core import noise as vp_time
from tests.golden.test_guidance import cosine_time
from tests.golden.vectors import Vectors, find

FILES = find(lambda vectors: "in/u" in vectors and "in/t_min" in vectors)
LAST_PLACES = 2.0**-23  # two units in the last place of a float32 in [0.5, 1)


def values(vectors: Vectors) -> dict[str, Tensor]:
    """What the reference arrays hold, by name; `_f32` is the same function of float32 numbers."""
    sigma, t, u = vectors["in/sigma"], vectors["in/t"], vectors["in/u"]
    t_mins = vectors["in/t_min"].tolist()
    total = vp_time.importance_antiderivative(torch.tensor(1.0, dtype=torch.float64))
    tau = vp_time.tau_from_sigma(sigma)
    return {
        "tau_from_sigma": tau,
        "mean_at_tau": vp_time.marginal_mean(tau),
        "std_at_tau": vp_time.marginal_std(tau),
        "tau_from_sigma_f32": vp_time.tau_from_sigma(sigma.float()),
        "mean": vp_time.marginal_mean(t),
        "std": vp_time.marginal_std(t),
        "integral_beta": vp_time.beta_integral(t),
        "t_cos": cosine_time(t),
        "mean_f32": vp_time.marginal_mean(t.float()),
        "std_f32": vp_time.marginal_std(t.float()),
        "t_cos_f32": cosine_time(t.float()),
        "antiderivative": vp_time.importance_antiderivative(t[1:]),
        "Z": total - vp_time.importance_antiderivative(vectors["in/t_min"]),
        "t_uniform": torch.stack([t_min + (1 - t_min) * u.double() for t_min in t_mins]),
        "t_importance": torch.stack([vp_time.importance_times(u, t_min) for t_min in t_mins]),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_array_agrees(path: Path) -> None:
    vectors = Vectors(path)
    for name, value in values(vectors).items():
        for key in (f"out/{name}", f"out64/{name}"):
            if key in vectors:
                # What logarithms and exponentials of two CPUs may differ by.
                rounding = LAST_PLACES if name.endswith("_f32") else 0.0
                vectors.check(key, value, max(vectors.tolerance(key), rounding))
    assert not vectors.unchecked()

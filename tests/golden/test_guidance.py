"""Guidance scores and log ratios against vectors from the public implementation: one head and ensembles."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.core.noise import marginal_mean, tau_from_sigma
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.sampling.guidance import Discriminator, DiscriminatorGuidance
from tests.golden.vectors import Vectors, find

OUTSIDE = 1e7  # the public code's mark for "outside the time window", +infinity here
SINGLE = find(lambda vectors: "runs" in vectors.meta and "in/z" in vectors)
ENSEMBLE = find(lambda vectors: "combiners" in vectors.meta)
PRECISIONS = (("out", torch.float32), ("out64", torch.float64))


def cosine_time(t: Tensor) -> Tensor:
    """The time of the cosine schedule (Nichol & Dhariwal 2021) with the noise of a linear-schedule time: for 64x64."""
    angle = torch.acos(math.cos(0.008 / 1.008 * math.pi / 2) * marginal_mean(t))
    return (2 / math.pi) * 1.008 * angle - 0.008


def at_cosine_time(discriminator: Discriminator) -> Discriminator:
    """The logits of a network that lives in cosine time, computed in float64: near 0, an arc cosine loses digits."""
    return lambda x, t: discriminator(x, cosine_time(t.double()).to(t))


def official_score(guidance: DiscriminatorGuidance, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The guidance score with the official gate, which tests the smallest time of a batch for all its samples."""
    (low, high), tau = guidance.window, tau_from_sigma(sigma.double())
    window = (0.0, 1.0) if low <= tau.min() <= high else (0.0, 0.0)
    return replace(guidance, window=window)(x, sigma)


def noisy(vectors: Vectors, sigma: Tensor) -> Tensor:
    """The images at which guidance was recorded."""
    return 0.5 * vectors["in/base"].double() + sigma.view(-1, 1, 1, 1) * vectors["in/z"].double()


def marked(log_ratio: Tensor) -> Tensor:
    """Log ratios in the public code's notation."""
    return torch.where(log_ratio.isinf(), torch.full_like(log_ratio, OUTSIDE), log_ratio)


def single_head(vectors: Vectors, run: dict[str, Any], dtype: torch.dtype) -> Discriminator:
    """The run's discriminator."""
    head = vectors.network("disc_cond" if run["cond"] else "disc")
    if "sat" in run:
        for parameter in head.out[2].c_proj.parameters():
            parameter.data *= run["sat"]
    discriminator = MemberLogits(vectors.network("classifier"), head).to(dtype)
    labels = one_hot(vectors["in/labels"].long()) if run["cond"] else None
    return lambda x, t: discriminator(x, t, labels)


@pytest.mark.parametrize("path", SINGLE, ids=lambda path: path.stem)
def test_every_run_of_one_discriminator_agrees(path: Path) -> None:
    vectors = Vectors(path)
    for prefix, dtype in PRECISIONS:
        for name, changes in vectors.meta["runs"].items():
            run = {**vectors.meta["defaults"], **changes}
            sigma = vectors[f"in/{name}/sigma"]
            head, window = single_head(vectors, run, dtype), (run["time_min"], run["time_max"])
            head = at_cosine_time(head) if run["img_resolution"] == 64 else head
            guidance = DiscriminatorGuidance(head, window=window, dtype=dtype, clip=1e-5)
            score, log_ratio = official_score(guidance, noisy(vectors, sigma), sigma)
            values = {"score": score, "log_ratio": marked(log_ratio), "tau": tau_from_sigma(sigma)}
            vectors.check_all(f"{prefix}/{name}", values)
    assert not vectors.unchecked(guidance_names(vectors))


def guidance_names(vectors: Vectors) -> list[str]:
    """The reference arrays of the runs; those of plain forward passes are checked in test_networks.py."""
    return [name for name in vectors.names("out") if name.count("/") == 2]


def member_names(vectors: Vectors) -> list[str]:
    """disc0, disc1, ... in order."""
    return sorted({name.split("/")[1] for name in vectors.names("param/disc")})


def ensemble_runs(vectors: Vectors) -> dict[str, tuple[list[str], str]]:
    """Members and rule of every run of an ensemble file."""
    members = member_names(vectors)
    rules = {"asis_ens": "clipped_logit_mean", "meanprob": "mean_probability", "meanlogit": "mean_logit"}
    runs = {}
    for run in sorted({name.split("/")[1] for name in vectors.names("out/") if name.count("/") == 2}):
        if run.startswith("asis_single"):
            runs[run] = ([members[int(run.removeprefix("asis_single"))]], "clipped_logit_mean")
        else:
            runs[run] = (members, next(rule for start, rule in rules.items() if run.startswith(start)))
    return runs


@pytest.mark.parametrize("path", ENSEMBLE, ids=lambda path: path.stem)
def test_member_values_and_every_rule_agree(path: Path) -> None:
    vectors = Vectors(path)
    sigma = vectors["in/sigma"]
    x, tau = noisy(vectors, sigma), tau_from_sigma(sigma)
    for prefix, dtype in PRECISIONS:

        def member_logits(names: list[str], dtype: torch.dtype = dtype) -> MemberLogits:
            heads = [vectors.network(name, kind="disc") for name in names]
            return MemberLogits(vectors.network("classifier"), *heads).to(dtype)

        mean = marginal_mean(tau)
        logits = member_logits(member_names(vectors))((mean.view(-1, 1, 1, 1) * x).to(dtype), tau.to(dtype))
        values = {"tau": tau, "mean_tau": mean, "member_logits": logits, "member_sigmoid": logits.sigmoid()}
        values["mean_prob"] = logits.sigmoid().mean(0)
        for run, (names, rule) in ensemble_runs(vectors).items():
            window = vectors.meta["time_min"], vectors.meta["time_max"]
            guidance = DiscriminatorGuidance(member_logits(names), rule=rule, window=window, dtype=dtype, clip=1e-5)
            score, ratio = official_score(guidance, x, sigma)
            values |= {f"{run}/score": score, f"{run}/log_ratio": marked(ratio)}
        vectors.check_all(prefix, values)
    assert not vectors.unchecked()

"""Counts made before anything runs are those of real runs with instrumented callables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from discriminator_guidance.guidance.density_ratio import guidance_score
from discriminator_guidance.guidance.sampler import SamplerSettings, sample
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.planning.work import (
    Pass,
    Split,
    added,
    guided_steps,
    member_training,
    network_evaluations,
    sampling,
    split_sizes,
)
from discriminator_guidance.training.discriminator import MemberSettings, train_discriminator
from discriminator_guidance.training.grid import grid_features, grid_logits

SHAPE = (1, 4, 4)
PLAIN = {
    "steps": 9,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "rho": 7.0,
    "s_churn": 0.0,
    "s_min": 0.0,
    "s_max": float("inf"),
    "s_noise": 1.0,
    "eps_scale": 1.0,
    "w1": 2.0,
    "w2": 2.0,
    "boosting": False,
}
CASES = {
    "both slopes": {},
    "euler alone": {"w2": 0.0},
    "correction alone": {"w1": 0.0},
    "boosting": {"w2": 0.0, "boosting": True, "steps": 12},
    "churn": {"s_churn": 40.0},
    "churn in a range": {"s_churn": 40.0, "s_min": 0.05, "s_max": 10.0},
}


@pytest.mark.parametrize("window", [(0.01, 1.0), (1e-5, 1.0), (0.2, 0.6), (0.9995, 1.0)])
@pytest.mark.parametrize("case", CASES)
def test_sampling_asks_the_networks_as_often_as_counted(case, window):
    settings = SamplerSettings(**(PLAIN | CASES[case]))
    images, asked = 6, {"score": 0, "guidance": 0}

    def denoiser(x, sigma):
        asked["score"] += len(x)
        return 0.5 * x

    def log_ratio(x_vp, tau):
        asked["guidance"] += len(x_vp)
        signs = torch.tensor([-1.0, 1.0]).repeat(len(x_vp) // 2)  # every other picture looks fake
        return signs + 0 * x_vp.flatten(1).sum(1)

    def guidance(x, sigma):
        return guidance_score(log_ratio, x, sigma, *window)

    latents = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(0))
    sample(denoiser, guidance, latents, lambda step, raised: torch.zeros(images, *SHAPE), settings)
    counted = sampling(images, settings, ("d0", "d1"), *window)
    assert counted == {Pass("score"): asked["score"], Pass("guidance", ("d0", "d1")): asked["guidance"]}
    assert network_evaluations(counted) == asked["score"] + 3 * asked["guidance"]


def test_the_window_matters_and_the_last_step_has_no_correction():
    everywhere = guided_steps(SamplerSettings(**PLAIN), 1e-9, 1.0)
    assert everywhere == (9, 8)
    euler, correction = guided_steps(SamplerSettings(**PLAIN), 0.01, 1.0)
    assert 0 < euler < 9
    assert correction < 8


def test_unguided_sampling_is_two_evaluations_a_step_less_one():
    settings = SamplerSettings(**(PLAIN | {"w1": 0.0, "w2": 0.0, "steps": 35}))
    assert sampling(50_000, settings, ()) == {Pass("score"): 50_000 * 69}


class Head(nn.Module):
    """Counts the pictures it is given, in training and otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained = self.judged = 0

    def forward(self, features, t):
        if torch.is_grad_enabled():
            self.trained += len(features)
        else:
            self.judged += len(features)
        return self.weight * features.flatten(1).mean(1)


class NoCheckpoints:
    def load(self):
        return None

    def save(self, state):
        del state


@pytest.mark.parametrize("bagging", [None, 0.5, 1.0])
def test_training_a_member_asks_the_networks_as_often_as_counted(bagging):
    real, fake, per_image, epochs = 30, 40, 3, 2
    sizes, pairs = split_sizes(real, fake, 0.8, 0.1, 35, per_image)
    seen = 0

    def features(x_vp, t):
        nonlocal seen
        seen += len(x_vp)
        return x_vp

    images = torch.zeros(real + fake, *SHAPE, dtype=torch.uint8)
    labels, head, compute = torch.zeros(real + fake), Head(), Compute(torch.device("cpu"), "float32")
    rows = np.arange(sizes.train if bagging is None else round(bagging * sizes.train))
    at_once = BatchSize(16, lambda said: None)
    grids = [
        grid_features(features, images, labels, None, np.arange(count), 6, per_image, 0, at_once)
        for count in (sizes.validation, sizes.test)
    ]
    settings = MemberSettings(0, epochs, 1e-3, 0.0, 0.01, 16, True, True, False, 0.0, "last", 5, 0)
    train_discriminator(
        features,
        head,
        images,
        labels,
        None,
        rows,
        grids[0],
        settings,
        compute,
        at_once,
        NoCheckpoints(),
        lambda done: None,
        lambda epoch, row: None,
    )
    grid_logits(head, grids[1], compute)
    counted = member_training("d0", epochs, pairs, bagging)
    assert counted[Pass("member step", ("d0",))] == head.trained
    assert counted[Pass("head", ("d0",))] == head.judged
    assert counted[Pass("features")] + counted[Pass("member step", ("d0",))] == seen
    assert network_evaluations(counted) == seen + head.trained + head.judged


def test_split_sizes_of_the_mini_profile():
    sizes, pairs = split_sizes(1438, 1438, 0.8, 0.1, None, 4)
    assert sizes == Split(2300, 288, 288)
    assert pairs == Split(2300, 1152, 1152)


def test_passes_add_up():
    one, other = {Pass("score"): 2, Pass("features"): 1}, {Pass("score"): 3}
    assert added([one, other]) == {Pass("score"): 5, Pass("features"): 1}
    assert one == {Pass("score"): 2, Pass("features"): 1}

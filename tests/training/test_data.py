"""Splits, bagging, noised batches and the common grid."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from discriminator_guidance.core.noise import Split, generator, noised, quantile_grid, scaled, split_pairs
from discriminator_guidance.core.settings import DiscriminatorSettings, SplitSettings
from discriminator_guidance.training.data import Pairs, draw_noised, grid_features, permuted_labels
from discriminator_guidance.training.discriminator import training_rows

from .test_discriminator import brightness, make_pairs

ROWS = np.arange(400)


@given(real=st.integers(10, 200), fake=st.integers(10, 200), most=st.none() | st.integers(10, 300))
def test_the_split_is_a_partition_with_the_same_shares_of_real_and_fake(real, fake, most):
    split = split_pairs(real, fake, SplitSettings(), most)
    rows = np.concatenate([split.train, split.validation, split.test])
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(real + fake))
    assert (split.train < real).sum() == round(0.8 * min(real, most or real))
    assert (split.train >= real).sum() == round(0.8 * min(fake, most or fake))
    assert all((part < real).sum() == (part >= real).sum() > 0 for part in (split.validation, split.test))
    assert all(np.all(np.diff(part) > 0) for part in vars(split).values())


def test_bagging_draws_training_images_with_replacement():
    def rows_of(share: float, seed: int, rows: np.ndarray) -> np.ndarray:
        return training_rows(DiscriminatorSettings(bagging=share, seed=seed), Split(rows, ROWS, ROWS))

    rows = np.arange(100, 164)
    fewer, other = rows_of(0.75, 1, rows), rows_of(1.0, 2, rows)
    assert (len(fewer), len(other)) == (48, 64)
    for drawn in (fewer, other):
        assert set(drawn) <= set(rows)
        assert len(set(drawn)) < len(drawn)
        assert np.array_equal(np.sort(drawn), drawn)
    assert np.array_equal(rows_of(0.75, 1, rows), fewer)
    assert 0.55 < len(set(rows_of(1.0, 3, np.arange(10000)))) / 10000 < 0.71  # 1 - 1/e


def test_rows_are_real_then_fake_in_the_units_of_the_diffusion():
    real, fake = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1), torch.full((2, 1, 1, 1), -4.0)
    split = split_pairs(3, 2, SplitSettings(train=0.5, validation=0.25, test=0.25))
    pairs = Pairs(real, fake, torch.tensor([1.0, 1, 1, 0, 0]), None, split)
    assert pairs.take(np.array([3, 2, 0])).flatten().tolist() == pytest.approx([-4.0, 2 / 127.5 - 1, -1.0])


class NoDoubles(TorchDispatchMode):
    """Refuses float64 on device meta, as device mps does."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        assert not isinstance(made, torch.Tensor) or (made.device.type, made.dtype) != ("meta", torch.float64)
        return made


def test_images_are_noised_on_a_device_without_float64():
    with NoDoubles():
        x_vp, t = draw_noised(torch.empty(4, 1, 2, 2, device="meta"), generator(0, "x", 0, 0), 1e-3, 0.5)
    assert {(each.device.type, each.dtype) for each in (x_vp, t)} == {("meta", torch.float32)}


def test_a_noised_batch_has_the_two_laws_of_times_and_normal_noise():
    images = torch.arange(256, dtype=torch.uint8).repeat(32).view(-1, 1, 1, 1)  # 8,192 images
    x_vp, t = draw_noised(scaled(images), generator(0, "x", 0, 0), 1e-3, 0.5)
    uniform, important = t[:4096].double(), t[4096:].double()
    assert stats.kstest(uniform, "uniform", (1e-3, 1 - 1e-3)).pvalue > 0.01
    assert stats.ks_2samp(important, quantile_grid(20000, 1e-3)).pvalue > 0.01
    zeros, times = torch.zeros(len(images), 1, 1, 1), t.double()
    noise = (x_vp - noised(scaled(images), times, zeros)) / noised(zeros, times, zeros + 1)
    assert stats.kstest(noise.flatten(), "norm").pvalue > 0.01


def test_flip_mirrors_half_of_the_images():
    images = torch.zeros(1000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    flipped, _ = draw_noised(scaled(images), generator(0, "x", 0, 0), 1e-9, 1.0, flip=True)
    plain, _ = draw_noised(scaled(images), generator(0, "x", 0, 0), 1e-9, 1.0, flip=False)
    assert 0.45 < ((flipped - plain).abs().flatten(1).sum(1) > 1e-6).float().mean().item() < 0.55


def test_only_the_labels_of_training_are_permuted():
    split = split_pairs(60, 40, SplitSettings())
    images = (torch.zeros(count, 1, 1, 1) for count in (60, 40))
    pairs = Pairs(*images, torch.cat([torch.ones(60), torch.zeros(40)]), None, split)
    null, other = permuted_labels(pairs, 0).labels, permuted_labels(pairs, 1).labels
    rows = np.concatenate([split.validation, split.test])
    assert torch.equal(null[rows], pairs.labels[rows])
    assert null.sum() == pairs.labels.sum() == 60
    assert 0.2 < (null != pairs.labels)[split.train].float().mean() < 0.7
    assert not torch.equal(null, other)


@pytest.mark.parametrize(("times", "per_image"), [(8, 8), (5, 1), (6, 4)])
def test_all_times_are_used_equally_often(times, per_image):
    grid = grid_features(brightness, make_pairs(), ROWS[:30], times, per_image, 0)
    assert np.bincount(grid.image).tolist() == [per_image] * 30
    assert np.ptp(np.unique(grid.time, return_counts=True)[1]) <= 1
    assert len(set(zip(grid.image, grid.time, strict=True))) == len(grid.image)  # no image twice at one time


def test_its_noise_depends_on_seed_image_and_time_alone():
    pairs = make_pairs()
    drawn, other = (grid_features(brightness, pairs, ROWS, 4, 2, seed) for seed in (3, 4))
    assert not torch.equal(drawn.features, other.features)
    assert drawn.labels.tolist() == [1.0] * 400 + [0.0] * 400
    part = grid_features(brightness, pairs, ROWS[100:], 4, 2, 3)
    assert torch.equal(part.features, drawn.features[200:])
    assert np.array_equal(part.time, drawn.time[200:])

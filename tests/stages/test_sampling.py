"""Sampling in shards and batches: a sample is its index, whatever is drawn beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.errors import DivergenceError, UserError
from discriminator_guidance.guidance.sampler import SamplerSettings
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.sampling import Samples, draw_classes, draw_samples, unguided_denoiser

CPU = Compute(torch.device("cpu"), "float32")
SETTINGS = SamplerSettings(4, 0.2, 80.0, 7.0, 10.0, 0.0, float("inf"), 1.0, 1.0, 1.0, 1.0, True)  # churn and boosting
CLASSES = 3


class Sampled:
    """A study in which a picture becomes its class, and the class decides whether it looks fake."""

    def __init__(self, room: int = 1000) -> None:
        self.room, self.batches = room, []

    def __call__(self, classes):
        self.batches.append(classes.tolist())
        level = (classes - 1).double().view(-1, 1, 1, 1) / 2

        def denoiser(x, sigma):
            if len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return 0.9 * level + 0.1 * x / (1 + sigma.view(-1, 1, 1, 1))

        def guidance(x, sigma):
            return 0.01 * x, (classes - 1).double()

        return denoiser, guidance


def draw(sampled, work, indices=range(100, 117), batch=5, shard=8, notices=None, done=None) -> tuple[Samples, int]:
    at_once = BatchSize(batch, (notices if notices is not None else []).append)
    drawn = draw_samples(
        sampled, CLASSES, SETTINGS, (1, 2, 2), indices, 7, at_once, shard, 3, CPU, work, (done or [].append)
    )
    return drawn, at_once.size


@pytest.fixture
def work(tmp_path):
    number, notices = 0, []

    def new() -> PartialWork:
        nonlocal number
        number += 1
        return PartialWork(tmp_path, "fake", {"run": number}, notices.append)

    return new


def assert_same(one: Samples, other: Samples) -> None:
    for name in ("images", "index", "classes", "log_ratio", "states", "denoised", "sigma"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_class_of_a_sample_is_its_seed_and_index():
    whole = draw_classes(7, range(0, 300), 10)
    assert whole.dtype == np.int64
    assert np.array_equal(draw_classes(7, range(120, 140), 10), whole[120:140])
    assert not np.array_equal(draw_classes(8, range(0, 300), 10), whole)
    counts = np.bincount(whole, minlength=10)
    assert len(counts) == 10
    assert counts.min() >= 15


def test_the_class_takes_nothing_from_the_stream_of_the_noise():
    first = [generator(7, "latent", index, 0).integers(10) for index in range(50)]
    assert draw_classes(7, range(50), 10).tolist() != first


def test_every_sample_is_sampled_with_the_class_that_is_recorded(work):
    sampled = Sampled()
    drawn, _ = draw(sampled, work())
    assert drawn.classes.tolist() == draw_classes(7, range(100, 117), CLASSES).tolist()
    assert len(set(drawn.classes)) == CLASSES
    assert [len(batch) for batch in sampled.batches] == [5, 3, 5, 3, 1]
    assert [label for batch in sampled.batches for label in batch] == drawn.classes.tolist()
    brightness = drawn.images.mean(axis=(1, 2, 3))
    nearest = np.abs(brightness[:, None] - [13, 128, 242]).argmin(axis=1)  # levels -0.9, 0, 0.9
    assert nearest.tolist() == drawn.classes.tolist()
    assert np.array_equal(drawn.log_ratio[0], drawn.classes - 1)


@pytest.mark.parametrize(("batch", "shard"), [(1, 17), (17, 17), (4, 3)])
def test_batches_and_shards_change_nothing(work, batch, shard):
    assert_same(draw(Sampled(), work(), batch=batch, shard=shard)[0], draw(Sampled(), work())[0])


def test_a_part_of_the_range_is_a_part_of_the_samples(work):
    whole, _ = draw(Sampled(), work())
    part, _ = draw(Sampled(), work(), indices=range(106, 111))
    for name in ("images", "index", "classes"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[6:11])


def test_exhausted_memory_halves_the_batch_once_for_all_and_changes_nothing(work):
    notices, done, sampled = [], [], Sampled(room=3)
    halved, size = draw(sampled, work(), notices=notices, done=done.append)
    assert_same(halved, draw(Sampled(), work())[0])
    assert (size, halved.halved) == (3, (3,))
    assert len(notices) == 1
    assert sum(done) == 17
    assert [len(batch) for batch in sampled.batches] == [5, 3, 3, 2, 3, 3, 2, 1]


def test_an_interrupted_run_goes_on_with_the_smaller_batch_and_its_record(work):
    place = work()
    draw(Sampled(room=3), place, indices=range(100, 108))
    sampled = Sampled()
    rest, size = draw(sampled, place)
    assert (size, rest.halved) == (3, (3,))
    assert [len(batch) for batch in sampled.batches] == [3, 3, 2, 1]
    assert_same(rest, draw(Sampled(), work())[0])


def test_memory_for_no_picture_is_one_line_and_keeps_the_finished_shards(work):
    place = work()

    class Filling(Sampled):
        def __call__(self, classes):
            self.room = 5 if sum(map(len, self.batches)) < 8 else 0
            return super().__call__(classes)

    with pytest.raises(UserError, match="memory for one picture at a time") as caught:
        draw(Filling(), place)
    assert "\n" not in str(caught.value)
    again = Sampled()
    assert_same(draw(again, place)[0], draw(Sampled(), work())[0])
    assert sum(map(len, again.batches)) == 9  # the first shard of 8 is taken from the interrupted run


def test_an_error_of_the_networks_is_not_taken_for_exhausted_memory(work):
    def broken(classes):
        def denoiser(x, sigma):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        return denoiser, None

    notices = []
    with pytest.raises(RuntimeError, match="mat1"):
        draw(broken, work(), notices=notices)
    assert not notices


def test_a_sample_that_is_not_finite_is_named(work):
    class Broken(Sampled):
        def __call__(self, classes):
            denoiser, guidance = super().__call__(classes)
            spoilt = len(self.batches) == 2  # samples 105 .. 107

            def broken(x, sigma):
                mask = torch.arange(len(x)).view(-1, 1, 1, 1) == 1
                return torch.where(mask & spoilt, torch.nan, denoiser(x, sigma))

            return broken, guidance

    with pytest.raises(DivergenceError, match="sample 106"):
        draw(Broken(), work())


def test_the_denoiser_is_given_each_samples_class():
    torch.manual_seed(0)
    network = EDMPrecond(8, 1, CLASSES, model_channels=8, channel_mult=[1, 1], num_blocks=1, attn_resolutions=[4])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    network.eval()
    x, sigma = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.full((4,), 1.0, dtype=torch.float64)
    classes = torch.tensor([2, 0, 1, 2])
    denoised = unguided_denoiser(network, classes, CPU)(x, sigma)
    expected = network(x.float(), sigma.float(), one_hot(classes, CLASSES)).detach()
    assert torch.equal(denoised, expected)
    assert not torch.allclose(denoised, unguided_denoiser(network, classes.flip(0), CPU)(x, sigma), atol=1e-3)


class Faulty(Sampled):
    """Guidance is NaN for sample 106 at noise levels below a bound."""

    def __init__(self, below: float) -> None:
        super().__init__()
        self.below = below

    def __call__(self, classes):
        denoiser, guidance = super().__call__(classes)
        first = 100 + sum(map(len, self.batches[:-1]))

        def faulty(x, sigma):
            score, ratio = guidance(x, sigma)
            rows = (torch.arange(first, first + len(x)) == 106) & (sigma < self.below)
            return score.masked_fill(rows.view(-1, 1, 1, 1), torch.nan), ratio

        return denoiser, faulty


def test_guidance_that_is_not_finite_is_named_with_its_noise_level(work):
    with pytest.raises(DivergenceError, match=r"at noise level sigma = .* in sample 106;"):
        draw(Faulty(60.0), work())


def test_dropped_guidance_concerns_one_sample_and_survives_in_the_shards(work):
    place, clean = work(), draw(Sampled(), work())[0]
    drawn = draw_samples(
        Faulty(60.0), CLASSES, SETTINGS, (1, 2, 2), range(100, 117), 7, BatchSize(5, print), 8, 3, CPU, place,
        [].append, "drop_guidance",
    )  # fmt: skip
    assert np.flatnonzero(drawn.dropped).tolist() == [6]
    assert drawn.dropped[6] == 6  # of 4 steps all but the first evaluation: 3 Euler slopes, 3 corrections
    others = [i for i in range(17) if i != 6]
    assert np.array_equal(drawn.images[others], clean.images[others])
    assert not np.array_equal(drawn.images[6], clean.images[6])
    again, _ = draw(Sampled(), place)
    assert np.array_equal(again.dropped, drawn.dropped)
    assert not clean.dropped.any()

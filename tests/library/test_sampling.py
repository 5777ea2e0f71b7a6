"""The public sampler and guidance: exact on Gaussian data, and what the pipeline draws."""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dguide.stages import guided
from dguide.tools import release
from discriminator_guidance import DiscriminatorGuidance, frechet_distance, from_pretrained, sample, to_uint8
from discriminator_guidance.core import noise
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import Resumable, write_json
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.metrics.features import FidNetwork, load_fid_network
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling import sampler
from discriminator_guidance.sampling.weights import FittedWeights, fit_weights
from tests.library.gaussians import SHAPE, Gaussian, log_ratio_of
from tests.stages.conftest import Recorder, prepare_study, tiny_settings

TRUE, WRONG = Gaussian(mean=0.3, std=0.4), Gaussian(mean=-0.1, std=0.6)
EXACT = log_ratio_of(TRUE, WRONG)
FEW = (6, *SHAPE)


def mean_logit(x_vp: Tensor, tau: Tensor) -> Tensor:
    return x_vp.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("size", [16, 32])
def test_guidance_by_the_exact_ratio_turns_the_wrong_gaussian_into_the_right_one(size: int) -> None:
    true, wrong, shape = Gaussian(0.2, 0.5), Gaussian(0.0, 0.5), (16, 3, size, size)
    exact = DiscriminatorGuidance(log_ratio_of(true, wrong), window=(0.0, 1.0))
    expected, unguided = sample(true.denoise, shape), sample(wrong.denoise, shape)
    assert (expected - unguided).mean() == pytest.approx(0.2, abs=2e-3)
    assert torch.allclose(sample(wrong.denoise, shape, guidance=exact), expected, atol=2e-3)
    assert torch.allclose(sample(exact.denoise(wrong.denoise), shape), expected, atol=2e-3)
    clipped = sample(wrong.denoise, shape, guidance=replace(exact, clip=1e-5))
    assert (clipped - unguided).mean() < 0.13  # the paper's clip switches guidance off


@pytest.mark.parametrize(("steps", "weight", "delivered"), [(12, 2, 0.38), (18, 2, 0.66), (35, 2, 0.85), (18, 1, 1.0)])
def test_few_steps_deliver_less_than_the_weight_of_the_first_order(steps: int, weight: int, delivered: float) -> None:
    true, wrong, shape = Gaussian(0.2, 0.5), Gaussian(0.0, 0.5), (2, *SHAPE)
    guidance = DiscriminatorGuidance(log_ratio_of(true, wrong), (weight, 2 - weight))
    plain, guided = (sample(wrong.denoise, shape, guidance=each, steps=steps) for each in (None, guidance))
    assert (guided - plain).mean() / 0.2 == pytest.approx(delivered, abs=0.01)


@pytest.mark.parametrize("rule", ["mean_probability", "mean_logit"])
def test_several_discriminators_one_by_one_or_stacked(rule: str) -> None:
    def members(x_vp: Tensor, tau: Tensor) -> Tensor:
        return torch.stack([mean_logit(x_vp, tau), 3 * mean_logit(x_vp, tau)])

    class Scaled(torch.nn.Linear):
        def forward(self, x_vp: Tensor, tau: Tensor) -> Tensor:
            return self.in_features * mean_logit(x_vp, tau)[:, None]

    several = [mean_logit, Scaled(3, 1).eval()]
    modules = torch.nn.ModuleList([Scaled(1, 1), Scaled(3, 1)])
    forms = ((several, None), (modules.eval(), None), (members, 2))
    drawn = [sample(WRONG.denoise, FEW, guidance=DiscriminatorGuidance(d, rule=rule, members=m)) for d, m in forms]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[2])
    only_first = DiscriminatorGuidance(several, rule=rule, member_weights=(1.0, 0.0))
    alone = DiscriminatorGuidance(mean_logit, rule=rule)
    assert torch.allclose(*(sample(WRONG.denoise, FEW, guidance=g) for g in (only_first, alone)))


class Small(torch.nn.Linear):
    def forward(self, x_vp: Tensor, tau: Tensor) -> Tensor:
        return super().forward(x_vp.flatten(1))


class Dark(torch.nn.Dropout):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 0 * x


NOISY = torch.ones(2, *SHAPE), torch.ones(2)


def guide(discriminators: Any = mean_logit, denoiser: Any = WRONG.denoise, **options: Any) -> Tensor:
    return DiscriminatorGuidance(discriminators, **options).denoise(denoiser)(*NOISY)


FITTED = FittedWeights(torch.ones(1), torch.ones(1, 2))


def draw(shape: tuple[int, ...] = FEW, **options: Any) -> Tensor:
    return sample(WRONG.denoise, shape, **options)


@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        (guide, {"rule": "mean"}, "mean_probability"),
        (guide, {"window": (1.0, 0.01)}, "window is .1.0, 0.01.; .* lower one first"),
        (guide, {"window": (0.1, 80)}, "window is .0.1, 80.; give two VP times, of 0 to 1"),
        (guide, {"clip": 1.0}, "clip is 1.0; choose between 0 and 0.5"),
        (guide, {"weight": "2"}, r"weight is '2'; .* \(w1, w2\) or a function"),
        (guide, {"weight": float("nan")}, "weight is nan; give numbers"),
        (guide, {"discriminators": iter([mean_logit])}, "discriminators is <list_iterator .*one or several"),
        (guide, {"discriminators": []}, "discriminators is .*one or several"),
        (guide, {"member_weights": (0.5, 0.5)}, "2 member_weights for 1 members"),
        (guide, {"member_weights": (-0.5,)}, r"member_weights are \(-0.5,\); .* none negative"),
        (guide, {"member_weights": (0,)}, r"member_weights are \(0,\); .* not all 0"),
        (guide, {"member_weights": 1.0}, r"member_weights are 1.0; give numbers"),
        (guide, {"rule": "mean_logit", "member_weights": (math.nan,)}, r"member_weights are \(nan,\); give numbers"),
        (guide, {"rule": "shrunk_mean_logit"}, "shrunk_mean_logit, and there is only one discriminator"),
        (guide, {"rule": "shrunk_mean_logit", "member_weights": (1.0,)}, "shrunk_mean_logit, which has no member_wei"),
        (guide, {"member_weights": lambda tau: torch.ones(1, 2)}, "that of one none; write rule='mean_logit'"),
        (guide, {"discriminators": [mean_logit] * 2, "member_weights": FITTED}, "probability has no fitted weights"),
        (guide, {"discriminators": lambda x_vp, tau: x_vp[:, :, 0, 0]}, r"of 2 images have shape \(2, 2\), .*=M "),
        (guide, {"members": 3}, "members is 3"),
        (guide, {"discriminators": lambda x_vp, tau: np.ones(2)}, "give a tensor of one for each"),
        (guide, {"discriminators": lambda x_vp, tau: torch.ones(2)}, "no gradient"),
        (guide, {"discriminators": lambda x_vp, tau: torch.ones(2, requires_grad=True)}, "no gradient"),
        (guide, {"discriminators": lambda x_vp, tau: mean_logit(x_vp, tau) + torch.nan}, "at sigma = 1;"),
        (guide, {"denoiser": lambda x, sigma: x + torch.nan}, "gives NaN or infinity at sigma = 1;"),
        (draw, {"steps": 18.0}, "steps is 18.0; it must be a whole number"),
        (draw, {"steps": 1}, "steps is 1; it must be at least 2"),
        (draw, {"shape": (2, 4, 2, 2), "out": "latents.npz"}, "in latents.npz; choose an .npy file"),
        (draw, {"out": "d0.jpg"}, "cannot be written to d0.jpg; choose a folder"),
        (draw, {"first": [0.5] * 6}, r"first is \[0.5, .*; give a whole number, or one for each of 6"),
        (draw, {"seed": -1}, "seed is -1, .*at least 0"),
        (draw, {"guidance": mean_logit}, "guidance is a function; write DiscriminatorGuidance"),
        (partial(sample, lambda x, sigma: x.sum(dim=(1, 2, 3))), {"shape": FEW}, "the denoiser returned Tensor"),
        (draw, {"classes": [1]}, r"classes has the shape \(1,\) for 6 images; give one class an image"),
        (draw, {"shape": SHAPE}, r"\(N, C, H, W\) of at least one image"),
        (draw, {"device": "cud"}, "no device 'cud'; choose cpu"),
        (draw, {"sigma": 3.0}, "no argument sigma; allowed are .*sigma_max"),
    ],
)
def test_a_wrong_argument_is_one_line(call: Callable[..., Tensor], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        call(**arguments)


@pytest.mark.parametrize("sigma", [1.0, torch.tensor(1.0), torch.ones(1), torch.ones(2), torch.ones(2, 1, 1, 1)])
def test_forms_of_weights_noise_levels_logits_and_images(sigma: float | Tensor) -> None:
    weights = (2.0, np.float32(2), torch.tensor(2.0), (2.0, 2.0), [np.float64(2), 2], lambda sigma: 2.0)
    logits = (mean_logit, lambda x, tau: mean_logit(x, tau)[:, None], lambda x, tau: mean_logit(x, tau)[None])
    expected = guide(weight=2)
    assert all(torch.equal(guide(weight=weight), expected) for weight in weights)
    assert all(torch.equal(guide(form, weight=2.0), expected) for form in logits)
    score, _ = DiscriminatorGuidance(mean_logit)(NOISY[0], sigma)
    video, _ = DiscriminatorGuidance(lambda x, tau: x.flatten(1).mean(dim=1))(NOISY[0].unsqueeze(2), sigma)
    assert torch.equal(video.squeeze(2), score)
    with pytest.raises(ConfigError, match="with one or N"):
        DiscriminatorGuidance(mean_logit)(NOISY[0], torch.ones(3))


def test_warnings_name_probabilities_and_training_mode_but_not_bfloat16() -> None:
    x, network = torch.randn(8, *SHAPE, generator=torch.manual_seed(0)), Small(6, 1)
    with pytest.warns(UserWarning, match="a discriminator is in training mode"):
        DiscriminatorGuidance([mean_logit, network])
    with pytest.warns(UserWarning, match="the denoiser is in training mode"):
        sample(Dark(), FEW, steps=2)
    with pytest.warns(UserWarning, match="the feature network is in training mode"):
        frechet_distance(*np.zeros((2, 9, 2, 2, 1), np.uint8), network=torch.nn.Flatten())
    guidance = DiscriminatorGuidance(lambda x, tau: (99 * mean_logit(x, tau)).sigmoid())  # some are 0 or 1
    with pytest.warns(UserWarning, match="probabilities"):
        [guidance(part, 1.0) for part in x.split(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected, _ = DiscriminatorGuidance([mean_logit, network.eval()])(x, 1.0)
        DiscriminatorGuidance(lambda x, tau: mean_logit(x, tau).sigmoid(), members=1)(x, 1.0)  # logits, as is stated
    half, _ = DiscriminatorGuidance([mean_logit, network.bfloat16()])(x, 1.0)  # is called under autocast
    assert torch.allclose(half, expected, rtol=0.02, atol=1e-3)


def test_the_state_is_float32_where_there_is_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = DiscriminatorGuidance(EXACT)
    drawn = partial(sample, WRONG.denoise, FEW, guidance=guidance, s_churn=5.0)
    expected = drawn()
    assert torch.allclose(drawn(state_dtype=torch.float32), expected, atol=1e-4)
    for module in (noise, sampler):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    assert torch.allclose(drawn(), expected, atol=1e-4)
    assert {values.dtype for values in guidance(*NOISY)} == {torch.float32}


def test_guidance_in_inference_mode_is_the_same() -> None:
    guidance = DiscriminatorGuidance(mean_logit)
    expected = sample(WRONG.denoise, FEW, guidance=guidance)
    with torch.inference_mode():
        assert torch.equal(sample(WRONG.denoise, FEW, guidance=guidance), expected)


def test_seeds_reproduce_single_images_with_churn() -> None:
    whole = sample(TRUE.denoise, FEW, seed=3, s_churn=20.0)
    assert torch.allclose(
        sample(TRUE.denoise, (2, *SHAPE), seed=3, first=torch.tensor(4), s_churn=20.0), whole[4:], atol=1e-6
    )
    assert not torch.equal(sample(TRUE.denoise, FEW, seed=4), sample(TRUE.denoise, FEW, seed=3))


def test_a_release_draws_what_the_pipeline_draws(tmp_path) -> None:
    config, layout = prepare_study(tmp_path, tiny_settings())
    rows = release.run(config, layout, tmp_path / "dist")
    assert [row["folder"].name for row in rows] == ["score", "extractor", "fid_network", "d0", "d1"]
    assert all((row["folder"] / "README.md").read_text().startswith("---\n") for row in rows)
    compute = prepare("cpu", "float32", 1)
    assert isinstance(load_fid_network(tmp_path / "dist/fid_network", compute), FidNetwork)  # `dguide fid --network`
    for variant in ("edm", "mean_prob"):
        row = config.variants[variant]
        with torch.inference_mode():
            models = from_pretrained(tmp_path / "dist", *row.members)
        guidance = DiscriminatorGuidance(models.discriminator, (row.w1, row.w2), row.rule) if row.members else None
        span, settings = config.guided, vars(SamplerSettings.of(row))
        settings = {key: value for key, value in settings.items() if key not in ("w1", "w2")}
        settings |= {"seed": span.seed, "first": span.seed_start}
        guided.run(config, layout, Recorder(), variant)
        expected = np.load(layout.guided(variant) / "samples.npz")["images"]
        images = to_uint8(sample(models.denoiser, (len(expected), *models.shape), guidance=guidance, **settings))
        assert np.abs(images.astype(int) - expected).max() <= 1, variant
    write_json(layout.model("fid_network") / "config.json", {"source": "inception"})
    assert from_pretrained(layout.model("score").parent)[2:] == (None, models.shape)  # models/<profile> itself
    with pytest.raises(InputError, match="d7"):
        from_pretrained(tmp_path / "dist", "d7")
    (tmp_path / "dist/score/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="make release"):
        from_pretrained(tmp_path / "dist")


def test_distance_of_images_and_its_paired_difference() -> None:
    real, noise = np.random.default_rng(0).normal(120, 30, (2, 400, 4, 4, 1)).clip(0, 255)
    near, far = ((noise + shift).clip(0, 255).astype(np.uint8) for shift in (5, 10))

    def features(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]

    distances = [frechet_distance(each, real.astype(np.uint8), network=features) for each in (near, far)]
    assert all(distance.low < distance.value < distance.high for distance in distances)
    difference = frechet_distance(near, real.astype(np.uint8), baseline=far, network=features)
    assert math.isclose(difference.value, distances[0].value - distances[1].value)
    assert difference.high - difference.low < distances[0].high - distances[0].low  # shared noise cancels


def test_any_number_is_drawn_in_batches_and_a_killed_run_resumes_in_its_file(tmp_path, monkeypatch) -> None:
    whole = sample(WRONG.denoise, (20, *SHAPE), seed=3)
    assert torch.allclose(sample(WRONG.denoise, (20, *SHAPE), seed=3, batch_size=7), whole, atol=1e-6)
    calls, save = [], Resumable.save_shard

    def killed(self, number, **arrays):
        save(self, number, **arrays)
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Resumable, "save_shard", killed)
    how = {"seed": 3, "batch_size": 7, "out": tmp_path / "samples.npy", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        sample(WRONG.denoise, (20, *SHAPE), **how)
    assert sample(WRONG.denoise, (20, *SHAPE), **how) == tmp_path / "samples.npy"
    assert calls == [0, 1, 2]
    assert np.allclose(np.load(tmp_path / "samples.npy"), whole, atol=1e-6)
    assert np.load(sample(WRONG.denoise, (2, *SHAPE), **how | {"dtype": torch.bfloat16})).dtype == np.float32
    sample(WRONG.denoise, (20, 1, 3, 2), **how | {"out": tmp_path / "eight_bits.NPZ"})
    sample(WRONG.denoise, (20, 1, 3, 2), **how | {"out": tmp_path / "pictures", "first": np.arange(30, 50)})
    shown = to_uint8(sample(WRONG.denoise, (20, 1, 3, 2), seed=3))
    assert np.array_equal(np.load(tmp_path / "eight_bits.NPZ")["images"], shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eight_bits.NPZ", "pictures", "samples.npy"]
    assert sorted(int(path.stem) for path in (tmp_path / "pictures").glob("*.png")) == [*range(30, 50)]
    with pytest.warns(UserWarning, match="pictures has 20 other images"):
        sample(WRONG.denoise, (1, 1, 3, 2), **how | {"out": tmp_path / "pictures"})


def test_batches_kept_of_another_model_guidance_or_classes_are_not_used(tmp_path, monkeypatch) -> None:
    """The networks differ at the last pixel alone, the windows far from the middle of the noise levels."""
    calls, save = [], Resumable.save_shard

    def killed(self, number, **arrays):
        save(self, number, **arrays)
        calls.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr(Resumable, "save_shard", killed)
    border = torch.zeros(SHAPE)
    border[..., -1, -1] = 0.01
    wide, narrow = (DiscriminatorGuidance(mean_logit, window=(low, 1.0)) for low in (0.01, 0.012))
    how = {"out": tmp_path / "samples.npy", "batch_size": 3, "steps": 4, "progress": False}
    plain, shifted = ((lambda x, sigma, *_, at=at: WRONG.denoise(x, sigma) + at) for at in (0, border))
    changes = [{}, {"guidance": wide}, {"guidance": narrow}, {"classes": [0] * 6}, {"classes": [0] * 5 + [1]}]
    for level in (0.27, 0.28):
        changes.append({"guidance": replace(wide, weight=lambda sigma, level=level: 1.0 * (sigma < level).view(-1, 1))})
    for model, options in ((plain, {}), *((shifted, each) for each in changes)):
        with pytest.raises(KeyboardInterrupt):
            sample(model, FEW, **options, **how)
    assert calls == [0] * 8


def test_missing_packages_are_refused_at_once(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    fitted = partial(fit_weights, discriminators=[], real=np.zeros((2, 3, 2, 1), np.uint8))
    for call in (partial(sample, shape=(6, 1, 3, 2), out="pictures"), fitted):
        with pytest.raises(ConfigError, match=r"is missing; pip install \w+"):
            call(lambda *_: pytest.fail("it was called"))


def test_missing_classes_cause_a_warning_unless_they_are_bound() -> None:
    network = EDMPrecond(img_resolution=8, img_channels=1, label_dim=2, model_channels=8, channel_mult=[1])
    with pytest.warns(UserWarning, match="knows classes, and none are given") as caught:
        sample(network.eval(), (1, 1, 8, 8), steps=2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        sample(partial(network, class_labels=torch.tensor([1])), (1, 1, 8, 8), steps=2)


def test_the_denoiser_is_called_in_the_chosen_dtype_and_settings_may_be_numbers_of_numpy(tmp_path) -> None:
    seen = set()

    def denoiser(x, sigma):
        seen.update((x.dtype, sigma.dtype))
        return WRONG.denoise(x, sigma).to(x.dtype)

    numbers = {"steps": np.int64(4), "sigma_max": np.float32(64), "w1": np.float32(0)}
    path = sample(denoiser, FEW, out=tmp_path / "samples.npy", dtype=torch.float16, seed=np.int64(1), **numbers)
    assert np.array_equal(np.load(path), sample(denoiser, FEW, dtype=torch.float16, seed=1, steps=4, sigma_max=64.0))
    assert seen == {torch.float16}
    halves = (lambda x, sigma: x.mul_(0.5)), (lambda x, sigma: 0.5 * x)
    assert torch.equal(*(sample(half, FEW, dtype=torch.float64) for half in halves)), "a denoiser may change its input"


def test_each_batch_is_given_its_classes() -> None:
    seen = []

    def discriminator(x_vp, tau, classes):
        seen.append(classes.tolist())
        return x_vp.mean(dim=(1, 2, 3))

    denoiser = lambda x, sigma, classes: classes.view(-1, 1, 1, 1).expand_as(x).to(x.dtype)  # noqa: E731
    drawn = partial(sample, denoiser, (6, 1, 4, 4), classes=np.arange(6), batch_size=4, progress=False)
    assert drawn().mean(dim=(1, 2, 3)).tolist() == pytest.approx(range(6), abs=0.01)
    drawn(guidance=DiscriminatorGuidance(discriminator))
    assert all(batch in seen for batch in ([0, 1, 2, 3], [4, 5]))

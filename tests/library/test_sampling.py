"""The public sampler and guidance: exact on Gaussian data, and what the pipeline draws."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dguide.stages import guided, release
from discriminator_guidance import DiscriminatorGuidance, frechet_distance, from_pretrained, sample, to_uint8
from discriminator_guidance.core import noise
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import write_json
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.metrics.features import FidNetwork, load_fid_network
from discriminator_guidance.sampling import sampler
from tests.library.gaussians import SHAPE, Gaussian, log_ratio_of
from tests.stages.conftest import Recorder, prepare_study, tiny_settings

TRUE, WRONG = Gaussian(mean=0.3, std=0.4), Gaussian(mean=-0.1, std=0.6)
EXACT = log_ratio_of(TRUE, WRONG)
FEW = (6, *SHAPE)


def mean_logit(x_vp: Tensor, tau: Tensor) -> Tensor:
    return x_vp.mean(dim=(1, 2, 3))


def test_guidance_by_the_exact_ratio_turns_the_wrong_gaussian_into_the_right_one() -> None:
    # An exact ratio lies outside the clip where sigma is small, so the rule that does not clip.
    guidance = DiscriminatorGuidance(EXACT, rule="mean_logit", window=(0.0, 1.0))
    expected = sample(TRUE.denoise, FEW)
    assert torch.allclose(sample(WRONG.denoise, FEW, guidance=guidance), expected, atol=1e-3)
    assert torch.allclose(sample(guidance.denoise(WRONG.denoise), FEW), expected, atol=1e-3)
    assert (sample(WRONG.denoise, FEW) - expected).abs().mean() > 0.1


def test_weights_of_orders_and_of_noise_levels() -> None:
    def drawn(weight, **options) -> Tensor:
        guidance = DiscriminatorGuidance(mean_logit, weight=weight, **options)
        return sample(WRONG.denoise, FEW, guidance=guidance)

    plain = sample(WRONG.denoise, FEW)
    assert torch.equal(drawn(0.0), plain)
    assert torch.equal(drawn(1.0, window=(2.0, 3.0)), plain)
    assert torch.equal(drawn(1.5), drawn((1.5, 1.5)))
    assert torch.allclose(drawn(1.5), drawn(lambda sigma: 1.5 + 0 * sigma), atol=1e-6)
    assert not torch.allclose(drawn((2.0, 0.0)), drawn(1.0), atol=1e-2)


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


NOISY = torch.ones(2, *SHAPE), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rule": "mean"}, "mean_probability"),
        ({"window": (1.0, 0.01)}, "exchange its ends"),
        ({"clip": 1.0}, "a clip above 0 and below 0.5"),
        ({"weight": "2"}, r"two numbers \(w1, w2\) or a function"),
        ({"weight": (1, 2, 3)}, r"two numbers \(w1, w2\) or a function"),
        ({"discriminators": []}, "one or several discriminators"),
        ({"discriminators": [mean_logit, 3]}, "one or several discriminators"),
        ({"member_weights": (0.5, 0.5)}, "expected 1 member_weights; got 2"),
        ({"rule": "shrunk_mean_logit"}, "two or more discriminators"),
        ({"discriminators": lambda x_vp, tau: x_vp[:, :, 0, 0]}, r"shape \(2,\); got \(2, 2\); .*members=M"),
        ({"discriminators": lambda x_vp, tau: x_vp[:, :1].expand(2, 1, 3, 2)}, r"got \(2, 1, 3, 2\)"),
        ({"members": 3}, r"shape \(3, 2\)"),
        ({"discriminators": lambda x_vp, tau: torch.ones(2)}, "without a gradient"),
        ({"discriminators": lambda x_vp, tau: mean_logit(x_vp.detach(), tau)}, "without a gradient"),
        ({"discriminators": lambda x_vp, tau: torch.ones(2, requires_grad=True)}, "without a gradient"),
        ({"discriminators": lambda x_vp, tau: mean_logit(x_vp, tau) + torch.nan}, "at sigma = 1;"),
    ],
)
def test_a_wrong_guidance_is_one_line(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiscriminatorGuidance(**{"discriminators": mean_logit, **arguments}).denoise(WRONG.denoise)(*NOISY)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        (FEW, {"steps": 1}, "steps; got 1; it must be at least 2"),
        (FEW, {"seed": -1}, "a seed and indices of at least 0; got seed -1"),
        (FEW, {"first": -1}, "a seed and indices of at least 0"),
        (SHAPE, {}, r"\(N, C, H, W\)"),
        ((0, *SHAPE), {}, "at least one image"),
        (FEW, {"sigma": 3.0}, "no argument sigma; allowed are .*sigma_max"),
    ],
)
def test_a_wrong_sample_is_one_line(shape: tuple, options: dict, said: str) -> None:
    with pytest.raises((ConfigError, TypeError), match=said):
        sample(WRONG.denoise, shape, **options)


@pytest.mark.parametrize("sigma", [1.0, torch.tensor(1.0), torch.ones(1), torch.ones(2), torch.ones(2, 1, 1, 1)])
def test_forms_of_weights_noise_levels_logits_and_images(sigma: float | Tensor) -> None:
    weights = (2, 2.0, np.float32(2), torch.tensor(2.0), (2.0, 2.0), [np.float64(2), 2], lambda sigma: 2.0)
    logits = (mean_logit, lambda x, tau: mean_logit(x, tau)[:, None], lambda x, tau: mean_logit(x, tau)[None])
    guided = [DiscriminatorGuidance(mean_logit, weight).denoise(WRONG.denoise) for weight in weights]
    guided += [DiscriminatorGuidance(form, 2.0).denoise(WRONG.denoise) for form in logits]
    assert all(torch.equal(guided[0](*NOISY), denoiser(NOISY[0], torch.ones(2))) for denoiser in guided)
    score, _ = DiscriminatorGuidance(mean_logit)(NOISY[0], sigma)
    video, _ = DiscriminatorGuidance(lambda x, tau: x.flatten(1).mean(dim=1))(NOISY[0].unsqueeze(2), sigma)
    assert torch.equal(video.squeeze(2), score)
    with pytest.raises(ConfigError, match="one sigma or N"):
        guided[0](NOISY[0], torch.ones(3))


def test_warnings_name_probabilities_and_training_mode() -> None:
    x, network = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)), Small(6, 1)
    with pytest.warns(UserWarning, match="training mode"):
        DiscriminatorGuidance([mean_logit, network])
    with pytest.warns(UserWarning, match="probabilities"):
        DiscriminatorGuidance(lambda x, tau: mean_logit(x, tau).sigmoid())(x, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiscriminatorGuidance([mean_logit, network.eval()])(x, 1.0)


def test_a_discriminator_in_bfloat16_is_called_under_autocast() -> None:
    network = Small(6, 1).eval()
    expected = DiscriminatorGuidance(network)(*NOISY)[0]
    half = DiscriminatorGuidance(network.bfloat16())(*NOISY)[0]
    assert torch.allclose(half, expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("size", [16, 32])
def test_an_exact_log_ratio_is_not_switched_off(size: int) -> None:
    true, wrong = Gaussian(0.2, 0.5), Gaussian(0.0, 0.5)
    guidance = DiscriminatorGuidance(log_ratio_of(true, wrong), window=(0.0, 1.0))
    guided, exact = (
        sample(model.denoise, (2**14 // size**2, 3, size, size), guidance=added)
        for model, added in ((wrong, guidance), (true, None))
    )
    assert guided.mean().item() == pytest.approx(exact.mean().item(), abs=1e-3)
    assert exact.mean().item() == pytest.approx(0.2, abs=5e-3)
    assert guided.std().item() == pytest.approx(exact.std().item(), rel=1e-3)
    clipped = sample(wrong.denoise, (16, 3, size, size), guidance=replace(guidance, clip=1e-5))
    assert clipped.mean() < 0.13  # by the clip of the paper


def test_the_state_is_float32_where_there_is_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = DiscriminatorGuidance(EXACT)
    exact = sample(WRONG.denoise, FEW, guidance=guidance, s_churn=5.0)
    assert torch.allclose(
        sample(WRONG.denoise, FEW, guidance=guidance, s_churn=5.0, state_dtype=torch.float32), exact, atol=1e-4
    )
    for module in (noise, sampler):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    with NoFloat64():
        ours = sample(WRONG.denoise, FEW, guidance=guidance, s_churn=5.0)
    assert torch.allclose(ours, exact, atol=1e-4)


class NoFloat64(TorchDispatchMode):
    """Refuses images and batches of noise levels in float64, as a device without it would."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        batched = isinstance(out, Tensor) and out.shape[:1] == (FEW[0],)
        assert not (batched and out.dtype == torch.float64), function
        return out


def test_guidance_in_inference_mode_is_the_same() -> None:
    guidance = DiscriminatorGuidance(mean_logit)
    expected = sample(WRONG.denoise, FEW, guidance=guidance)
    with torch.inference_mode():
        assert torch.equal(sample(WRONG.denoise, FEW, guidance=guidance), expected)


def test_seeds_reproduce_single_images_with_churn() -> None:
    whole = sample(TRUE.denoise, FEW, seed=3, s_churn=20.0)
    assert torch.allclose(sample(TRUE.denoise, (2, *SHAPE), seed=3, first=4, s_churn=20.0), whole[4:], atol=1e-6)
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
    rng = np.random.default_rng(0)
    real, noise = rng.normal(120, 30, (2, 400, 4, 4, 1)).clip(0, 255)
    near, far = ((noise + shift).clip(0, 255).astype(np.uint8) for shift in (5, 10))

    def features(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]

    distances = [frechet_distance(each, real.astype(np.uint8), network=features) for each in (near, far)]
    assert all(distance.low < distance.value < distance.high for distance in distances)
    difference = frechet_distance(near, real.astype(np.uint8), baseline=far, network=features)
    assert math.isclose(difference.value, distances[0].value - distances[1].value)
    assert difference.high - difference.low < distances[0].high - distances[0].low  # shared noise cancels
    with pytest.raises(InputError):
        frechet_distance(near, real.astype(np.uint8), baseline=far[1:], network=features)

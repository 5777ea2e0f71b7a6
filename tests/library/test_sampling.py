"""The public sampler and guidance: exact on Gaussian data, and what the pipeline draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dguide.stages import guided, release
from discriminator_guidance import DiscriminatorGuidance, frechet_distance, from_pretrained, sample, to_uint8
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import write_json
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.metrics.features import FidNetwork, load_fid_network
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

    several = [mean_logit, Scaled(3, 1)]
    modules = torch.nn.ModuleList([Scaled(1, 1), Scaled(3, 1)])
    forms = (several, modules, members)
    drawn = [sample(WRONG.denoise, FEW, guidance=DiscriminatorGuidance(d, rule=rule)) for d in forms]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[2])
    only_first = DiscriminatorGuidance(several, rule=rule, member_weights=(1.0, 0.0))
    alone = DiscriminatorGuidance(mean_logit, rule=rule)
    assert torch.allclose(*(sample(WRONG.denoise, FEW, guidance=g) for g in (only_first, alone)))


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(ConfigError, match="mean_probability"):
        DiscriminatorGuidance(mean_logit, rule="mean")
    with pytest.raises(ConfigError, match="one for each image"):
        sample(WRONG.denoise, FEW, guidance=DiscriminatorGuidance(lambda x_vp, tau: torch.ones(6, 2)))
    assert DiscriminatorGuidance(lambda x_vp, tau: 0 * x_vp.mean())(torch.ones(1, 1, 4, 4), torch.ones(1))[1] == 0
    with pytest.raises(ConfigError, match="steps; got 1; it must be at least 2"):
        sample(WRONG.denoise, FEW, steps=1)
    with pytest.raises(ConfigError, match=r"\(N, C, H, W\)"):
        sample(WRONG.denoise, SHAPE)
    with pytest.raises(ConfigError, match="exchange its ends"):
        DiscriminatorGuidance(mean_logit, window=(1.0, 0.01))
    with pytest.raises(ConfigError, match="expected 1 member_weights; got 2"):
        sample(WRONG.denoise, FEW, guidance=DiscriminatorGuidance(mean_logit, member_weights=(0.5, 0.5)))
    with pytest.raises(ConfigError, match="two or more discriminators"):
        sample(WRONG.denoise, FEW, guidance=DiscriminatorGuidance(mean_logit, rule="shrunk_mean_logit"))
    with pytest.raises(TypeError, match="sigma"):
        sample(WRONG.denoise, FEW, sigma=3.0)


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

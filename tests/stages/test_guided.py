"""Stages `guided` and `fake`: the samples of a variant, and their way through the noise levels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dguide.run
from dguide.settings import Layout
from dguide.stages import guided
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import load_weights, save_weights
from discriminator_guidance.core.noise import tau_from_sigma, to_uint8

from .conftest import Tiny, prepare_study, run_stage, tiny_settings, write_params


def add_to_logit(folder: Path, value: float) -> None:
    """Change the bias of a head's last layer."""
    state, arguments = load_weights(folder, "discriminator")
    state["out.2.c_proj.bias"] += value
    save_weights(folder, state, arguments)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A study with the samples of all its variants, of heads that differ."""
    tiny = prepare_study(tmp_path_factory.mktemp("guided"), tiny_settings())
    add_to_logit(tiny[1].discriminator("d1"), -9.0)
    for variant in tiny[0].variants:
        run_stage("guided", tiny, variant)
    return tiny


def load(layout: Layout, variant: str) -> dict[str, np.ndarray]:
    with np.load(layout.guided(variant) / "samples.npz") as arrays:
        return dict(arrays)


def trajectory(tiny: Tiny, variant: str, images: int = 8) -> dict[str, np.ndarray]:
    return guided.variant_trajectory(*tiny, variant, images)


def active(tiny: Tiny, variant: str, low: float, high: float) -> tuple[list[bool], list[bool]]:
    """At which noise levels a variant is guided, and at which VP times in [low, high] ask for it."""
    way = trajectory(tiny, variant)
    tau = tau_from_sigma(torch.from_numpy(way["sigma"][:-1])).numpy()
    return np.isfinite(way["log_ratio"]).all(axis=1).tolist(), ((tau >= low) & (tau <= high)).tolist()


def test_variants_share_seeds_and_differ(study: Tiny) -> None:
    variants = ("edm", "d0", "mean_prob", "clip_logit")
    starts = [trajectory(study, name)["states"][0] for name in variants]
    samples = [load(study[1], name) for name in variants]
    for start, drawn in zip(starts, samples, strict=True):
        assert np.array_equal(start, starts[0])
        assert drawn["index"].tolist() == list(range(1_000_000, 1_000_024))
    edm, d0, mean_prob, clip_logit = (drawn["images"] for drawn in samples)
    assert len({edm.tobytes(), d0.tobytes(), mean_prob.tobytes()}) == 3
    assert np.array_equal(clip_logit, edm)  # a clipped logit has no gradient


def test_the_trajectory_ends_in_the_samples(study: Tiny) -> None:
    way, samples = trajectory(study, "d0"), load(study[1], "d0")
    shapes = [way[name].shape for name in ("states", "denoised", "log_ratio")]
    assert shapes == [(5, 8, 8, 8, 1), (4, 8, 8, 8, 1), (4, 8)]
    assert np.array_equal(way["images"], samples["images"][:8])
    assert np.array_equal(to_uint8(torch.from_numpy(way["states"][-1].transpose(0, 3, 1, 2))), way["images"])
    assert (study[1].guided("d0") / "grid.png").is_file()


def test_guidance_acts_in_its_window_alone(study: Tiny, tiny: Tiny) -> None:
    acts, wanted = active(study, "d0", 0.01, 1.0)
    assert acts == wanted
    assert not any(active(study, "edm", 0.01, 1.0)[0])
    tiny = write_params(tiny[1].root, tiny_settings({"variants.d0.window": [0.3, 0.9], "variants.d0.steps": 12}))
    acts, wanted = active(tiny, "d0", 0.3, 0.9)
    assert acts == wanted
    assert len(set(acts)) == 2


def test_a_window_that_no_step_meets_is_refused_by_the_first_stage(tiny: Tiny) -> None:
    write_params(tiny[1].root, tiny_settings({"variants.d0.window": [0.95, 1.0]}))
    with pytest.raises(ConfigError, match=r"window of d0 is \[0\.95, 1\.0\], between two steps; widen it"):
        dguide.run.run_stage("real", tiny[1].root / "params.yaml")


def test_a_missing_member_is_named_before_anything_is_drawn(tiny: Tiny) -> None:
    (tiny[1].discriminator("d1") / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"discriminator/d1/model\.safetensors.*stage discriminator"):
        run_stage("guided", tiny, "mean_prob")
    assert not tiny[1].guided("mean_prob").exists()
    assert not tiny[1].partial.exists()


def test_networks_of_the_other_kind_are_refused(tiny: Tiny) -> None:
    tiny = write_params(tiny[1].root, tiny_settings({"cond": True}))
    with pytest.raises(InputError, match="score network has cond False, and the settings have cond True; run stage"):
        run_stage("guided", tiny, "edm")


def with_row(tiny: Tiny, **changes: object) -> Tiny:
    """The study with variant `own`, which is d0 with other settings."""
    row = tiny_settings()["variants"]["d0"] | changes
    settings = {"variants.own": row, "score.snapshots": {"early": 20, "same": 40}}
    return write_params(tiny[1].root, tiny_settings(settings))


def trajectory_by(tiny: Tiny, **changes: object) -> dict[str, np.ndarray]:
    return trajectory(with_row(tiny, **changes), "own")


def test_fitted_weights_guide(tiny: Tiny) -> None:
    config, layout = fitting = with_row(tiny, rule="mean_logit", weights="fitted")
    networks = guided.open_networks(config, layout, config.variants["own"])
    fitted = guided.fit_variant(config, layout, networks, config.variants["own"])
    assert fitted.weights.shape == (len(fitted.sigma), 1)
    assert (fitted.weights >= 0).all()
    assert fitted.weights.any()
    samples = trajectory(fitting, "own")["images"]
    assert not np.array_equal(samples, trajectory_by(tiny, needs="score", members=[], w1=0.0, w2=0.0)["images"])
    with pytest.raises(ConfigError, match="no noise level is in the window"):
        trajectory_by(tiny, rule="mean_logit", weights="fitted", window=[0.5, 0.5000001])


def test_snapshots_and_autoguidance_replace_the_denoiser(tiny: Tiny) -> None:
    score, plain = tiny[1].model("score"), {"needs": "score", "members": [], "w1": 0.0, "w2": 0.0}
    state, arguments = load_weights(score, "score")
    save_weights(score / "same", state, arguments)
    save_weights(score / "early", {name: 0.9 * values for name, values in state.items()}, arguments)
    images = {}
    for name, own in {
        "edm": {},
        "same": {"network": "same"},
        "early": {"network": "early"},
        "by_itself": {"autoguidance": {"network": "same", "weight": 2.0}},
        "by_worse": {"autoguidance": {"network": "early", "weight": 2.0}},
        "noisy": {"s_churn": 4.0},
    }.items():
        images[name] = trajectory_by(tiny, **plain, **own)["images"].astype(int)
    for name in ("same", "by_itself"):  # D + (w - 1) (D - D) is D, up to rounding
        assert np.abs(images[name] - images["edm"]).max() <= 1
    for name in ("early", "by_worse", "noisy"):
        assert np.abs(images[name] - images["edm"]).max() > 5


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_seed_gives_the_image_of_that_index_in_any_company(study: Tiny, tmp_path: Path) -> None:
    drawn = load(study[1], "mean_prob")
    image, index = drawn["images"][9].squeeze(-1).astype(int), drawn["index"].tolist()
    for out, seeds in ((tmp_path / "one", [index[9]]), (tmp_path / "many", [*index[:20], 3])):
        guided.write_images(*study, "mean_prob", seeds, out)
        assert sorted(int(path.stem) for path in out.iterdir()) == sorted(seeds)
        assert np.abs(pixels(out / f"{index[9]}.png") - image).max() <= 1  # rounding in convolutions
    assert np.abs(pixels(tmp_path / "many/000003.png") - image).max() > 20
    guided.write_images(*study, "mean_prob", index[:20], tmp_path / "grid.png")
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (2 * 50, 12 * 50)
    assert np.array_equal(grid[:48:6, :48:6], pixels(tmp_path / f"many/{index[0]}.png"))


def test_images_that_cannot_be_written_are_refused_before_sampling(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided, "open_networks", lambda *_: pytest.fail("networks were loaded"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for name, seeds in (("folder.png", [0]), ("file", [0]), ("grid.png", range(73))):
        with pytest.raises(ConfigError, match=rf"{len(seeds)} images .*{name}; .*of at most 72 images"):
            guided.write_images(*tiny, "edm", seeds, tmp_path / name)


def test_fakes_have_the_declared_indices(tiny: Tiny) -> None:
    run_stage("fake", tiny)
    drawn = np.load(tiny[1].fake() / "samples.npz")
    assert set(drawn) == {"images", "index"}
    assert drawn["index"].tolist() == list(range(40))
    assert (drawn["images"].shape, drawn["images"].dtype) == ((40, 8, 8, 1), np.uint8)

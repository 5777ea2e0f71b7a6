"""Training in one call: Gaussian images, whose log density ratio is known at every noise level."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.images import write_png
from discriminator_guidance.core.noise import marginal_mean, marginal_std, to_uint8
from discriminator_guidance.metrics.distances import frechet_distance
from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits, NoisyImageCNN
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import sample
from discriminator_guidance.training.classifiers import CHANGES, changed, train_features
from discriminator_guidance.training.discriminator import FAKES, train_discriminator
from discriminator_guidance.training.trained import TrainedDiscriminator

STD, GAP = 0.25, 0.1  # of each pixel, and between the means of real and fake
QUICK = {"steps": 150, "row_steps": 50, "batch_size": 64, "progress": False}
BRIEF = QUICK | {"steps": 20, "row_steps": 10, "batch_size": 16}


def gaussians(count: int, mean: float, seed: int) -> Tensor:
    return mean + STD * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


REAL, FAKE = gaussians(400, GAP / 2, 0), gaussians(400, -GAP / 2, 1)
FIRST = (REAL[:20], FAKE[:20])


def encoder() -> EncoderUNet:
    torch.manual_seed(3)
    return EncoderUNet(8, 1, 32, 10, 1, [1], [1], num_head_channels=32).train()


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    return x * (STD**2 / (STD**2 + sigma.view(-1, 1, 1, 1) ** 2)).to(x.dtype)


def train(
    real: object = REAL, fake: object = FAKE, extractor: object = None, **options: object
) -> TrainedDiscriminator:
    return train_discriminator(real, fake, extractor, **{**QUICK, **options})


def test_logits_follow_the_known_log_ratio_and_their_gradient_points_to_the_real_images() -> None:
    trained = train()
    for tau in (0.05, 0.2):
        t = torch.tensor(tau, dtype=torch.float64)
        mean, std = float(marginal_mean(t)), float(marginal_std(t))
        clean = torch.cat([gaussians(150, GAP / 2, 2), gaussians(150, -GAP / 2, 3)])
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
        x_vp = (mean * clean + std * noise).requires_grad_()
        # Its gradient is the same in every pixel: mean GAP / (mean^2 STD^2 + std^2).
        expected = mean * GAP / ((mean * STD) ** 2 + std**2) * x_vp.detach().sum(dim=(1, 2, 3))
        logits = trained(x_vp, torch.tensor(tau))
        assert torch.corrcoef(torch.stack([logits.detach(), expected]))[0, 1] > 0.5
        (gradient,) = torch.autograd.grad(logits.sum(), x_vp)
        assert torch.cosine_similarity(gradient.mean(0).flatten(), torch.ones(64), dim=0) > 0.7
    at = {each.time for each in trained.calibration}
    assert (len(at), sum(each.count for each in trained.calibration)) == (8, 80 * 8)
    early = [each for each in trained.calibration if each.time == min(at)]
    assert np.corrcoef([e.mean_probability for e in early], [e.fraction_real for e in early])[0, 1] > 0.5


def test_a_head_on_features_learns_too() -> None:
    assert not train(extractor=lambda x_vp, tau: x_vp).at_chance


def test_a_fresh_network_keeps_the_size_of_signals() -> None:
    trained = train(*FIRST, steps=1, learning_rate=1e-9)
    noise = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert trained(noise, torch.tensor(0.5)).std() > 0.15  # 0.05 with torch's own weights, which learn later


def test_a_pretrained_extractor_stays_as_it_is_and_serves_a_head() -> None:
    extractor = encoder()
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    trained = train(REAL[:20], FAKE[:20], extractor=extractor, **BRIEF)
    assert all(torch.equal(before[name], tensor) for name, tensor in extractor.state_dict().items())
    assert extractor.training
    assert all(parameter.requires_grad for parameter in extractor.parameters())
    x_vp, tau = torch.ones(2, 1, 8, 8, requires_grad=True), torch.tensor([0.1, 0.5])
    logits = trained(x_vp, tau)
    assert torch.equal(logits, MemberLogits(extractor, trained.network)(x_vp, tau)[0])
    logits.sum().backward()
    assert x_vp.grad.isfinite().all()


def test_a_killed_training_resumes_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, state = {**BRIEF, "extractor": encoder()}, torch.random.get_rng_state()
    whole = train(REAL[:40], FAKE[:40], **options)
    assert torch.equal(torch.random.get_rng_state(), state), "the user's random numbers go on as they would have"
    options["checkpoints"] = tmp_path / "kept"
    saved, save = [], Resumable.save

    def killed(self: Resumable, state: dict) -> None:
        save(self, state)
        saved.append(len(state["history"]))
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Resumable, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(REAL[:40], FAKE[:40], **options)
    steps = []
    options["report"] = lambda done, row: steps.append(done)
    resumed = train(REAL[:40], FAKE[:40], **options)
    assert (saved, steps) == ([1, 2], [10, 20])
    assert resumed.history == whole.history
    weights = resumed.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.network.state_dict().items())
    train(REAL[:40], -FAKE[:40], **options)
    assert saved[2:] == [1, 2], "other images are another training"
    train(*((images[:40], np.arange(40) % 2) for images in (REAL, FAKE)), **options)
    assert saved[4:] == [1, 2], "and other classes"


def test_arrays_tensors_and_folders_are_the_same_images(tmp_path: Path) -> None:
    arrays = [to_uint8(images[:20]) for images in (REAL, FAKE)]
    for folder, images in zip(("real", "fake"), arrays, strict=True):
        for number, image in enumerate(images):
            write_png(tmp_path / folder / f"{number:02d}.png", image)
        np.save(tmp_path / f"{folder}.npy", images)
    mapped = np.load(tmp_path / "real.npy", mmap_mode="c"), tmp_path / "fake.npy"
    files, loader = (tmp_path / "real", str(tmp_path / "fake")), [DataLoader(array, batch_size=7) for array in FIRST]
    written = [TensorDataset(torch.from_numpy(array).permute(0, 3, 1, 2)) for array in arrays]
    drawn = to_uint8(sample(shrink, (20, 1, 8, 8), seed=FAKES))
    for alike in ([arrays, files, written, mapped], [FIRST, loader], [(arrays[0], drawn), (arrays[0], shrink)]):
        first, *others = (train(*source, **BRIEF).history for source in alike)
        assert all(other == first for other in others)
    greys = [(images + 1) / 2 for images in FIRST]
    assert train(*greys, data_range=(0, 1), **BRIEF).used == pytest.approx(train(*FIRST, **BRIEF).used, rel=1e-4)


@torch.no_grad()
def test_latents_need_not_be_square_or_within_any_range() -> None:
    real, fake = (9 * torch.randn(40, 5, 8, 12, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    trained = train(real, fake, **BRIEF)
    assert trained(real[:3], torch.tensor(0.1)).shape == (3,)
    assert len(repr(trained).splitlines()) == 1
    with pytest.warns(UserWarning, match="learned nothing; give more images") as caught:
        train(real, real, **BRIEF)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="standard deviations of real and fake are .*: give both in one unit"):
        train(real, fake / 2, **BRIEF)


@pytest.mark.parametrize(("right", "at_chance"), [(115, False), (100, True)])
def test_a_loss_below_chance_over_all_noise_levels_is_not_chance(right: int, at_chance: bool) -> None:
    """Logits of 0.3, of which so many in 200 have the right sign at each of 8 VP times, of other images each time."""
    image, time = np.tile(np.arange(200), 8), np.repeat(np.arange(1, 9) / 8, 200)
    labels, sign = image % 2, np.where((37 * image + 200 * time) % 200 < right, 1, -1)
    tested = {"logits": 0.3 * sign * (2 * labels - 1), "labels": labels, "time": time, "image": image}
    trained = TrainedDiscriminator(torch.nn.Identity(), lambda x, t: x, {}, [], {}, tested, {})
    assert all(loss > np.log(2) - 2 * error for loss, error in trained.losses.values())
    assert trained.at_chance == at_chance


def test_an_iterable_may_have_images_without_dark_pixels() -> None:
    bright = [image.clamp(min=0.1) if row % 2 else image for row, image in enumerate(REAL[:20])]
    assert train(bright, FAKE[:20], **BRIEF).history


@pytest.mark.parametrize(
    ("real", "words"),
    [
        (((REAL + 1) / 2).clamp(0, 1), "real images have values from 0 to .*; give data_range"),
        (torch.full_like(REAL, torch.nan), "values from nan .*; correct what is no number"),
        ([(image, "3.png") for image in REAL[:20]], "labels of real images are no classes"),
        ([Image.new("P", (8, 8))] * 20, "the mode P of PIL"),
        (REAL.long(), "real images are torch.int64 .*; .* of uint8 or floats"),
        (REAL[:9], "real images are .9, .*give 10 or more"),
        (REAL.repeat(1, 3, 1, 1), "3, 8, 8.*1, 8, 8.*one shape"),
        ([REAL[0], REAL[0, :, :4]], "real images are of 2 kinds"),
        (lambda x, sigma: x, "real images are a function; give an array"),
    ],
)
def test_what_is_no_image_set_is_refused(real: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(real)


def test_what_can_be_refused_at_once_is_not_drawn() -> None:
    several = (REAL, torch.ones(len(REAL), 3))  # more than one class for each image
    for real, options in ((REAL, {"finetune": True}), (REAL, {"checkpoints": __file__}), (REAL[:9], {}), (several, {})):
        with pytest.raises((ConfigError, InputError), match=r"extractor a NoneType|a file|10 or more|are no classes"):
            train(real, lambda x, sigma: pytest.fail("it was drawn"), **options)


def test_epochs_need_as_many_real_as_fake_images() -> None:
    with pytest.raises(InputError, match=r"epochs of 40 real and 30 fake images shift .*images=30"):
        train(REAL[:40], FAKE[:30], epochs=1)


def test_kept_fakes_are_not_those_of_other_noise_limits(tmp_path: Path) -> None:
    model = lambda x, sigma: shrink(x, sigma)  # noqa: E731
    for model.sigma_max in (80.0, 80.0, 2.0):
        assert train(REAL[:30], model, images=20, checkpoints=tmp_path, **BRIEF).about["fake"] == 20, "no more is drawn"
    assert len(list(tmp_path.glob("fake-*.npy"))) == 2


def test_fakes_in_other_units_than_data_range_are_refused() -> None:
    for white in (1, 255):
        with pytest.raises(InputError, match=rf"by data_range=\(0, {white}\) fake images go from .*; give real"):
            train((REAL + 1) / 2 * white, FAKE, data_range=(0, white))
    assert train(REAL[:20] + 3, FAKE[:20] + 3, data_range=(-1, 1), **BRIEF).history, "in the model's units"
    for wrong in ((1, 0), (0.0,)):
        with pytest.raises(ConfigError, match="data_range is"):
            train(REAL, FAKE, data_range=wrong)


def test_features_in_bfloat16_are_kept_with_checkpoints(tmp_path: Path) -> None:
    extractor = encoder()
    half = lambda x_vp, t: extractor.features(x_vp, t).bfloat16()  # noqa: E731
    assert train(*FIRST, half, checkpoints=tmp_path, **BRIEF).history == train(*FIRST, half, **BRIEF).history


def test_classes_of_a_feature_network_may_be_one_hot() -> None:
    images, labels = to_uint8(REAL[:20]), np.arange(20) % 4
    sources = ((images, labels), (images, np.eye(4)[labels]), ([*zip(images, labels % 2, strict=True)], labels))
    first, *others = (train_features(source, iterations=2) for source in sources)
    assert all(torch.equal(first(REAL[:2]), other(REAL[:2])) for other in others)
    distances = [frechet_distance(images, images[:9], network=way) for way in (first, first.features)]
    assert distances[0] == distances[1]
    for real, given in ((images[:, :4], labels), (images, labels[:19])):
        with pytest.raises(InputError, match=r"with (20|19) labels; give square images"):
            train_features(real, given)


def test_without_labels_a_feature_network_tells_turned_and_damaged_images_apart() -> None:
    pattern = 0.7 * torch.arange(64).pow(1.5).sin().view(8, 8) + torch.linspace(-0.2, 0.2, 8)
    images = pattern + 0.05 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = train_features(images, iterations=150)
    told = network(changed(images, np.random.default_rng(1)).flatten(0, 1)).argmax(dim=1).view(CHANGES, -1)
    assert (told == torch.arange(CHANGES).view(-1, 1)).float().mean() > 0.7


def test_images_of_pil_and_mirrored_arrays_and_one_hot_labels_are_taken() -> None:
    real, fake = (to_uint8(images[:20]) for images in (REAL, FAKE))
    assert train(real.transpose(0, 3, 1, 2).repeat(3, 1), fake.repeat(3, 3), **BRIEF).about["shape"] == [3, 8, 8]
    pictures = [Image.fromarray(image[..., 0]) for image in real]
    assert train(pictures, fake, **BRIEF).history == train(real, fake, **BRIEF).history
    mirrored = [images[:, :, ::-1] for images in (real, fake)]
    assert train(*mirrored, **BRIEF).history == train(*map(np.ascontiguousarray, mirrored), **BRIEF).history
    labels, one_hot = np.arange(20) % 4, np.eye(4)[np.arange(20) % 4]
    forms = (labels, one_hot, one_hot > 0, labels[:, None])
    plain, *others = (train((real, kinds), (fake, kinds), **BRIEF).history for kinds in forms)
    assert others == [plain] * 3
    with pytest.raises(InputError, match="are no classes"):
        train((real, labels), (fake, labels + 0.5), **BRIEF)
    items = ([*zip(images, one_hot, strict=True)] for images in (real, fake))  # as of a Dataset of EDM
    assert train(*items, **BRIEF).history == plain


def test_floats_of_8_bits_and_of_pipelines_are_the_images_that_they_show() -> None:
    real, fake = (to_uint8(images[:20]) for images in (REAL, FAKE))
    expected = train(real, FAKE[:20], **BRIEF).history
    grid = torch.from_numpy(real).permute(0, 3, 1, 2) / 127.5 - 1  # ToTensor and Normalize give these
    assert train(grid, FAKE[:20], **BRIEF).history == expected
    shown = [np.repeat(images, 3, axis=3) for images in (real, fake)]
    last, first = [images / 255 for images in shown], [images.transpose(0, 3, 1, 2) / 255 for images in shown]
    assert train(*last, data_range=(0, 1), **BRIEF).history == train(*first, data_range=(0, 1), **BRIEF).history


@pytest.mark.parametrize("kind", ["whole", "loaded"])
def test_an_unconditional_discriminator_guides_a_conditional_denoiser(kind: str, tmp_path: Path) -> None:
    trained = train(*FIRST, **BRIEF) if kind == "whole" else train(*FIRST, extractor=encoder(), finetune=True, **BRIEF)
    trained.save(tmp_path)
    trained = TrainedDiscriminator.load(tmp_path) if kind == "loaded" else trained
    guidance, labels = DiscriminatorGuidance(trained), torch.arange(4)
    drawn = sample(lambda x, sigma, labels: shrink(x, sigma), (4, 1, 8, 8), guidance=guidance, classes=labels)
    assert torch.equal(drawn, sample(shrink, (4, 1, 8, 8), guidance=guidance))
    if kind == "whole":
        with pytest.raises(ConfigError, match=r"images are \[1, 3, 8, 8\]"):
            guidance(torch.ones(2, 1, 3, 8, 8), torch.ones(2))


def test_the_callers_network_and_random_streams_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    start = NoisyImageCNN((1, 8, 8)).eval().requires_grad_(False)
    before, state = {name: tensor.clone() for name, tensor in start.state_dict().items()}, torch.get_rng_state()
    trained = train(FIRST[0], shrink, start=start, **BRIEF)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    assert not any(torch.equal(a, b) for a, b in zip(trained.network.parameters(), start.parameters(), strict=True))
    assert not start.training
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().err == ""


def test_a_conditional_denoiser_of_edm_takes_the_labels_of_the_real_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser, labels = EDMPrecond(8, 1, 10, model_channels=8, channel_mult=[1], num_blocks=1).eval(), np.arange(20) % 10
    torch.nn.init.normal_(denoiser.model.dec["8x8_aux_conv"].weight)
    forms = (torch.eye(10)[labels], labels[:, None], labels)
    *others, drawn = (sample(denoiser, (20, 1, 8, 8), classes=each, seed=FAKES) for each in forms)
    assert all(torch.equal(other, drawn) for other in others)
    assert not torch.equal(drawn, sample(denoiser, (20, 1, 8, 8), seed=FAKES))
    by_denoiser, by_samples = (train((FIRST[0], labels), fake, **BRIEF) for fake in (denoiser, (drawn, labels)))
    kept = train((FIRST[0], forms[0]), denoiser, checkpoints=tmp_path, **BRIEF)
    assert by_denoiser.history == by_samples.history == kept.history
    with pytest.raises(InputError, match="classes are 2 to 11; give 0 to 9"):
        train((FIRST[0], labels + 2), denoiser, **BRIEF)


@pytest.mark.parametrize("extractor", [None, "encoder"])
def test_conditional_discriminators_are_given_classes(extractor: str | None, tmp_path: Path) -> None:
    real, fake = ((images[:40], np.arange(40) % 10) for images in (REAL, FAKE))
    trained = train(real, fake, encoder() if extractor else None, **BRIEF)
    trained.save(tmp_path)
    guides = map(DiscriminatorGuidance, (trained, TrainedDiscriminator.load(tmp_path)))
    x_vp, tau = REAL[:2], torch.tensor(0.1)
    for call in (trained, *(guide.denoise(lambda x, sigma, labels: shrink(x, sigma)) for guide in guides)):
        first, second = (call(x_vp, tau, torch.tensor(labels)) for labels in ([0, 1], [2, 3]))
        assert not torch.equal(first, second)
    named = DiscriminatorGuidance(trained).denoise(lambda x, sigma, class_labels: shrink(x, sigma))
    assert torch.equal(named(x_vp, tau, class_labels=torch.tensor([2, 3])), second)
    known = 999 if extractor else 9  # heads have 1,000 rows, whatever they were trained on
    for other in (-1, known + 1):
        with pytest.raises(InputError, match=f"give 0 to {known}"):
            trained(x_vp, tau, torch.tensor([0, other]))

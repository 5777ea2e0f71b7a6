"""Command `fid`: the numbers of stage `evaluation` and of public implementations, from files of every kind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_fid import inception as pytorch_inception
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from dguide.report.gather import read_evaluation
from dguide.tools import fid
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import load_torch, write_npz
from discriminator_guidance.core.images import write_png
from discriminator_guidance.metrics.features import InceptionFeatures
from tests.commands import PROJECT
from tests.stages.conftest import Tiny, only, run_stage, tiny_settings, write_params


def write_folder(folder: Path, images: np.ndarray, first: int = 0) -> Path:
    for number, image in enumerate(images, first):
        write_png(folder / f"{number:06d}.png", image)
    return folder


@pytest.fixture
def drawn(tiny: Tiny) -> Tiny:
    """A study with a trained FID network and the samples of two variants."""
    tiny = write_params(tiny[1].root, tiny_settings(only("edm", "d0")))
    for word, *name in (["fid_network"], ["guided", "edm"], ["guided", "d0"]):
        run_stage(word, tiny, *name)
    return tiny


def test_the_samples_of_a_variant_have_the_numbers_of_its_evaluation(drawn: Tiny) -> None:
    layout = drawn[1]
    run_stage("evaluation", drawn)
    metrics = read_evaluation(layout.report, "d0")
    samples, real = [layout.guided(name) / "samples.npz" for name in ("d0", "edm")], layout.real / "train.npz"
    distances = fid.run(*samples, real, str(layout.model("fid_network")), 7)
    assert distances.paired
    measured, difference = distances.columns["images"], distances.columns["difference"]
    pairs = [(measured["fid"], metrics["fid"], (metrics["fid_low"], metrics["fid_high"])),
             (difference["fid"], metrics["delta_fid"], (metrics["delta_low"], metrics["delta_high"])),
             (measured["kid"], metrics["kid"], metrics["kid_ci95"]),
             (difference["kid"], metrics["delta_kid"], metrics["delta_kid_ci95"])]  # fmt: skip
    for distance, value, interval in pairs:
        assert distance.mean == pytest.approx(value, rel=1e-4)
        assert distance.interval() == pytest.approx(interval, rel=1e-4, abs=1e-4)
    for share in ("precision", "recall"):
        assert measured[share].mean == pytest.approx(metrics[share])
    assert distances.rows()[1]["metric"] == f"KID ({layout.model('fid_network')})"
    significant = not metrics["delta_low"] < 0 < metrics["delta_high"]
    assert ("significantly" if significant else "indistinguishable") in distances.sentence()


def test_folders_zips_and_arrays_are_alike_and_other_names_are_unpaired(drawn: Tiny, tmp_path: Path) -> None:
    layout = drawn[1]
    samples = [np.load(layout.guided(name) / "samples.npz")["images"] for name in ("d0", "edm")]
    first, second, moved = (write_folder(tmp_path / name, samples[name != "a"], 5 * (name == "c")) for name in "abc")
    shutil.make_archive(str(first), "zip", first)
    write_npz(tmp_path / "real.npz", arr_0=np.load(layout.real / "train.npz")["images"])
    options = tmp_path / "real.npz", str(layout.model("fid_network")), 7
    pairs = (first, second), (tmp_path / "a.zip", second), (first, moved)
    paired, zipped, unpaired = (fid.run(*sets, *options) for sets in pairs)
    assert (paired.paired, zipped.paired, unpaired.paired) == (True, True, False)
    for metric, measured in paired.columns["difference"].items():
        loose = unpaired.columns["difference"][metric]
        assert measured.mean == pytest.approx(loose.mean)
        assert measured.interval() == pytest.approx(zipped.columns["difference"][metric].interval())
        if metric not in ("precision", "recall"):  # whose intervals end at 0 and 1
            errors = [np.ptp(paired.columns[name][metric].interval()) for name in ("images", "against")]
            assert np.ptp(loose.interval()) == pytest.approx(np.hypot(*errors))
    with pytest.raises(InputError, match=r"--images has 24 images and --against 40, .*; leave some out"):
        fid.run(first, tmp_path / "real.npz", *options)


def test_inception_distances_are_those_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fetched = PROJECT / fid.INCEPTION_WEIGHTS  # the real ones where `dguide fetch` has put them
    state = load_torch(fetched) if fetched.is_file() else InceptionFeatures(None).network.state_dict()
    (tmp_path / fid.INCEPTION_WEIGHTS).parent.mkdir(parents=True)
    torch.save(state, tmp_path / fid.INCEPTION_WEIGHTS)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)  # 299 pixels: pytorch-fid resizes other images in another way
    sets = [rng.integers(0, high, (5, 299, 299, 3), dtype=np.uint8) for high in (256, 130)]
    paths = [write_folder(tmp_path / name, images) for name, images in zip(("one", "two"), sets, strict=True)]
    with pytest.warns(UserWarning, match="5 images are fewer than the 2048 features"):
        distances = fid.run(paths[0], None, paths[1], fid.INCEPTION_WEIGHTS, 4)

    fidelity = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], fid.INCEPTION_WEIGHTS)
    monkeypatch.setattr(pytorch_inception, "load_state_dict_from_url", lambda *_, **__: state)
    pytorch = pytorch_inception.InceptionV3().eval()
    with torch.no_grad():
        pixels = [torch.from_numpy(images).permute(0, 3, 1, 2) for images in sets]
        theirs = [fidelity(x)[0] for x in pixels], [pytorch((x - 128.0) / 256 + 0.5)[0].flatten(1) for x in pixels]
    # pytorch-fid's own pixels are x / 255. In the few directions that features span the formulas take no minutes.
    for (first, second), distance in zip(theirs, (of_torch_fidelity, of_pytorch_fid), strict=True):
        basis = torch.linalg.qr(torch.cat([first, second]).T.double()).Q
        expected = distance(first.double() @ basis, second.double() @ basis)
        assert distances.columns["images"]["fid"].mean == pytest.approx(expected, rel=1e-4)


def of_torch_fidelity(first: torch.Tensor, second: torch.Tensor) -> float:
    statistics = [fid_features_to_statistics(features) for features in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def of_pytorch_fid(first: torch.Tensor, second: torch.Tensor) -> float:
    return calculate_frechet_distance(
        first.mean(0).numpy(), first.T.cov().numpy(), second.mean(0).numpy(), second.T.cov().numpy()
    )


@pytest.mark.parametrize(
    ("images", "network", "words"),
    [
        ("few.npz", "models", r"--images .*few.npz has 4 images .*; give 5 or more of \(8, 8, 1\), as in"),
        ("wide.npz", "models", r"wide.npz has 6 images .*\(8, 9, 1\); give .*\(8, 8, 1\)"),
        ("good.npz", "inception", "dguide fetch inception --params .* at data/raw/.* does not exist"),
        ("good.npz", "nowhere", r"nowhere/config.json does not exist"),
        ("rgb.npz", "models", r"are \(8, 8, 3\), and .* is for \(8, 8, 1\); choose another --network"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, network: str, words: str
) -> None:
    monkeypatch.setattr(fid, "extract_features", lambda *_: pytest.fail("features were computed"))
    monkeypatch.chdir(tmp_path)
    sets = {"few": (4, 8, 8, 1), "wide": (6, 8, 9, 1), "good": (6, 8, 8, 1), "rgb": (6, 8, 8, 3)}
    for name, shape in sets.items():
        write_npz(Path(f"{name}.npz"), images=np.zeros(shape, np.uint8))
    choice = str(tiny[1].model("fid_network")) if network == "models" else network
    with pytest.raises(InputError, match=words):
        fid.run(Path(images), None, Path("rgb.npz" if images == "rgb.npz" else "good.npz"), choice, 64)

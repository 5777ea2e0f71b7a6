"""Stage `fid_network`: training, Inception's weights, and the features of the real images."""

import numpy as np
import torch

from discriminator_guidance.metrics.features import InceptionFeatures

from .conftest import Tiny, load, run_stage, tiny_settings, write_params

PATH = "data/raw/inception.pth"


def test_the_features_of_real_images_are_those_of_the_trained_network(tiny: Tiny):
    run_stage("fid_network", tiny)
    features = np.load(tiny[1].model("fid_network") / "features.npz")
    assert (features["train"].dtype, features["train"].shape) == (np.float32, (40, tiny[0].fid_network.features))
    network = load(tiny[1], "fid_network")
    for name in ("train", "holdout"):
        images = torch.from_numpy(np.load(tiny[1].real / f"{name}.npz")["images"]).permute(0, 3, 1, 2)
        expected = torch.cat([network.features(image[None] / 127.5 - 1) for image in images]).numpy()
        np.testing.assert_allclose(features[name], expected, rtol=1e-4, atol=1e-5)


def test_inception_is_loaded_from_its_file(tiny: Tiny):
    """Full-size random weights, in the layout of the released file."""
    _, layout = tiny
    for name in ("train", "holdout"):  # two images are enough
        arrays = np.load(layout.real / f"{name}.npz")
        np.savez(layout.real / f"{name}.npz", **{key: arrays[key][:2] for key in arrays})
    state = InceptionFeatures(None).network.state_dict()
    section = {"source": "inception", "name": "inception", "path": PATH}
    tiny = write_params(layout.root, tiny_settings({"fid_network": section}))
    (layout.root / PATH).parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, layout.root / PATH)
    summary, _ = run_stage("fid_network", tiny)
    assert summary["source"] == PATH
    network, image = load(layout, "fid_network"), torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(network.features(image), InceptionFeatures(state).features(image))
    assert np.load(layout.model("fid_network") / "features.npz")["holdout"].shape == (2, 2048)

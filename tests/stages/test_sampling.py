"""Classes of samples: drawn, recorded, and given to the denoiser and to the discriminators."""

import numpy as np
import torch
from torch import Tensor, nn

from dguide.stages.guided import Arrays, Networks, draw
from discriminator_guidance.core.runtime import Compute

from .conftest import Tiny, tiny_settings, write_params


class Levels(nn.Module):
    """A score network in which an image becomes grey level -0.81, 0 or 0.81, by its class."""

    img_channels, img_resolution, label_dim = 1, 2, 3

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        return 0.81 * (class_labels.double() - 1).view(-1, 1, 1, 1) + 0.1 * x / (1 + sigma.view(-1, 1, 1, 1))


class ClassLogits(nn.Module):
    """A discriminator whose logit is the class, but for a slope."""

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor) -> Tensor:
        return ((labels - 1) + 0.001 * x_vp.flatten(1).mean(1)).unsqueeze(0)


def test_every_sample_is_drawn_with_the_class_that_is_recorded(tiny: Tiny) -> None:
    row = tiny_settings()["variants"]["d0"] | {"w1": 1.0, "w2": 1.0, "boosting": True, "s_churn": 10.0}
    config, layout = write_params(tiny[1].root, tiny_settings({"variants.d0": row, "sampler.sigma_min": 0.2}))
    networks = Networks(Compute(torch.device("cpu"), "float32"), Levels().eval(), ClassLogits().eval())

    def drawn(*batches: range, seed: int = 7) -> Arrays:
        parts = draw(config, layout, config.variants["d0"], seed, batches, "", networks, True)
        rows = [{name: arrays[name] for name in ("images", "labels")} | {"logits": arrays["log_ratio"][0]}
                for _, arrays in parts]  # fmt: skip
        return {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}

    samples, batches = drawn(range(300)), drawn(range(100), range(100, 101), range(101, 300))
    assert all(np.array_equal(samples[name], batches[name]) for name in samples)
    nearest = np.abs(samples["images"].mean(axis=(1, 2, 3))[:, None] - [24, 128, 231]).argmin(axis=1)
    assert nearest.tolist() == samples["labels"].tolist()
    assert np.array_equal(samples["logits"].round(), samples["labels"] - 1)
    assert np.bincount(samples["labels"]).min() > 70
    assert drawn(range(300), seed=8)["labels"].tolist() != samples["labels"].tolist()

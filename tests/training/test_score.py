"""The EDM loss."""

import pytest
import torch
from torch import nn

from discriminator_guidance.core.settings import FineTuningSettings, ScoreSettings, TrainingSettings
from discriminator_guidance.training.score import finetune_score, holdout_loss, train_score

from .test_discriminator import CPU


class Scale(nn.Module):
    """D(x; sigma) = c x / (1 + sigma^2 / s^2) with one parameter: the form of the exact Gaussian denoiser."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, sigma):
        variance = self.log_variance.exp()
        return variance / (variance + sigma.view(-1, 1, 1, 1) ** 2) * x


def gaussian_images() -> torch.Tensor:
    """(2000, 1, 2, 2) uint8 whose pixels in [-1, 1] have the standard deviation 0.3."""
    images = 127.5 + 127.5 * 0.3 * torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return images.round().clamp(0, 255).to(torch.uint8)


def test_training_finds_the_variance_of_gaussian_data():
    settings = ScoreSettings(
        training=TrainingSettings(iterations=300, learning_rate=0.05, decay_fraction=0.5, gradient_clip=100.0),
        ema_decay=0.9,
    )
    trained = train_score(Scale(), gaussian_images(), None, settings, CPU)
    assert trained.network.log_variance.exp().sqrt().item() == pytest.approx(0.3, rel=0.1)
    assert len(trained.history) == 15


@pytest.mark.parametrize("objective", ["edm", "ddo"])
def test_fine_tuning_moves_a_copy_towards_other_images(objective: str):
    """The denoiser is exact for a standard deviation of 0.6, its samples have that, and the other images 0.3."""
    network = Scale()
    network.log_variance.data = 2 * torch.tensor(0.6).log()
    wide = (127.5 + 2 * (gaussian_images().float() - 127.5)).round().clamp(0, 255).to(torch.uint8)
    settings = ScoreSettings(training=TrainingSettings(iterations=1), ema_decay=0.9)
    tuning = FineTuningSettings(images=2000, iterations=100, learning_rate=0.05, objective=objective, beta=0.5)
    tuned = finetune_score(
        network, gaussian_images(), None, settings, tuning, CPU, wide if objective == "ddo" else None
    )
    assert network.log_variance.exp().sqrt().item() == pytest.approx(0.6), "the denoiser itself is unchanged"
    assert tuned.log_variance.exp().sqrt().item() == pytest.approx(0.3, abs=0.1)


def test_loss_on_held_out_images_of_the_exact_gaussian_denoiser_is_one():
    """lambda(sigma) times its error sigma^2 s^2 / (s^2 + sigma^2) is 1 at each sigma where sigma_data is s."""
    settings = ScoreSettings(training=TrainingSettings(iterations=1, learning_rate=0.1), sigma_data=0.3, ema_decay=0.9)

    def loss(deviation: float) -> float:
        network = Scale()
        network.log_variance.data = 2 * torch.tensor(deviation).log()
        return holdout_loss(network, gaussian_images(), None, settings, CPU)

    assert loss(0.3) == pytest.approx(1, rel=0.02)
    assert min(loss(0.15), loss(0.6)) > 1.05

"""Discriminator Guidance (Kim et al., ICML 2023): guide a diffusion model, and a reproducible study of the method."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discriminator_guidance.checkpoints.pretrained import from_pretrained, load_discriminator, load_edm
    from discriminator_guidance.core.errors import ConfigError, InputError
    from discriminator_guidance.core.noise import sigma_from_tau, tau_from_sigma, to_uint8
    from discriminator_guidance.metrics.distances import frechet_distance, kernel_distance
    from discriminator_guidance.sampling.denoisers import from_diffusers, guided_unet
    from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
    from discriminator_guidance.sampling.guider import DiscriminatorGuider as DiscriminatorGuider
    from discriminator_guidance.sampling.sampler import sample, trajectory
    from discriminator_guidance.sampling.weights import delivered_weight, fit_weights
    from discriminator_guidance.training.classifiers import train_features
    from discriminator_guidance.training.discriminator import train_discriminator
    from discriminator_guidance.training.trained import TrainedDiscriminator

__version__ = "0.2.0"
_MODULES = ["core.errors", "core.noise", "metrics.distances", "sampling.sampler", "sampling.guidance"]
_MODULES += ["sampling.denoisers", "sampling.weights", "training.classifiers", "training.discriminator"]
_MODULES += ["training.trained", "checkpoints.pretrained", "sampling.guider"]  # bottom up; the last needs diffusers
__all__ = ["ConfigError", "DiscriminatorGuidance", "InputError", "delivered_weight", "fit_weights", "frechet_distance"]
__all__ += ["from_diffusers", "from_pretrained", "guided_unet", "kernel_distance", "load_discriminator", "load_edm"]
__all__ += ["sample", "sigma_from_tau", "tau_from_sigma", "to_uint8", "train_discriminator", "train_features"]
__all__ += ["TrainedDiscriminator", "trajectory"]


def __getattr__(name: str) -> Any:  # PEP 562: commands that compute nothing start without torch
    if name in (*__all__, "DiscriminatorGuider"):
        modules = (import_module(f"discriminator_guidance.{part}") for part in _MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

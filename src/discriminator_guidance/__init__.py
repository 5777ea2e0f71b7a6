"""Discriminator Guidance (Kim et al., ICML 2023): guide a diffusion model, and a reproducible study of the method."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discriminator_guidance.checkpoints.pretrained import from_pretrained, load_discriminator, load_edm
    from discriminator_guidance.core.errors import ConfigError, InputError
    from discriminator_guidance.core.images import to_uint8
    from discriminator_guidance.core.noise import sigma_from_tau, tau_from_sigma
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
_MODULES = {
    "checkpoints.pretrained": ["from_pretrained", "load_discriminator", "load_edm"],
    "sampling.denoisers": ["from_diffusers", "guided_unet"],
    "sampling.guidance": ["DiscriminatorGuidance"],
    "sampling.guider": ["DiscriminatorGuider"],  # not in __all__: it needs diffusers
    "core.errors": ["ConfigError", "InputError"],
    "core.images": ["to_uint8"],
    "core.noise": ["sigma_from_tau", "tau_from_sigma"],
    "metrics.distances": ["frechet_distance", "kernel_distance"],
    "sampling.sampler": ["sample", "trajectory"],
    "sampling.weights": ["delivered_weight", "fit_weights"],
    "training.classifiers": ["train_features"],
    "training.discriminator": ["train_discriminator"],
    "training.trained": ["TrainedDiscriminator"],
}
__all__ = ["ConfigError", "DiscriminatorGuidance", "InputError", "delivered_weight", "fit_weights", "frechet_distance"]
__all__ += ["from_diffusers", "from_pretrained", "guided_unet", "kernel_distance", "load_discriminator", "load_edm"]
__all__ += ["sample", "sigma_from_tau", "tau_from_sigma", "to_uint8", "train_discriminator", "train_features"]
__all__ += ["TrainedDiscriminator", "trajectory"]


def __getattr__(name: str) -> Any:  # PEP 562: commands that compute nothing start without torch
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"discriminator_guidance.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""A registered discriminator as MLflow loads it: networks from the folders in which DVC keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel


class NoisyImage(BaseModel):
    """An image (C, H, W) in VP scale at a VP time, and its class for a conditional discriminator."""

    x_vp: list[list[list[float]]]
    tau: float
    label: int | None = None


class RegisteredDiscriminator(PythonModel):
    """A discriminator with its extractor, loaded from the project folder."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the networks; `folder` is models/<profile>/discriminator/<member>[/<replicate>]."""
        from discriminator_guidance import load_discriminator  # not where a model is registered, which needs no torch

        models, profile, _, _, *replicate = (folder := Path(context.model_config["folder"])).parts
        self.members = load_discriminator(Path(models, profile, "extractor", *replicate), folder)

    def predict(self, context: PythonModelContext, model_input: list[NoisyImage], params: Any = None) -> list[float]:
        """The logit of real against fake for each image."""
        import torch

        x_vp, tau = (torch.tensor([getattr(image, name) for image in model_input]) for name in ("x_vp", "tau"))
        conditional = model_input[0].label is not None
        labels = torch.tensor([image.label for image in model_input]) if conditional else None
        with torch.no_grad():
            return [float(logit) for logit in self.members(x_vp, tau, labels)[0]]


mlflow.models.set_model(RegisteredDiscriminator())

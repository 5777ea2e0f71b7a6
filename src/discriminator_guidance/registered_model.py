"""What MLflow loads as a registered discriminator: networks from the folders in which DVC keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.networks.precision import prepare
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_extractor, load_head


class RegisteredDiscriminator(PythonModel):
    """A discriminator with its extractor, loaded from the project folder."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the networks; `folder` is models/<profile>/discriminator/<member>[/<replicate>]."""
        _, profile, _, member, *replicate = Path(context.model_config["folder"]).parts
        layout, compute = Layout(Path.cwd(), profile, *replicate), prepare("cpu", "float32", torch.get_num_threads())
        self.members = MemberLogits(load_extractor(layout, compute), [load_head(layout, member, compute)])

    def predict(self, context: PythonModelContext, model_input: Any, params: Any = None) -> Any:
        """The logits (N,) of real against fake.

        model_input: arrays x_vp (N, C, H, W) float32, tau (N,) VP times and, of a conditional one, labels (N,) by name.
        """
        with torch.no_grad():
            return self.members(**{name: torch.from_numpy(array) for name, array in model_input.items()})[0].numpy()


mlflow.models.set_model(RegisteredDiscriminator())

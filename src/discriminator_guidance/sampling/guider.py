"""Discriminator guidance as a guider of diffusers' modular pipelines."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor, nn

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.sampling.denoisers import Noise, change_of_prediction, predicted
from discriminator_guidance.sampling.guidance import Discriminator, DiscriminatorGuidance


class DiscriminatorGuider(ClassifierFreeGuidance):  # type: ignore[misc]
    """Classifier-free guidance, and then discriminator guidance, in a modular pipeline of diffusers.

    Discriminators see what the network is given: latents (N, C, H, W), (N, C, F, H, W) in Wan, tokens (N, L, C) in LTX.
    `save_pretrained` keeps all settings; `from_pretrained(folder, discriminators=..., scheduler=...)` restores them.

    Args:
        discriminators: as for `DiscriminatorGuidance`.
        scheduler: the pipeline's, for the noise levels of its timesteps.
        weight: as for `DiscriminatorGuidance`, but no function.
        rule: as for `DiscriminatorGuidance`.
        window: as for `DiscriminatorGuidance`.
        clip: as for `DiscriminatorGuidance`.
        classifier_free: of `ClassifierFreeGuidance`; guidance_scale=1 is off, enabled=False switches both off.
    """

    def __init__(
        self,
        discriminators: Discriminator | Sequence[Discriminator] | None = None,
        scheduler: Any = None,
        weight: float | Sequence[float] = 1.0,
        rule: str = "mean_probability",
        window: tuple[float, float] = (0.01, 1.0),
        clip: float | None = None,
        **classifier_free: Any,
    ) -> None:
        super().__init__(**classifier_free)
        if callable(weight):
            raise ConfigError(f"weight is {weight!r}, which cannot be saved", "give numbers, or use guided_unet")
        weight = np.asarray(weight).tolist()  # numbers of numpy and torch, for JSON
        self.discriminators, self.scheduler, self._seen, self._made = discriminators, scheduler, None, list[Tensor]()
        self.weight, self.rule, self.window, self.clip = weight, rule, window, clip
        self.register_to_config(weight=weight, rule=rule, window=window, clip=clip)
        if discriminators is not None:
            self._guidance()

    @staticmethod
    def _get_init_keys(input_class: Any) -> set[str]:  # of diffusers: what a saved configuration may hold
        return {*signature(input_class.__init__).parameters, *signature(ClassifierFreeGuidance.__init__).parameters}

    def new(self, **changes: Any) -> Any:
        """A copy with other settings."""
        return super().new(**{"discriminators": self.discriminators, "scheduler": self.scheduler, **changes})

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Note what the network sees and predicts in its next call."""
        super().prepare_models(denoiser)
        self._hook = denoiser.register_forward_hook(self._see, with_kwargs=True)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Take the hook away."""
        super().cleanup_models(denoiser)
        self._hook.remove()

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        """The prediction of classifier-free guidance, changed by the discriminators."""
        output = super().forward(pred_cond, pred_uncond)
        if not self._enabled:
            return output
        if self._seen is None:
            raise ConfigError("the guider saw no latents among the network's arguments", "use guided_unet")
        if not any(made is pred_cond or torch.equal(made, pred_cond) for made in self._made):  # LTX-2 makes it x0
            raise ConfigError("the pipeline changes predictions before guidance", "write the denoiser by hand")
        x_in, self._seen = self._seen[:, : pred_cond.shape[1]], None  # without channels of other images
        guidance, schedule = self._guidance()
        change = change_of_prediction(guidance, schedule, x_in, schedule.levels(self._timestep))
        pred = output.pred.clone()
        pred[:, : change.shape[1]] += change  # not the learned variance
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _guidance(self) -> tuple[DiscriminatorGuidance, Noise]:
        if self.discriminators is None or self.scheduler is None:
            raise ConfigError("the guider lacks discriminators or a scheduler", "set these attributes")
        guidance = DiscriminatorGuidance(self.discriminators, self.weight, self.rule, self.window, clip=self.clip)
        return guidance, Noise(self.scheduler)

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._seen = inputs[0] if inputs else named.get("hidden_states", named.get("sample"))
        self._made = [*self._made[-1:], predicted(output)]  # with and without the condition

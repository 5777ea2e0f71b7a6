"""EDM score networks, under original parameter names: DDPM++ / NCSN++ U-Net and its preconditioning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.networks.blocks import (
    Conv2d,
    FourierEmbedding,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    broadcast_batch,
    group_norm,
)


class SongUNet(nn.Module):
    """U-Net of the DDPM++ and NCSN++ families (Song et al. 2021, Appendix H; Karras et al. 2022, Table 7).

    `channel_mult` has a factor on `model_channels` for each level, at half the size of the one before;
    `attn_resolutions` names image sizes; `channel_mult_emb` and `channel_mult_noise` are widths in units of
    `model_channels`. DDPM++ has a positional embedding, a standard encoder and filter (1, 1); NCSN++ has a Fourier
    embedding of double width, a residual encoder and filter (1, 3, 3, 1).
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        decoder_type: Literal["standard"] = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        taps, levels = tuple(resample_filter), list(enumerate(channel_mult))

        embedding = PositionalEmbedding if embedding_type == "positional" else FourierEmbedding
        self.map_noise: nn.Module = embedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        def block(inside: int, outside: int, **options: bool) -> UNetBlock:
            return UNetBlock(inside, outside, emb_channels, dropout, taps, **options)

        self.enc = nn.ModuleDict()
        skips: list[int] = []
        channels = aux = in_channels
        for level, mult in levels:
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
                channels = model_channels
                self.enc[f"{size}_conv"] = Conv2d(in_channels, channels, 3)
            else:
                self.enc[f"{size}_down"] = block(channels, channels, down=True)
                if encoder_type == "residual":
                    self.enc[f"{size}_aux_residual"] = Conv2d(aux, channels, 3, taps=taps, down=True, fused=True)
                    aux = channels
            skips.append(channels)
            for index in range(num_blocks):
                attention = img_resolution >> level in attn_resolutions
                self.enc[f"{size}_block{index}"] = block(channels, mult * model_channels, attention=attention)
                channels = mult * model_channels
                skips.append(channels)

        self.dec = nn.ModuleDict()
        for level, mult in reversed(levels):
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == len(levels) - 1:
                self.dec[f"{size}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{size}_in1"] = block(channels, channels)
            else:
                self.dec[f"{size}_up"] = block(channels, channels, up=True)
            for index in range(num_blocks + 1):
                attention = index == num_blocks and img_resolution >> level in attn_resolutions
                joined = channels + skips.pop()
                self.dec[f"{size}_block{index}"] = block(joined, mult * model_channels, attention=attention)
                channels = mult * model_channels
        self.dec[f"{img_resolution}x{img_resolution}_aux_norm"] = group_norm(channels)
        self.dec[f"{img_resolution}x{img_resolution}_aux_conv"] = Conv2d(channels, out_channels, 3, gain=1e-5)

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The raw network F of scaled noisy images and (N,) noise conditioning: ln(sigma) / 4 in EDM.

        class_labels: (N, label_dim) one-hot. Images are not augmented: `map_augment` of a released file has no input.
        """
        cosines, sines = self.map_noise(noise).chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)
        if self.map_label is not None and class_labels is not None:
            embedding = embedding + self.map_label(class_labels * math.sqrt(self.map_label.in_features))
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))
        skips: list[Tensor] = []
        image = x
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                x = skips[-1] = image = (x + layer(image)) * math.sqrt(0.5)
            else:
                x = layer(x, embedding) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)

        *blocks, (_, norm), (_, convolution) = self.dec.items()
        for name, layer in blocks:
            x = layer(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, embedding)
        raw: Tensor = convolution(F.silu(norm(x)))
        return raw


class EDMPrecond(nn.Module):
    """Denoiser D(x; sigma): a U-Net F with input and target of unit variance (Karras et al. 2022, Eq. 7, Table 1)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        **unet_kwargs: Any,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data
        self.model = SongUNet(img_resolution, img_channels, img_channels, label_dim, **unet_kwargs)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The expected clean images of x = x0 + sigma n, (N, C, H, W), in the dtype of the parameters.

        sigma: 0-dim or (N,), positive. class_labels: (N, label_dim) one-hot; None stands for all zeros. Autocast acts
        inside F only.
        """
        dtype = self.model.map_layer0.weight.dtype
        x, sigma = x.to(dtype), broadcast_batch(sigma, len(x), dtype)
        if self.label_dim == 0:
            class_labels = None
        elif class_labels is None:
            class_labels = x.new_zeros(len(x), self.label_dim)
        else:
            class_labels = class_labels.to(dtype).reshape(-1, self.label_dim)

        level = sigma.view(-1, 1, 1, 1)
        variance = level.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = level * self.sigma_data * variance.rsqrt()
        c_in = variance.rsqrt()
        c_noise = sigma.log() / 4
        raw = self.model(c_in * x, c_noise, class_labels)
        denoised: Tensor = c_skip * x + c_out * raw.to(dtype)
        return denoised

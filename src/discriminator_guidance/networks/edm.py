"""EDM score networks, under original parameter names: DDPM++ / NCSN++ U-Net and its preconditioning."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.images import class_indices
from discriminator_guidance.core.noise import levels_of
from discriminator_guidance.networks.layers import attend, double, halve, sinusoidal_embedding

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class FourierEmbedding(nn.Module):
    """Embedding of (N,) noise conditioning at random, stored frequencies (NCSN++; Tancik et al. 2020)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.normal(0.0, scale, (channels // 2,)))

    def forward(self, noise: Tensor) -> Tensor:
        angle = noise[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def resample(x: Tensor, low_pass: Tensor, up: bool, padding: int) -> Tensor:
    """Filter every channel and double or halve the image, exactly where padding is (k - 1) // 2.

    Song et al. 2021, Appendix H (finite impulse response); Karras et al. 2022, Table 1.
    """
    if low_pass.shape[-1] == 2:  # two symmetric taps average: far faster without a convolution
        return double(x) if up else halve(x)
    channels = x.shape[1]
    kernel = low_pass.to(x.dtype).expand(channels, 1, -1, -1)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)


def glorot(layer: Layer, gain: float = 1.0) -> Layer:
    """The layer with Glorot-uniform weights and zero bias at its start (Glorot & Bengio 2010, Eq. 16)."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Conv2d(nn.Conv2d):
    """Convolution after doubling, after halving, or (`fused`) before halving the image.

    `gain` scales the Glorot-uniform initial weights: near 0 where a block starts as the identity.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        gain: float = 1.0,
        taps: Sequence[int] = (1, 1),
        up: bool = False,
        down: bool = False,
        fused: bool = False,
    ) -> None:
        margin = (len(taps) - 1) // 2
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2 + (margin if fused else 0))
        self.up, self.down, self.fused, self.margin = up, down, fused, margin
        glorot(self, gain)
        if up or down:  # a (1, 1, k, k) low-pass filter of k taps: their outer product, summing to 1
            if len(taps) % 2 or tuple(taps) != tuple(reversed(taps)):
                raise ValueError(f"resample_filter must have an even number of symmetric taps; it is {tuple(taps)}")
            products = [[row * column / sum(taps) ** 2 for column in taps] for row in taps]
            self.register_buffer("resample_filter", torch.tensor([[products]]))

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return resample(super().forward(x), self.resample_filter, self.up, padding=0)
        if self.up or self.down:
            x = resample(x, self.resample_filter, self.up, self.margin)
        return super().forward(x)


class UNetBlock(nn.Module):
    """Residual block with time embedding and optional one-head self-attention; every sum keeps its variance.

    (N, in_channels, H, W), (N, emb_channels) -> (N, out_channels, H, W), at twice or half the size with `up` or `down`.
    Song et al. 2021, Appendix H (BigGAN-type blocks); Karras et al. 2022, Appendix F.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        dropout: float,
        taps: Sequence[int],
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.dropout, self.attention = out_channels, dropout, attention
        self.norm0 = group_norm(in_channels)
        self.conv0 = Conv2d(in_channels, out_channels, 3, taps=taps, up=up, down=down)
        self.affine = glorot(nn.Linear(emb_channels, out_channels))
        self.norm1 = group_norm(out_channels)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=1e-5)
        same = in_channels == out_channels and not (up or down)
        self.skip = nn.Identity() if same else Conv2d(in_channels, out_channels, 1, taps=taps, up=up, down=down)
        if attention:
            self.norm2 = group_norm(out_channels)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, gain=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, gain=1e-5)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        h = F.dropout(F.silu(self.norm1(h)), self.dropout, self.training)
        x = (self.skip(x) + self.conv1(h)) * math.sqrt(0.5)
        if not self.attention:
            return x
        # Checkpoints interleave query, key and value channel by channel.
        q, k, v = self.qkv(self.norm2(x)).reshape(len(x), 1, self.out_channels, 3, -1).unbind(3)
        return (x + self.proj(attend(q, k, v).reshape(x.shape))) * math.sqrt(0.5)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation of the score networks: at most 32 groups of at least 4 channels (Wu & He 2018, Eq. 7).

    *Deviation:* where that number does not divide the channels, the next smaller one that does.
    """
    groups = next(count for count in range(min(32, channels // 4), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


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

        fixed = partial(sinusoidal_embedding, channels=noise_channels, endpoint=True)
        self.map_noise = fixed if embedding_type == "positional" else FourierEmbedding(noise_channels)
        self.map_label = glorot(nn.Linear(label_dim, noise_channels)) if label_dim else None
        self.map_augment = glorot(nn.Linear(augment_dim, noise_channels, bias=False)) if augment_dim else None
        self.map_layer0 = glorot(nn.Linear(noise_channels, emb_channels))
        self.map_layer1 = glorot(nn.Linear(emb_channels, emb_channels))

        block = partial(UNetBlock, emb_channels=emb_channels, dropout=dropout, taps=taps)
        self.enc = nn.ModuleDict()
        skips, channels, aux = list[int](), model_channels, in_channels
        for level, mult in levels:
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
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
        embedding = torch.cat([sines, cosines], dim=1).to(x.dtype)
        if self.map_label is not None and class_labels is not None:
            embedding = embedding + self.map_label(class_labels * math.sqrt(self.map_label.in_features))
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))
        skips, image = list[Tensor](), x
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                x = skips[-1] = image = (x + layer(image)) * math.sqrt(0.5)
            else:
                x = layer(x, embedding) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)

        *blocks, (_, norm), (_, convolution) = self.dec.items()
        for name, layer in blocks:
            x = layer(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, embedding)
        return convolution(F.silu(norm(x)))


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

        sigma: 0-dim or (N,), positive. class_labels: (N,) integers or (N, label_dim) one-hot; None stands for all
        zeros. Autocast acts inside F only.
        """
        dtype = self.model.map_layer0.weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        x, sigma = x.to(wide), levels_of(sigma, x).to(wide)
        if class_labels is None:
            class_labels = x.new_zeros(len(x), self.label_dim)
        elif class_labels.numel() == len(class_labels) and self.label_dim > class_labels.is_floating_point():
            class_labels = F.one_hot(class_indices(class_labels, self.label_dim), self.label_dim)
        if self.label_dim and class_labels.shape not in ((1, self.label_dim), (len(x), self.label_dim)):
            problem = f"class_labels have the shape {tuple(class_labels.shape)} for {len(x)} images"
            raise ConfigError(problem, f"give integers, or rows of {self.label_dim} numbers, one for each image")
        class_labels = class_labels.to(dtype) if self.label_dim else None

        level = sigma.view(-1, 1, 1, 1)
        variance = level.square() + self.sigma_data**2
        c_in, c_skip = variance.rsqrt(), self.sigma_data**2 / variance
        c_out = level * self.sigma_data * c_in
        raw = self.model((c_in * x).to(dtype), sigma.log() / 4, class_labels)
        return (c_skip * x + c_out * raw.to(wide)).to(dtype)

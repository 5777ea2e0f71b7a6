"""Classifiers of noised images: ADM's encoder under original parameter names, heads on its features, a small CNN."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.images import class_indices
from discriminator_guidance.core.noise import levels_of
from discriminator_guidance.networks.layers import attend, halve, sinusoidal_embedding

SMALLEST = 4  # size at which the CNN does not halve images again
WIDEST = 4  # channels of the CNN, times `width`
SILU_GAIN = 1.68  # 1 / sqrt(E silu(z)^2) for standard normal z
TIME_SCALE = 999.0  # VP times in [0, 1] become the step numbers the embedding was made for
LABEL_ROWS = 1000  # rows of the label embedding, whatever the number of classes
CHANNEL_MULT: dict[int, tuple[int, ...]] = {64: (1, 2, 3, 4), 32: (1, 2, 4), 16: (1, 2), 8: (1,)}


def normalization(channels: int) -> nn.GroupNorm:
    """Group normalisation with gcd(32, channels) groups (Wu & He 2018, Eq. 7).

    *Deviation:* official code always has 32 groups, which only multiples of 32 channels allow.
    """
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with its parameters set to 0, so that its residual block starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the time embedding; `down` averages first.

    (N, channels, H, W), (N, emb_channels) -> (N, out_channels, H, W) or half the size.
    Dhariwal & Nichol 2021, Sections 3 and 3.1 (adaptive group normalisation).
    """

    def __init__(self, channels: int, emb_channels: int, dropout: float, out_channels: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        convolution = partial(nn.Conv2d, out_channels=out_channels, kernel_size=3, padding=1)
        self.in_layers = nn.Sequential(normalization(channels), nn.SiLU(), convolution(channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        last = zeroed(convolution(out_channels))
        self.out_layers = nn.Sequential(normalization(out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = activation(norm(x))
        if self.down:
            x, h = halve(x), halve(h)
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, activation, dropout, last = self.out_layers
        h = norm(convolution(h)) * (1 + scale) + shift
        return self.skip_connection(x) + last(dropout(activation(h)))


class AttentionBlock(nn.Module):
    """Residual multi-head self-attention over the positions of a feature map (Dhariwal & Nichol 2021, Section 3)."""

    def __init__(self, channels: int, num_head_channels: int) -> None:
        super().__init__()
        if channels % num_head_channels:
            raise ValueError(f"num_head_channels = {num_head_channels}, which is no divisor of {channels}")
        self.num_heads = channels // num_head_channels
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(2)
        # Checkpoints hold query, key and value of one head next to each other.
        q, k, v = self.qkv(self.norm(positions)).unflatten(1, (self.num_heads, 3, -1)).unbind(2)
        return (positions + self.proj_out(attend(q, k, v).flatten(1, 2))).view_as(x)


class AttentionPool2d(nn.Module):
    """Attention of the mean feature over all positions of a size x size map, projected to (N, output_dim) logits.

    Radford et al. 2021 (CLIP), Section 2.4; Dhariwal & Nichol 2021, Section 4.
    """

    def __init__(self, size: int, channels: int, num_head_channels: int, output_dim: int) -> None:
        super().__init__()
        self.num_heads = channels // num_head_channels
        self.positional_embedding = nn.Parameter(torch.normal(0.0, 1.0, (channels, size**2 + 1)).div_(channels**0.5))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(2)
        tokens = torch.cat([positions.mean(dim=2, keepdim=True), positions], dim=2) + self.positional_embedding
        # Checkpoints hold the queries of all heads first, then all keys, then all values.
        q, k, v = self.qkv_proj(tokens).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return self.c_proj(attend(q[..., :1], k, v).flatten(1, 2)).squeeze(2)


class EncoderUNet(nn.Module):
    """Encoder half of the ADM U-Net with an attention-pooling head, on images or feature maps.

    `channel_mult` has a factor on `model_channels` for each level, at half the size of the one before.
    `attention_resolutions` holds downsampling factors, not image sizes. `arguments` builds the same network again.
    Dhariwal & Nichol 2021, Section 4 (classifier); Kim et al. 2023, Appendix (discriminator).
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[int] = (1, 2, 4),
        num_head_channels: int = 64,
        condition: bool = False,
        dropout: float = 0.0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        lists = {"attention_resolutions": list(attention_resolutions), "channel_mult": list(channel_mult)}
        self.arguments: dict[str, Any] = arguments | lists
        self.model_channels, self.conditional = model_channels, condition
        wide = 4 * model_channels  # channels of the embedding
        self.time_embed = nn.Sequential(nn.Linear(model_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label_emb = nn.Embedding(LABEL_ROWS, wide) if condition else None

        block = partial(ResBlock, emb_channels=wide, dropout=dropout)
        channels = channel_mult[0] * model_channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = nn.ModuleList([block(channels, out_channels=mult * model_channels)])
                channels = mult * model_channels
                if 2**level in attention_resolutions:
                    layers.append(AttentionBlock(channels, num_head_channels))
                self.input_blocks.append(layers)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(nn.ModuleList([block(channels, out_channels=channels, down=True)]))
        same = partial(block, channels, out_channels=channels)
        self.middle_block = nn.ModuleList([same(), AttentionBlock(channels, num_head_channels), same()])
        size = image_size >> (len(channel_mult) - 1)
        self.feature_shape = (channels, size, size)
        pool = AttentionPool2d(size, channels, num_head_channels, out_channels)
        self.out = nn.Sequential(normalization(channels), nn.SiLU(), pool)

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The feature map (N, *feature_shape) before the head, at 0-dim or (N,) VP times in [0, 1].

        labels: (N,) integers or (N, classes) one-hot, for conditional networks only.
        """
        dtype = next(self.parameters()).dtype
        steps = TIME_SCALE * levels_of(t, x).to(torch.promote_types(dtype, torch.float32))  # bfloat16 has no 999
        embedding = self.time_embed(sinusoidal_embedding(steps, self.model_channels, endpoint=False).to(dtype))
        if (labels is None) != (self.label_emb is None):
            problem = "a conditional network has no labels" if labels is None else "an unconditional network has labels"
            raise ConfigError(problem, "give labels to conditional networks alone")
        if self.label_emb is not None and labels is not None:
            embedding = embedding + self.label_emb(class_indices(labels, self.label_emb.num_embeddings))
        h = x.to(dtype)
        for layer in (layer for layers in (*self.input_blocks, self.middle_block) for layer in layers):
            h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
        return h

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The logits (N, out_channels), in the dtype of the parameters; arguments as of `features`."""
        return self.out(self.features(x, t, labels)).to(next(self.parameters()).dtype)


class NoisyImageCNN(nn.Module):
    """Strided convolutions of x_vp, each scaled by an embedding of VP time and class, and one logit.

    (N, C, H, W), VP times (N,) or 0-dim[, classes (N,)] -> (N,). Every convolution but the first halves the image,
    until its shorter side has SMALLEST pixels, and doubles the channels, up to WIDEST times `width`. Weights begin with
    standard deviation gain / sqrt(fan-in), which keeps the size of signals for SILU_GAIN; 0: torch's own, smaller.
    """

    def __init__(self, image_shape: Sequence[int], width: int = 32, classes: int = 0, gain: float = 0.0) -> None:
        super().__init__()
        channels, *size = image_shape
        self.arguments: dict[str, Any] = {"image_shape": list(image_shape), "width": width, "classes": classes}
        self.conditional, self.members = classes > 0, 1
        self.embedding = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU())
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        widths = [width]
        while min(size) > SMALLEST:
            size = [-(-length // 2) for length in size]
            widths.append(min(2 * widths[-1], WIDEST * width))
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])
        self.convolutions.extend(nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in pairwise(widths))
        self.scales = nn.ModuleList([nn.Linear(2 * width, channels) for channels in widths])
        self.logit = nn.Linear(widths[-1] * math.prod(size), 1)
        for values in self.convolutions.parameters() if gain else ():  # biases become 0
            nn.init.normal_(values, std=gain / values[0].numel() ** 0.5 if values.dim() > 1 else 0.0)

    def forward(self, x_vp: Tensor, tau: Tensor, classes: Tensor | None = None) -> Tensor:
        """The logits (N,) of d(x_vp, tau)."""
        if (shape := [*x_vp.shape[1:]]) != self.arguments["image_shape"]:
            raise ConfigError(f"images are {shape}", f"give the discriminator's, {self.arguments['image_shape']}")
        if (classes is None) != (self.classes is None):
            problem = "a conditional network has no classes" if classes is None else "an unconditional one has classes"
            raise ConfigError(problem, "give classes to conditional networks alone")
        layout = torch.channels_last if x_vp.device.type == "cpu" else torch.preserve_format  # there a fifth faster
        h = x_vp.to(self.logit.weight.dtype, memory_format=layout)
        steps = TIME_SCALE * levels_of(tau, h).to(torch.promote_types(h.dtype, torch.float32))
        embedding = self.embedding(sinusoidal_embedding(steps, self.arguments["width"], endpoint=True).to(h.dtype))
        if self.classes is not None and classes is not None:
            embedding = embedding + self.classes(class_indices(classes, self.classes.num_embeddings))
        for convolution, scale in zip(self.convolutions, self.scales, strict=True):
            h = silu(convolution(h) * (1 + scale(embedding)[:, :, None, None]))
        return self.logit(h.flatten(1)).squeeze(1)


class MemberLogits(nn.Module):
    """Several discriminators as one: heads on one pass of their common extractor, and whole networks of the image.

    Kim et al. 2023, Section 4.1 (a shallow U-Net encoder on a frozen noisy-image classifier).
    """

    def __init__(self, extractor: nn.Module | None, *members: nn.Module) -> None:
        super().__init__()
        self.extractor, self.networks = extractor, nn.ModuleList(members)
        self.members, self.conditional = len(members), any(getattr(member, "conditional", True) for member in members)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `build_discriminator` needs for an extractor and one head."""
        (head,) = self.networks
        return {"extractor": self.extractor.arguments, "head": head.arguments}  # type: ignore[union-attr]

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """The members' logits (members, N) of d(x_vp, tau), differentiable in x_vp.

        x_vp: (N, C, H, W), mean(tau) times the unscaled noisy images. tau: 0-dim or (N,) VP times. labels: (N,) or
        (N, classes) one-hot, for conditional members; the extractor is not given them.
        """
        heads, features = [isinstance(member, EncoderUNet) for member in self.networks], x_vp
        if any(heads) and self.extractor is not None:
            features = (own.features if isinstance(own := self.extractor, EncoderUNet) else own)(x_vp, tau)
        logits = list[Tensor]()
        for member, head in zip(self.networks, heads, strict=True):
            given = labels if getattr(member, "conditional", True) else None
            logits.append(member(features if head else x_vp, tau, given).view(-1))
        return torch.stack(logits)


def build_discriminator(**arguments: Any) -> nn.Module:
    """A trained discriminator of the kind that its arguments, from `config.json`, belong to."""
    if "extractor" in arguments:
        return MemberLogits(*(EncoderUNet(**arguments[part]) for part in ("extractor", "head")))
    return NoisyImageCNN(**arguments) if "image_shape" in arguments else EncoderUNet(**arguments)


def build_extractor(
    image_size: int, in_channels: int, classes: int, attention_resolutions: Sequence[int], **network: Any
) -> EncoderUNet:
    """The classifier whose features discriminators use, as settings describe it: attention at image sizes in pixels.

    `network`: model_channels, channel_mult, num_res_blocks, num_head_channels, dropout of EncoderUNet.
    """
    factors = [image_size // size for size in attention_resolutions]
    return EncoderUNet(image_size, in_channels, out_channels=classes, attention_resolutions=factors, **network)


def build_head(feature_shape: Sequence[int], condition: bool = False, **network: Any) -> EncoderUNet:
    """A discriminator head on (C, H, W) feature maps as settings describe it: one level, with attention, one logit.

    `network`: model_channels, num_res_blocks, num_head_channels, dropout of EncoderUNet.
    """
    channels, size, _ = feature_shape
    one_level: dict[str, Any] = {"out_channels": 1, "attention_resolutions": [1], "channel_mult": [1]}
    return EncoderUNet(size, channels, condition=condition, **one_level, **network)

"""ADM encoder, under original parameter names: noisy-image classifier, its features, discriminator head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.adm_blocks import (
    AttentionBlock,
    AttentionPool2d,
    ResBlock,
    normalization,
)
from discriminator_guidance.networks.blocks import broadcast_batch, sinusoidal_embedding

TIME_SCALE = 999.0  # VP times in [0, 1] become the step numbers the embedding was made for
LABEL_ROWS = 1000  # rows of the label embedding, whatever the number of classes
CHANNEL_MULT = {64: (1, 2, 3, 4), 32: (1, 2, 4), 16: (1, 2), 8: (1,)}


class EncoderUNet(nn.Module):
    """Encoder half of the ADM U-Net, with an attention-pooling head.

    Args:
        image_size: height and width of what it takes (pictures or feature maps).
        in_channels: channels of what it takes.
        model_channels: channels at the finest level, before `channel_mult`.
        out_channels: number of logits.
        num_res_blocks: residual blocks a level.
        attention_resolutions: downsampling factors (not picture sizes) at which it attends.
        channel_mult: factor on the channels, one for each level; each level halves the picture.
        num_head_channels: channels an attention head.
        use_scale_shift_norm: how the time embedding enters; True is the only way.
        resblock_updown: pictures are halved inside residual blocks; True is the only way.
        pool: the head; "attention" is the only one.
        condition: whether it takes class labels.
        dropout: probability inside residual blocks.

    Attributes:
        arguments: what it was made with, to be written beside its weights.

    Raises:
        ValueError: an option that none of the released networks uses.
        ConfigError: `num_head_channels` does not divide the channels of a layer with attention.

    Source: Dhariwal & Nichol 2021, Section 4 (classifier); Kim et al. 2023, Appendix (discriminator).
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
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        pool: str = "attention",
        condition: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not use_scale_shift_norm or not resblock_updown or pool != "attention":
            raise ValueError("use_scale_shift_norm and resblock_updown must be true, and pool 'attention'")
        self.arguments: dict[str, Any] = {
            "image_size": image_size,
            "in_channels": in_channels,
            "model_channels": model_channels,
            "out_channels": out_channels,
            "num_res_blocks": num_res_blocks,
            "attention_resolutions": list(attention_resolutions),
            "channel_mult": list(channel_mult),
            "num_head_channels": num_head_channels,
            "condition": condition,
            "dropout": dropout,
        }
        self.model_channels = model_channels
        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        self.label_emb = nn.Embedding(LABEL_ROWS, emb_channels) if condition else None

        def block(inside: int, outside: int, down: bool = False) -> ResBlock:
            return ResBlock(inside, emb_channels, dropout, outside, down)

        channels = channel_mult[0] * model_channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = nn.ModuleList([block(channels, mult * model_channels)])
                channels = mult * model_channels
                if 2**level in attention_resolutions:
                    layers.append(AttentionBlock(channels, num_head_channels))
                self.input_blocks.append(layers)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(nn.ModuleList([block(channels, channels, down=True)]))
        self.middle_block = nn.ModuleList(
            [
                block(channels, channels),
                AttentionBlock(channels, num_head_channels),
                block(channels, channels),
            ]
        )
        size = image_size >> (len(channel_mult) - 1)
        self.feature_shape = (channels, size, size)
        self.out = nn.Sequential(
            normalization(channels),
            nn.SiLU(),
            AttentionPool2d(size, channels, num_head_channels, out_channels),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point format of the parameters."""
        return next(self.parameters()).dtype

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The feature map before the head.

        Args:
            x: (N, in_channels, H, W).
            t: 0-dim or (N,) VP times in [0, 1].
            labels: (N,) integers or (N, classes) one-hot; required by conditional networks only.

        Returns:
            (N, *feature_shape).

        Raises:
            ValueError: labels are missing or unexpected.
        """
        dtype = self.dtype
        steps = TIME_SCALE * broadcast_batch(t, len(x), dtype)
        embedding = self.time_embed(sinusoidal_embedding(steps, self.model_channels, endpoint=False))
        if (labels is None) != (self.label_emb is None):
            raise ValueError("labels are for conditional networks, and these need them")
        if self.label_emb is not None and labels is not None:
            index = labels if labels.dim() == 1 else labels.argmax(dim=1)
            embedding = embedding + self.label_emb(index.long())
        h = x.to(dtype)
        for layer in (layer for layers in (*self.input_blocks, self.middle_block) for layer in layers):
            h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
        return h

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The logits.

        Args:
            x: (N, in_channels, H, W).
            t: 0-dim or (N,) VP times in [0, 1].
            labels: (N,) integers or (N, classes) one-hot; required by conditional networks only.

        Returns:
            (N, out_channels), in the dtype of the parameters.

        Raises:
            ValueError: labels are missing or unexpected.
        """
        logits: Tensor = self.out(self.features(x, t, labels)).to(self.dtype)
        return logits


def create_classifier(
    image_size: int,
    in_channels: int,
    out_channels: int,
    classifier_width: int,
    classifier_depth: int,
    classifier_attention_resolutions: str = "32,16,8",
    classifier_use_scale_shift_norm: bool = True,
    classifier_resblock_updown: bool = True,
    classifier_pool: str = "attention",
    condition: bool = False,
) -> EncoderUNet:
    """A network as the released classifier and discriminators are described.

    Args:
        image_size: 64, 32, 16 or 8; it decides the number of levels.
        in_channels: channels of the picture or feature map.
        out_channels: number of logits.
        classifier_width: channels at the finest level.
        classifier_depth: residual blocks a level.
        classifier_attention_resolutions: picture sizes, comma-separated; sizes that never occur are ignored.
        classifier_use_scale_shift_norm: see EncoderUNet.
        classifier_resblock_updown: see EncoderUNet.
        classifier_pool: see EncoderUNet.
        condition: whether it takes class labels.

    Returns:
        The network, with 64 channels an attention head.
    """
    sizes = [int(size) for size in classifier_attention_resolutions.split(",")]
    return EncoderUNet(
        image_size=image_size,
        in_channels=in_channels,
        model_channels=classifier_width,
        out_channels=out_channels,
        num_res_blocks=classifier_depth,
        attention_resolutions=[image_size // size for size in sizes],
        channel_mult=CHANNEL_MULT[image_size],
        num_head_channels=64,
        use_scale_shift_norm=classifier_use_scale_shift_norm,
        resblock_updown=classifier_resblock_updown,
        pool=classifier_pool,
        condition=condition,
    )


def build_extractor(
    image_size: int,
    in_channels: int,
    classes: int,
    model_channels: int,
    channel_mult: Sequence[int],
    num_res_blocks: int,
    attention_resolutions: Sequence[int],
    num_head_channels: int,
    dropout: float = 0.0,
) -> EncoderUNet:
    """The classifier whose features discriminators use, as a profile describes it.

    Args:
        image_size: height and width of a picture.
        in_channels: channels of a picture.
        classes: number of logits.
        model_channels: channels at the finest level.
        channel_mult: factor on the channels, one for each level.
        num_res_blocks: residual blocks a level.
        attention_resolutions: picture sizes (pixels) at which it attends.
        num_head_channels: channels an attention head.
        dropout: probability inside residual blocks.

    Returns:
        The network, at its random start.

    Raises:
        ConfigError: a size that never occurs in the network, or heads that do not divide its channels.
    """
    sizes = [image_size >> level for level in range(len(channel_mult))]
    if sizes[-1] << (len(sizes) - 1) != image_size or sizes[-1] == 0:
        raise ConfigError(
            f"an image_size that can be halved {len(sizes) - 1} times",
            f"image_size {image_size} with channel_mult {list(channel_mult)}",
            "shorten channel_mult or change the image size",
        )
    for size in attention_resolutions:
        if size not in sizes:
            raise ConfigError(
                f"attention_resolutions among {', '.join(map(str, sizes))}",
                str(size),
                "name sizes the network passes",
            )
    return EncoderUNet(
        image_size=image_size,
        in_channels=in_channels,
        model_channels=model_channels,
        out_channels=classes,
        num_res_blocks=num_res_blocks,
        attention_resolutions=[image_size // size for size in attention_resolutions],
        channel_mult=channel_mult,
        num_head_channels=num_head_channels,
        dropout=dropout,
    )


def build_head(
    feature_shape: Sequence[int],
    model_channels: int,
    num_res_blocks: int,
    num_head_channels: int,
    dropout: float = 0.0,
    condition: bool = False,
) -> EncoderUNet:
    """A discriminator head as a profile describes it: one level, with attention, and one logit.

    Args:
        feature_shape: (C, H, W) of the extractor's feature map.
        model_channels: channels.
        num_res_blocks: residual blocks.
        num_head_channels: channels an attention head.
        dropout: probability inside residual blocks.
        condition: whether it takes class labels.

    Returns:
        The network, at its random start.

    Raises:
        ConfigError: heads that do not divide the channels.
    """
    channels, size, _ = feature_shape
    return EncoderUNet(
        image_size=size,
        in_channels=channels,
        model_channels=model_channels,
        out_channels=1,
        num_res_blocks=num_res_blocks,
        attention_resolutions=[1],
        channel_mult=[1],
        num_head_channels=num_head_channels,
        condition=condition,
        dropout=dropout,
    )

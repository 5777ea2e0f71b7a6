"""The networks of a profile at their real sizes, from their constructor arguments: none of their files is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discriminator_guidance.networks.adm import EncoderUNet, build_extractor, build_head, create_classifier
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

# Of the published checkpoints; their files may say otherwise, which is found out when they are converted.
EDM_CIFAR10: dict[str, Any] = {
    "model_channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "augment_dim": 9,
}
CLASSIFIER_WIDTH, CLASSIFIER_DEPTH, CLASSIFIER_CLASSES = 128, 4, 1000
HEAD_WIDTH, HEAD_DEPTH, HEAD_CHANNELS = 128, 2, 64
# torch-fidelity's Inception at 299 x 299 pixels, to which it enlarges every picture, up to its 2,048 features; counted
# like the other networks, but here once and for all, because it cannot be built without its weights.
INCEPTION_FLOPS, INCEPTION_BYTES, INCEPTION_FEATURES = 11.422e9, 95_541_944, 2048
INCEPTION_ACTIVATIONS = 13.83e6  # bytes alive at once, of one picture


@dataclass(frozen=True)
class Pictures:
    """What the study is about, in numbers.

    Args:
        size: height and width, pixels.
        channels: 1 or 3.
        classes: how many.
        train: real pictures for training.
        holdout: real pictures held out.
    """

    size: int
    channels: int
    classes: int
    train: int
    holdout: int

    @property
    def bytes(self) -> int:
        """Of one picture, uint8."""
        return self.size * self.size * self.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size


@dataclass(frozen=True)
class Blueprints:
    """Builds the networks of a profile, at a random start.

    Args:
        config: the profile.
        pictures: size, channels and classes.
    """

    config: Config
    pictures: Pictures

    def score(self) -> EDMPrecond:
        """The score network, trained or released.

        Returns:
            The network.
        """
        score, pictures = self.config.score, self.pictures
        arguments = (
            EDM_CIFAR10 if score.source == "edm" else score.network.model_dump() | {"sigma_data": score.sigma_data}
        )
        label_dim = pictures.classes if self.config.cond else 0
        return EDMPrecond(pictures.size, pictures.channels, label_dim, **arguments)

    def extractor(self) -> EncoderUNet:
        """The extractor, trained or released.

        Returns:
            The network.
        """
        extractor, pictures = self.config.extractor, self.pictures
        if extractor.source == "adm":
            return create_classifier(
                pictures.size, pictures.channels, CLASSIFIER_CLASSES, CLASSIFIER_WIDTH, CLASSIFIER_DEPTH
            )
        return build_extractor(pictures.size, pictures.channels, pictures.classes, **extractor.network.model_dump())

    def head(self, member: str, feature_shape: tuple[int, int, int]) -> EncoderUNet:
        """The head of a member.

        Args:
            member: its name.
            feature_shape: (C, H, W) of the extractor's feature map.

        Returns:
            The network.
        """
        return build_head(feature_shape, condition=self.config.cond, **self._head_arguments(member))

    def alike(self) -> Mapping[str, str]:
        """Heads of the same size.

        Returns:
            For each member the first one whose head is as large as its own.
        """
        first: dict[tuple[tuple[str, Any], ...], str] = {}
        return {
            member: first.setdefault(tuple(sorted(self._head_arguments(member).items())), member)
            for member in self.config.discriminator.members
        }

    def fid_network(self) -> FidNetwork | None:
        """The small network whose features define the distance.

        Returns:
            The network, or None where it is Inception.
        """
        settings, pictures = self.config.fid_network, self.pictures
        if settings.source == "inception":
            return None
        return FidNetwork(pictures.size, pictures.channels, settings.channels, settings.features, pictures.classes)

    @property
    def features(self) -> int:
        """Width of the features that are compared."""
        settings = self.config.fid_network
        return INCEPTION_FEATURES if settings.source == "inception" else settings.features

    def _head_arguments(self, member: str) -> dict[str, Any]:
        settings = self.config.discriminator
        row = settings.members[member]
        if hasattr(row, "path"):
            sizes = {"model_channels": HEAD_WIDTH, "num_res_blocks": HEAD_DEPTH, "num_head_channels": HEAD_CHANNELS}
            return {**sizes, "dropout": 0.0}
        return (row.differs.network or settings.network).model_dump()

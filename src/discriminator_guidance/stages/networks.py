"""Networks as the stages save and load them."""

from __future__ import annotations

from discriminator_guidance.artifacts.weights import load_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.inception import InceptionFeatures
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.fitting import build_fitting
from discriminator_guidance.stages.layout import Layout

INCEPTION_ARGUMENTS = {"source": "inception"}  # in place of constructor arguments, which it has none of


def load_denoiser(layout: Layout, compute: Compute) -> EDMPrecond:
    """The trained score network, in evaluation mode, without gradients.

    Args:
        layout: where files are.
        compute: device and precision it runs in.

    Returns:
        The network, to be called under `compute.autocast()`.
    """
    state, arguments = load_weights(layout.model("score"), "score")
    return compute.place(build_fitting(EDMPrecond, arguments, state, "score"), forward_only=True)


def load_extractor(layout: Layout, compute: Compute) -> EncoderUNet:
    """The frozen feature extractor.

    Args:
        layout: where files are.
        compute: device and precision it runs in.

    Returns:
        The network, in evaluation mode, without gradients, to be called under `compute.autocast()`.
    """
    state, arguments = load_weights(layout.model("extractor"), "extractor")
    return compute.place(build_fitting(EncoderUNet, arguments, state, "extractor"))


def load_head(layout: Layout, member: str, compute: Compute) -> EncoderUNet:
    """The head of one discriminator.

    Args:
        layout: where files are.
        member: its name.
        compute: device and precision it runs in.

    Returns:
        The network, in evaluation mode, without gradients, to be called under `compute.autocast()`.
    """
    state, arguments = load_weights(layout.discriminator(member), "discriminator")
    return compute.place(build_fitting(EncoderUNet, arguments, state, "discriminator"))


def load_fid_network(layout: Layout, compute: Compute) -> FidNetwork | InceptionFeatures:
    """The network whose `features` of pictures in [-1, 1] define the Frechet distance.

    Args:
        layout: where files are.
        compute: the device it goes to.

    Returns:
        The network, in evaluation mode, without gradients.
    """
    state, arguments = load_weights(layout.model("fid_network"), "fid_network")
    if arguments == INCEPTION_ARGUMENTS:
        return InceptionFeatures(state).to(compute.device).eval().requires_grad_(False)
    network = build_fitting(FidNetwork, arguments, state, "fid_network")
    return network.to(compute.device).eval().requires_grad_(False)


def refuse_other_kind(conditional: bool, cond: bool, what: str, stage: str) -> None:
    """Refuse networks that were made while the profile said otherwise about classes.

    Args:
        conditional: whether the network is given classes.
        cond: whether the study is class-conditional.
        what: the network, for the error.
        stage: the stage that makes it, for the remedy.

    Raises:
        InputError: the two differ; without this a conditional score network would be sampled without a class.
    """
    if conditional != cond:
        kinds = {True: "with classes", False: "without classes"}
        raise InputError(
            f"{what} {kinds[cond]}, as cond says",
            f"one {kinds[conditional]}",
            f"run stage {stage} again or change cond",
        )

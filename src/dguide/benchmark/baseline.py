"""The baseline: what the published code computes, in float32, with this project's networks and sampler.

Parameters ask for gradients, attention is computed from full matrices of weights and, in the extractor and the heads,
again in the backward pass (Chen et al. 2016); torch halves and doubles images; glibc hands memory back to the kernel
after each layer, as it does by default.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

from discriminator_guidance import runtime
from discriminator_guidance.networks import layers
from discriminator_guidance.networks.adm import AttentionBlock

Network = TypeVar("Network", bound=nn.Module)
# Where glibc's own thresholds arrive after the first large block was freed, by the parameters of mallopt(3).
M_MMAP_THRESHOLD = -3
RETURNED = {
    runtime.M_MMAP_MAX: 65536,
    M_MMAP_THRESHOLD: 2**25,
    runtime.M_TRIM_THRESHOLD: 2**26,
    runtime.M_TOP_PAD: 2**17,
}
MANY, WIDEST = layers.MANY, layers.WIDEST


def as_published(network: Network) -> Network:
    """The network with parameters that ask for gradients and attention that the backward pass computes again."""
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network.requires_grad_(True).eval()


def prepare(published: bool) -> None:
    """Switch what exists only because of CPUs off for the baseline, and on for this project."""
    layers.MANY, layers.WIDEST = (sys.maxsize, 0) if published else (MANY, WIDEST)
    runtime.tune_malloc(RETURNED if published else runtime.KEPT)

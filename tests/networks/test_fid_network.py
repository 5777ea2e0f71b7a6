"""The small classifier behind the profile's own Frechet distance."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from discriminator_guidance.networks.fid_network import FidNetwork


def test_learns_to_tell_patterns_with_bounded_features_none_constant() -> None:
    network = FidNetwork(8, 1, [8, 8, 8, 8], features=8, classes=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    labels = torch.arange(64) % 2
    pattern = torch.ones(8, 8)
    pattern[:, ::2] = -1

    def images() -> torch.Tensor:
        striped = torch.where(labels[:, None, None] == 0, pattern, pattern.T)
        return (striped + 0.5 * torch.randn(64, 8, 8))[:, None]

    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(images()), labels).backward()
        optimizer.step()
    x = images()
    assert (network(x).argmax(dim=1) == labels).float().mean() > 0.95
    features = network.features(x)
    # Two patterns need few features; the others may rest near the minimum of SiLU, but none is constant.
    assert (features.std(dim=0) > 1e-4).all()
    assert features.abs().max() < features.shape[1]

"""Training steps, the plain way and this project's, on networks of a profile with random weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from discriminator_guidance.benchmark.groups import Comparison, Group
from discriminator_guidance.benchmark.peaks import finished
from discriminator_guidance.benchmark.sampling import MEMBERS, Frozen, Networks
from discriminator_guidance.benchmark.timing import Way
from discriminator_guidance.diffusion.noise_levels import lognormal_sigmas
from discriminator_guidance.diffusion.seeds import generator, torch_seed
from discriminator_guidance.networks.memory import BatchSize, keep_memory, return_memory
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.timed_calls import NoCheckpoints, nothing
from discriminator_guidance.training.discriminator import MemberSettings, Trainee, train_discriminator
from discriminator_guidance.training.extractor import train_extractor
from discriminator_guidance.training.grid import GridFeatures
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import draw_noised, scaled
from discriminator_guidance.training.score import edm_loss, train_score

SHARE = 4  # times as much work in a call as elsewhere, so that the optimizer does not count for more than in training
STEPS = 2  # in one call, which also makes an optimizer and an average of the weights
SEED, T_MIN, RATE = 0, 1e-3, 1e-7  # weights hardly move, so that the last gradients of both ways can be compared
P_MEAN, P_STD, SIGMA_DATA, EMA_DECAY = -1.2, 1.2, 0.5, 0.999
CLIP = 1e9  # gradient norm: none


def training_groups(networks: Networks, compute: Compute, frozen: Frozen) -> list[Group]:
    """Training of a discriminator, of the extractor and of the score network.

    Args:
        networks: with random weights; copies are trained.
        compute: device and precision of what is trained.
        frozen: the extractor as a discriminator is trained with it.

    Returns:
        One group for each, and one of six discriminators: one after the other, and in one pass over shared features.
    """
    kinds: list[tuple[str, str, Callable[..., Way], Callable[..., Way]]] = [
        ("discriminator_training", "member step", _discriminator_plainly, _discriminator),
        ("extractor_training", "extractor step", _extractor_plainly, _extractor),
        ("score_training", "score step", _score_plainly, _score),
    ]
    groups = []
    precision = "bf16" if compute.mode == "bfloat16" else "fp32"
    for name, kind, plainly, ours in kinds:
        flops = networks.flops(kind, 1 if kind == "member step" else 0)
        n = networks.batch(STEPS * flops / SHARE, networks.config.discriminator.batch_size)
        images = _images(networks, STEPS * n)
        ways = {"reference": plainly(networks, images, n), "ours": ours(networks, images, n, compute, frozen)}
        row = Comparison(name, "reference", "ours", STEPS * n, STEPS * n * flops, f"convolution {precision}")
        groups.append(Group(ways, [row]))
    return [groups[0], _six_group(networks, compute, frozen, precision), *groups[1:]]


def _six_group(networks: Networks, compute: Compute, frozen: Frozen, precision: str) -> Group:
    features, step = networks.flops("features"), networks.flops("member step", 1)
    flops = features + MEMBERS * (step - features)
    n = networks.batch(STEPS * flops / SHARE, networks.config.discriminator.batch_size)
    images = _images(networks, STEPS * n)
    ways = {
        "apart": _discriminators(networks, images, n, compute, frozen, [1] * MEMBERS),
        "together": _discriminators(networks, images, n, compute, frozen, [MEMBERS]),
    }
    name = "six_members_training"
    return Group(
        ways, [Comparison(name, "apart", "together", STEPS * n, STEPS * n * flops, f"convolution {precision}")]
    )


def _discriminator_plainly(networks: Networks, images: Tensor, n: int) -> Way:
    extractor, head = networks.plain.extractor, copy.deepcopy(networks.plain.heads[0]).train()
    labels, classes = _targets(len(images), networks.device), networks.classes(len(images))

    def run() -> Tensor:
        optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
        order = generator(SEED, "order", 0, 0).permutation(np.arange(len(images)))
        for batch in range(STEPS):
            rows = torch.from_numpy(order[batch * n : (batch + 1) * n]).to(networks.device)
            noised = draw_noised(images[rows], labels[rows], generator(SEED, "batch", 0, batch), T_MIN, 0.0)
            with torch.no_grad():
                features = extractor.features(noised.x_vp, noised.t)
            logits = head(features, noised.t, None if classes is None else classes[rows]).squeeze(1)
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(logits, noised.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return _gradients(head)

    return Way(finished(run, networks.device), return_memory)


def _discriminator(networks: Networks, images: Tensor, n: int, compute: Compute, frozen: Frozen) -> Way:
    return _discriminators(networks, images, n, compute, frozen, [1])


def _discriminators(
    networks: Networks, images: Tensor, n: int, compute: Compute, frozen: Frozen, passes: list[int]
) -> Way:
    """Training of as many heads as are summed up, each number of them in one pass."""
    heads, device = [copy.deepcopy(head) for head in networks.heads[: sum(passes)]], networks.device
    labels, classes = _targets(len(images), device), networks.classes(len(images))
    grid = GridFeatures(
        torch.zeros(1, *networks.extractor.feature_shape, device=device),
        torch.full((1,), 0.5, device=device),
        np.full(1, 0.5),
        torch.zeros(1, device=device),
        networks.classes(1),
        np.arange(1),
        BatchSize(1, nothing),
    )
    told = MemberSettings(SEED, 1, RATE, 0.0, T_MIN, n, True, True, False, 0.0, "last", 2, SEED)

    def features(x_vp: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), frozen.compute.autocast():
            found: Tensor = frozen.extractor.features(x_vp, t)
        return found if compute.mode == "bfloat16" else found.float()

    def run() -> Tensor:
        rows, waiting = np.arange(len(images)), iter(heads)
        for count in passes:
            head, *others = itertools.islice(waiting, count)
            beside = [Trainee(other, told, NoCheckpoints(), nothing, nothing) for other in others]
            rest = (*_surroundings(compute, n), beside)
            train_discriminator(features, head, images, labels, classes, rows, grid, told, *rest)
        return torch.cat([_gradients(head) for head in heads])

    return Way(finished(run, device), keep_memory)


def _extractor_plainly(networks: Networks, images: Tensor, n: int) -> Way:
    network, labels = copy.deepcopy(networks.plain.extractor).train(), _classes(networks, len(images))

    def run() -> Tensor:
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
        for iteration in range(STEPS):
            rng = generator(SEED, "extractor", iteration, 0)
            rows = torch.from_numpy(rng.integers(len(images), size=n)).to(networks.device)
            noised = draw_noised(images[rows], labels[rows], rng, T_MIN, 0.5)
            optimizer.zero_grad()
            cross_entropy(network(noised.x_vp, noised.t), noised.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return _gradients(network)

    return Way(finished(run, networks.device), return_memory)


def _extractor(networks: Networks, images: Tensor, n: int, compute: Compute, frozen: Frozen) -> Way:
    del frozen
    network, labels = copy.deepcopy(networks.extractor), _classes(networks, len(images))

    def run() -> Tensor:
        train_extractor(network, images, labels, _schedule(n), T_MIN, 0.5, *_surroundings(compute, n))
        return _gradients(network)

    return Way(finished(run, networks.device), keep_memory)


def _score_plainly(networks: Networks, images: Tensor, n: int) -> Way:
    network, labels = copy.deepcopy(networks.plain.score).train(), networks.labels(len(images))

    def run() -> Tensor:
        optimizer, average = torch.optim.Adam(network.parameters(), lr=RATE), copy.deepcopy(network)
        for iteration in range(STEPS):
            rng = generator(SEED, "score", iteration, 0)
            rows = torch.from_numpy(rng.integers(len(images), size=n)).to(networks.device)
            clean = scaled(images[rows])
            z = torch.from_numpy(rng.standard_normal(n, dtype=np.float32)).to(networks.device)
            noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(networks.device)
            sigma = lognormal_sigmas(z, P_MEAN, P_STD)
            torch.manual_seed(torch_seed(SEED, "dropout", iteration))
            denoised = network(clean + sigma.view(-1, 1, 1, 1) * noise, sigma, None if labels is None else labels[rows])
            optimizer.zero_grad()
            edm_loss(denoised, clean, sigma, SIGMA_DATA).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                    kept.copy_(EMA_DECAY * kept + (1 - EMA_DECAY) * new)
        return _gradients(network)

    return Way(finished(run, networks.device), return_memory)


def _score(networks: Networks, images: Tensor, n: int, compute: Compute, frozen: Frozen) -> Way:
    del frozen
    network, labels = copy.deepcopy(networks.score), networks.labels(len(images))
    constants = (P_MEAN, P_STD, SIGMA_DATA, EMA_DECAY)

    def run() -> Tensor:
        train_score(network, images, labels, _schedule(n), *constants, *_surroundings(compute, n))
        return _gradients(network)

    return Way(finished(run, networks.device), keep_memory)


def _schedule(n: int) -> Schedule:
    return Schedule(SEED, STEPS, n, RATE, 0.0, 1.0, CLIP, STEPS + 1)


def _surroundings(compute: Compute, n: int) -> tuple[Any, ...]:
    return compute, BatchSize(n, nothing), NoCheckpoints(), nothing, nothing


def _images(networks: Networks, count: int) -> Tensor:
    images = np.random.default_rng(SEED).integers(0, 256, (count, *networks.shape), dtype=np.uint8)
    return torch.from_numpy(images).to(networks.device)


def _targets(count: int, device: torch.device) -> Tensor:
    return (torch.arange(count, device=device) % 2).float()


def _classes(networks: Networks, count: int) -> Tensor:
    return torch.arange(count, device=networks.device) % networks.blueprints.pictures.classes


def _gradients(network: nn.Module) -> Tensor:
    gradients: Iterable[Tensor | None] = (parameter.grad for parameter in network.parameters())
    return torch.cat([gradient.detach().flatten() for gradient in gradients if gradient is not None])

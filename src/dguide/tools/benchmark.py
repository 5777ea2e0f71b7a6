"""Command `benchmark`: this project against the baseline, in turn in one process.

The baseline is what the published code computes, in float32, with this project's networks and sampler: parameters ask
for gradients, the backward pass computes attention again (Chen et al. 2016), and torch and glibc have their defaults.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import timer  # waits for a GPU
from torch.utils.checkpoint import checkpoint

from dguide.settings import Config, Layout, plain
from discriminator_guidance.core import runtime
from discriminator_guidance.core.files import write_json
from discriminator_guidance.core.runtime import Compute, Network
from discriminator_guidance.core.settings import ExtractorNetworkSettings, HeadSettings
from discriminator_guidance.metrics.distances import Gaussian, distance_of_gaussians
from discriminator_guidance.metrics.features import INCEPTION_FEATURES, FidNetwork, InceptionFeatures
from discriminator_guidance.networks import adm, layers
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP, DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import sample

Call = Callable[[int], object]  # of a number of images
EDM_CIFAR10: dict[str, Any] = {"channel_mult": (2, 2, 2), "augment_dim": 9}  # of the released network
CLASSES = 10  # no calls of released classifiers reach their logits
SAMPLER = {"steps": 3, "w2": 0.0}  # 5 denoiser evaluations and 2 of guidance, nearly the 35 to 15 of 18 steps
MOST_ROUNDS = 15  # of calls
EDGE = 1024  # of the matrices of `Calls.product`
# glibc's own thresholds after the first large block was freed, by parameters of mallopt(3); -3 is M_MMAP_THRESHOLD.
RETURNED = {runtime.M_MMAP_MAX: 65536, -3: 2**25, runtime.M_TRIM_THRESHOLD: 2**26, runtime.M_TOP_PAD: 2**17}
MANY, WIDEST = layers.MANY, layers.WIDEST


@dataclass(frozen=True)
class Calls:
    """Calls of a profile's networks at their real size, unconditional and with random weights, for images (C, H, W)."""

    config: Config
    shape: tuple[int, int, int]
    frozen: Compute
    training: Compute
    published: bool = False  # as the baseline

    def sampler(self, *heads: HeadSettings) -> Call:
        """A short run of the sampler, guided by heads in its Euler steps."""
        network, guidance = self._placed(self._network("score")), self._guidance(heads)
        draw = self.frozen.autocast()(partial(sample, guidance=guidance, device=self.frozen.device, **SAMPLER))
        return lambda n: draw(network, (n, *self.shape))

    def denoiser(self) -> Call:
        """One evaluation of the score network."""
        denoiser = torch.no_grad()(self.frozen.autocast()(self._placed(self._network("score"))))
        return lambda n: denoiser(*self._images(n))

    def guidance(self, *heads: HeadSettings | int) -> Call:
        """One evaluation of the guidance, at a VP time that is guided."""
        guidance = self.frozen.autocast()(self._guidance(heads))
        return lambda n: guidance(*self._images(n))

    def features(self) -> Call:
        """Features for distances."""
        network = self._network("fid_network").eval().requires_grad_(False)
        return lambda n: network.features(self._images(n)[0])

    def product(self, device: str | None = None) -> Call:
        """A product of two matrices in float64, to which metrics are related, on the networks' device or another."""
        factor = torch.ones(EDGE, EDGE, dtype=torch.float64, device=device or self.frozen.device)
        return lambda _: factor @ factor

    def training_step(self, word: str) -> Call:
        """A step of training the network of stage `word`."""
        network = self._network(word)
        return self._step(network, lambda x, t: network(x) if word == "fid_network" else network(x, t))

    def head_step(self, size: HeadSettings | int) -> Call:
        """A step of training a head on the extractor's features, or a whole network of this width."""
        extractor = self._placed(self._network("extractor"))
        features = self.frozen.autocast()(extractor.features)
        head = self._head(extractor, size).to(self.frozen.device)
        head = as_published(head) if self.published else head
        return self._step(head, lambda x, t: head(x if isinstance(size, int) else features(x, t), t))

    def _step(self, network: nn.Module, output: Callable[[Tensor, Tensor], Tensor]) -> Call:
        optimizer = torch.optim.Adam(network.parameters(), fused=True)

        def step(n: int) -> None:
            with self.training.autocast():
                loss = output(*self._images(n)).float().square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _head(self, extractor: adm.EncoderUNet, size: HeadSettings | int) -> nn.Module:
        if isinstance(size, int):
            return adm.NoisyImageCNN(self.shape, size)
        return adm.build_head(extractor.feature_shape, **plain(size))

    def _guidance(self, heads: Sequence[HeadSettings | int]) -> DiscriminatorGuidance:
        extractor = self._placed(self._network("extractor"))
        sized = [self._placed(self._head(extractor, size)) for size in heads]
        members = adm.MemberLogits(extractor, *sized).requires_grad_(self.published)
        return DiscriminatorGuidance(members, clip=PROBABILITY_CLIP)

    def _network(self, word: str) -> Any:
        settings, (channels, size, _) = getattr(self.config, word), self.shape
        trained = settings.source == "train"
        if word == "score":
            arguments = {"sigma_data": settings.sigma_data, **plain(settings.network)} if trained else EDM_CIFAR10
            network: nn.Module = EDMPrecond(size, channels, 0, **arguments)
        elif word == "extractor":
            arguments = plain(settings.network if trained else ExtractorNetworkSettings())
            network = adm.build_extractor(size, channels, CLASSES, **arguments)
        elif trained:
            network = FidNetwork(size, channels, settings.channels, settings.features, CLASSES)
        else:
            network = InceptionFeatures(None)
        return network.to(self.frozen.device)

    def _placed(self, network: Network) -> Network:
        return as_published(network).to(self.frozen.device) if self.published else self.frozen.place(network)

    def _images(self, n: int) -> tuple[Tensor, Tensor]:
        """Noise, and a noise level or VP time of 1 for each image."""
        return torch.randn(n, *self.shape, device=self.frozen.device), torch.ones(n, device=self.frozen.device)


def real_images(config: Config, layout: Layout) -> tuple[tuple[int, int, int], int, int]:
    """Shape (C, H, W) and numbers of training and held-out images: of the data card, or a guess before stage `real`."""
    source, size, fakes = config.real.source, config.real.image_size, config.fake.images
    known = {"fashion": (60000, 10000), "cifar10": (50000, 10000)}.get(source, (fakes, fakes // 5))
    train, holdout, _, channels = layout.card() or (*known, CLASSES, 1 if source in ("digits", "fashion") else 3)
    return (channels, size, size), train, holdout


def as_published(network: Network) -> Network:
    """The network with parameters that ask for gradients and attention that the backward pass computes again."""
    for module in network.modules():
        if isinstance(module, adm.AttentionBlock):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network.requires_grad_(True).eval()


def switch(published: bool) -> None:
    """Switch what exists only because of CPUs off for the baseline, and on for this project."""
    layers.MANY, layers.WIDEST = (sys.maxsize, 0) if published else (MANY, WIDEST)
    runtime.tune_malloc(RETURNED if published else runtime.KEPT)


def benchmark(config: Config, layout: Layout, seconds: float, file: Path) -> list[dict[str, Any]]:
    """Time the rows for about so many seconds and write them to a file; returns the table that is printed."""
    compute = runtime.prepare(config.runtime.device, "auto", min(config.runtime.threads, os.cpu_count() or 1))
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    conditions = {
        "profile": config.profile,
        "device": torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # mean number of running processes in the last minute
        "torch": torch.__version__,
    }
    table = list[dict[str, Any]]()
    with runtime.progress("timing", 3 + (compute.mode == "bfloat16"), "rows") as advance:
        for name, share, batch, *calls in rows_of(config, real_images(config, layout)[0], compute):
            images, rounds = timed(calls, batch, share * seconds)
            baseline, ours = map(median, zip(*rounds, strict=True))
            seconds_of = {"reference_s": baseline, "ours_s": ours, "ratio": baseline / ours, "rounds": len(rounds)}
            table.append({"name": name, "images": images, **seconds_of})
            advance(1)
    write_json(file, [{**row, "conditions": conditions} for row in table])
    return table


def rows_of(
    config: Config, shape: tuple[int, int, int], compute: Compute
) -> Iterator[tuple[str, float, int, Call, Call]]:
    """Name, share of the seconds, images at the most, baseline and ours of each row; bfloat16 where it is native."""
    float32, head = Compute(compute.device, "float32"), next(iter(config.members.values())).network
    published, ours = Calls(config, shape, float32, float32, True), Calls(config, shape, compute, compute)
    images, pairs = config.guided.batch_size, config.discriminator.batch_size
    yield "discriminator_training", 0.35, pairs, published.head_step(head), ours.head_step(head)
    if compute.mode == "bfloat16":
        yield "guided_bf16", 0.25, images, published.sampler(head), ours.sampler(head)
    yield f"frechet_{INCEPTION_FEATURES}", 0.2, 1, *frechet_distances(INCEPTION_FEATURES)
    yield "guided_fp32", 0.2, images, published.sampler(head), Calls(config, shape, float32, float32).sampler(head)


def frechet_distances(width: int) -> tuple[Call, Call]:
    """The distance of two Gaussians by scipy's root of the product of the covariances, and ours."""
    from scipy.linalg import sqrtm

    factors = np.random.default_rng(0).standard_normal((2, width, width)) / width**0.5
    first, second = (factor @ factor.T + np.eye(width) for factor in factors)

    def ours(_: int) -> float:
        sets = [Gaussian(torch.zeros(width), torch.linalg.cholesky(torch.from_numpy(c)).T) for c in (first, second)]
        return distance_of_gaussians(sets[0], sets[1])

    return lambda _: np.trace(first) + np.trace(second) - 2 * np.trace(sqrtm(first @ second).real), ours


def timed(calls: Sequence[Call], batch: int, budget: float) -> tuple[int, list[list[float]]]:
    """The images in a call, at most `batch`, and the seconds of each call in each round, for about `budget` seconds."""
    # Calls take turns, the baseline before ours: whatever else the machine does meets them alike.
    began, n, rounds = timer(), 1, list[list[float]]()
    while len(rounds) < MOST_ROUNDS:
        rounds.append([])
        for number, call in enumerate(calls, 1):
            switch(published=number < len(calls))  # ours is the last, or the only one
            call(n)  # memory and caches
            runtime.barrier()  # processes of torchrun call together
            before = timer()
            call(n)
            rounds[-1].append(timer() - before)
        took, left = runtime.broadcast((2 * sum(rounds[-1]), budget - (timer() - began)))
        more = max(int(left / took / 2), 8 * (n == 1 and took < 1))  # one image tells little of many
        if n < batch and more >= 2:
            n, rounds = min(batch, n * more), []
        elif left < took:
            break
    return n, rounds

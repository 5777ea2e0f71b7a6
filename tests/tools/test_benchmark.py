"""The benchmark: the baseline computes the same as this project, and both are timed in turn."""

import json
from copy import deepcopy

import pytest
import torch

from dguide.tools import benchmark
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.networks import layers
from discriminator_guidance.networks.adm import MemberLogits, build_extractor, build_head
from tests.stages.conftest import tiny_settings, write_params
from tests.standins import alive

ROWS = ["discriminator_training", "frechet_24", "guided_fp32"]


@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_the_file_has_what_is_printed(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "INCEPTION_FEATURES", 24)
    monkeypatch.setattr(benchmark.runtime, "prepare", lambda *_: Compute(torch.device("cpu"), mode))
    config, layout = write_params(tmp_path, tiny_settings())
    table = benchmark.benchmark(config, layout, 0.1, tmp_path / "benchmark.json")
    rows = json.loads((tmp_path / "benchmark.json").read_text())
    names = ROWS if mode == "float32" else [ROWS[0], "guided_bf16", *ROWS[1:]]
    assert [row["name"] for row in table] == [row["name"] for row in rows] == names
    assert all(row["ratio"] == pytest.approx(row["reference_s"] / row["ours_s"]) and row["rounds"] for row in rows)


def test_the_baseline_has_the_same_gradients_and_computes_attention_again():
    torch.manual_seed(0)
    network = {"model_channels": 8, "num_res_blocks": 1, "num_head_channels": 8, "dropout": 0.0}
    extractor = alive(build_extractor(16, 1, 10, [8], channel_mult=[1, 2], **network))
    members = MemberLogits(extractor, alive(build_head(extractor.feature_shape, **network))).requires_grad_(True)
    published, calls, gradients = benchmark.as_published(deepcopy(members)), [], []
    published.networks[0].middle_block[1].norm.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 1, 16, 16, requires_grad=True)
    for network, switched in ((members, False), (published, True)):
        benchmark.switch(switched)
        logits = network(x, torch.tensor(0.5)).sum()
        used = [parameter for name, parameter in network.named_parameters() if ".out." not in name or "heads" in name]
        gradients.append(torch.autograd.grad(logits, (x, *used)))
    benchmark.switch(False)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert (len(calls), layers.WIDEST) == (2, 64)


@pytest.mark.parametrize(("budget", "images", "rounds"), [(2.0, 1, 1), (39.0, 2, 2), (100.0, 7, 2), (300.0, 7, 7)])
def test_calls_take_turns_with_more_and_more_images_until_the_seconds_end(monkeypatch, budget, images, rounds):
    now, log = [0.0], []

    def call_of(name: str, seconds: float):
        def call(n: int) -> None:
            log.append((name, n))
            now[0] += n * seconds

        return call

    monkeypatch.setattr(benchmark, "timer", lambda: now[0])
    n, times = benchmark.timed([call_of("baseline", 2.0), call_of("ours", 1.0)], 7, budget)
    assert log[:4] == [("baseline", 1)] * 2 + [("ours", 1)] * 2
    assert (n, times) == (images, [[2.0 * images, 1.0 * images]] * rounds)
    assert now[0] <= budget + 6

"""The rows of the benchmark on a tiny profile: the baseline computes the same as this project, and the file says so."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from discriminator_guidance.benchmark import baseline, run
from discriminator_guidance.benchmark.networks import Networks
from discriminator_guidance.benchmark.timing import timed
from discriminator_guidance.config import Config
from discriminator_guidance.networks.adm import AttentionBlock
from discriminator_guidance.networks.precision import Compute
from tests.stages.conftest import tiny_settings

CPU = torch.device("cpu")
PEAKS = {"convolution fp32": 1e9, "convolution bf16": 1e9, "gemm fp64": 1e9}
READ = (  # by the report
    "name", "reference_s", "ours_s", "ratio", "flops", "peak", "peak_flops", "percent_of_peak", "rounds", "conditions",
)  # fmt: skip
NAMES = {
    "guided_fp32", "unguided", "guidance_call", "guided_six_members", "discriminator_training", "frechet_24",
}  # fmt: skip


def tiny(cond: bool = False) -> Config:
    return Config.model_validate_json(json.dumps(tiny_settings({"cond": cond})))


def rows_of(mode: str, cond: bool = False):
    networks = Networks(tiny(cond), (1, 8, 8), 10)
    rows = run.rows_of(networks, Compute(CPU, mode))
    return {row.name: timed(row, 0.0, PEAKS, baseline.prepare) for row in rows}


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.frechet_row, "__defaults__", (24,))
        yield


@pytest.mark.parametrize("cond", [False, True])
def test_the_baseline_computes_the_same_in_float32(cond):
    rows = rows_of("float32", cond)
    assert set(rows) == NAMES
    assert {name: row["max_abs_difference"] for name, row in rows.items() if row["max_abs_difference"] > 1e-4} == {}


def test_rows_in_bfloat16_are_near():
    rows = rows_of("bfloat16")
    assert set(rows) == NAMES | {"guided_bf16"}
    rounded = set(rows) - {"guided_fp32", "frechet_24"}
    assert all(0 < rows[name]["max_abs_difference"] < 2 for name in rounded)
    assert rows["guided_bf16"]["flops"] == rows["guided_fp32"]["flops"] > 0


def test_the_file_has_what_the_report_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "measured_peaks", lambda device: PEAKS)
    monkeypatch.setattr(run, "PATIENCE", math.inf)
    file = tmp_path / "benchmark.json"
    table, peaks = run.benchmark(tiny(), 0.1, file)
    rows = json.loads(file.read_text())
    assert [row["name"] for row in rows] == [line["row"] for line in table]
    assert all(set(READ) <= set(row) for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert {"profile", "device", "threads", "load", "torch"} <= set(rows[0]["conditions"])
    assert peaks["gemm fp64"] == "1"


def test_no_group_begins_after_the_seconds_are_used(monkeypatch, capsys):
    monkeypatch.setattr(run, "measured_peaks", lambda device: PEAKS)
    now = iter(range(1000))
    monkeypatch.setattr(run, "perf_counter", lambda: float(next(now)))
    table, _ = run.benchmark(tiny(), 1.5, None)  # the second group would begin after 2 s
    assert {line["row"] for line in table} <= {"guided_fp32", "guided_bf16", "discriminator_training"}
    assert "frechet" in capsys.readouterr().err


def test_attention_is_computed_again_in_the_backward_pass_with_the_same_gradients():
    torch.manual_seed(0)
    block = nn.Sequential(AttentionBlock(16, 8))
    nn.init.normal_(block[0].proj_out.weight)
    published, calls = baseline.as_published(block), []
    published[0].norm.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 16, 4, 4, requires_grad=True)
    gradients = []
    for network in (block, published):
        inputs = (x, *network.parameters())
        gradients.append(torch.autograd.grad(network(x).square().sum(), inputs))
    torch.testing.assert_close(*gradients)
    assert len(calls) == 2

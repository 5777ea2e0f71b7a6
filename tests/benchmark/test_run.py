"""The benchmark's rows on a tiny study: their names, that both ways do the same, and that the file says so."""

from __future__ import annotations

import json

import pytest
import torch

from discriminator_guidance.benchmark.groups import Comparison, as_json, printed, row
from discriminator_guidance.benchmark.metrics import feature_group, frechet_group, manifold_group
from discriminator_guidance.benchmark.run import GROUPS, machine
from discriminator_guidance.benchmark.sampling import Frozen, Networks, part_groups, sampling_groups
from discriminator_guidance.benchmark.timing import Timed, interleaved
from discriminator_guidance.benchmark.training import training_groups
from discriminator_guidance.config import parse_config
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.planning.blueprints import Blueprints, Pictures
from discriminator_guidance.planning.tracing import Traces
from tests.stages.conftest import tiny_settings

CPU = torch.device("cpu")
PEAKS = {f"{kind} {name}": 1e9 for kind in ("gemm", "convolution") for name in ("fp32", "bf16", "fp64")}
NETWORK_ROWS = [
    "unguided_fp32",
    "unguided_bf16",
    "guided_fp32",
    "guided_bf16",
    "guided_six_members",
    "edm_forward_fp32",
    "edm_forward_bf16",
    "guidance_call_fp32",
    "guidance_call_bf16",
    "frozen_features_fp32",
    "frozen_features_bf16",
    "discriminator_training",
    "six_members_training",
    "extractor_training",
    "score_training",
    "fid_features",
]


@pytest.fixture(scope="module")
def rows():
    settings = tiny_settings()
    for section in ("discriminator", "evaluation"):
        settings[section]["batch_size"] = 16
    blueprints = Blueprints(parse_config(settings, "configs/tiny.yaml"), Pictures(8, 1, 10, 100, 20))
    networks = Networks(blueprints, Traces(blueprints), CPU)
    ways = {"fp32": Frozen(networks, Compute(CPU, "float32")), "bf16": Frozen(networks, Compute(CPU, "bfloat16"))}
    groups = [
        *sampling_groups(networks, ways),
        *part_groups(networks, ways),
        *training_groups(networks, Compute(CPU, "float32"), ways["fp32"]),
        feature_group(networks),
        frechet_group(24),
        manifold_group(1000, 8),
    ]
    assert len(groups) + 1 == GROUPS  # and the peaks
    found = []
    for group in groups:
        timed = interleaved(group.ways, 0.0, 1)
        found += [row(comparison, timed, PEAKS, machine(CPU, 1)) for comparison in group.comparisons]
    return {each.name: each for each in found}


def test_every_row_is_there(rows):
    assert list(rows) == [*NETWORK_ROWS, "frechet_24", "frechet_24_torch_fidelity", "precision_recall_1k"]


def test_both_ways_do_the_same(rows):
    exact = [name for name in rows if "bf16" not in name and name != "guided_six_members"]
    assert {name: rows[name].max_abs_difference for name in exact if rows[name].max_abs_difference > 2e-4} == {}
    rough = {name: rows[name].max_abs_difference for name in rows if name not in exact}
    assert all(0 < difference < 2 for difference in rough.values()), rough
    assert rows["six_members_training"].max_abs_difference == 0


def test_the_file_has_numbers_only_and_the_table_every_row(rows):
    (line, *rest) = json.loads(json.dumps(as_json(list(rows.values())), allow_nan=False))
    wanted = {"name", "reference_s", "ours_s", "ratio", "flops", "percent_of_peak", "max_abs_difference"}
    assert wanted <= set(line)
    assert len(rest) == len(rows) - 1
    assert [cells["row"] for cells in printed(list(rows.values()))] == list(rows)


def test_a_row_counts_from_medians():
    timed = {"plain": Timed(torch.zeros(2), [4.0, 6.0, 5.0]), "ours": Timed(torch.tensor([0.0, -0.5]), [2.0, 1.0, 9.0])}
    found = row(Comparison("name", "plain", "ours", 7, 1e9, "gemm fp32"), timed, PEAKS, {})
    assert (found.reference_s, found.ours_s, found.ratio, found.max_abs_difference) == (5.0, 2.0, 2.5, 0.5)
    assert found.percent_of_peak == 50.0
    assert found.ours_spread_s == (1.0, 9.0)

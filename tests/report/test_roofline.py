"""The figure of a benchmark: only where there is one, from its numbers, and a damaged file is named."""

from __future__ import annotations

import json

import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.roofline import FILE, roofline_figure
from tests.report.conftest import Maker

ROW = {
    "name": "guided_bf16",
    "reference_s": 4.0,
    "ours_s": 2.0,
    "ratio": 2.0,
    "flops": 4e11,
    "percent_of_peak": 50.0,
    "max_abs_difference": 0.01,
    "peak": "convolution bf16",
    "peak_flops": 4e11,
    "rounds": 5,
    "conditions": {"device": "a processor", "threads": 2},
}


def write(data, content: str) -> None:
    data.inputs.destination.mkdir(parents=True, exist_ok=True)
    (data.inputs.destination / FILE).write_text(content)


def test_without_a_benchmark_there_is_no_figure(make_inputs: Maker):
    assert roofline_figure(gather(make_inputs())) is None


def test_it_shows_the_numbers_of_the_file(make_inputs: Maker):
    data = gather(make_inputs())
    write(data, json.dumps([ROW, ROW | {"name": "guided_fp32"}]))
    first = roofline_figure(data)
    assert first is not None
    assert "device a processor, threads 2" in first.caption
    write(data, json.dumps([ROW, ROW | {"name": "guided_fp32", "ours_s": 1.0}]))
    second = roofline_figure(data)
    assert second is not None
    assert first.png != second.png


@pytest.mark.parametrize("content", ["not JSON", "7", json.dumps([{"name": "guided_bf16"}])])
def test_a_damaged_file_is_named(make_inputs: Maker, content: str):
    data = gather(make_inputs())
    write(data, content)
    with pytest.raises(InputError, match=FILE):
        roofline_figure(data)

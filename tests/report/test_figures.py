"""Figures: deterministic PNGs without metadata, right panels, states visible at every noise level."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.errors import InputError
from discriminator_guidance.report import figures, samples
from discriminator_guidance.report.gather import BENCHMARK, gather

from .conftest import VARIANTS, Maker, write_json


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are finished, as matplotlib objects."""
    kept: list[Figure] = []
    finish = figures.finish

    def keep(figure: Figure, *rest: Any, **facts: Any) -> figures.Drawing:
        kept.append(figure)
        return finish(figure, *rest, **facts)

    for module in (figures, samples):
        monkeypatch.setattr(module, "finish", keep)
    return kept


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_pngs_are_the_same_bytes_without_text_or_dates(make_inputs: Maker) -> None:
    data = gather(make_inputs(channels=3))
    for draw, mode in ((figures.fid_figure, "P"), (samples.samples_figure, "RGBA")):
        png = draw(data).png
        assert png == draw(data).png
        with Image.open(io.BytesIO(png)) as image:
            assert image.mode == mode, "a palette for lines, every colour for images"
            assert set(image.info) <= {"dpi"}


def test_fid_figure_has_every_variant_and_its_numbers(make_inputs: Maker, drawn: list[Figure]) -> None:
    figures.fid_figure(gather(make_inputs(changes={"d0": {"fid": 0.1, "fid_low": -0.1, "fid_high": 0.3}})))
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(VARIANTS)
    assert "0.10 [-0.10, 0.30]" in [text.get_text() for text in left.texts]
    assert right.texts[0].get_text() == "-0.50 [-0.60, -0.40]", "edm has no difference from itself"


def test_curves_and_calibration_have_a_panel_for_each_member(make_inputs: Maker, drawn: list[Figure]) -> None:
    inputs = make_inputs()
    released = inputs.report / "discriminator" / "d2" / "history.csv"
    released.write_text(released.read_text().splitlines()[0] + "\n")
    data = gather(inputs)
    figures.curves_figure(data)
    figures.calibration_figure(data)
    assert titles(drawn[0]) == ["D0", "D1", "", ""], "a released head has no curves"
    assert titles(drawn[1]) == ["D0", "D1", "D2"]
    _, train, *_ = drawn[0].axes[1].get_lines()
    assert train.get_ydata().tolist() == data.members[1].history["train_loss"].tolist()


def test_guidance_figure_draws_the_medians(make_inputs: Maker, drawn: list[Figure]) -> None:
    data = gather(make_inputs())
    figures.guidance_figure(data)
    assert titles(drawn[0]) == ["d0", "mean_prob", "clip_logit"]
    median = drawn[0].axes[0].get_lines()[0]
    log_ratio = data.trajectories["d0"]["log_ratio"][:-1]
    np.testing.assert_allclose(median.get_ydata(), np.median(log_ratio, axis=1), rtol=1e-6)
    assert median.get_xdata().tolist() == list(range(1, len(log_ratio) + 1))


def test_roofline_has_a_row_for_each_benchmark(make_inputs: Maker, drawn: list[Figure]) -> None:
    inputs = make_inputs()
    row = dict.fromkeys(BENCHMARK, 2.0) | {"name": "guided", "conditions": {"threads": 2}}
    write_json(inputs.report / "benchmark.json", [row])
    figures.roofline_figure(gather(inputs))
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["guided"]
    write_json(inputs.report / "benchmark.json", [{"name": "guided"}])
    with pytest.raises(InputError, match=r"benchmark\.json"):
        gather(inputs)


def test_vp_time_agrees_with_the_sampler() -> None:
    sigmas = [0.0, 0.002, 0.5, 3.0, 80.0]
    expected = tau_from_sigma(torch.tensor(sigmas, dtype=torch.float64)).tolist()
    assert [samples.vp_time(sigma) for sigma in sigmas] == pytest.approx(expected, abs=1e-12)


def test_process_figure_shows_the_sample_that_guidance_changes_most(make_inputs: Maker, drawn: list[Figure]) -> None:
    data = gather(make_inputs())
    guided = data.trajectories["d0"]
    guided["states"][-1, 1] += 0.25
    guided["states"][-1, 0, 0, 0] += 0.5  # a larger change, but of one pixel only
    facts = samples.process_figure(data).facts
    assert facts["index"] == 1_000_001
    assert float(facts["scale"]) == pytest.approx(
        0.125, abs=0.006
    )  # half of 0.25: the grey range is [-1, 1] before it is shown
    assert len(drawn[0].axes) == 6 * 8


def test_process_figure_takes_a_guided_variant_with_the_same_noise_levels(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    data.trajectories["d0"]["sigma"][0] = 70.0
    assert samples.process_figure(data).facts["guided"] == "mean_prob"

"""Figures: deterministic PNGs without metadata, states visible at every noise level, VP time as elsewhere."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.errors import InputError
from discriminator_guidance.report.calibration_chart import calibration_figure
from discriminator_guidance.report.fid_chart import fid_figure
from discriminator_guidance.report.figures import curves_figure, guidance_figure
from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.pictures import most_changed, process_figure, samples_figure, visible, vp_time
from tests.report.conftest import Maker


def chunks(png: bytes) -> list[bytes]:
    names, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        names.append(png[place + 4 : place + 8])
        place += length + 12
    return names


def test_pngs_carry_no_text_or_dates_and_ignore_the_users_style(make_inputs: Maker) -> None:
    import matplotlib

    data = gather(make_inputs())
    first = fid_figure(data)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):
        second = fid_figure(data)
        assert matplotlib.rcParams["font.size"] == 20, "the caller's style is left alone"
    assert first is not None
    assert first == second
    assert set(chunks(first.png)) <= {b"IHDR", b"pHYs", b"PLTE", b"IDAT", b"IEND"}


def test_figures_change_with_the_numbers(make_inputs: Maker) -> None:
    before = fid_figure(gather(make_inputs()))
    after = fid_figure(gather(make_inputs(changes={"d0": {"fid": 9.0, "fid_ci95": [8.0, 10.0]}})))
    assert before is not None
    assert after is not None
    assert before.png != after.png


def test_figures_without_data_are_left_out(make_inputs: Maker) -> None:
    data = gather(make_inputs(members=()))
    assert curves_figure(data) is None


def test_guidance_outside_the_window_is_not_drawn(make_inputs: Maker) -> None:
    data = gather(make_inputs(variants=("edm", "d0")))
    data.trajectories["d0"].log_ratio[:] = np.inf
    assert guidance_figure(data) is None


def test_vp_time_agrees_with_the_sampler() -> None:
    sigmas = [0.0, 0.002, 0.5, 3.0, 80.0]
    expected = tau_from_sigma(torch.tensor(sigmas, dtype=torch.float64)).tolist()
    assert [vp_time(sigma) for sigma in sigmas] == pytest.approx(expected, abs=1e-12)


def test_states_are_visible_at_every_noise_level() -> None:
    random = np.random.default_rng(0)
    clean = random.uniform(-1, 1, (16, 16, 1))
    np.testing.assert_allclose(visible(clean, 0.0, 0.5), (clean + 1) / 2, rtol=0, atol=1e-12)
    for sigma in (0.5, 5.0, 80.0):
        shown = visible(clean + sigma * random.standard_normal(clean.shape), sigma, 0.5)
        assert 0.15 < shown.std() < 0.35, sigma
        assert ((shown == 0) | (shown == 1)).mean() < 0.1, sigma


def test_variants_that_do_not_share_seeds_or_noise_levels_are_refused(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    data.samples["d0"].index[0] += 1
    with pytest.raises(InputError, match="other indices"):
        samples_figure(data)
    data.trajectories["d0"].sigma[0] = 70.0
    with pytest.raises(InputError, match="other noise levels"):
        process_figure(data)


def test_process_figure_shows_the_sample_that_guidance_changes_most(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    edm, guided = data.trajectories["edm"], data.trajectories["d0"]
    guided.states[-1, 1] += 0.25
    guided.states[-1, 0, 0, 0] += 0.5  # a larger change, but of one pixel only
    assert most_changed(edm, guided) == 1
    figure = process_figure(data)
    assert figure is not None
    assert "sample index 1,000,001" in figure.caption
    assert "Of the first 2 samples, this is the one that guidance changes most" in figure.caption
    assert "full colour at ±0.12" in figure.caption  # half of 0.25: the grey range is [-1, 1] before it is shown


def test_unguided_process_needs_no_difference(make_inputs: Maker) -> None:
    figure = process_figure(gather(make_inputs(variants=("edm",))))
    assert figure is not None
    assert "Row 6" not in figure.caption


def test_calibration_leaves_out_thin_bins_and_says_how_many(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    full = calibration_figure(data)
    data.members[0].calibration.loc[0, "count"] = 9
    thin = calibration_figure(data)
    assert full is not None
    assert thin is not None
    assert "not drawn: 0 of" in full.caption
    assert "not drawn: 1 of" in thin.caption
    assert "pairs for each line" in thin.caption
    assert full.png != thin.png


def test_bounds_that_reach_below_zero_are_drawn(make_inputs: Maker) -> None:
    figure = fid_figure(gather(make_inputs(changes={"d0": {"fid": 0.1, "fid_ci95": [-0.1, 0.3]}})))
    assert figure is not None

"""Stage `fake`: the samples that discriminators learn from."""

from __future__ import annotations

import numpy as np

from .conftest import Tiny, run_stage


def test_samples_of_the_declared_indices(tiny: Tiny) -> None:
    run_stage("fake", tiny)
    drawn = np.load(tiny[1].fake / "samples.npz")
    assert set(drawn) == {"images", "index"}
    assert drawn["index"].tolist() == list(range(40))
    assert drawn["images"].shape == (40, 8, 8, 1)
    assert drawn["images"].dtype == np.uint8
    assert drawn["images"].std() > 5
    assert (tiny[1].fake / "grid.png").is_file()
    assert not list(tiny[1].partial.iterdir())

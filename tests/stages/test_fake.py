"""Stage `fake`: the samples that discriminators learn from."""

from __future__ import annotations

import numpy as np

from .conftest import Tiny, run_stage, tiny_settings, write_params


def fakes(tiny: Tiny) -> dict[str, np.ndarray]:
    run_stage("fake", tiny)
    with np.load(tiny[1].fake / "samples.npz") as arrays:
        return dict(arrays)


def test_samples_of_the_declared_indices(tiny: Tiny) -> None:
    drawn = fakes(tiny)
    assert set(drawn) == {"images", "index"}
    assert drawn["index"].tolist() == list(range(40))
    assert drawn["images"].shape == (40, 8, 8, 1)
    assert drawn["images"].dtype == np.uint8
    assert drawn["images"].std() > 5
    assert (tiny[1].fake / "grid.png").is_file()
    assert not list(tiny[1].partial.iterdir())


def test_a_sample_is_its_index_whatever_the_batch_and_shard(tiny: Tiny) -> None:
    whole = fakes(tiny)["images"]
    other = {"images": 11, "seed": 10, "seed_start": 20, "batch_size": 5, "shard_size": 7}
    tiny = write_params(tiny[1].root, tiny_settings({"fake": other}))
    part = fakes(tiny)["images"]
    # Convolutions round differently in other batches: one grey level at most.
    assert np.abs(part.astype(int) - whole[20:31].astype(int)).max() <= 1

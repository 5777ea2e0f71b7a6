"""Of the cache, rows of exactly this set come back, or they are computed again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from discriminator_guidance.artifacts.feature_cache import cached_rows, is_whole
from tests.amount import cases, count

PROCESS, OTHER = "a" * 64, "b" * 64
SET = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)


@pytest.fixture
def cache(tmp_path):
    calls = []

    def ask(source=SET, process=PROCESS):
        def compute(images):
            calls.append(len(images))
            return images.reshape(len(images), -1) * 0.5

        return cached_rows(tmp_path, process, source, compute)

    ask.calls, ask.folder = calls, tmp_path
    return ask


def test_a_second_call_computes_nothing(cache):
    assert np.array_equal(cache(), cache())
    assert cache.calls == [3]


def test_another_set_or_process_is_computed(cache):
    cache(), cache(SET[:2]), cache(SET[::-1].copy()), cache(process=OTHER)
    assert cache.calls == [3, 2, 3, 3]


def test_the_file_of_another_set_is_not_taken(cache):
    other = SET[::-1].copy()
    cache(other)
    (foreign,) = cache.folder.glob("*.npz")
    cache()
    (own,) = set(cache.folder.glob("*.npz")) - {foreign}
    shutil.copyfile(foreign, own)
    assert np.array_equal(cache(), SET.reshape(3, -1) * 0.5)
    assert cache.calls == [3, 3, 3]


def test_a_header_that_tells_of_less_is_not_taken(tmp_path):
    source = np.zeros((1000, 2, 2, 1), np.uint8)
    asked = []

    def compute(images):
        asked.append(len(images))
        return np.ones((len(images), 128))

    def rows():
        return cached_rows(tmp_path, PROCESS, source, compute)

    rows()
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(1000, 128)", b"(1000, 108)"))  # one bit
    assert not is_whole(path)
    assert rows().shape == (1000, 128)
    assert asked == [1000, 1000]


def test_no_flipped_bit_or_lost_end_changes_a_row(cache):
    wanted = cache()
    (path,) = cache.folder.glob("*.npz")
    content = path.read_bytes()
    bits = np.random.default_rng(0).permutation(8 * len(content))[: cases(100, 3000)]
    for bit in map(int, bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        assert np.array_equal(cache(), wanted)
    for length in range(0, len(content), cases(40, 1)):
        path.write_bytes(content[:length])
        assert not is_whole(path)
        assert np.array_equal(cache(), wanted)
        assert is_whole(path), "it is written anew"
    count("bits flipped: cached features", len(bits))

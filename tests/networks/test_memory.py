"""Batches that shrink where memory does not suffice."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.errors import UserError
from discriminator_guidance.networks.memory import BatchSize


def run_with_room_for(room: int, tried: list[int]):
    def run(size: int) -> str:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return f"done with {size}"

    return run


def test_the_size_halves_until_it_fits_and_stays_there():
    said, tried = [], []
    at_once = BatchSize(100, said.append)
    assert at_once.attempt(run_with_room_for(30, tried)) == "done with 25"
    assert at_once.attempt(run_with_room_for(30, tried)) == "done with 25"
    assert tried == [100, 50, 25, 25]
    assert len(said) == 2
    assert "25 pictures" in said[-1]
    assert at_once.record() == {"halved_batches": [50, 25]}
    assert at_once.record("blocks") == {"blocks": [50, 25]}


def test_nothing_is_recorded_where_all_fits():
    at_once = BatchSize(8, lambda line: None)
    at_once.attempt(run_with_room_for(8, []))
    assert at_once.record() == {}


def test_a_resumed_run_has_the_halvings_of_both():
    tried = []
    at_once = BatchSize(16, lambda line: None)
    at_once.resume([])
    assert (at_once.size, at_once.halved) == (16, ())
    at_once.resume([8])
    at_once.attempt(run_with_room_for(5, tried))
    assert tried == [8, 4]
    at_once.resume([8])
    assert (at_once.size, at_once.record()) == (4, {"halved_batches": [8, 4]})


def test_one_picture_that_does_not_fit_is_an_error_of_one_line():
    with pytest.raises(UserError, match="one picture at a time") as caught:
        BatchSize(3, lambda line: None).attempt(run_with_room_for(0, []))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    ],
)
def test_memory_that_a_library_of_the_device_lacks_counts_too(words):
    def run(size: int) -> int:
        if size > 2:
            raise RuntimeError(words)
        return size

    assert BatchSize(8, lambda line: None).attempt(run) == 2


@pytest.mark.parametrize("words", ["shape mismatch", "CUDA error: device-side assert triggered"])
def test_other_errors_pass(words):
    def run(size: int) -> None:
        raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=words):
        BatchSize(4, lambda line: None).attempt(run)

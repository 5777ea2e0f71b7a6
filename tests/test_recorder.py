"""The queue to a slow or dead service: the computation never waits, a failing service is left in peace."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from discriminator_guidance.recorder import FAILURES_ALLOWED, Metrics, Model, Recorder, Worker

GENEROUS_S = 60.0


class Service:
    """A service that keeps what it is told and fails where it is told to."""

    sampling_interval = 3600.0

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self.batches: list[list[int]] = []
        self._failing = failing

    def log_metrics(self, batch: Sequence[Metrics]) -> None:
        """Keep the steps of a batch."""
        self.batches.append([entry.step for entry in batch])
        self._note("metrics")

    def log_artifact(self, path: Path) -> None:
        """Keep the name."""
        self._note(f"artifact {path}")

    def register(self, model: Model) -> None:
        """Keep the name."""
        self._note(f"model {model.name}")

    def sample(self) -> None:
        """Keep that a sample was taken."""
        self._note("sample")

    def end(self, status: str, time_ms: int) -> None:
        """Keep the status, and that the time lies in the past."""
        assert time_ms <= time.time_ns() // 1_000_000
        self._note(f"end {status}")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self._failing and call.startswith(self._failing):
            raise OSError(f"no {call}")


def test_events_arrive_in_order_with_samples_around_them() -> None:
    service = Service()
    worker = Worker(lambda: service)
    recorder = Recorder(worker.events)
    recorder.metrics(1, {"loss": 1.0})
    recorder.artifact(Path("a.png"))
    recorder.register("d0", Path("w"))
    worker.start()
    assert worker.finish("FINISHED", GENEROUS_S)
    assert service.calls == ["sample", "metrics", "artifact a.png", "model d0", "sample", "end FINISHED"]


def test_metrics_that_piled_up_go_out_together() -> None:
    service, opened = Service(), threading.Event()

    def open_late() -> Service:
        opened.wait(GENEROUS_S)
        return service

    worker = Worker(open_late)
    worker.start()
    recorder = Recorder(worker.events)
    for step in range(200):
        recorder.metrics(step, {"loss": 1.0})
    opened.set()
    assert worker.finish("FINISHED", GENEROUS_S)
    assert service.batches == [list(range(200))]


def test_the_computation_goes_on_while_the_service_hangs() -> None:
    service, answer = Service(), threading.Event()

    def hang() -> Service:
        answer.wait(GENEROUS_S)
        return service

    worker = Worker(hang)
    worker.start()
    Recorder(worker.events).metrics(1, {"loss": 1.0})
    assert not worker.finish("FINISHED", 0.05)
    assert worker.problem is None
    # Given up, it does no more when it comes back to life.
    answer.set()
    worker.join(GENEROUS_S)
    assert service.calls == []


def test_a_service_that_does_not_open_is_a_problem_not_an_error() -> None:
    def refuse() -> Service:
        raise OSError("refused")

    worker = Worker(refuse)
    worker.start()
    Recorder(worker.events).artifact(Path("a.png"))
    assert not worker.finish("FINISHED", GENEROUS_S)
    assert str(worker.problem) == "refused"


def test_a_service_that_keeps_failing_is_left_in_peace_but_told_the_end() -> None:
    service = Service(failing="artifact")
    worker = Worker(lambda: service)
    recorder = Recorder(worker.events)
    for number in range(5):
        recorder.artifact(Path(f"{number}.png"))
    worker.start()
    assert not worker.finish("FAILED", GENEROUS_S)
    assert str(worker.problem) == "no artifact 0.png"
    tries = [f"artifact {number}.png" for number in range(FAILURES_ALLOWED)]
    assert service.calls == ["sample", *tries, "end FAILED"]


def test_one_failure_does_not_lose_the_rest() -> None:
    service = Service(failing="artifact")
    worker = Worker(lambda: service)
    recorder = Recorder(worker.events)
    recorder.artifact(Path("a.png"))
    recorder.metrics(1, {"loss": 1.0})
    worker.start()
    assert not worker.finish("FINISHED", GENEROUS_S)
    assert service.calls == ["sample", "artifact a.png", "metrics", "sample", "end FINISHED"]


def test_missing_values_are_left_out() -> None:
    worker = Worker(Service)
    Recorder(worker.events).metrics(3, {"precision": None, "fid": 2})
    event = worker.events.get(timeout=GENEROUS_S)
    assert isinstance(event, Metrics)
    assert (event.step, event.values) == (3, {"fid": 2.0})


def test_a_recorder_without_a_queue_says_that_nobody_listens() -> None:
    deaf = Recorder(None)
    deaf.metrics(1, {"loss": 1.0})
    assert not deaf.listens
    assert Recorder(queue.SimpleQueue()).listens

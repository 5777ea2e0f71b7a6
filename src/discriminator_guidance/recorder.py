"""The queue between a computation and a service that may be slow, dead or absent.

The computation never waits: it drops events into a queue, which a daemon thread empties into the service.
At the end it waits for a bounded time and goes on, whatever became of the service.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

# A service that fails twice is taken for dead: each further call would cost its own time-out.
FAILURES_ALLOWED = 2


@dataclass(frozen=True)
class Metrics:
    """The metric values of one step (epoch or iteration), with the time they were recorded (Unix, ms)."""

    step: int
    values: dict[str, float]
    time_ms: int


@dataclass(frozen=True)
class Artifact:
    """A file to store a copy of."""

    path: Path


@dataclass(frozen=True)
class Model:
    """A model to register; its weights stay where they are."""

    name: str
    weights: Path
    tags: dict[str, str]


@dataclass(frozen=True)
class End:
    """The run is over since a time (Unix, ms), with status FINISHED, FAILED or KILLED."""

    status: str
    time_ms: int


Event = Metrics | Artifact | Model | End


class Service(Protocol):
    """One open run of a tracking service; every method may take long or raise."""

    sampling_interval: float

    def log_metrics(self, batch: Sequence[Metrics]) -> None:
        """Store several steps at once.

        Args:
            batch: in the order they were recorded.
        """

    def log_artifact(self, path: Path) -> None:
        """Store a copy of a file.

        Args:
            path: the file.
        """

    def register(self, model: Model) -> None:
        """Register a model.

        Args:
            model: its name, weights and tags.
        """

    def sample(self) -> None:
        """Measure the machine; called every `sampling_interval` (seconds)."""

    def end(self, status: str, time_ms: int) -> None:
        """Close the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            time_ms: when the work ended (Unix, ms); the service may be told later.
        """


class Recorder:
    """What a stage reports to; every call returns at once.

    Args:
        events: the queue, or None to record nothing.
    """

    def __init__(self, events: queue.SimpleQueue[Event] | None) -> None:
        self._events = events

    @property
    def listens(self) -> bool:
        """Whether what is recorded reaches anybody."""
        return self._events is not None

    def metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Record the values of one step.

        Args:
            step: epoch or iteration.
            values: by name; None is left out.
        """
        known = {key: float(value) for key, value in values.items() if value is not None}
        self._put(Metrics(step, known, time.time_ns() // 1_000_000))

    def artifact(self, path: Path) -> None:
        """Store a copy of a file, which has to stay in place until the run ends.

        Args:
            path: a figure, a sample grid or another small file.
        """
        self._put(Artifact(path))

    def register(self, model_name: str, weights_path: Path, tags: Mapping[str, str] = MappingProxyType({})) -> None:
        """Register a model that points at weights which stay where they are, under DVC.

        Args:
            model_name: e.g. `discriminator-mini-d0`; each call adds a version.
            weights_path: the file; its path in the project and its SHA-256 become tags.
            tags: further tags.
        """
        self._put(Model(model_name, weights_path, dict(tags)))

    def _put(self, event: Event) -> None:
        if self._events is not None:
            self._events.put(event)


class Worker(threading.Thread):
    """The thread that opens the service and empties the queue into it.

    `problem` is the first thing that went wrong, `gave_up` whether the service was taken for dead.

    Args:
        open_service: opens the run; called on this thread, may take long or raise.
    """

    def __init__(self, open_service: Callable[[], Service]) -> None:
        # A daemon, so that one that hangs in the network does not keep the process alive.
        super().__init__(name="tracking", daemon=True)
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.problem: Exception | None = None
        self.abandoned = False
        self.gave_up = False
        self._open_service = open_service
        self._failures = 0

    def finish(self, status: str, wait_s: float) -> bool:
        """End the run and wait for the service, but no longer than that.

        Args:
            status: FINISHED, FAILED or KILLED.
            wait_s: longest wait (seconds).

        Returns:
            Whether everything was delivered.
        """
        self.events.put(End(status, time.time_ns() // 1_000_000))
        self.join(wait_s)
        self.abandoned = self.is_alive()
        self.gave_up = self.gave_up or self.abandoned
        return not self.abandoned and self.problem is None

    def run(self) -> None:
        """Empty the queue until the run ends."""
        try:
            service = self._open_service()
        except Exception as error:
            self.problem, self.gave_up = error, True
            return
        batch: list[Metrics] = []
        next_sample = time.monotonic()
        while not self.abandoned:
            if (now := time.monotonic()) >= next_sample:
                self._attempt(service.sample)
                next_sample = now + service.sampling_interval
            event = self._next_event(0.0 if batch else max(0.0, next_sample - time.monotonic()))
            if isinstance(event, Metrics):
                # What waits in the queue goes out together, so a slow service gets fewer, larger batches.
                batch.append(event)
                continue
            if batch:
                self._attempt(service.log_metrics, batch)
                batch = []
            if isinstance(event, Artifact):
                self._attempt(service.log_artifact, event.path)
            elif isinstance(event, Model):
                self._attempt(service.register, event)
            elif isinstance(event, End):
                # The last sample makes sure that a run of a second has one; the status is always worth a try.
                self._attempt(service.sample)
                self._failures = 0
                self._attempt(service.end, event.status, event.time_ms)
                return

    def _next_event(self, timeout_s: float) -> Event | None:
        try:
            return self.events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _attempt(self, call: Callable[..., None], *arguments: object) -> None:
        if self._failures >= FAILURES_ALLOWED or self.abandoned:
            return
        try:
            call(*arguments)
        except Exception as error:
            self._failures += 1
            self.gave_up = self.gave_up or self._failures >= FAILURES_ALLOWED
            self.problem = self.problem or error

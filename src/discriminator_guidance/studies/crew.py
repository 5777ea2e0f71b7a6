"""Independent tasks on several processes, as they come to an end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from discriminator_guidance.errors import InputError, UserError
from discriminator_guidance.orphans import end_with_parent


def run_tasks(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[int]:
    """Run tasks that leave their results in files.

    Args:
        work: called with the values of a task; stands at the top of its module.
        tasks: in the order in which they are begun.
        workers: fresh processes; a single worker is this process itself.

    Yields:
        The place of each task when it is done.

    Raises:
        InputError: a worker was killed.
        UserError: of a task; those not begun are given up.
    """
    if workers == 1:
        for place, task in enumerate(tasks):
            work(*task)
            yield place
    elif tasks:
        yield from _shared(work, tasks, workers)


def _shared(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=end_with_parent) as pool:
        places: dict[Future[tuple[str, ...] | None], int] = {
            pool.submit(_attempt, work, task): place for place, task in enumerate(tasks)
        }
        try:
            for future in as_completed(places):
                if (error := future.result()) is not None:
                    raise UserError(*error)
                yield places[future]
        except BrokenProcessPool as error:
            raise InputError(
                "every worker to live", "one that was killed", "run the same command again; finished cells are kept"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _attempt(work: Callable[..., Any], task: tuple[Any, ...]) -> tuple[str, ...] | None:
    """Do a task; an error that a user can cure comes back as its three parts, which an exception loses on the way."""
    try:
        work(*task)
    except UserError as error:
        return error.expected, error.got, error.remedy
    return None

"""Runs stages of the tiny study by several ranks, in a process of its own that imports once and forks for every rank.

It computes nothing itself, because threads of a parent do not survive in its forks.

    python -m tests.sharing FOLDER

Folder `one` then holds the study as one process makes it; folder `<stage>-<name>` what several ranks made of that stage
on the results that one process left for it; `saved.txt` which rank kept what of its unfinished work.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.training import grid
from tests.amount import FULL
from tests.faults.nursery import forked
from tests.stages.conftest import Study, dvc_stages, import_module, tiny_settings

KILLED = 9


@dataclass(frozen=True)
class Shared:
    """A stage that several ranks run, perhaps after others were killed in the middle of it."""

    word: str
    name: str = ""
    ranks: int = 2
    killed: int = 0  # how many ranks there were in the run before, killed as soon as one had kept something
    passes: int = 1  # in how many a batch is trained on by one process

    @property
    def folder(self) -> str:
        kind = ["resumed" * bool(self.killed), "passes" * (self.passes > 1)]
        return "-".join(filter(None, [self.word, self.name, *kind]))


SAMPLED = (
    Shared("fake"),
    Shared("guided", "edm", ranks=4),  # one more than there are shards
    Shared("guided", "d0_table1", killed=1),
    Shared("evaluation", "d0_table1"),
)
# Extractor and FID network are trained by the loop of the score network, so that they can wait.
LATER = (Shared("extractor"), Shared("fid_network")) if FULL else ()
TRAINED = (Shared("score"), *LATER, Shared("discriminator", "d0"))
# Two ranks add up the gradients of two halves of a batch; so does one process with room for half of it.
IN_PASSES = tuple(replace(job, ranks=1, passes=2) for job in TRAINED)
RESUMED = replace(TRAINED[0], killed=2)
# Imported inside functions, of torch by its optimizers: seconds for each fork.
HEAVY = ("torch._dynamo", "torch.distributed")
WORDS = ("real", "score", "extractor", "fid_network", "fake", "discriminator", "guided", "evaluation")


def settings() -> dict:
    """Settings with something to share: shards of a few samples, feature passes of a few pictures."""
    tiny = tiny_settings()
    tiny["fake"]["shard_size"] = 12
    tiny["guided"]["shard_size"] = 8
    tiny["evaluation"]["batch_size"] = 9
    # d0 trains d1 beside it, as far as d0 gets.
    tiny["discriminator"] |= {"images": 40, "batch_size": 16, "shared_features": True}
    return tiny


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def by_ranks(count: int, work: Callable[[], object]) -> list[int]:
    """Do something in several forks that are each other's ranks; their exit codes."""
    port, children = free_port(), []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}
            try:
                ranks.start()
                work()
            except ranks.Dismissed:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def noting(folder: Path, stage: str, run: Callable[[], object], then: Callable[[], None] = lambda: None) -> None:
    """Run a stage; who kept what of its unfinished work stands in a file."""

    def noted(keep: Callable[..., None], what: str) -> Callable[..., None]:
        def method(self: PartialWork, first: Any, **arrays: Any) -> None:
            keep(self, first, **arrays)
            with (folder / "saved.txt").open("a") as stream:
                stream.write(f"{stage}: {what.format(first)} by rank {ranks.rank()} of {ranks.world_size()}\n")
            then()

        return method

    with (
        patch.object(PartialWork, "save_shard", noted(PartialWork.save_shard, "shard {}")),
        patch.object(PartialWork, "save", noted(PartialWork.save, "checkpoint")),
    ):
        run()


def killed() -> None:
    os._exit(KILLED)


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    for name in (*(f"discriminator_guidance.stages.{word}" for word in WORDS), *HEAVY):
        import_module(name)
    dvc_stages()  # every fork reads it
    grid.FEATURE_BATCH = 3  # so that every rank has some
    ranks.BEFORE_THE_END_S = 0.0  # nobody ends the ranks here when one is killed
    one = Study(folder / "one", settings=settings())
    jobs = (*SAMPLED, *TRAINED, RESUMED, *IN_PASSES)
    assert forked(lambda: [one.ensure(job.word, job.name) for job in jobs]) == 0, "one process failed"
    for job in jobs:
        shared = Study(folder / job.folder, settings=settings())
        shutil.copytree(one.root, shared.root, ignore=shutil.ignore_patterns(".cache", ".partial"))
        for path in made_by(shared.layout, job):
            path.unlink()

        def run(shared: Study = shared, job: Shared = job) -> object:
            with patch.object(BatchSize, "__init__", partialmethod(room, job.passes)):
                return shared.run(job.word, job.name)

        if job.killed:
            codes = by_ranks(job.killed, lambda run=run, job=job: noting(folder, job.folder, run, killed))
            assert codes[0] == KILLED, f"{job}: {codes}"
        codes = by_ranks(job.ranks, lambda run=run, job=job: noting(folder, job.folder, run))
        assert codes == [0] * job.ranks, f"{job}: {codes}"


def room(at_once: BatchSize, passes: int, size: int, on_halved: Callable[[str], None]) -> None:
    """In place of BatchSize.__init__: room for a part of what is asked for."""
    at_once.size, at_once.on_halved, at_once.halved = size // passes, on_halved, ()


def made_by(layout: Layout, job: Shared) -> list[Path]:
    folders = {
        "fake": [layout.fake],
        "guided": [layout.guided(job.name)],
        "discriminator": [layout.discriminator(job.name), layout.discriminator_reports / job.name],
    }
    if job.word == "evaluation":
        return [layout.evaluation(job.name), layout.influence(job.name)]
    return [path for folder in folders.get(job.word, [layout.model(job.word)]) for path in folder.iterdir()]


if __name__ == "__main__":
    main()

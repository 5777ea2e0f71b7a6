"""Kills a stage with SIGKILL at two random moments and lets it end: a process of its own, which imports once and forks.

    python -m tests.faults.killing FOLDER STAGE [NAME]

It prints the pieces (shards, or checkpoints by their rows of the curve) that the undisturbed and the killed run saved,
and the files that differ in the end. It computes nothing itself, because threads of a parent do
not survive in its forks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from discriminator_guidance.data.resume import Resumable
from discriminator_guidance.stages.layout import Layout
from tests.stages.conftest import Tiny, prepare_study, run_stage, tiny_settings

MANY = {  # pieces, so that a random moment falls between two
    "score.training.iterations": 80,
    "guided.images": 48,
    "guided.shard_size": 8,
    "members.d0.epochs": 8,
}


def log_saves(log: Path) -> None:
    """Note every saved shard and checkpoint in a file."""

    def noting(save: Callable[..., None], number: Callable[[Any], int]) -> Callable[..., None]:
        def noted(self: Resumable, first: Any, **arrays: Any) -> None:
            save(self, first, **arrays)
            with log.open("a") as stream:
                stream.write(f"{number(first)}\n")

        return noted

    Resumable.save_shard = noting(Resumable.save_shard, int)  # type: ignore[method-assign]
    Resumable.save = noting(Resumable.save, lambda state: len(state["history"]))  # type: ignore[method-assign]


def begin(work: Callable[[], object]) -> int:
    """Do something in a fork; its process id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def saved(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def outputs(layout: Layout) -> dict[str, bytes]:
    files = [path for top in ("data", "models", "reports") for path in (layout.root / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in files}


def main() -> None:
    """See the module."""
    folder, stage, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    logs = {name: folder / f"{name}.log" for name in ("whole", "killed")}
    assert os.waitpid(begin(lambda: prepare_study(folder / "whole", tiny_settings(MANY))), 0)[1] == 0
    shutil.copytree(folder / "whole", folder / "killed")

    def attempt(name: str) -> int:
        from discriminator_guidance.config import load_config

        def work() -> None:
            log_saves(logs[name])
            tiny: Tiny = (load_config(folder / name / "params.yaml"), Layout(folder / name, "mini"))
            run_stage(stage, tiny, *names)

        return begin(work)

    assert os.waitpid(attempt("whole"), 0)[1] == 0, "the undisturbed run failed"
    pieces, draw = len(saved(logs["whole"])), random.Random(stage)
    for wanted in sorted(draw.sample(range(1, pieces), 2)):
        process = attempt("killed")
        while len(saved(logs["killed"])) < wanted:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert os.waitpid(attempt("killed"), 0)[1] == 0, "the run after the kills failed"
    whole, killed = (Layout(folder / name, "mini") for name in ("whole", "killed"))
    one, other = outputs(whole), outputs(killed)
    different = [path for path in {*one, *other} if one.get(path) != other.get(path)]
    left = [str(path) for path in killed.partial.glob("*")]
    print(json.dumps({**{name: saved(log) for name, log in logs.items()}, "different": different, "left": left}))


if __name__ == "__main__":
    main()

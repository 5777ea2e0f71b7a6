"""Kills a stage at random moments, as often as asked, and reports what was left: a process of its own.

It imports everything once and forks for every attempt, so that an attempt costs what the stage costs. It computes
nothing itself, because threads of a parent do not survive in its forks.

    python -m tests.faults.nursery FOLDER WORD NAME KILLS SEED
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.stages.conftest import Study, import_module

STAGES = ("real", "score", "extractor", "fid_network", "fake", "discriminator", "guided", "evaluation")


SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 3


def forked(
    work: Callable[[], object], kill_after: float | None = None, kill: signal.Signals = signal.SIGKILL
) -> int | None:
    """Do something in a fork; its exit code, or None if it was killed before its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if kill_after is not None:
        end = time.monotonic() + kill_after
        while time.monotonic() < end:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return 0
            time.sleep(0.002)
        os.kill(pid, kill)
    status = os.waitpid(pid, 0)[1]
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return None if code == INTERRUPTED else code


def outputs(study: Study) -> dict[str, str]:
    """Digest of every file that is no unfinished work, cache or litter."""
    return {
        str(path.relative_to(study.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "models", "reports")
        for path in sorted((study.root / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def main() -> None:
    """See the module."""
    folder, word, name, kills, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    for stage in STAGES:
        import_module(f"discriminator_guidance.stages.{stage}")
    whole = Study(folder / "whole")
    needed = whole.needs(word, name)
    assert forked(lambda: [whole.ensure(*each) for each in needed]) == 0, "what the stage needs could not be made"
    before = outputs(whole)
    disturbed = Study(folder / "disturbed")
    shutil.copytree(whole.root, disturbed.root)
    start = time.monotonic()
    assert forked(lambda: whole.run(word, name)) == 0, "the undisturbed run failed"
    seconds = time.monotonic() - start
    wanted = outputs(whole)

    draw, done, finished = random.Random(seed), 0, 0
    wrong: list[str] = []
    while done < kills:
        code = forked(lambda: disturbed.run(word, name), draw.uniform(0, seconds), draw.choice(SIGNALS))
        left = outputs(disturbed)
        # What has its final name is whole, whenever the kill came.
        wrong += [path for path, digest in left.items() if wanted.get(path, before.get(path)) != digest]
        if code is None:
            done += 1
            continue
        finished += 1
        assert code == 0, "a run after a kill failed"
        for path in set(left) - set(before):
            (disturbed.root / path).unlink()
    code = forked(lambda: disturbed.run(word, name))
    left = outputs(disturbed)
    print(
        json.dumps(
            {
                "kills": done,
                "finished": finished,
                "code": code,
                "wrong": wrong,
                "different": sorted(path for path in wanted | left if wanted.get(path) != left.get(path)),
                "made": len(set(wanted) - set(before)),
                "unfinished": [str(path) for path in disturbed.layout.partial.rglob("*.sealed")],
                "seconds": round(seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()

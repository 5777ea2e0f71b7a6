"""Kills a stage once it has kept something, then at random moments as often as asked: a process of its own.

It reports what was left, and every attempt that did again what was kept, or lost more than it should.

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

from discriminator_guidance.stages.claims import stage_claim
from tests.pieces import Pieces
from tests.processes import group_gone
from tests.stages.conftest import Study, dvc_stages, import_module

STAGES = ("real", "score", "extractor", "fid_network", "fake", "discriminator", "guided", "evaluation")


SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 3


def begun(work: Callable[[], object]) -> int:
    """Do something in a fork, which leads a process group of its own; its number."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            work()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def forked(
    work: Callable[[], object], kill_after: float | None = None, kill: signal.Signals = signal.SIGKILL
) -> int | None:
    """Do something in a fork; its exit code, or None if it was killed before its end."""
    pid = begun(work)
    if kill_after is not None:
        end = time.monotonic() + kill_after
        while time.monotonic() < end:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return 0
            time.sleep(0.002)
        os.kill(pid, kill)
    status = os.waitpid(pid, 0)[1]
    assert group_gone(pid), "a process outlived the stage that began it"
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return None if code == INTERRUPTED else code


def claimed_run(study: Study, word: str, name: str) -> None:
    """Run a stage as its command does: alone."""
    kind = "member" if word == "discriminator" else "variant"
    with stage_claim(study.config, study.layout, word, {kind: name} if name else {}):
        study.run(word, name)


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
    for module in [f"discriminator_guidance.stages.{stage}" for stage in STAGES]:
        import_module(module)
    dvc_stages()  # every fork reads it
    whole = Study(folder / "whole")
    pieces = Pieces(word)
    assert forked(lambda: [whole.ensure(*each) for each in whole.needs(word, name)]) == 0, (
        "what the stage needs could not be made"
    )
    before = outputs(whole)
    disturbed = Study(folder / "disturbed")
    shutil.copytree(whole.root, disturbed.root)
    pieces.begin()
    start = time.monotonic()
    assert forked(lambda: claimed_run(whole, word, name)) == 0, "the undisturbed run failed"
    seconds = time.monotonic() - start
    wanted = outputs(whole)

    needed, interval = pieces.done, pieces.share * pieces.done
    draw, done, finished, resumed, total = random.Random(seed), 0, 0, 0, 0
    wrong: list[str] = []
    wasteful: list[str] = []

    def attempt(kill_after: float | None = None, kill: signal.Signals = signal.SIGKILL) -> int | None:
        nonlocal resumed, total
        pieces.begin()
        code = forked(lambda: claimed_run(disturbed, word, name), kill_after, kill)
        kept = pieces.kept_before
        lost = kept + pieces.done - pieces.kept
        total += pieces.done
        resumed += kept > 0 and outputs(disturbed) == wanted  # also if it was killed in the instant after its end
        if pieces.done > needed - kept:
            wasteful.append(f"{pieces.done} of {needed} pieces done where {kept} were kept")
        if lost > interval:
            wasteful.append(f"{lost} of {needed} pieces not kept")
        return code

    pieces.forget()
    pieces.on_kept = lambda: os.kill(os.getpid(), signal.SIGKILL)
    assert attempt() is None, "nothing was kept"
    pieces.on_kept = lambda: None
    while done < kills:
        code = attempt(draw.uniform(0, seconds), draw.choice(SIGNALS))
        left = outputs(disturbed)
        # What has its final name is whole, whenever the kill came.
        wrong += [path for path, digest in left.items() if wanted.get(path, before.get(path)) != digest]
        assert code in (None, 0), "a run after a kill failed"
        done += code is None
        assert code is None or left == wanted, "a run that ended well left something out"
        if left == wanted:  # killed in the instant after its end, or not at all
            finished += 1
            for path in set(left) - set(before):
                (disturbed.root / path).unlink()
            for folder in (disturbed.layout.partial, disturbed.layout.feature_cache):
                shutil.rmtree(folder, ignore_errors=True)
            pieces.forget()
    code = attempt()
    left = outputs(disturbed)
    print(
        json.dumps(
            {
                "kills": 1 + done,
                "finished": finished,
                "code": code,
                "wrong": wrong,
                "different": sorted(path for path in wanted | left if wanted.get(path) != left.get(path)),
                "made": len(set(wanted) - set(before)),
                "unfinished": [str(path) for path in disturbed.layout.partial.rglob("*.sealed")],
                "seconds": round(seconds, 3),
                "needed": needed,
                "resumed": resumed,
                "wasteful": wasteful,
                "repeated": total - (finished + 1) * needed,
            }
        )
    )


if __name__ == "__main__":
    main()

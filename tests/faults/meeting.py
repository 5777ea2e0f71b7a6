"""Several commands that want the same results at once, again and again: a process of its own, like `nursery`.

python -m tests.faults.meeting FOLDER ROUNDS
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import write_npz
from discriminator_guidance.networks.fid_network import FidNetwork
from tests.stages.conftest import Study, import_module
from tests.stages.untrained import save_network, untrained_study

from .nursery import begun, forked, outputs

SAMPLER = ("guided", "--variant", "edm")
EVALUATION = ("evaluation", "--variant", "edm")
MEETINGS = {
    "four samplers": [SAMPLER] * 4,
    "two evaluations": [EVALUATION] * 2,
    "a sampler and evaluations": [EVALUATION, SAMPLER, EVALUATION],
}


def command(study: Study, arguments: tuple[str, ...], start: int, told: Path) -> None:
    """Run `dguide` when the other end of a pipe is closed, with what it says in a file."""
    from discriminator_guidance import cli

    os.read(start, 1)
    stream = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1), os.dup2(stream, 2)
    os.chdir(study.root)
    sys.argv = ["dguide", *arguments, "--profile", "tiny"]
    cli.main()


def meet(study: Study, commands: list[tuple[str, ...]]) -> list[tuple[int, str]]:
    """Run commands at once; exit code and words of each."""
    start, go = os.pipe()
    files = [study.root.parent / f"told-{place}.txt" for place in range(len(commands))]

    def of(place: int) -> None:
        os.close(go)
        command(study, commands[place], start, files[place])

    processes = [begun(lambda place=place: of(place)) for place in range(len(commands))]
    os.close(start), os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    return list(zip(codes, [path.read_text() for path in files], strict=True))


def prepare(study: Study) -> None:
    """Make the project of a study one that `dguide` can be run in, with profile `tiny`."""
    (study.root / "configs").mkdir(parents=True)
    (study.root / "configs" / "tiny.yaml").write_text(json.dumps(study.settings).replace("Infinity", ".inf"))


def untrained(study: Study) -> None:
    """What sampler and evaluation need, with random pictures and networks, and what each leaves when it is alone."""
    untrained_study(study.root)
    pictures = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    write_npz(study.layout.real / "holdout.npz", images=pictures, labels=np.zeros(20, dtype=np.int64))
    arguments = {"image_size": 8, "in_channels": 1, "channels": [4, 4, 8, 8], "features": 6, "classes": 10}
    save_network(study, "fid_network", FidNetwork(**arguments), arguments)
    study.run("guided", "edm")
    study.run("evaluation", "edm")


def main() -> None:
    """See the module."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    for stage in ("guided", "evaluation"):
        import_module(f"discriminator_guidance.stages.{stage}")
    study = Study(folder / "project")
    prepare(study)
    assert forked(lambda: untrained(study)) == 0, "what the commands need could not be made"
    wanted, results = outputs(study), []
    for _ in range(rounds):
        for name, commands in MEETINGS.items():
            if name == "four samplers":  # so that they have to be made anew
                for path in study.layout.guided("edm").iterdir():
                    path.unlink()
            ended = meet(study, commands)
            results.append({"name": name, "ended": ended, "same": outputs(study) == wanted})
    print(json.dumps(results))


if __name__ == "__main__":
    main()

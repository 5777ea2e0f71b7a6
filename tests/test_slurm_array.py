"""scripts/slurm_array.sh: every name of an array is one task's, and what is no task is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm_array.sh"


def task(number: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as SLURM starts it, with `echo` in place of `dguide`."""
    environment = {**os.environ, "DGUIDE": "echo"}
    environment |= {} if number is None else {"SLURM_ARRAY_TASK_ID": number}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_each_task_is_given_its_own_name():
    told = [task(str(number), "guided", "mini", "edm", "d0", "d1").stdout for number in range(3)]
    assert told == [f"guided --profile mini --variant {name}\n" for name in ("edm", "d0", "d1")]
    assert task("0", "discriminator", "cifar10", "d5").stdout == "discriminator --profile cifar10 --member d5\n"
    assert task("1", "evaluation", "mini", "edm", "d0").stdout == "evaluation --profile mini --variant d0\n"


@pytest.mark.parametrize(
    ("number", "arguments", "words"),
    [
        ("2", ["guided", "mini", "edm", "d0"], "expected a name for task 2; got 2 names"),
        ("0", ["fake", "mini"], "expected discriminator, guided or evaluation; got fake"),
        (None, ["guided", "mini", "edm"], "sbatch --array"),
        ("0", ["guided"], ""),
    ],
)
def test_what_is_no_task_is_refused(number, arguments, words):
    done = task(number, *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert words in done.stderr

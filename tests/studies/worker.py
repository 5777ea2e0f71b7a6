"""One process's part in a study of (x - 2)^2 + y^2, also as a command: FOLDER TOTAL PAUSE_S VICTIM WORKERS."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna

from dguide.settings import Layout, load_config
from dguide.studies import study as studies
from dguide.studies.study import ENDED, StudyPlan, open_study, run_trials
from discriminator_guidance.core.errors import DivergenceError
from tests.commands import PROJECT, environment

CORNERS = {"D0": {"x": 1.0, "y": 1.0}, "D1": {"x": -1.0, "y": 2.0}, "D2": {"x": 0.0, "y": -3.0}}
IMPATIENT = {"heartbeat_interval": 1, "grace_period": 2}
PLAN = StudyPlan("ensemble", "a quadratic", CORNERS)


def take_part(
    root: Path, total: int, pause_s: float = 0.0, victim: int | None = None, recover_all: bool = False
) -> optuna.Study:
    """Run trials until there are so many; the first process that comes to trial `victim` is killed in it."""
    config = load_config(root / "params.yaml")

    def objective(trial: optuna.Trial, tracker: object) -> float:
        x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
        with (root / "calls.txt").open("a") as calls:
            calls.write(f"{trial.number} {os.getpid()}\n")
        time.sleep(pause_s)
        if trial.number == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        if x > 4.5:
            raise DivergenceError("the loss is nan", "lower x")
        trial.report(x, 1)
        if y > 4.5:
            raise optuna.TrialPruned
        return (x - 2) ** 2 + y**2

    study = open_study(config, Layout(root, config.profile), PLAN, recover_all)
    run_trials(study, objective, total, config)
    return study


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that need not be run any more."""
    return study.get_trials(states=ENDED)


def start(root: Path, total: int, pause_s: float = 0.0, victim: str = "", workers: int = 1) -> subprocess.Popen[bytes]:
    """A worker process, one of `workers` that begin together."""
    command = [sys.executable, "-m", "tests.studies.worker", str(root), *map(str, (total, pause_s, victim, workers))]
    variables = environment(PYTHONPATH=f"{PROJECT / 'src'}:{PROJECT}")
    return subprocess.Popen(command, cwd=root, env=variables, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    studies.DATABASE |= IMPATIENT
    folder, number, pause, killed, together = sys.argv[1:]
    (Path(folder) / f"worker{os.getpid()}").touch()
    while len(list(Path(folder).glob("worker*"))) < int(together):  # none begins before all are there
        time.sleep(0.01)
    take_part(Path(folder), int(number), float(pause), int(killed) if killed else None)

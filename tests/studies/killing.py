"""A search as a process of its own, to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.studies.liveness import WORKER, attempts
from discriminator_guidance.studies.storage import StudyPlan, open_study
from tests.stages.conftest import Study
from tests.watching import watched


def begin(own: Study, script: str) -> subprocess.Popen[bytes]:
    """Start a script with the project's folder and a file of its settings, in a process group of its own."""
    command, settings = own.root / "command.py", own.root / "settings.json"
    command.write_text(script)
    settings.write_text(json.dumps(own.settings))
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | watched(own.root / "watched.txt", root / "src", root)
    arguments = [sys.executable, str(command), str(own.root), str(settings)]
    return subprocess.Popen(arguments, env=environment, start_new_session=True, stderr=subprocess.PIPE)


def await_trial(
    command: subprocess.Popen[bytes], plan: StudyPlan, wanted: Callable[[FrozenTrial], bool]
) -> FrozenTrial:
    """The first running trial of a kind, as soon as there is one; none that is tried again.

    Such a one begins with the name of its dead worker, until the new one has signed it.
    """
    for _ in range(2400):
        assert command.poll() is None, command.communicate()[1].decode()
        if plan.journal.is_file() and plan.journal.stat().st_size:
            for trial in open_study(plan).get_trials(states=(TrialState.RUNNING,)):
                if WORKER in trial.user_attrs and not attempts(trial) and wanted(trial):
                    return trial
        time.sleep(0.05)
    raise AssertionError("no such trial began")

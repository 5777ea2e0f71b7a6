"""Which tests share a worker and which come first; a tiny study that is made once for all who start from one."""

from __future__ import annotations

import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from tests.stages.conftest import Study

# The longest first, so that two workers end together. What stands together shares fixtures and goes to one worker.
LONGEST = (
    "tests/test_pipeline.py",
    "tests/stages/",
    "tests/faults/test_kills.py",
    "tests/test_ranks.py",
    "tests/test_launching.py",
    "tests/faults/test_repro.py",
    "tests/test_cli.py",
    "tests/report/test_page.py",
    "tests/studies/test_discriminator.py",
    "tests/test_tracking.py",
    "tests/studies/test_postgresql.py",
    "tests/studies/test_discriminator_kill.py",
    "tests/studies/test_ensemble_kill.py",
    "tests/studies/test_workers.py",
    "tests/faults/test_killed_studies.py",
    "tests/faults/test_meetings.py",
    "tests/faults/test_disks.py",
    "tests/artifacts/test_edm_pickle.py",
    "tests/benchmark/test_run.py",
    "tests/golden/test_sampler.py",
    "tests/training/test_discriminator.py",
)
# A shell starts what runs in its background deaf to Ctrl-C, and so would be all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine is no fault: hypothesis would call a case of 0.2 s one.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

Copied = Callable[[Path, dict[str, Any]], Study]


def place(test: str) -> tuple[int, str]:
    """Where in the order a test belongs, and with which others."""
    path = test.partition("::")[0]
    return next(
        ((number, start) for number, start in enumerate(LONGEST) if path.startswith(start)), (len(LONGEST), path)
    )


class Together(LoadScopeScheduling):
    """Deals whole groups to the workers, in the order of `place`.

    The marks of `--dist loadgroup` are not heard by pytest 9.2 with pytest-xdist 3.8: tests of one group went to both
    workers, and each made the fixtures.
    """

    def _split_scope(self, nodeid: str) -> str:
        return place(nodeid)[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """See `Together`."""
    config.option.loadscopereorder = False  # it would put groups of many short tests before few long ones
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first."""
    items.sort(key=lambda item: place(item.nodeid)[0])


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Copied:
    """Copies a tiny study, in which all up to the evaluation of two variants was run, to a folder that is not there."""
    base = tmp_path_factory.getbasetemp()
    made = (base if worker_id == "master" else base.parent) / "made"
    results = made / "results.pickle"
    with FileLock(f"{made}.lock"):
        if not results.exists():
            study = Study(made / "study")
            study.ensure("evaluation", "ensemble_probability")
            results.write_bytes(pickle.dumps(study.results))

    def copy(root: Path, settings: dict[str, Any]) -> Study:
        shutil.copytree(made / "study", root)
        return Study(root, settings, pickle.loads(results.read_bytes()))

    return copy

"""Which tests share a worker and which come first; a tiny study that is made once for all who start from one."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from tests.stages.conftest import Study

# The longest first, so that two workers end together. What stands together shares fixtures and goes to one worker.
LONGEST = (
    ("pipeline", ("tests/test_pipeline.py",)),
    ("stages", ("tests/stages/",)),
)
# A busy machine is no fault: hypothesis would call a case of 0.2 s one.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

Copied = Callable[[Path, dict[str, Any]], Study]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every file a group, since its tests share fixtures, and put the longest groups first."""
    places: dict[str, int] = {}
    for item in items:
        path = item.nodeid.partition("::")[0]
        places[item.nodeid], group = next(
            ((place, name) for place, (name, starts) in enumerate(LONGEST) if path.startswith(starts)),
            (len(LONGEST), path),
        )
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: places[item.nodeid])


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

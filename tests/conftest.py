"""How tests are dealt to workers: whole modules, the longest first."""

import os
import signal
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

LONGEST = (  # so that workers end together
    "test_pipeline", "test_tracking", "library/test_training", "test_notebooks", "studies/test_postgresql",
    "test_replicates", "faults/test_kills", "golden/test_sampler", "test_torchrun", "studies/test_factorial",
)  # fmt: skip
# A shell starts a background job with Ctrl-C ignored, nohup with SIGHUP, and so would be the commands of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Stages that tests call leave no run in MLflow; commands get their environment from tests/commands.py.
os.environ["DGUIDE_TRACKING"] = "off"
# On a busy machine a case may take longer than hypothesis allows by default.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Give a module to one worker, for its tests share fixtures."""
    config.option.loadscopereorder = False  # would put modules of many short tests before few long ones
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first."""
    order = {f"tests/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))

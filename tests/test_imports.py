"""Garbage collection waits for the first import of a library, and for nothing else."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from discriminator_guidance.imports import uncollected


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Objects of other tests stay collectable."""
    assert gc.isenabled()
    yield
    gc.enable()
    gc.unfreeze()


def test_nothing_is_collected_until_the_last_import_ends() -> None:
    begun, end = threading.Event(), threading.Event()

    def import_slowly() -> None:
        with uncollected("not.imported.slowly"):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=import_slowly)
    with uncollected("not.imported"):
        assert not gc.isenabled()
        thread.start()
        assert begun.wait(60)
    assert not gc.isenabled()
    end.set()
    thread.join()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_an_import_that_fails_leaves_collection_on() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected("not.imported"):
        raise ModuleNotFoundError("not.imported")
    assert gc.isenabled()


def test_a_module_that_is_there_changes_nothing() -> None:
    before = gc.get_freeze_count()
    with uncollected("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    with uncollected("not.imported"), uncollected("not.imported.either"):
        pass
    assert not gc.isenabled()

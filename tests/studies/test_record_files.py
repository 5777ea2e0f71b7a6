"""Files of a search: all of them, none of an earlier one, and the digest by which the report finds them."""

from __future__ import annotations

import csv
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.checksums import read_checksums
from discriminator_guidance.artifacts.files import read_json, sha256
from discriminator_guidance.report.study_record import trials_of
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies import record_files
from discriminator_guidance.studies.record_files import write_record
from tests.report.searches import RECORD, rows


def test_record_table_and_charts_are_written_and_the_report_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "mini")
    written = write_record("ensemble", lambda: (RECORD, rows()), layout, 50)
    names = {f"ensemble_{chart}.png" for chart in ("history", "importances", "parallel", "slice", "pareto")}
    assert {path.name for path in written} == {"ensemble.json", "ensemble.csv", *names}
    assert read_json(written[0], "study")["best"] == RECORD["best"]
    seen = layout.report / "evaluation" / "studies.json"
    assert read_json(seen, "study") == {"ensemble": sha256(written[0])}

    write_record("ensemble", lambda: (RECORD, rows()), layout, 50, "Note on the real data: JPEG re-encoded.")
    with (layout.study_reports / "ensemble.csv").open(newline="") as stream:
        told = list(csv.DictReader(stream))
    assert {row["note"] for row in told} == {"Note on the real data: JPEG re-encoded."}
    assert trials_of(RECORD, told) == trials_of(RECORD, rows())
    beside = read_checksums(layout.study_reports / "ensemble.sha256")
    assert beside == {path.name: sha256(path) for path in written[1:]}

    write_record("discriminator", lambda: (RECORD | {"importances": {}}, rows()), layout, 50)
    write_record("ensemble", lambda: (RECORD | {"importances": {}}, rows()), layout, 50)
    assert set(read_json(seen, "study")) == {"discriminator", "ensemble"}
    assert not (layout.study_reports / "ensemble_importances.png").exists(), "of another record"


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two searches that end at once: the first waits for the second where it pauses, at the latest at the digest."""
    layout, reached, done = Layout(tmp_path, "mini"), threading.Event(), threading.Event()

    def pause() -> None:
        if not reached.is_set():
            reached.set()
            done.wait(1.0)

    def digest(path: Path) -> str:
        pause()
        return sha256(path)

    monkeypatch.setattr(record_files, "sha256", digest)
    monkeypatch.setattr(record_files, "study_charts", lambda *given: {})

    def run(first: tuple, second: tuple) -> Layout:
        with ThreadPoolExecutor(2) as pool:
            earlier = pool.submit(write_record, *first, layout, 50)
            assert reached.wait(30)
            later = pool.submit(write_record, *second, layout, 50)
            later.add_done_callback(lambda future: done.set())
            earlier.result(), later.result()
        return layout

    return run, pause


def test_two_searches_that_end_at_once_are_both_known_to_the_report(both) -> None:
    run, _ = both
    layout = run(("ensemble", lambda: (RECORD, rows())), ("discriminator", lambda: (RECORD, rows())))
    told = read_json(layout.evaluation("studies"), "study")
    assert told == {word: sha256(layout.study_reports / f"{word}.json") for word in ("ensemble", "discriminator")}


def test_two_calls_of_one_search_that_end_at_once_leave_the_later_one_whole(both) -> None:
    (run, pause), trials = both, []

    def read() -> tuple[dict, list]:  # the study has a trial more whenever it is looked at
        trials.append({"number": len(trials)})
        record, table = RECORD | {"n_trials": len(trials)}, [*trials]
        pause()
        return record, table

    layout = run(("ensemble", read), ("ensemble", read))
    record = layout.study_reports / "ensemble.json"
    assert read_json(record, "study")["n_trials"] == 2
    assert (layout.study_reports / "ensemble.csv").read_text().split() == ["number", "0", "1"]
    assert read_json(layout.evaluation("studies"), "study") == {"ensemble": sha256(record)}

"""Files of the factorial: what must be said of the real data stands in each of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from PIL import Image

from discriminator_guidance.report.factorial import factorial_files

PROJECT = Path(__file__).resolve().parents[2]
RECORD = json.loads((PROJECT / "reports" / "mini" / "factorial" / "factorial.json").read_text())
NOTE = "Note on the real data: JPEG re-encoded."


def test_a_note_on_the_data_stands_in_every_file_and_changes_no_number() -> None:
    plain, noted = factorial_files(RECORD, 50), factorial_files(RECORD, 50, NOTE)
    without, rows = (list(csv.reader(io.StringIO(files["effects.csv"].decode()))) for files in (plain, noted))
    assert [row[:-1] for row in rows] == without
    assert {row[-1] for row in rows} == {"note", NOTE}
    assert noted["effects.md"].decode().count(NOTE) == 4
    assert NOTE.encode() not in plain["effects.md"]
    low, high = (Image.open(io.BytesIO(files["effects.png"])).height for files in (plain, noted))
    assert low < high

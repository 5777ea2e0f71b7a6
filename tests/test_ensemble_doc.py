"""The numbers in docs/ensemble.md are those of the committed factorial."""

from __future__ import annotations

import json
from pathlib import Path

from discriminator_guidance.report.factorial import FACTOR_WORDS, factorial_text
from discriminator_guidance.studies.factorial import FACTORS

PROJECT = Path(__file__).resolve().parents[1]
RECORD = PROJECT / "reports" / "mini" / "factorial" / "factorial.json"
NOT_YET = "The experiment has not been run yet: `dguide factorial --profile mini --workers 2`."


def expected() -> str:
    return factorial_text(json.loads(RECORD.read_text())).strip() if RECORD.is_file() else NOT_YET


def test_the_block_is_that_of_the_committed_run():
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    block = text.split("reports/mini/factorial/factorial.json -->\n")[1].split("\n<!-- end of factorial")[0]
    assert block == expected(), f"paste this into docs/ensemble.md:\n{expected()}"


def test_every_factor_is_explained():
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    assert set(FACTOR_WORDS) == set(FACTORS)
    for word in FACTOR_WORDS.values():
        assert f"\n| {word} |" in text, word

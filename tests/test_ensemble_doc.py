"""The numbers in docs/ensemble.md are those of the committed runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("profile", "column"), [("mini", 1), ("cifar10-small", 2)])
def test_differences_of_the_mean_are_those_of_the_committed_tables(profile, column):
    with (PROJECT / "reports" / profile / "tables" / "table3.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    text = (PROJECT / "docs" / "ensemble.md").read_text().split("| mean probability of six, against |")[1]
    said = [line.split("|")[column + 1].strip() for line in text.splitlines()[2:7]]
    for other, printed in zip(["edm", "d0", "d5", "d1", "ensemble_clipped_logit"], said, strict=True):
        kept = rows[other]["ours: difference from ensemble_probability [95 %]"]
        middle, low, high = (
            -float(number) for number in kept.replace("[", "").replace("]", "").replace(",", "").split()
        )
        assert printed == f"{middle:+.2f} [{high:+.2f}, {low:+.2f}]", other


def test_families_are_those_of_the_committed_table():
    with (PROJECT / "reports" / "mini-families" / "tables" / "table4.csv").open() as file:
        rows = {row["ensemble"]: row for row in csv.DictReader(file)}
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    block = text.split("tables/table4.csv -->\n")[1].split("\n<!-- end of families")[0]
    expected_rows = [
        f"| `{name}` | "
        + " | ".join(
            rows[name][column]
            for column in (
                "FID (digits network) [95 %]: ensemble",
                "FID (digits network) [95 %]: mean of its members",
                "ensemble's difference [95 %] from: the mean of its members",
                "ensemble's difference [95 %] from: its best member",
                "ensemble's difference [95 %] from: ensemble_probability",
            )
        )
        + " |"
        for name in ("ensemble_probability", "bagged", "architecture", "snapshot", "seeds")
    ]
    assert block.splitlines()[2:] == expected_rows


def test_every_factor_is_explained():
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    assert set(FACTOR_WORDS) == set(FACTORS)
    for word in FACTOR_WORDS.values():
        assert f"\n| {word} |" in text, word

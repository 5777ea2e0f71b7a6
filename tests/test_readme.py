"""The numbers in README.md are those of the committed run."""

from __future__ import annotations

import json
import re

import pytest

from .commands import PROJECT

EVALUATIONS = PROJECT / "reports/mini/evaluation"
NUMBER = r"[+−-]?\d+\.\d+"


def rows() -> dict[str, list[str]]:
    """The cells of the results table by variant."""
    text = (PROJECT / "README.md").read_text()
    block = text.split("<!-- results")[1].split("<!-- end of results")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    return {cells[0].strip("`"): cells[1:] for cells in lines if cells[0].startswith("`")}


@pytest.mark.parametrize("variant", rows())
def test_results_are_those_of_the_committed_run(variant: str) -> None:
    found = json.loads((EVALUATIONS / f"{variant}.json").read_text())
    keys = ["fid", "fid_low", "fid_high"]
    keys += [] if variant == "edm" else ["delta_fid", "delta_low", "delta_high"]
    keys += ["kid", "precision", "recall"]
    shown = re.findall(NUMBER, " ".join(rows()[variant][-4:]))
    assert len(shown) == len(keys)
    for key, text in zip(keys, shown, strict=True):
        digits = len(text.partition(".")[2])
        assert float(text.replace("−", "-")) == round(found[key], digits), key

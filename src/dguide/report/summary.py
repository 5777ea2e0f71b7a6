"""What `dguide summary` prints and writes: one row or object for each variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dguide.report.format import MISSING, estimate, fid_label, number, samples_text, verdict

Evaluations = Mapping[str, Mapping[str, Any]]


def summary_rows(evaluations: Evaluations, baseline: str) -> list[dict[str, str]]:
    """One row of text for each variant: what the command prints, and the page's first table."""
    rows = []
    for name, evaluation in evaluations.items():
        delta_fid, delta_kid = (None if name == baseline else evaluation[key] for key in ("delta_fid", "delta_kid"))
        bounds = evaluation["delta_low"], evaluation["delta_high"]
        rows.append({
            "variant": name,
            fid_label(evaluation["fid_network"]): fid_text(evaluation),
            f"difference from {baseline}": estimate(delta_fid, bounds, sign=True),
            "verdict": MISSING if name == baseline else verdict(bounds),
            fid_label(evaluation["fid_network"], "KID"): estimate(evaluation["kid"], evaluation["kid_ci95"], 4),
            f"KID, difference from {baseline}": estimate(delta_kid, evaluation["delta_kid_ci95"], 4, sign=True),
            "precision": number(evaluation["precision"], 2),
            "recall": number(evaluation["recall"], 2),
            "N": samples_text(evaluation),
        })  # fmt: skip
    return rows


def fid_text(evaluation: Mapping[str, Any]) -> str:
    """FID with its interval."""
    return estimate(evaluation["fid"], (evaluation["fid_low"], evaluation["fid_high"]))

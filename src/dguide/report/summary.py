"""What `dguide summary` prints and writes: one row or object for each variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dguide.report.format import estimate, fid_label, number, samples_text

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


def summary_record(
    evaluations: Evaluations, settings: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One object for each variant: distances with intervals, cost, and the recorded seconds of training behind it.

    Of a training whose snapshots go beyond the score network itself, the seconds up to the network that is sampled.
    """
    rows, score, baseline = [], settings["score"], settings["evaluation"]["baseline"]
    iterations = {None: score["training"]["iterations"], **score["snapshots"]} if score["source"] == "train" else {}
    for name, evaluation in evaluations.items():
        members = evaluation["members"]
        trained = ["score", *(["extractor"] if members else []), *(f"discriminator/{member}" for member in members)]
        took = [sum(taken for run, taken in seconds.items() if f"{run}/".startswith(f"{word}/")) for word in trained]
        took[0] *= iterations[evaluation["network"]] / max(iterations.values()) if iterations else 1
        copied = ("replicates", "fid", "fid_ci95_sampling", "fid_debiased", "kid", "kid_ci95", "nfe", "n")
        rows.append({
            "variant": name,
            **{key: evaluation[key] for key in copied},
            "fid_ci95": [evaluation["fid_low"], evaluation["fid_high"]],
            f"delta_fid_vs_{baseline}": evaluation["delta_fid"],
            "delta_fid_ci95": [evaluation["delta_low"], evaluation["delta_high"]],
            "delta_fid_ci95_sampling": evaluation["delta_ci95_sampling"],
            f"delta_kid_vs_{baseline}": evaluation["delta_kid"],
            "delta_kid_ci95": evaluation["delta_kid_ci95"],
            "training_seconds": sum(took) / evaluation["replicates"] if all(took) else None,
        })  # fmt: skip
    return rows

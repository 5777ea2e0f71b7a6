"""Everything the report shows, read from files of the other stages and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dguide.report.format import Verdict, estimate, fid_label, verdict
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import read_json, read_npz, reason, require

KIDS = {"kid": "KID", "kid_holdout": "held-out KID"}
STUDIES = ("discriminator", "ensemble", "factorial")
CURVES = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
CALIBRATION = ["time", "mean_probability", "fraction_real", "count"]


@dataclass(frozen=True)
class Difference:
    """A variant's FID and KIDs minus another's, paired by sample index, with 95 % intervals; below 0 is better."""

    value: float
    bounds: tuple[float, float]
    kids: Mapping[str, float]  # by a key of KIDS

    @property
    def text(self) -> str:
        """-1.23 [-1.50, -0.96]."""
        return estimate(self.value, self.bounds, sign=True)

    @property
    def verdict(self) -> Verdict:
        """Better, worse or indistinguishable."""
        return verdict(self.bounds)

    def opposed(self, kid: str) -> bool:
        """Whether a KID goes the other way."""
        return self.value * self.kids[kid] < 0


@dataclass(frozen=True)
class Trajectory:
    """How the first K samples of a variant came about, at T noise levels."""

    sigma: np.ndarray  # (T,), and their VP times
    tau: np.ndarray
    states: np.ndarray  # (T, K, H, W, C)
    denoised: np.ndarray  # (T - 1, K, H, W, C)
    log_ratio: np.ndarray  # (T - 1, K), infinite outside the time window


@dataclass(frozen=True)
class Member:
    """One discriminator's metrics, curves over epochs and calibration; a released head has no curves."""

    name: str
    metrics: Mapping[str, Any]
    history: pd.DataFrame
    calibration: pd.DataFrame


@dataclass(frozen=True)
class Study:
    """The output of `dguide study`: figures, and a row for each trial or effect."""

    name: str
    figures: tuple[Path, ...]
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The settings and the contents of every file behind the report."""

    settings: Mapping[str, Any]  # of the profile, as plain nested mappings
    report: Path  # reports/<profile>: evaluations in, tables and figures out
    card: Mapping[str, Any]
    members: tuple[Member, ...]
    evaluations: Mapping[str, Mapping[str, Any]]  # by variant, metrics and details
    differences: Mapping[tuple[str, str], Difference]  # of a variant from another
    real: np.ndarray  # (1, H, W, C) uint8
    samples: Mapping[str, Mapping[str, np.ndarray]]  # images (K, H, W, C) uint8, index (K,)
    trajectories: Mapping[str, Trajectory]
    studies: Sequence[Study]  # that have been run
    benchmark: Sequence[Mapping[str, Any]]

    @property
    def baseline(self) -> str:
        """The variant without guidance."""
        return str(self.settings["evaluation"]["baseline"])

    @property
    def reference(self) -> Mapping[str, Any]:
        """The evaluation of the baseline."""
        return self.evaluations[self.baseline]

    @property
    def compared(self) -> tuple[str, ...]:
        """The variants that tables compare every other one with."""
        return (self.baseline, *self.settings["report"]["compare"])

    @property
    def note(self) -> str:
        """The note on the real data beside every table and figure; empty without one."""
        note = self.card.get("note")
        return f"Note on the real data: {str(note).rstrip('.')}." if note else ""

    @property
    def noise(self) -> str:
        """What intervals cover."""
        replicates = self.reference["replicates"]
        return "sampling noise only" if replicates == 1 else f"{replicates} training seeds and sampling noise"

    def label(self, metric: str = "FID") -> str:
        """FID or KID with the name of its feature network."""
        return fid_label(self.reference["fid_network"], metric)

    def from_baseline(self) -> dict[str, Difference]:
        """The difference of every other variant from the baseline."""
        return {name: self.differences[name, self.baseline] for name in self.evaluations if name != self.baseline}

    def from_members(self) -> dict[str, Difference]:
        """The difference of every ensemble from its members on average, where each was sampled alone."""
        records = {name: evaluation["against_members"] for name, evaluation in self.evaluations.items()}
        return {name: _difference(record) for name, record in records.items() if record}

    def signs(self, differences: Mapping[str, Difference], other: str) -> list[str]:
        """For each of the two KIDs, the rows in which its difference from `other` has another sign than that of FID."""
        sentences = []
        for kid, kid_name in KIDS.items():
            rows = ", ".join(row for row, difference in differences.items() if difference.opposed(kid))
            verb, where = ("disagree", f"for {rows}") if rows else ("agree", "in every row")
            sentences.append(f"{self.label()} and {kid_name} {verb} in sign, against {other}, {where}.")
        return sentences


def gather(
    settings: Mapping[str, Any], data: Path, report: Path, replicate: str, trajectories: Mapping[str, Trajectory]
) -> ReportData:
    """Read and check all files of data/<profile> and reports/<profile> that the report needs, of one replicate."""
    benchmark, shown = report / "benchmark.json", settings["report"]
    columns = ["variant", "other", "difference", "low", "high", *(f"{kid}_difference" for kid in KIDS)]
    differences = _table(report / "details" / "differences.csv", "evaluation", columns).to_dict("records")
    samples = {}
    for name in dict.fromkeys([settings["evaluation"]["baseline"], *shown["samples"]]):
        arrays = read_npz(data / "guided" / name / replicate / "samples.npz", ["images", "index"], "guided")
        samples[name] = {key: array[: shown["images"]].copy() for key, array in arrays.items()}
    return ReportData(
        settings=settings,
        report=report,
        card=read_json(data / "real" / "card.json", "real"),
        members=tuple(_member(report / "discriminator" / name, replicate) for name in settings["members"]),
        evaluations={name: read_evaluation(report, name) for name in settings["variants"]},
        differences={(row["variant"], row["other"]): _difference(row) for row in differences},
        real=read_npz(data / "real" / "train.npz", ["images"], "real")["images"][:1].copy(),
        samples=samples,
        trajectories=trajectories,
        studies=_studies(report / "study"),
        benchmark=json.loads(benchmark.read_text(encoding="utf-8")) if benchmark.is_file() else [],
    )


def read_evaluation(report: Path, variant: str) -> dict[str, Any]:
    """Metrics and details of a variant in one mapping."""
    folders = (report / "evaluation", report / "details")
    return {key: value for at in folders for key, value in read_json(at / f"{variant}.json", "evaluation").items()}


def _difference(row: Mapping[Any, Any]) -> Difference:
    kids = {kid: row[f"{kid}_difference"] for kid in KIDS}
    return Difference(row["difference"], (row["low"], row["high"]), kids)


def _table(path: Path, stage: str, columns: list[str] | None = None) -> pd.DataFrame:
    require(path, stage)
    try:
        return pd.read_csv(path, usecols=columns)
    except (ValueError, OSError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"CSV in {path}", reason(error), f"run stage {stage} again") from error


def _member(reports: Path, replicate: str) -> Member:
    folder = reports / replicate
    return Member(
        reports.name,
        read_json(folder / "metrics.json", "discriminator"),
        _table(folder / "history.csv", "discriminator", CURVES),
        _table(folder / "calibration.csv", "discriminator", CALIBRATION),
    )


def _studies(folder: Path) -> list[Study]:
    paths = [path for name in STUDIES if (path := folder / f"{name}.csv").is_file()]
    return [
        Study(path.stem, tuple(sorted(folder.glob(f"{path.stem}*.png"))), _table(path, f"study {path.stem}"))
        for path in paths
    ]

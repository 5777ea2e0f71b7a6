"""Everything the report shows, read from files of the other stages and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dguide.report.format import Verdict, estimate, fid_label, number, samples_text, verdict
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import read_json, read_npz, reason, require

REFERENCE = "edm"  # the unguided variant
BASELINES = (REFERENCE, "d0", "mean_prob")  # variants that tables compare every other one with
SAMPLE_ROWS = ("edm", "d0", "mean_prob", "e_fit", "clip_logit", "clip_table1")  # variants of Fig. 3
RATIO_PANELS = ("d0", "mean_prob", "mean_logit", "clip_logit")  # variants whose log ratios are drawn
STUDIES = ("discriminator", "ensemble", "factorial")

CURVES = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
CALIBRATION = ["time", "mean_probability", "fraction_real", "count"]
TRAJECTORY = ("sigma", "states", "denoised", "log_ratio")


@dataclass(frozen=True)
class Difference:
    """A variant's FID minus another's, paired by sample index, with its 95 % interval and p-value of no difference."""

    value: float
    bounds: tuple[float, float]
    p: float = math.nan

    @classmethod
    def of(cls, measured: Any) -> Difference:
        """From an `evaluation.significance.Measured` difference."""
        return cls(measured.mean, measured.interval(), measured.p_value())

    @property
    def text(self) -> str:
        """-1.23 [-1.50, -0.96]."""
        return estimate(self.value, self.bounds, sign=True)

    @property
    def verdict(self) -> Verdict:
        """Better, worse or indistinguishable."""
        return verdict(self.bounds)


@dataclass(frozen=True)
class Standing:
    """An ensemble beside its members, each of which was sampled alone with the same weights and seeds."""

    alone: Mapping[str, str]  # by member, the variant that samples with it alone
    mean_fid: float
    from_mean: Difference
    from_each: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Settings, folders, and what was computed from more than one evaluation."""

    settings: Mapping[str, Any]  # of the profile, as plain nested mappings
    data: Path  # data/<profile>
    report: Path  # reports/<profile>: evaluations in, tables and figures out
    differences: Mapping[str, Mapping[str, Difference]]  # by the other variant and variant
    standings: Mapping[str, Standing]  # by ensemble
    probability_clip: float
    log_ratio_bound: float  # the largest |log ratio| that the probability clip leaves
    vp_time: Callable[[float], float]  # of an EDM noise level
    provenance: Mapping[str, Any]
    replicate: str = ""  # the folder of the training replicate whose images and curves are shown
    adjusted_p: Mapping[str, float] = field(default_factory=dict)  # by variant, of its difference from edm (Holm 1979)


@dataclass(frozen=True)
class Member:
    """One discriminator's metrics, curves over epochs and calibration; a released head has no curves."""

    name: str
    metrics: Mapping[str, Any]
    history: pd.DataFrame
    calibration: pd.DataFrame


@dataclass(frozen=True)
class Study:
    """The output of `dguide study`: figures, a row for each trial or effect, the record, and the promoted trial."""

    name: str
    figures: tuple[Path, ...]
    rows: pd.DataFrame | None
    record: Mapping[str, Any]
    promoted: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ReportData(ReportInputs):
    """The inputs with the contents of every file behind the report."""

    card: Mapping[str, Any]
    members: tuple[Member, ...]
    evaluations: Mapping[str, Mapping[str, Any]]  # by variant, metrics and details
    real: np.ndarray  # (1, H, W, C) uint8
    samples: Mapping[str, Mapping[str, np.ndarray]]  # images (K, H, W, C) uint8, index (K,)
    # sigma (T,), states (T, K, H, W, C), denoised (T-1, K, H, W, C), log_ratio (T-1, N) with +inf outside the window
    trajectories: Mapping[str, Mapping[str, np.ndarray]]
    studies: Mapping[str, Study]
    benchmark: Sequence[Mapping[str, Any]]

    @property
    def reference(self) -> Mapping[str, Any]:
        """The evaluation of the unguided variant."""
        return self.evaluations[REFERENCE]

    @property
    def note(self) -> str:
        """The note on the real data beside every table and figure; empty without one."""
        note = self.card.get("note")
        return f"Note on the real data: {str(note).rstrip('.')}." if note else ""

    def label(self, metric: str = "FID") -> str:
        """FID or KID with the name of its feature network."""
        return fid_label(self.reference["fid_network"], metric)

    def difference(self, name: str, baseline: str = REFERENCE) -> Difference | None:
        """A variant's difference from a baseline; None for the baseline itself and where either was not evaluated."""
        return self.differences.get(baseline, {}).get(name)


def gather(inputs: ReportInputs) -> ReportData:
    """Read and check all files that the report needs; raise InputError naming the file and its stage."""
    settings, report = inputs.settings, inputs.report
    benchmark = report / "benchmark.json"
    evaluations = {name: read_evaluation(report, name) for name in settings["variants"]}
    guided, images = inputs.data / "guided", settings["report"]["images"]
    shown = [name for name in dict.fromkeys(SAMPLE_ROWS + RATIO_PANELS) if name in evaluations]
    folders = {name: guided / name / inputs.replicate for name in shown}
    samples = {}
    for name in (each for each in shown if each in SAMPLE_ROWS):
        arrays = read_npz(folders[name] / "samples.npz", ["images", "index"], "guided")
        samples[name] = {key: array[:images].copy() for key, array in arrays.items()}
    return ReportData(
        **vars(inputs),
        card=read_json(inputs.data / "real" / "card.json", "real"),
        members=tuple(_member(report / "discriminator" / name, inputs.replicate) for name in settings["members"]),
        evaluations=evaluations,
        real=read_npz(inputs.data / "real" / "train.npz", ["images"], "real")["images"][:1].copy(),
        samples=samples,
        trajectories={name: read_npz(folders[name] / "trajectory.npz", TRAJECTORY, "guided") for name in shown},
        studies={name: _study(report / "study", name) for name in STUDIES},
        benchmark=json.loads(benchmark.read_text(encoding="utf-8")) if benchmark.is_file() else [],
    )


def read_evaluation(report: Path, variant: str) -> dict[str, Any]:
    """Metrics and details of a variant in one mapping."""
    metrics = read_json(report / "evaluation" / f"{variant}.json", "evaluation")
    return metrics | read_json(report / "details" / f"{variant}.json", "report")


def summary_rows(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row of text for each variant: what `dguide summary` prints, and the page's first table."""
    return [
        {
            "variant": name,
            fid_label(one["fid_network"]): estimate(one["fid"], (one["fid_low"], one["fid_high"])),
            "difference from edm": estimate(
                None if name == REFERENCE else one["delta_fid"], (one["delta_low"], one["delta_high"]), sign=True
            ),
            fid_label(one["fid_network"], "KID"): estimate(one["kid_all"], one["kid_ci95"], 4),
            "KID, difference from edm": estimate(
                None if name == REFERENCE else one["delta_kid"], one["delta_kid_ci95"], 4, sign=True
            ),
            "precision": number(one["precision"], 2),
            "recall": number(one["recall"], 2),
            "N": samples_text(one),
        }
        for name, one in evaluations.items()
    ]


def summary_record(
    evaluations: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One object for each variant: distances with intervals, cost, and the recorded seconds of training behind it.

    Of a training whose snapshots go beyond the score network itself, the seconds up to the network that is sampled.
    """
    rows, score = [], settings["score"]
    iterations = {None: score["training"]["iterations"], **score["snapshots"]} if score["source"] == "train" else {}
    for name, one in evaluations.items():
        trained = ["score", *(["extractor"] if one["members"] else []), *(f"discriminator/{m}" for m in one["members"])]
        took = [sum(taken for run, taken in seconds.items() if f"{run}/".startswith(f"{word}/")) for word in trained]
        took[0] *= iterations[one["network"]] / max(iterations.values()) if iterations else 1
        rows.append({
            "variant": name,
            "replicates": one["replicates"],
            "n": one["n"],
            "fid": one["fid"],
            "fid_ci95": [one["fid_low"], one["fid_high"]],
            "fid_ci95_sampling": one["fid_ci95_sampling"],
            "fid_debiased": one["fid_debiased"],
            "delta_fid_vs_edm": one["delta_fid"],
            "delta_fid_ci95": [one["delta_low"], one["delta_high"]],
            "delta_fid_ci95_sampling": one["delta_ci95_sampling"],
            "kid": one["kid_all"],
            "kid_ci95": one["kid_ci95"],
            "delta_kid_vs_edm": one["delta_kid"],
            "delta_kid_ci95": one["delta_kid_ci95"],
            "nfe": one["nfe"],
            "training_seconds": sum(took) / one["replicates"] if all(took) else None,
        })  # fmt: skip
    return rows


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


def _study(folder: Path, name: str) -> Study:
    path, promotions = folder / f"{name}.csv", folder / "promoted.json"
    rows = _table(path, f"study {name}") if path.is_file() else None
    record = {} if rows is None else read_json(folder / f"{name}.json", f"study {name}")
    promoted = read_json(promotions, "study promote").get(name) if promotions.is_file() else None
    return Study(name, tuple(sorted(folder.glob(f"{name}*.png"))), rows, record, promoted)

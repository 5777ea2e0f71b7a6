"""Everything the report shows, read from files of the other stages and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dguide.report.format import KIDS, baseline_text, count, fid_label
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import damage_refused, read_json, read_npz, require

TEMPLATES = Path(__file__).parent / "templates"
# By the key `published` of a row: Tables 1 and 2 of the reproduction, its training curves, and published results.
PUBLISHED = read_json(TEMPLATES / "published.json", "report")
CURVES = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
RATIO = ["ratio", "ratio_low", "ratio_high"]
DIFFERENCES = ["variant", "other", "difference", "low", "high", *RATIO, *(f"{kid}_difference" for kid in KIDS)]
STUDIES = ("discriminator", "ensemble", "factorial")

Record = Mapping[Any, Any]


class ReportData:
    """The contents of all files that the report needs, and words that several of its parts print."""

    def __init__(self, settings: Record, data: Path, report: Path, replicate: str, trajectories: Record) -> None:
        """Read and check files of one replicate; trajectories are what `draw` yields of a variant, and VP times tau."""
        self.settings, self.report, self.trajectories = settings, report, trajectories
        self.card = read_json(data / "real" / "card.json", "real")
        parts = [data / "real" / f"{name}.npz" for name in ("reference", "train")]  # the latter without splits
        self.real = read_npz(next(filter(Path.is_file, parts), parts[1]), ["images"], "real")["images"][0]  # (H, W, C)
        members = {name: report / "discriminator" / name / replicate for name in settings["members"]}
        self.metrics = {name: read_json(at / "metrics.json", "discriminator") for name, at in members.items()}
        self.histories = {name: _table(at / "history.csv", "discriminator", CURVES) for name, at in members.items()}
        self.samples = {}  # by variant, images (K, H, W, C) uint8
        for name in settings["report"]["samples"]:
            arrays = read_npz(data / "guided" / name / replicate / "samples.npz", ["images"], "guided")
            self.samples[name] = arrays["images"][: settings["report"]["images"]].copy()
        self.evaluations = {name: read_evaluation(report, name) for name in settings["variants"]}
        self.differences = read_differences(report)
        studies = {word: report / "study" / f"{word}.csv" for word in STUDIES}
        self.studies = {word: _table(path, f"study {word}") for word, path in studies.items() if path.is_file()}

        self.baseline = str(settings["evaluation"]["baseline"])  # the variant without guidance
        self.reference = reference = self.evaluations[self.baseline]
        self.reproduces = any(row["published"] for part in ("variants", "members") for row in settings[part].values())
        self.baselines = settings["baselines"]
        self.from_baseline = {name: self.differences[name, other] for name, other in self.baselines.items() if other}
        self.baseline_text = baseline_text(self.baselines)  # in headings
        statistics, replicates = reference["reference_statistics"], reference["replicates"]
        self.fid, self.kid = (fid_label(reference["fid_network"], metric) for metric in ("FID", "KID"))
        real_images = f"{count(reference['reference_n'])} real training images"
        self.reference_images = f"the statistics in {statistics}" if statistics else real_images
        self.noise = f"{replicates} training seeds and sampling noise" if replicates > 1 else "sampling noise only"
        self.runs = "One replicate" + (f", the first of {replicates}" if replicates > 1 else "")
        self.note = f"Note on the real data: {note.rstrip('.')}." if (note := self.card.get("note")) else ""


def read_evaluation(report: Path, variant: str) -> dict[str, Any]:
    """Metrics and details of a variant in one mapping."""
    record = dict[str, Any]()
    for folder, key in (("evaluation", "recall"), ("details", "n")):
        part = read_json(path := report / folder / f"{variant}.json", "evaluation")
        if key not in part:
            raise InputError(f"{path} has no {key}", "run stage evaluation again")
        record |= part
    return record


def read_differences(report: Path) -> dict[tuple[str, str], Record]:
    """The differences of each variant from each other one, paired by sample index."""
    rows = _table(report / "details" / "differences.csv", "evaluation", DIFFERENCES).to_dict("records")
    return {(row["variant"], row["other"]): row for row in rows}


def _table(path: Path, stage: str, columns: list[str] | None = None) -> pd.DataFrame:
    require(path, stage)
    with damage_refused(f"{path} is damaged", f"run stage {stage} again"):
        return pd.read_csv(path, usecols=columns, keep_default_na=False, na_values=[""])  # a row may be named null

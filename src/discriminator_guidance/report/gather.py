"""Everything the report shows, read from the files of the other stages and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.absent import absent_rows
from discriminator_guidance.report.readers import Kind, read_arrays, read_csv, read_json, remedy

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "edm"  # the unguided variant that every difference refers to
BASELINES = ("d0", "ensemble_probability")  # variants that every other one is compared with besides
STUDIES = "studies"  # beside the evaluations, the file that names the searches that were run
PICTURE_ROWS = ("edm", "d0", "ensemble_probability", "ensemble_clipped_logit")
RATIO_PANELS = ("d0", "ensemble_probability", "ensemble_logit", "ensemble_clipped_logit")

EVALUATION_KEYS: dict[str, Kind] = {
    "variant": "text",
    "n": "number",
    "ranges": "number",
    "fid": "number",
    "fid_ci95": "pair or null",
    "fid_ranges": "numbers",
    "fid_ranges_ci95": "pair or null",
    "delta_fid_vs_edm": "number or null",
    "delta_fid_ci95": "pair or null",
    "kid": "number or null",
    "kid_std": "number or null",
    "kid_holdout": "number or null",
    "kid_holdout_std": "number or null",
    "precision": "number",
    "recall": "number",
    "discriminator_precision": "number or null",
    "discriminator_recall": "number or null",
    "discriminator_accuracy": "number or null",
    "discriminator_auroc": "number or null",
    "steps": "number",
    "fid_network": "text",
    "reference_statistics": "text or null",
    "reference_n": "number or null",
    "holdout_n": "number or null",
    "seed": "number",
    "seed_start": "number",
    "precision_mode": "text",
}
METRICS_KEYS: dict[str, Kind] = dict.fromkeys(
    (
        "iterations",
        "parameters",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "best_validation_loss",
        "best_epoch",
        "test_loss",
        "n_train",
        "n_validation",
        "n_test",
    ),
    "number",
)
HISTORY_COLUMNS = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
CALIBRATION_COLUMNS = ["time", "bin_low", "bin_high", "mean_probability", "fraction_real", "count"]


@dataclass(frozen=True)
class Difference:
    """How much a variant's FID is above another's: value and (lo, hi), the 95 % interval paired by sample index."""

    value: float
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """An ensemble beside its members, each of which was sampled alone in the same way.

    Args:
        alone: of each member, the variant that samples with it alone.
        mean_fid: mean of the FIDs of those variants.
        from_mean: how much the ensemble's FID is above that mean.
        from_each: of each member, how much the ensemble's FID is above that of the member alone.
    """

    alone: Mapping[str, str]
    mean_fid: float
    from_mean: Difference
    from_each: Mapping[str, Difference]


@dataclass(frozen=True)
class ReportInputs:
    """Where the report finds everything.

    Args:
        profile: its name.
        settings: the profile's configuration as plain nested dictionaries, as in `configs/mini.yaml`.
        evaluation: folder of <variant>.json, and of studies.json where something was searched.
        studies: folder of <study>.json, <study>.csv and <study>_<chart>.png.
        discriminator: folder of <member>/{metrics.json, history.csv, calibration.csv}.
        guided: folder of <variant>/{samples.npz, trajectory.npz}.
        real_images: train.npz of stage `real`.
        card: card.json of stage `real`.
        destination: folder that gets tables/, figures/, curves.csv, provenance.json and index.html.
        members: discriminators trained here, in this order.
        variants: sampling variants to show, in this order, `edm` among them; see `absent_rows` for
            those that need not be evaluated.
        differences: of each of `BASELINES` that was evaluated, how much every other variant's FID is above its.
        standings: of each ensemble whose members were all sampled alone in the same way, how it stands beside them.
        probability_clip: the log ratio is taken of probabilities in [clip, 1 - clip].
        provenance: what the results came from (commit, digests, versions, machine); printed as it is.
    """

    profile: str
    settings: Mapping[str, Any]
    evaluation: Path
    studies: Path
    discriminator: Path
    guided: Path
    real_images: Path
    card: Path
    destination: Path
    members: tuple[str, ...]
    variants: tuple[str, ...]
    differences: Mapping[str, Mapping[str, Difference]]
    standings: Mapping[str, Standing]
    probability_clip: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """One discriminator: its name, flat metrics, and curves (pandas frames in the documented columns)."""

    name: str
    metrics: Mapping[str, Any]
    history: pd.DataFrame
    calibration: pd.DataFrame


@dataclass(frozen=True)
class Samples:
    """The first pictures of a variant: images (K, H, W, C) uint8 and their sample indices (K,)."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Trajectory:
    """A variant's way through the noise levels.

    Args:
        sigma: (T,) noise levels, descending, the last one 0.
        states: (T, K, H, W, C) noisy samples, unscaled.
        denoised: (T-1, K, H, W, C) the denoiser's estimates.
        log_ratio: (T-1, N) log density ratio at each step, +inf outside the time window.
    """

    sigma: NDArray[np.float64]
    states: NDArray[np.float32]
    denoised: NDArray[np.float32]
    log_ratio: NDArray[np.float32]


@dataclass(frozen=True)
class ReportData:
    """The contents of every file behind the report, with the inputs that named them."""

    inputs: ReportInputs
    card: Mapping[str, Any]
    members: tuple[Member, ...]
    evaluations: Mapping[str, Mapping[str, Any]]
    absent: Mapping[str, str]  # of variants that need not be evaluated, what to do
    studies: Mapping[str, str]  # of searches that were run, the digest of the record
    real: NDArray[np.uint8]
    samples: Mapping[str, Samples]
    trajectories: Mapping[str, Trajectory]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The profile's configuration."""
        return self.inputs.settings

    @property
    def reference(self) -> Mapping[str, Any]:
        """The evaluation of the unguided variant."""
        return self.evaluations[REFERENCE]

    @property
    def fid_network(self) -> str:
        """The network whose features FID and KID compare."""
        return str(self.reference["fid_network"])

    @property
    def differences(self) -> Mapping[str, Mapping[str, Difference]]:
        """Of each evaluated baseline, the difference of every other variant from it."""
        return self.inputs.differences

    @property
    def standings(self) -> Mapping[str, Standing]:
        """Of each ensemble whose members were sampled alone in the same way, how it stands beside them."""
        return self.inputs.standings

    def variant(self, name: str) -> Mapping[str, Any]:
        """A variant's section of the configuration."""
        section: Mapping[str, Any] = self.settings["guided"]["variants"][name]
        return section


def gather(inputs: ReportInputs) -> ReportData:
    """Read and check all files the report needs.

    Args:
        inputs: where they are.

    Returns:
        Their contents.

    Raises:
        InputError: a file is missing or damaged, or lacks a key or column; names file and stage.
    """
    if REFERENCE not in inputs.variants:
        raise InputError(
            f"variant {REFERENCE!r} among the report's variants",
            ", ".join(inputs.variants) or "none",
            "add it to params.yaml: every difference refers to it",
        )
    _require_configured("guided.variants", inputs.variants, inputs.settings["guided"]["variants"], inputs.profile)
    _require_configured(
        "discriminator.members", inputs.members, inputs.settings["discriminator"]["members"], inputs.profile
    )
    absent = absent_rows(inputs.profile, inputs.settings, inputs.evaluation)
    evaluations = {
        name: read_json(inputs.evaluation / f"{name}.json", "evaluation", EVALUATION_KEYS)
        for name in inputs.variants
        if name not in absent
    }
    for name, evaluation in evaluations.items():
        if evaluation["fid_network"] != evaluations[REFERENCE]["fid_network"]:
            raise InputError(
                f"one fid_network in all of {inputs.evaluation}",
                f"{evaluation['fid_network']!r} in {name}.json",
                "run stage `evaluation` for all variants (`dvc repro`)",
            )
    members = tuple(
        Member(
            name,
            read_json(inputs.discriminator / name / "metrics.json", "discriminator", METRICS_KEYS),
            read_csv(inputs.discriminator / name / "history.csv", "discriminator", HISTORY_COLUMNS),
            read_csv(inputs.discriminator / name / "calibration.csv", "discriminator", CALIBRATION_COLUMNS),
        )
        for name in inputs.members
        if name not in absent
    )
    shown = [name for name in dict.fromkeys(PICTURE_ROWS + RATIO_PANELS) if name in inputs.variants]
    pictures, stamps = int(inputs.settings["report"]["pictures"]), inputs.evaluation / f"{STUDIES}.json"
    return ReportData(
        inputs=inputs,
        card=read_json(inputs.card, "real"),
        members=members,
        evaluations=evaluations,
        absent=absent,
        studies=read_json(stamps, "evaluation") if stamps.is_file() else {},
        real=read_arrays(inputs.real_images, "real", ["images"])["images"][:1].copy(),
        samples={name: _samples(inputs.guided / name, pictures) for name in shown if name in PICTURE_ROWS},
        trajectories={name: _trajectory(inputs.guided / name) for name in shown},
    )


def _require_configured(key: str, names: tuple[str, ...], known: Mapping[str, Any], profile: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"{key} of configs/{profile}.yaml to have {name!r}",
                f"only {', '.join(known)}",
                "add it there, or remove it from params.yaml",
            )


def _samples(folder: Path, pictures: int) -> Samples:
    arrays = read_arrays(folder / "samples.npz", "guided", ["images", "index"])
    return Samples(arrays["images"][:pictures].copy(), arrays["index"][:pictures].copy())


def _trajectory(folder: Path) -> Trajectory:
    arrays = read_arrays(folder / "trajectory.npz", "guided", ["sigma", "states", "denoised", "log_ratio"])
    trajectory = Trajectory(**arrays)
    levels = len(trajectory.sigma)
    lengths = (len(trajectory.states), len(trajectory.denoised) + 1, len(trajectory.log_ratio) + 1)
    if lengths != (levels, levels, levels):
        raise InputError(
            f"{levels} states and {levels - 1} steps in {folder / 'trajectory.npz'}",
            f"states {lengths[0]}, denoised {lengths[1] - 1}, log_ratio {lengths[2] - 1}",
            remedy("guided"),
        )
    return trajectory

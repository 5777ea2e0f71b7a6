"""Published numbers that the report prints beside ours: the reproducibility study's and the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INCEPTION = "inception"  # the `fid_network` whose features the published FID values use
STUDY_IMAGES = 50_000
STUDY_DATA = "cifar10"
AUTHORS = "authors"  # the variant of the discriminator that the paper's authors released, a file to be fetched
AUTHORS_ROW = "EDM-G++ (authors' discriminator)"


@dataclass(frozen=True)
class StudySampling:
    """Table 1 of the study: how its samples were drawn.

    Args:
        steps: sampler steps; Heun evaluates the denoiser 2 steps - 1 times.
        batch_size: pictures sampled together.
        w1: guidance weight in the Euler step.
        w2: guidance weight in the correction.
        time_min: smallest VP time at which guidance acts.
        time_max: largest VP time at which guidance acts.
        boosting: whether lagging samples are guided harder.
        probability_clip: the discriminator's probability is kept this far from 0 and 1.
        image_size: pixels.
        sigma_min: smallest noise level.
        sigma_max: largest noise level.
        rho: curvature of the noise levels.
        s_churn: stochasticity outside boosting.
    """

    steps: int = 35
    batch_size: int = 64
    w1: float = 2.0
    w2: float = 0.0
    time_min: float = 0.01
    time_max: float = 1.0
    boosting: bool = True
    probability_clip: float = 1e-5
    image_size: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    s_churn: float = 0.0


@dataclass(frozen=True)
class StudyMember:
    """One row of the study's Table 2 (Adam), with the last losses in its logs where they are known.

    Args:
        epochs: training epochs.
        learning_rate: Adam's.
        weight_decay: Adam's.
        t_min: smallest VP time it was trained at.
        guiding_epoch: epoch of the checkpoint that guided.
        train_loss: BCE on the training part after the last epoch, nats.
        validation_loss: BCE on the validation part after the last epoch, nats.
        batch_size: pictures in a training batch.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    t_min: float
    guiding_epoch: int
    train_loss: float | None = None
    validation_loss: float | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class PublishedResult:
    """One column of the study's Table 3, with the paper's value where it has one.

    Args:
        label: the row's name in the study.
        variant: our variant with the same setting, or none.
        study_fid: FID of 50,000 samples on Inception features, the study's.
        paper_fid: the same from Kim et al. 2023, as printed there.
        study_precision: the discriminator's classification precision at threshold 0.5.
        study_recall: the discriminator's classification recall at threshold 0.5.
    """

    label: str
    variant: str | None
    study_fid: float
    paper_fid: str | None = None
    study_precision: float | None = None
    study_recall: float | None = None


STUDY_SAMPLING = StudySampling()
PAPER_STEPS = 18

STUDY_MEMBERS = {
    "d0": StudyMember(60, 3e-4, 1e-7, 1e-5, 55, train_loss=0.41, validation_loss=1.38),
    "d1": StudyMember(40, 1e-3, 1e-7, 1e-5, 35),
    "d2": StudyMember(40, 1e-4, 0.0, 0.01, 35),
    "d3": StudyMember(40, 1e-4, 1e-3, 1e-3, 35),
    "d4": StudyMember(40, 5e-5, 1e-9, 1e-3, 35),
    "d5": StudyMember(200, 1e-5, 1e-11, 1e-5, 195, train_loss=0.34, validation_loss=2.13),
}

PUBLISHED_RESULTS = (
    PublishedResult("EDM", "edm", 2.094, paper_fid="2.03 (best seed 1.97)"),
    PublishedResult(
        "EDM-G++, the paper authors' discriminator",
        AUTHORS,
        1.880,
        paper_fid="1.77",
        study_precision=0.500,
        study_recall=0.761,
    ),
    PublishedResult("EDM-G++, the study's D0", "d0_table1", 2.084, study_precision=0.525, study_recall=0.733),
    PublishedResult(
        "ensemble D0-D5, as the study's code computed it",
        "ensemble_clipped_logit_table1",
        14.348,
        study_precision=0.417,
        study_recall=0.680,
    ),
)


def authors_remedy(profile: str, settings: Mapping[str, Any]) -> str:
    """How variant `authors` comes to be evaluated.

    Args:
        profile: its name.
        settings: the profile's configuration as plain nested dictionaries.

    Returns:
        What is missing and what to do, in one line.
    """
    members = settings["discriminator"]["members"]
    (path,) = [members[name]["path"] for name in settings["guided"]["variants"][AUTHORS]["members"]]
    return (
        f"not evaluated: put the file at {path} (`dguide fetch --profile {profile}`), "
        f"`dvc exp run -S profile={profile}`"
    )

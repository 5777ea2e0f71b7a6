"""Table 1: the study's sampling settings beside ours."""

from __future__ import annotations

from discriminator_guidance.report.gather import REFERENCE, ReportData
from discriminator_guidance.report.published import (
    INCEPTION,
    PAPER_STEPS,
    STUDY_DATA,
    STUDY_IMAGES,
    STUDY_SAMPLING,
)
from discriminator_guidance.report.table_files import Column, Table
from discriminator_guidance.report.wording import (
    MISSING,
    clip_text,
    count,
    data_note,
    members_text,
    network_name,
    scientific,
    switch,
    total_weight,
)

TABLE1_VARIANTS = (REFERENCE, "d0", "d0_table1")


def heun_evaluations(steps: int) -> int:
    """How often Heun's method evaluates the denoiser: twice a step, once in the last, which ends at 0."""
    return 2 * steps - 1


def sampling_table(data: ReportData) -> Table:
    """Table 1: the study's sampling settings beside ours.

    Args:
        data: contents of the other stages' files.

    Returns:
        Rows of settings; columns of the study (unguided, guided) and of ours (those of edm, d0 and d0_table1
        that are configured).
    """
    variants = [name for name in TABLE1_VARIANTS if name in data.evaluations]
    study_unguided, study_guided = _study_settings(guided=False), _study_settings(guided=True)
    ours = [_our_settings(data, name) for name in variants]
    rows = tuple(
        (setting, study_unguided[setting], study_guided[setting], *(own[setting] for own in ours))
        for setting in study_guided
    )
    closest = "d0_table1" if "d0_table1" in variants else REFERENCE
    study, own = (study_guided if closest != REFERENCE else study_unguided), ours[variants.index(closest)]
    differences = [f"{key}: {own[key]} against {study[key]}" for key in study if own[key] != study[key]]
    notes = (
        f"Where ours ({closest}) differs from the study: {'; '.join(differences) or 'in no setting of this table'}.",
        f"The paper samples with {PAPER_STEPS} steps, {heun_evaluations(PAPER_STEPS)} denoiser evaluations "
        f"(NFE). The study took {STUDY_SAMPLING.steps} for the number of steps, which makes "
        f"{heun_evaluations(STUDY_SAMPLING.steps)} evaluations.",
        "w1 weighs guidance in the Euler step, w2 in the correction. Heun averages the two slopes: w1 = 2, "
        "w2 = 0 applies a total weight of 1, w1 = w2 = 2 a total weight of 2.",
        "Boosting: at every 5th step, samples whose last log ratio was negative get extra noise; at even "
        "steps, the guidance of samples whose log ratio is negative doubles.",
    )
    columns = [Column("", "setting"), Column("study", "unguided"), Column("study", "guided")]
    columns += [Column("ours", name) for name in variants]
    return Table("table1", "Table 1. Sampling settings", tuple(columns), rows, notes, data_note(data.card))


def _study_settings(guided: bool) -> dict[str, str]:
    study = STUDY_SAMPLING
    return {
        "data": STUDY_DATA,
        "image size": f"{study.image_size}x{study.image_size}",
        "score network": "EDM, released weights",
        "feature network": network_name(INCEPTION),
        "samples (N)": count(STUDY_IMAGES),
        "batch size": count(study.batch_size),
        "steps (NFE)": f"{study.steps} ({heun_evaluations(study.steps)})",
        "sigma": _levels(study.sigma_min, study.sigma_max, study.rho),
        "churn": scientific(study.s_churn),
        **_guidance_settings(
            guided,
            "D0",
            study.w1,
            study.w2,
            study.time_min,
            study.time_max,
            study.boosting,
            study.probability_clip,
        ),
    }


def _our_settings(data: ReportData, name: str) -> dict[str, str]:
    sampler, sampling, variant = data.settings["sampler"], data.settings["guided"], data.variant(name)
    score, evaluation, size = data.settings["score"], data.evaluations[name], data.real.shape[1]
    return {
        "data": str(data.settings["real"]["source"]),
        "image size": f"{size}x{size}",
        "score network": "EDM, trained here" if score["source"] == "train" else "EDM, released weights",
        "feature network": network_name(data.fid_network),
        "samples (N)": count(evaluation["n"]),
        "batch size": count(sampling["batch_size"]),
        "steps (NFE)": f"{evaluation['steps']} ({heun_evaluations(int(evaluation['steps']))})",
        "sigma": _levels(sampler["sigma_min"], sampler["sigma_max"], sampler["rho"]),
        "churn": scientific(sampler["s_churn"]),
        **_guidance_settings(
            bool(variant["members"]),
            members_text(variant["members"]),
            variant["w1"],
            variant["w2"],
            sampling["time_min"],
            sampling["time_max"],
            variant["boosting"],
            data.inputs.probability_clip,
        ),
    }


def _levels(sigma_min: float, sigma_max: float, rho: float) -> str:
    return f"{scientific(sigma_min)} to {scientific(sigma_max)}, rho {scientific(rho)}"


def _guidance_settings(
    guided: bool,
    discriminators: str,
    w1: float,
    w2: float,
    time_min: float,
    time_max: float,
    boosting: bool,
    clip: float,
) -> dict[str, str]:
    settings = {
        "discriminators": discriminators,
        "w1": scientific(w1),
        "w2": scientific(w2),
        "total weight, (w1 + w2) / 2": scientific(total_weight(w1, w2)),
        "time window": f"[{scientific(time_min)}, {scientific(time_max)}]",
        "boosting": switch(boosting),
        "probability clip": clip_text(clip),
    }
    return settings if guided else dict.fromkeys(settings, MISSING)

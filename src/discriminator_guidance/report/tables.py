"""Tables 2 and 3: the study's discriminators and results, with ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discriminator_guidance.report.findings import seen_by_features
from discriminator_guidance.report.gather import REFERENCE, Difference, Member, ReportData
from discriminator_guidance.report.published import (
    AUTHORS,
    AUTHORS_ROW,
    INCEPTION,
    PUBLISHED_RESULTS,
    STUDY_DATA,
    STUDY_IMAGES,
    STUDY_MEMBERS,
    PublishedResult,
)
from discriminator_guidance.report.table_files import Column, Table
from discriminator_guidance.report.wording import (
    MISSING,
    count,
    data_note,
    estimate,
    fid_label,
    members_text,
    network_name,
    number,
    reference_text,
    samples_text,
    scientific,
    switch,
    variant_text,
)

START_NOTES = {
    "fresh": "start fresh, each from its own seed",
    "sequential": "each go on from the last epoch of the one before",
    "pretrained": "all start from one released discriminator",
}


def discriminator_table(data: ReportData) -> Table:
    """Table 2: how the study trained its discriminators, how we trained ours, and what came of it.

    Args:
        data: contents of the other stages' files.

    Returns:
        One row for each configured member.
    """
    settings = data.settings["discriminator"]
    epochs, rates = settings["epoch_factor"], settings["learning_rate_factor"]
    headings = {
        "": ["member"],
        "study": ["epochs", "learning rate", "weight decay", "t_min", "batch", "train BCE", "validation BCE"],
        "ours": ["epochs", "learning rate", "weight decay", "t_min", "batch", "iterations", "parameters"],
        "ours, BCE": ["train, last", "train, best", "validation, last", "validation, best (epoch)", "test"],
        "ours, accuracy": ["train, last", "train, best", "validation, last", "validation, best"],
    }
    columns = tuple(Column(group, heading) for group, names in headings.items() for heading in names)
    rows = tuple((*_study_member(member.name), *_our_member(member, settings)) for member in data.members)
    sizes = data.members[0].metrics if data.members else {}
    notes = (
        f"Our epochs are the study's × {scientific(epochs)} (rounded, at least 1), our learning rates the "
        f"study's × {scientific(rates)}; weight decay and t_min are as given.",
        "BCE is the binary cross-entropy in nats, real = 1, fake = 0; a coin has BCE 0.693 and accuracy "
        "0.5. Best: the lowest BCE or highest accuracy over the epochs. Test: the weights that were kept; "
        "their accuracy and AUROC are in Table 3.",
        f"Ours: {count(sizes.get('n_train'))} training, {count(sizes.get('n_validation'))} validation and "
        f"{count(sizes.get('n_test'))} test images, real and unguided fakes, one split for all members; "
        "validation and test on one common grid of noise levels. One training seed for each member.",
        f"Ours {START_NOTES[settings['init']]}; the study's D1-D5 each continued one network. "
        f"{_order_note(settings['reshuffle'])} The study guided with the checkpoints of epochs {_guiding_epochs()}, "
        f"ours with the weights of {_checkpoint_note(settings['checkpoint'])}.{_differences_note(settings)}",
        "The study's BCE values are those of the last epoch in its logs, where known; its data, network and "
        "validation differ from ours, so the columns are not comparable.",
    )
    return Table("table2", "Table 2. The discriminators", columns, rows, notes, data_note(data.card))


def _checkpoint_note(checkpoint: str | int) -> str:
    named = {"last": "the last epoch", "best": "the epoch of the smallest validation loss"}
    return named.get(str(checkpoint), f"epoch {checkpoint} of the study's count, scaled")


def _differences_note(settings: Mapping[str, Any]) -> str:
    told: dict[str, list[str]] = {}
    for name, row in settings["members"].items():
        own = {key: value for key, value in row.get("differs", {}).items() if value is not None}
        if network := own.get("network"):
            own |= {key: value for key, value in network.items() if value != settings["network"][key]}
            del own["network"]
        if own:
            told.setdefault(", ".join(f"{key} {value}" for key, value in own.items()), []).append(name)
    return f" Members that differ: {'; '.join(f'{members_text(n)}: {t}' for t, n in told.items())}." if told else ""


def _guiding_epochs() -> str:
    return ", ".join(f"{member.guiding_epoch} ({name.upper()})" for name, member in STUDY_MEMBERS.items())


def _order_note(reshuffle: bool) -> str:
    if reshuffle:
        return "Ours see the images in a new order every epoch; the study never reshuffled."
    return "Ours see the images in the same order every epoch, as in the study, which never reshuffled."


def _study_member(name: str) -> tuple[str, ...]:
    study = STUDY_MEMBERS.get(name)
    if study is None:
        return (name.upper(), *[MISSING] * 7)
    return (
        name.upper(),
        count(study.epochs),
        scientific(study.learning_rate),
        scientific(study.weight_decay),
        scientific(study.t_min),
        count(study.batch_size),
        number(study.train_loss, 2),
        number(study.validation_loss, 2),
    )


def _our_member(member: Member, settings: Mapping[str, Any]) -> tuple[str, ...]:
    given, metrics, history = settings["members"][member.name], member.metrics, member.history
    return (
        count(max(1, round(given["epochs"] * settings["epoch_factor"]))),
        scientific(given["learning_rate"] * settings["learning_rate_factor"]),
        scientific(given["weight_decay"]),
        scientific(given["t_min"]),
        count(settings["batch_size"]),
        count(metrics["iterations"]),
        count(metrics["parameters"]),
        number(metrics["train_loss"], 3),
        number(float(history["train_loss"].min()), 3),
        number(metrics["validation_loss"], 3),
        f"{number(metrics['best_validation_loss'], 3)} ({count(metrics['best_epoch'])})",
        number(metrics["test_loss"], 3),
        number(metrics["train_accuracy"], 3),
        number(float(history["train_accuracy"].max()), 3),
        number(metrics["validation_accuracy"], 3),
        number(float(history["validation_accuracy"].max()), 3),
    )


def result_table(data: ReportData) -> Table:
    """Table 3: every variant's result, and beside it what the study and the paper published for that setting.

    Args:
        data: contents of the other stages' files.

    Returns:
        One row for each configured variant, then those that no study chose yet, then the published rows that none of
        ours corresponds to.
    """
    fid, kid = fid_label(data.fid_network), fid_label(data.fid_network, "KID")
    published_fid = fid_label(INCEPTION)
    several = data.reference["ranges"] > 1
    published = f"published, {STUDY_DATA}, N = {count(STUDY_IMAGES)}"
    differences = [f"difference from {baseline} [95 %]" for baseline in (REFERENCE, *data.differences)]
    headings = {
        "": ["variant", "guided by"],
        "ours": [
            "w1 / w2 / boosting",
            "N",
            f"{fid} [95 %]",
            *([f"{fid} of each range"] if several else []),
            *differences,
        ],
        "ours, generative": [kid, f"{kid}, held-out", "k-NN precision", "k-NN recall"],
        "ours, discriminator as classifier": ["precision", "recall", "accuracy", "AUROC"],
        published: ["row", f"study: {published_fid}", f"paper: {published_fid}"],
        "published, discriminator as classifier": ["precision", "recall"],
    }
    columns = tuple(Column(group, heading) for group, names in headings.items() for heading in names)
    counterparts = {result.variant: result for result in PUBLISHED_RESULTS if result.variant}
    rows = [(*_our_result(data, name), *_published_result(counterparts.get(name))) for name in data.inputs.variants]
    rows += [_absent_row(data, name) for name in data.absent if name not in data.inputs.variants]
    rows += [
        ("not run here", result.label, *[MISSING] * _blanks(data), *_published_result(result))
        for result in PUBLISHED_RESULTS
        if result.variant not in data.inputs.variants
    ]
    reference = data.reference
    notes = (
        _comparability(data),
        "Interval: point +- 1.96 sd by the influence function over generated samples; differences are "
        "paired by sample seed, and negative where the row is better than the variant named. It covers sampling "
        "noise only, with all networks and the reference fixed.",
        "k-NN precision and recall are the generative ones (Kynkaanniemi et al. 2019). What the study "
        "calls precision and recall are the discriminator's classification scores at threshold 0.5: a "
        "different thing, in columns of their own. Ours use the test split of real and unguided fake "
        "images.",
        f"KID and k-NN precision and recall: against {count(reference['reference_n'])} real training images; KID, "
        f"held-out: against {count(reference['holdout_n'])} real images that no network was trained on.",
        *_ranges_note(data),
        f"Classification scores: {seen_by_features(data)}",
    )
    return Table("table3", "Table 3. Results", columns, tuple(rows), notes, data_note(data.card))


def _comparability(data: ReportData) -> str:
    reference, size, source = data.reference, data.real.shape[1], data.settings["real"]["source"]
    published = f"Published: {STUDY_DATA}, 32x32, {count(STUDY_IMAGES)} samples, Inception features."
    classes = " with classes" if data.settings["cond"] else ""
    ours = (
        f"Ours: {source}{classes}, {size}x{size}, {samples_text(reference)} samples, {reference['steps']} steps, "
        f"{network_name(data.fid_network)} features, {reference_text(reference)}."
    )
    same = (data.fid_network, source, size, reference["n"]) == (INCEPTION, STUDY_DATA, 32, STUDY_IMAGES)
    if same and not data.settings["cond"]:
        return f"Published values and ours are of one kind; an interval is known for ours alone. {published} {ours}"
    return (
        f"Published values and ours are not comparable numbers. {published} {ours} Compare the direction of effects "
        "only."
    )


def _ranges_note(data: ReportData) -> tuple[str, ...]:
    ranges = data.reference["ranges"]
    if ranges == 1:
        return ()
    return (
        f"{fid_label(data.fid_network)} is the mean over {ranges} ranges of samples, each with its own seeds; no range "
        "is chosen. Its interval, and those of differences, are by the influence function over the samples of all "
        "ranges; the interval beside the ranges is Student's over their scatter. KID and k-NN precision and recall are "
        "those of the first range.",
    )


def _absent_row(data: ReportData, name: str) -> tuple[str, ...]:
    return (*_our_result(data, name), *_published_result(None))


def _our_result(data: ReportData, name: str) -> tuple[str, ...]:
    shown = AUTHORS_ROW if name == AUTHORS else name
    if name in data.absent:
        return (shown, data.absent[name], *[MISSING] * _blanks(data))
    result, variant = data.evaluations[name], data.variant(name)
    guided = bool(variant["members"])
    weights = f"{scientific(variant['w1'])} / {scientific(variant['w2'])} / {switch(variant['boosting'])}"
    return (
        shown,
        variant_text(variant),
        weights if guided else MISSING,
        samples_text(result),
        estimate(result["fid"], result["fid_ci95"]),
        *([_ranges(result)] if data.reference["ranges"] > 1 else []),
        estimate(result["delta_fid_vs_edm"], result["delta_fid_ci95"], sign=True) if guided else MISSING,
        *(_difference(differences.get(name)) for differences in data.differences.values()),
        number(result["kid"], 4),
        number(result["kid_holdout"], 4),
        number(result["precision"], 3),
        number(result["recall"], 3),
        number(result["discriminator_precision"], 3),
        number(result["discriminator_recall"], 3),
        number(result["discriminator_accuracy"], 3),
        number(result["discriminator_auroc"], 3),
    )


def _blanks(data: ReportData) -> int:
    """Our columns behind the first two."""
    return 12 + len(data.differences) + int(data.reference["ranges"] > 1)


def _ranges(result: Mapping[str, Any]) -> str:
    each = ", ".join(number(value, 2) for value in result["fid_ranges"])
    return f"{each}; mean {estimate(result['fid_ranges_mean'], result['fid_ranges_ci95'])}"


def _difference(difference: Difference | None) -> str:
    return MISSING if difference is None else estimate(difference.value, difference.bounds, sign=True)


def _published_result(result: PublishedResult | None) -> tuple[str, ...]:
    if result is None:
        return (MISSING,) * 5
    return (
        result.label,
        number(result.study_fid, 3),
        result.paper_fid or MISSING,
        number(result.study_precision, 3),
        number(result.study_recall, 3),
    )

"""What the factorial found, as tables, sentences and a figure, from its record alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from discriminator_guidance.report.effects_chart import effects_chart
from discriminator_guidance.report.table_files import Column, Table, table_markdown
from discriminator_guidance.report.wording import count, fid_label, number, scientific

Record = Mapping[str, Any]

LEVEL_WORDS = {
    "mean_probability": "mean probability",
    "mean_logit": "mean logit",
    "clipped_logit_mean": "clipped raw logits",
    True: "on",
    False: "off",
}
FACTOR_WORDS = {
    "rule": "clipped logits",
    "init": "sequential members",
    "epoch_factor": "overfitted members",
    "reshuffle": "no reshuffling",
    "boosting": "boosting",
    "steps": "number of steps",
    "w2": "w2",
}
ANCHOR_WORDS = {
    "no guidance, ours": "no guidance, our sampler",
    "one discriminator, ours": "one discriminator, trained and sampled as ours",
    "ours": "our ensemble: every cause off",
    "no guidance, study": "no guidance, the study's sampler",
    "one discriminator, study": "one discriminator, trained and sampled as the study's",
    "study": "what the study ran: every cause on",
}


def factorial_files(record: Record, dpi: int, note: str = "") -> dict[str, bytes]:
    """The files that people read.

    Args:
        record: contents of factorial.json.
        dpi: of the figure.
        note: what must be said of the real data, "" for nothing.

    Returns:
        Contents by name; the same record gives the same bytes.
    """
    return {
        "effects.csv": effects_csv(record, note).encode(),
        "effects.md": factorial_text(record, note).encode(),
        "effects.png": effects_chart(record, FACTOR_WORDS, dpi, note),
    }


def factorial_text(record: Record, note: str = "") -> str:
    """Sentences and tables in Markdown, each with the data's note; `docs/ensemble.md` holds the same text."""
    sentences = "\n".join(f"- {sentence}" for sentence in factorial_findings(record))
    tables = "\n".join(table_markdown(replace(table, data_note=note)) for table in factorial_tables(record))
    return f"{sentences}\n\n{tables}"


def factorial_findings(record: Record) -> list[str]:
    """What the numbers say, in sentences chosen by whether an interval is clear of no change."""
    compared, label = record["comparisons"], fid_label(record["fid_network"])
    texts = [
        f"What the study ran has {_times(compared['study / ours'])} the {label} of our ensemble, and "
        f"{_times(compared['study / one discriminator, study'])} that of one discriminator trained and sampled as the "
        f"study's; against no guidance with the same sampler it is {_times(compared['study / no guidance, study'])}.",
        f"Our ensemble has {_times(compared['ours / one discriminator, ours'])} the {label} of one of its "
        f"discriminators alone, and {_times(compared['ours / no guidance, ours'])} that of no guidance.",
    ]
    mains = [entry for entry in record["effects"] if len(entry["effect"][0]) == 1]
    clear = [entry for entry in mains if _clear(entry)]
    named = "; ".join(f"{FACTOR_WORDS[entry['effect'][0][0]]} {_times(entry)}" for entry in clear)
    texts.append(
        f"Averaged over the other causes, these change {label} beyond the spread of the training seeds: {named}."
        if named
        else f"Averaged over the other causes, none changes {label} beyond the spread of the training seeds."
    )
    chains = [entry for entry in record["effects"] if len(entry["effect"][0]) > 1 and _clear(entry)]
    named = "; ".join(f"{_chain(entry)} {_times(entry)}" for entry in chains)
    texts.append(
        f"Interactions beyond that spread, of which those joined by = cannot be told apart: {named}."
        if named
        else "No group of two-factor interactions is beyond that spread."
    )
    return texts


def factorial_tables(record: Record) -> list[Table]:
    """Causes, anchors, interactions and losses."""
    label, seeds = fid_label(record["fid_network"]), record["training_seeds"]
    images = record["training_images"]
    shared = (
        f"N = {count(record['images'])} samples a cell, {len(seeds)} training seeds ({', '.join(map(str, seeds))}), "
        f"{len(record['members'])} members, each trained on {'all' if images is None else count(images)} real and as "
        "many fake pictures (80 % of them). [Brackets]: 95 % intervals by the t distribution over the seeds, each of "
        "which trains its own members and draws its own samples."
    )
    rows = []
    for entry in (e for e in record["effects"] if len(e["effect"][0]) == 1):
        name = entry["effect"][0][0]
        ours, study = record["levels"][name]
        cells = [record["added"][name], entry, record["undone"][name]]
        error = number(math.exp(1.96 * entry["log"]["sampling_error"]), 2)
        rows.append((FACTOR_WORDS[name], _level(ours), _level(study), *(_ratio(cell) for cell in cells), error))
    causes = Table(
        "factorial",
        f"Factors by which each cause multiplies {label}",
        tuple(
            Column("", heading)
            for heading in ("cause", "ours", "the study's", "added to ours", "on average", "in the study", "noise")
        ),
        tuple(rows),
        (
            shared,
            "Added to ours: our ensemble with this cause alone, divided by our ensemble. In the study: what the study "
            "ran, divided by the same without this cause. On average: over the runs of the design, geometric means "
            "with the cause and without. 1.00 is no change, above is harm.",
            "Noise: the factor by which drawing other samples from the same networks moves the average (1.96 standard "
            "errors by the influence function).",
            f"w1 = {scientific(record['w1'])} throughout. Heun averages the two slopes, so w2 = 0 also halves the "
            "total weight of guidance.",
        ),
    )
    anchors = Table(
        "factorial_anchors",
        f"{label} where it starts and where it ends",
        (Column("", "cell"), Column("", label), *(Column("training seed", str(seed)) for seed in seeds)),
        tuple(
            (
                ANCHOR_WORDS[name],
                _ratio(entry),
                *(number(math.exp(value), 2) for value in entry["log"]["blocks"]),
            )
            for name, entry in record["anchors"].items()
        ),
        (shared, "Geometric mean over the seeds."),
    )
    design = record["design"]
    interactions = Table(
        "factorial_interactions",
        "Interactions: factors by which two causes together do more than each by itself",
        (Column("", "estimated together"), Column("", "factor")),
        tuple((_chain(entry), _ratio(entry)) for entry in record["effects"] if len(entry["effect"][0]) > 1),
        (
            f"The design: {design['runs']} runs a seed, resolution {_roman(design['resolution'])}: main effects are "
            "clear of two-factor interactions; those are aliased in the groups shown. Defining relation: I = "
            f"{' = '.join('.'.join(word) for word in design['defining_relation'])}.",
            "Half the difference, on the logarithmic scale, between the effect of one cause with the other and without "
            "it, as a factor.",
        ),
    )
    losses = Table(
        "factorial_losses",
        "Whether members overfit: mean losses over seeds and sets",
        tuple(
            Column("", heading)
            for heading in ("member", "epoch factor", "training", "validation", "smallest validation")
        ),
        tuple(
            (
                row["member"].upper(),
                scientific(row["epoch_factor"]),
                *(number(row[key], 3) for key in ("train_loss", "validation_loss", "best_validation_loss")),
            )
            for row in record["losses"]
        ),
        ("Cross entropy after the last epoch, and the smallest of any epoch on the validation grid.",),
    )
    return [causes, anchors, interactions, losses]


def effects_csv(record: Record, note: str = "") -> str:
    """Every effect and comparison on both scales, at full precision, with the data's note, if any, in a last column."""
    stream = io.StringIO()
    blocks = [f"seed_{seed}" for seed in record["training_seeds"]]
    writer = csv.writer(stream, lineterminator="\n")
    heading, cell = (["note"], [note]) if note else ([], [])
    writer.writerow(["kind", "what", "scale", "value", "low", "high", "sampling_error", *blocks, *heading])
    named = [("effect", " = ".join(" x ".join(e) for e in entry["effect"]), entry) for entry in record["effects"]]
    for kind in ("added", "undone", "comparisons", "anchors"):
        named += [(kind.removesuffix("s"), name, entry) for name, entry in record[kind].items()]
    for kind, what, entry in named:
        for scale in ("log", "plain"):
            found = entry[scale]
            numbers = [found[key] for key in ("value", "low", "high", "sampling_error")]
            writer.writerow([kind, what, scale, *numbers, *found["blocks"], *cell])
    return stream.getvalue()


def _clear(entry: Record) -> bool:
    return bool(entry["log"]["low"] > 0 or entry["log"]["high"] < 0)


def _ratio(entry: Record) -> str:
    low, value, high = (math.exp(entry["log"][key]) for key in ("low", "value", "high"))
    return f"{number(value, 2)} [{number(low, 2)}, {number(high, 2)}]"


def _times(entry: Record) -> str:
    return f"x {_ratio(entry)}"


def _chain(entry: Record) -> str:
    return " = ".join(" x ".join(FACTOR_WORDS[name] for name in effect) for effect in entry["effect"])


def _level(value: Any) -> str:
    return LEVEL_WORDS.get(value, scientific(value) if isinstance(value, float) else str(value))


def _roman(resolution: int) -> str:
    numerals: Sequence[str] = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
    return numerals[resolution - 1]

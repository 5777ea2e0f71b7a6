"""What the page shows of the searches: charts, the best trials, and what the choice of the best was worth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.errors import InputError
from discriminator_guidance.report.absent import STUDIES
from discriminator_guidance.report.drawing import Picture
from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.readers import read_csv, read_json
from discriminator_guidance.report.study_record import COLUMNS, KEYS, Trial, axes_of, front_of, trials_of
from discriminator_guidance.report.table_files import Column, Table
from discriminator_guidance.report.tuned_story import STARTS
from discriminator_guidance.report.wording import (
    MISSING,
    count,
    data_note,
    estimate,
    fid_label,
    number,
    scientific,
    signed,
)

BEST = 10  # trials of the table besides those that every study begins with
# Title, what is shown, and what a reader who cannot see it is told.
CHARTS: Mapping[str, tuple[str, str, str]] = {
    "history": (
        "history of the search",
        "Objective of each trial in the order of their numbers; of pruned trials the value they had come to, which "
        "does not compare.",
        "Scatter plot of objective over trial number with a falling line, the best so far.",
    ),
    "importances": (
        "what mattered",
        "Share of the variance of the objective over the whole searched space that each parameter explains, by fANOVA, "
        "a forest fitted to the complete trials: with so few, a rough ranking.",
        "Bar chart of parameter importances.",
    ),
    "parallel": (
        "parallel coordinates",
        "Each complete trial is a line through the values of its parameters.",
        "A line for each trial across one vertical axis a parameter; the best one is emphasised.",
    ),
    "slice": (
        "slices",
        "Objective of each complete trial over each parameter; circled: the best.",
        "One scatter plot for each parameter.",
    ),
    "pareto": (
        "cost against value",
        "Complete trials; the line joins those that no other beats in both.",
        "Scatter plot of value over cost with the Pareto front as a staircase.",
    ),
}


@dataclass(frozen=True)
class StudySection:
    """One search on the page.

    Args:
        study: its word.
        paragraphs: sentences; of a search that was not run, what to do.
        tables: of the values of winner and start on tuning and on evaluation samples, and of the best trials.
        pictures: its charts.
    """

    study: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def study_sections(data: ReportData) -> list[StudySection]:
    """Every search, run or not.

    Args:
        data: contents of the other stages' files; `studies` names the records that are shown.

    Returns:
        In the order of the tuned variants.

    Raises:
        InputError: a record or table is damaged, or not the one that the search left.
    """
    return [_section(data, variant, study) for variant, study in STUDIES.items()]


def _section(data: ReportData, variant: str, study: str) -> StudySection:
    digest = data.studies.get(study)
    if digest is None:
        return StudySection(
            study, (f"Not run yet: `dguide study {study} --profile {data.inputs.profile} --trials N`.",)
        )
    folder, stage = data.inputs.studies, f"study {study}"
    path = folder / f"{study}.json"
    record = read_json(path, stage, KEYS)
    if sha256(path) != digest:
        raise InputError(
            f"{path} as the search left it", "another file", f"run `dguide study {study}` again: it goes on or is over"
        )
    frame = read_csv(folder / f"{study}.csv", stage, COLUMNS).astype(object)
    rows = frame.where(frame.notna(), "").to_dict("records")
    trials = trials_of(record, [{str(key): value for key, value in row.items()} for row in rows])
    return StudySection(
        study,
        (_lead(record, trials),),
        (_bias_table(data, variant, study, record), _trials_table(data, study, record, trials)),
        tuple(_pictures(data, folder, study, record)),
    )


def _lead(record: Mapping[str, Any], trials: list[Trial]) -> str:
    states = ", ".join(f"{times} {state}" for state, times in record["states"].items())
    begun = [trial for trial in trials if trial.complete and trial.start]
    text = (
        f"{record['n_trials']} trials ({states}), sampler seed {record['seed']}. Objective, to be small: "
        f"{record['objective']}. Best: trial {record['best']['trial']} with {number(record['best']['value'], 3)}"
    )
    if begun:
        first = min(begun, key=lambda trial: trial.value or 0.0)
        text += f"; of those every study begins with, {first.start} with {number(first.value, 3)}"
    return f"{text}."


def _bias_table(data: ReportData, variant: str, study: str, record: Mapping[str, Any]) -> Table:
    """The winner and what its study began with, on the samples it was chosen on and on those it was not."""
    start, _ = STARTS[variant]
    label, tuning = fid_label(data.fid_network), record["tuning"]
    told = data.variant(variant).get("tuning") if variant in data.evaluations else None
    chosen = {} if told is None else {start: told.get("start_fid"), variant: told["fid"]}
    rows = []
    for name in (start, variant):
        result = data.evaluations.get(name)
        on_evaluation = estimate(result["fid"], result["fid_ci95"]) if result else MISSING
        rows.append((name, number(chosen.get(name), 2), on_evaluation))
    if told is not None and told.get("start_fid") is not None and start in data.differences:
        held = data.differences[start][variant]
        rows.append(
            (
                f"difference from {start}",
                signed(told["fid"] - told["start_fid"], 2),
                estimate(held.value, held.bounds, sign=True),
            )
        )
    evaluated = data.reference["n"]
    notes = (
        f"Tuning samples: N = {count(tuning['images'])}, run seed {tuning['seed']}, indices from "
        f"{count(tuning['seed_start'])}. Evaluation samples: N = {count(evaluated)}, which took no part in the choice.",
        "The best of many trials is partly luck: what a difference loses from the first column to the second is that "
        "selection bias, and sampling noise. Values of two sample sizes do not compare, differences nearly do.",
        *(
            (f"{variant} has not been promoted and evaluated: {data.absent[variant]}.",)
            if variant in data.absent
            else ()
        ),
    )
    return Table(
        f"study_{study}_bias",
        f"Study {study}: {label} where the winner was chosen, and where it was not",
        (Column("", "variant"), Column("", "tuning samples"), Column("", "evaluation samples")),
        tuple(rows),
        notes,
        data_note(data.card),
    )


def _trials_table(data: ReportData, study: str, record: Mapping[str, Any], trials: list[Trial]) -> Table:
    axes, front = axes_of(record), {trial.number for trial in front_of(trials)}
    complete = sorted((t for t in trials if t.complete), key=lambda trial: (trial.value or 0.0, trial.number))
    shown = [trial for place, trial in enumerate(complete) if place < BEST or trial.start]
    rows = tuple(
        (
            str(trial.number),
            trial.start or MISSING,
            number(trial.value, 3),
            *(("yes" if trial.number in front else MISSING,) if record.get("pareto") else ()),
            *(
                value if isinstance(value, str) else scientific(float(f"{value:.3g}"))
                for value in (trial.params[axis.name] for axis in axes)
            ),
        )
        for trial in shown
    )
    columns = (
        Column("", "trial"),
        Column("", "begun with"),
        Column("", "objective"),
        *((Column("", "on the Pareto front"),) if record.get("pareto") else ()),
        *(Column("searched", axis.name) for axis in axes),
    )
    notes = (
        f"The {min(BEST, len(complete))} best complete trials and all that every study begins with; every trial: "
        f"reports/{data.inputs.profile}/study/{study}.csv.",
        f"Objective: {record['objective']}; sampler seed {record['seed']}.",
    )
    return Table(
        f"study_{study}_trials",
        f"Study {study}: best trials",
        columns,
        rows,
        notes,
        data_note(data.card),
    )


def _pictures(data: ReportData, folder: Path, study: str, record: Mapping[str, Any]) -> list[Picture]:
    from PIL import Image

    pictures, tuning, dpi = [], record["tuning"], int(data.settings["report"]["dpi"])
    for name, (title, caption, alt) in CHARTS.items():
        path = folder / f"{study}_{name}.png"
        if not path.is_file():
            continue
        png = path.read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            width, height = (round(96 * side / dpi) for side in image.size)
        sampled = (
            f"Objective: {record['objective']}. N = {record['n_trials']} trials, sampler seed {record['seed']}; a "
            f"distance is of {count(tuning['images'])} tuning samples, all trials from the same noise. Each was run "
            "once: no intervals."
        )
        note = data_note(data.card)
        pictures.append(
            Picture(
                path.name, png, f"Study {study}: {title}", f"{caption} {sampled} {note}".strip(), alt, width, height
            )
        )
    return pictures

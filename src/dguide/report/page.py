"""The report: tables, figures, curves, and one page that loads nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dguide.report import figures, format, published, samples, tables
from dguide.report.findings import findings, sign_sentences
from dguide.report.gather import ReportData
from dguide.report.summary import fid_text, summary_rows
from discriminator_guidance.files import write_bytes, write_csv
from discriminator_guidance.guidance import LOG_RATIO_BOUND, PROBABILITY_CLIP

TEMPLATES = Path(__file__).parent / "templates"
DRAWINGS = (
    samples.process_figure,
    figures.curves_figure,
    samples.samples_figure,
    figures.fid_figure,
    figures.calibration_figure,
    figures.guidance_figure,
    figures.speed_figure,
)
TABLES = (tables.sampling_table, tables.discriminator_table, tables.result_table, tables.ensemble_table)
SECTIONS = (
    "Answer", "Results", "Evidence", "Tables", "Sampling", "Discriminators", "Studies", "Speed", "Caveats", "Origin",
)  # fmt: skip
CHECKPOINTS = {"last": "the last epoch", "best": "the epoch of the smallest validation loss"}


def build_report(data: ReportData) -> None:
    """Write tables/, figures/, curves.csv and index.html; the same data give the same bytes."""
    # The report's style over matplotlib's defaults, whatever the user's matplotlibrc says.
    with matplotlib.rc_context(fname=TEMPLATES / "report.mplstyle"):
        drawings = {drawing.name: drawing for draw in DRAWINGS if (drawing := draw(data)) is not None}
    made = {table.name: table for make in TABLES if len((table := make(data)).frame)}
    environment, context = _environment(), _context(data) | {"drawings": drawings, "tables": made}
    template = environment.get_template("notes.j2")
    written = {name: "".join(template.blocks[name](template.new_context(context))) for name in made}
    notes = {name: [n for n in (*text.splitlines(), data.note) if n.strip()] for name, text in written.items()}
    page = environment.get_template("page.html").render(context, notes=notes)
    for name, drawing in drawings.items():
        write_bytes(data.report / "figures" / f"{name}.png", drawing.png)
    frames = {"tables/variants": tables.variants_frame(data), "curves": tables.curves_frame(data)}
    for name, table in made.items():
        frames[f"tables/{name}"] = table.frame
        write_bytes(data.report / "tables" / f"{name}.tex", table.latex(notes[name]).encode())
    for name, frame in frames.items():
        write_csv(data.report / f"{name}.csv", frame.assign(note=data.note) if data.note else frame)
    write_bytes(data.report / "index.html", page.encode())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: value for name, value in vars(format).items() if callable(value)}
    environment.filters["fid_text"] = fid_text
    environment.filters["png"] = lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"
    environment.filters["html"] = lambda table: Markup(table.html())  # noqa: S704 (pandas escapes every cell)
    environment.filters["study_html"] = lambda study: Markup(tables.study_table(study).html())  # noqa: S704 (the same)
    environment.filters["flatten"] = lambda values: pd.json_normalize(dict(values)).astype(object).iloc[0].items()
    return environment


def _context(data: ReportData) -> dict[str, Any]:
    """The values that the templates print."""
    settings, reference, label = data.settings, data.reference, data.label()
    heads, replicates, asked = settings["discriminator"], reference["replicates"], findings(data)
    same = label == "FID" and settings["real"]["source"] == published.DATA and not settings["cond"]
    sections = {"Evidence": len(asked) > 1, "Speed": bool(data.benchmark)}
    return {
        "data": data,
        "reference": reference,
        "settings": settings,
        "results": data.evaluations,
        "label": label,
        "clip": PROBABILITY_CLIP,
        "bound": LOG_RATIO_BOUND,
        "findings": asked,
        "sections": [title for title in SECTIONS if sections.get(title, True)],
        "signs": sign_sentences(data, data.from_baseline(), "no guidance"),
        "signs_of_ensembles": sign_sentences(data, data.from_members(), "the mean of the members"),
        "nearest": tables.nearest_settings(data),
        "published": published,
        "comparable": "They are comparable; only ours have an interval."
        if same and reference["n"] == published.IMAGES
        else "They are not comparable: compare only the direction of effects.",
        "starts": tables.start_text(data, list(settings["members"])),
        "seeds": f"Numbers are of the first of {replicates} training replicates."
        if replicates > 1
        else "One training seed for each member.",
        "order": "a new order" if heads["reshuffle"] else "the same order",
        "checkpoint": CHECKPOINTS.get(heads["checkpoint"], f"epoch {heads['checkpoint']} of Table 2, scaled"),
        "summary": tables.Table("summary", "Results", pd.DataFrame(summary_rows(data.evaluations, data.baseline))),
    }

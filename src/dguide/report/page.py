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
from dguide.report.gather import ReportData
from discriminator_guidance.core.files import write_bytes, write_csv
from discriminator_guidance.sampling.guidance import LOG_RATIO_BOUND, PROBABILITY_CLIP

TEMPLATES = Path(__file__).parent / "templates"
DRAWINGS = {
    "fig1": samples.process_figure,
    "fig2": figures.curves_figure,
    "fig3": samples.samples_figure,
    "fid": figures.fid_figure,
    "calibration": figures.calibration_figure,
    "guidance": figures.guidance_figure,
    "speed": figures.speed_figure,
}
TABLES = (tables.sampling_table, tables.discriminator_table, tables.result_table, tables.ensemble_table)


def build_report(data: ReportData) -> None:
    """Write tables/, figures/, curves.csv and index.html; the same data give the same bytes."""
    # The report's style over matplotlib's defaults, whatever the user's matplotlibrc says.
    with matplotlib.rc_context(fname=TEMPLATES / "report.mplstyle"):
        drawings = {name: png for name, draw in DRAWINGS.items() if (png := draw(data)) is not None}
    made = {table.name: table for make in TABLES if len((table := make(data)).frame)}
    environment, context = _environment(), _context(data) | {"drawings": drawings, "tables": made}
    template = environment.get_template("notes.j2")
    written = {name: "".join(template.blocks[name](template.new_context(context))) for name in made}
    notes = {name: [n for n in (*text.splitlines(), data.note) if n.strip()] for name, text in written.items()}
    page = environment.get_template("page.html").render(context, notes=notes)
    for name, png in drawings.items():
        write_bytes(data.report / "figures" / f"{name}.png", png)
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
    environment.filters["png"] = lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"
    environment.filters["html"] = lambda table: Markup(table.html())  # noqa: S704 (pandas escapes every cell)
    return environment


def _context(data: ReportData) -> dict[str, Any]:
    """The values that the templates print."""
    card = pd.json_normalize(dict(data.card)).T.map(str).reset_index().set_axis(["fact", "value"], axis=1)
    return {
        "data": data,
        "reference": data.reference,
        "settings": data.settings,
        "label": data.label(),
        "clip": PROBABILITY_CLIP,
        "bound": LOG_RATIO_BOUND,
        "published": published,
        "summary": tables.Table(
            "summary", "Results", pd.DataFrame(format.summary_rows(data.evaluations, data.baseline))
        ),
        "studies": {study.name: tables.study_table(study) for study in data.studies},
        "card": tables.Table("card", "Data", card),
    }

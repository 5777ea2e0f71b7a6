"""The report: tables, figures, records, and one page that loads nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dguide.report import figures, format, published, samples, tables
from dguide.report.gather import ReportData, ReportInputs, gather, summary_rows
from discriminator_guidance.files import write_bytes, write_csv

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
TUNED = {"tuned": "discriminator", "tuned_mean": "ensemble"}  # variants and the studies that chose them


def build_report(inputs: ReportInputs) -> None:
    """Write tables/, figures/, curves.csv, provenance.json and index.html; the same inputs give the same bytes."""
    data = gather(inputs)
    with matplotlib.rc_context():  # the report's style only, whatever the user's matplotlibrc says
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(figures.STYLE)
        drawings = {drawing.name: drawing for draw in DRAWINGS if (drawing := draw(data)) is not None}
    made = {table.name: table for make in TABLES if len((table := make(data)).frame)}
    environment, context = _environment(data), _context(data) | {"drawings": drawings, "tables": made}
    template = environment.get_template("notes.j2")
    written = {name: "".join(template.blocks[name](template.new_context(context))) for name in made}
    notes = {name: [n for n in (*text.splitlines(), data.note) if n.strip()] for name, text in written.items()}
    files: dict[str, str | bytes] = {f"figures/{name}.png": drawing.png for name, drawing in drawings.items()}
    frames = {"tables/variants": tables.variants_frame(data), "curves": tables.curves_frame(data)}
    for name, table in made.items():
        frames[f"tables/{name}"] = table.frame
        files[f"tables/{name}.md"] = table.markdown(notes[name])
        files[f"tables/{name}.tex"] = table.latex(notes[name])
    files["provenance.json"] = json.dumps(inputs.provenance, indent=2, sort_keys=True) + "\n"
    files["index.html"] = environment.get_template("page.html").render(context, notes=notes)
    for name, content in files.items():
        write_bytes(inputs.report / name, content.encode() if isinstance(content, str) else content)
    for name, frame in frames.items():
        write_csv(inputs.report / f"{name}.csv", frame.assign(note=data.note) if data.note else frame)


def _environment(data: ReportData) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: value for name, value in vars(format).items() if callable(value)}
    environment.filters["difference"] = data.difference
    environment.filters["png"] = lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"
    environment.filters["html"] = lambda table: Markup(table.html())  # noqa: S704 (pandas escapes every cell)
    environment.filters["flatten"] = lambda values: pd.json_normalize(dict(values)).astype(object).iloc[0].items()
    return environment


def _context(data: ReportData) -> dict[str, Any]:
    """The values that the templates print."""
    return {
        "data": data,
        "edm": data.reference,
        "settings": data.settings,
        "results": data.evaluations,
        "label": data.label(),
        "published": published,
        "text": tables,
        "singles": [{"name": name, "difference": data.difference(name)} for name in _alike(data, "d0")],
        "tuned": {
            name: (others, data.studies[TUNED[name]].promoted) for name in TUNED if (others := _comparable(data, name))
        },
        "summary": tables.Table("summary", "Results", pd.DataFrame(summary_rows(data.evaluations))),
    }


def _alike(data: ReportData, name: str) -> list[str]:
    """Variants of one member that are sampled as this one is, null discriminators aside."""
    members = data.settings["members"]
    single = {other: row for other, row in data.settings["variants"].items() if len(row["members"]) == 1}
    sampled = {other: {**row, "members": (), "needs": ""} for other, row in single.items()}
    alike = [other for other, settings in sampled.items() if settings == sampled.get(name)]
    return [other for other in alike if not members[single[other]["members"][0]]["permute_labels"]]


def _comparable(data: ReportData, name: str) -> list[str]:
    """Other variants of the same members by a right rule; for one member, others of one member that are alike."""
    if name not in data.evaluations:
        return []
    variants = data.settings["variants"]
    members, right = variants[name]["members"], {k for k, v in variants.items() if v["rule"] != "clipped_logit_mean"}
    same = [other for other in variants if other in right and variants[other]["members"] == members]
    return [other for other in (same if len(members) > 1 else _alike(data, name)) if other != name]

"""The report: tables, figures, curves, and one page that loads nothing."""

import base64

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import style

from dguide.report import figures, tables
from dguide.report import format as fmt
from dguide.report.gather import TEMPLATES, ReportData
from dguide.report.tables import Table
from discriminator_guidance.core.files import write_bytes, write_csv
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP

STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}  # a $ in the name of a network is a $
FIGURES = {
    "fig1": figures.process_figure,
    "fig2": figures.curves_figure,
    "fig3": figures.samples_figure,
    "fid": figures.fid_figure,
    "guidance": figures.guidance_figure,
}
TABLES = (tables.sampling_table, tables.discriminator_table, tables.result_table, tables.ensemble_table)


def build_report(data: ReportData) -> None:
    """Write tables/, figures/, curves.csv and index.html; the same data give the same bytes."""
    dpi, note = data.settings["report"]["dpi"], data.note
    with style.context(["default", "seaborn-v0_8-whitegrid", STYLE]):  # whatever the user's matplotlibrc says
        pngs = {name: figures.png(figure, dpi, note) for name, draw in FIGURES.items() if (figure := draw(data))}
    made = {f"table{n}": table for n, make in enumerate(TABLES, 1) if len((table := make(data)).frame)}
    page = _page(data, pngs, made)
    variants = pd.DataFrame([{"variant": name, **record} for name, record in data.evaluations.items()])
    frames = {"curves": tables.curves_frame(data), "tables/variants": variants.drop(columns="against_members")}
    for name, table in made.items():
        frames[f"tables/{name}"] = table.frame
        write_bytes(data.report / "tables" / f"{name}.tex", tables.latex(name, table, note).encode())
    for name, frame in frames.items():
        write_csv(data.report / f"{name}.csv", frame.assign(note=note) if note else frame)
    for name, png in pngs.items():
        write_bytes(data.report / "figures" / f"{name}.png", png)
    write_bytes(data.report / "index.html", page.encode())


def _page(data: ReportData, pngs: dict[str, bytes], made: dict[str, Table]) -> str:
    """The page, whose template places words, tables and figures."""
    results = pd.DataFrame(fmt.summary_rows(data.settings, data.evaluations))
    facts = pd.json_normalize(data.card).T.map(str).reset_index().set_axis(["fact", "value"], axis=1)
    studies = {word: tables.study_table(data, word) for word in data.studies}
    charts = {word: sorted((data.report / "study").glob(f"{word}*.png")) for word in studies}
    shown = made | studies | {
        "results": Table("Results", results, fmt.signs(data.fid, data.from_baseline, data.baseline_text)),
        "data": Table("Data", facts, []),
    }  # fmt: skip
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["source"] = lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"
    environment.filters["html"] = tables.html
    return environment.get_template("page.html").render(
        data=data,
        fmt=fmt,
        figures=pngs,
        tables=shown,
        charts=charts,
        answer=fmt.answer(data.fid, data.settings, data.differences[tuple(data.settings["report"]["primary"])]),
        bound=figures.LOG_RATIO_BOUND,
        clip=PROBABILITY_CLIP,
    )

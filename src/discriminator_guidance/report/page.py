"""The whole report: tables, figures and one self-contained page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.files import write_bytes
from discriminator_guidance.report.calibration_chart import calibration_figure
from discriminator_guidance.report.drawing import Picture
from discriminator_guidance.report.ensemble_table import ensemble_table
from discriminator_guidance.report.fid_chart import fid_figure
from discriminator_guidance.report.figures import curves_figure, guidance_figure
from discriminator_guidance.report.findings import caveats, findings
from discriminator_guidance.report.gather import ReportData, ReportInputs, gather
from discriminator_guidance.report.pictures import process_figure, samples_figure
from discriminator_guidance.report.records import curves_frame, variants_frame
from discriminator_guidance.report.roofline import roofline_figure
from discriminator_guidance.report.sampling_table import sampling_table
from discriminator_guidance.report.study_section import study_sections
from discriminator_guidance.report.table_files import Table, table_csv, table_latex, table_markdown
from discriminator_guidance.report.tables import discriminator_table, result_table
from discriminator_guidance.report.wording import MISSING, count, data_note, fid_label, reference_text, samples_text

DRAWINGS = (
    process_figure,
    curves_figure,
    samples_figure,
    fid_figure,
    calibration_figure,
    guidance_figure,
    roofline_figure,
)


def build_report(inputs: ReportInputs) -> None:
    """Write tables, figures, records and index.html; the same inputs give the same bytes.

    Args:
        inputs: where the other stages' files are, what to show, and where to write.

    Raises:
        InputError: a file is missing or damaged; nothing has been written then.
    """
    data = gather(inputs)
    tables = [sampling_table(data), discriminator_table(data), result_table(data), ensemble_table(data)]
    pictures = [picture for picture in (draw(data) for draw in DRAWINGS) if picture is not None]
    files: dict[str, bytes] = {}
    for table in tables:
        files[f"tables/{table.name}.csv"] = table_csv(table).encode()
        files[f"tables/{table.name}.md"] = table_markdown(table).encode()
        files[f"tables/{table.name}.tex"] = table_latex(table).encode()
    files["tables/variants.csv"] = variants_frame(data).to_csv(index=False, lineterminator="\n").encode()
    files["curves.csv"] = curves_frame(data).to_csv(index=False, lineterminator="\n").encode()
    files |= {f"figures/{picture.file}": picture.png for picture in pictures}
    files["provenance.json"] = (json.dumps(inputs.provenance, indent=2, sort_keys=True) + "\n").encode()
    files["index.html"] = render_page(data, tables, pictures).encode()
    for name, content in files.items():
        write_bytes(inputs.destination / name, content)


def render_page(data: ReportData, tables: list[Table], pictures: list[Picture]) -> str:
    """The page as one HTML file that loads nothing.

    Args:
        data: contents of the other stages' files.
        tables: the four tables.
        pictures: the figures.

    Returns:
        HTML; everything that came from a file is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    studies = study_sections(data)
    tables = [*tables, *(table for study in studies for table in study.tables)]
    pictures = [*pictures, *(picture for study in studies for picture in study.pictures)]
    return environment.get_template("page.html").render(
        data=data,
        profile=data.inputs.profile,
        label=fid_label(data.fid_network),
        headline=_headline(data),
        data_note=data_note(data.card),
        findings=findings(data),
        studies=studies,
        caveats=caveats(data),
        tables={table.name: table for table in tables},
        pictures={picture.file.removesuffix(".png"): picture for picture in pictures},
        encode=lambda picture: base64.b64encode(picture.png).decode(),
        card=list(flatten(data.card)),
        provenance=list(flatten(data.inputs.provenance)),
    )


def _headline(data: ReportData) -> str:
    edm, size = data.reference, data.real.shape[1]
    return (
        f"{count(len(data.evaluations))} ways of sampling from one diffusion model of "
        f"{data.settings['real']['source']} ({size}x{size}), {samples_text(edm)} images each, {edm['steps']} "
        f"Heun steps, judged against {reference_text(edm)}; {count(len(data.members))} "
        "discriminators."
    )


def typeset(text: str) -> str:
    """Text as HTML prints it: true minus and multiplication signs, no line break before a per cent sign."""
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d)x(?=\d)", "×", text).replace("+-", "±").replace(" %", "\u00a0%")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as lines: ("versions.torch", "2.13.0")."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or MISSING
        else:
            yield f"{prefix}{key}", MISSING if value is None else str(value)

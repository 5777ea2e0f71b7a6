"""The page stands alone, escapes what it prints, and is the same bytes every time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.gather import ReportInputs
from discriminator_guidance.report.page import build_report, typeset
from tests.project_files import project_config
from tests.report.conftest import VARIANTS, Maker, maker_in

FIGURES = {"fig1.png", "fig2.png", "fig3.png", "fid.png", "calibration.png", "guidance.png"}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """The inputs of a report that has been built, for all who only look at it."""
    inputs = maker_in(tmp_path_factory.mktemp("built"))()
    build_report(inputs)
    return inputs


def page_of(inputs: ReportInputs) -> str:
    return (inputs.destination / "index.html").read_text()


def height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def test_note_on_the_data_stands_beside_everything(make_inputs: Maker, built: ReportInputs) -> None:
    inputs = make_inputs()
    note = "Note on the real data: JPEG re-encoded."
    assert note not in page_of(built)
    inputs.card.write_text(json.dumps({"source": "digits", "note": "JPEG re-encoded"}))
    build_report(inputs)
    assert page_of(inputs).count(note) == 1 + len(FIGURES) + 4, "header, every caption, every table"
    assert all(note in path.read_text() for path in (inputs.destination / "tables").glob("*.md"))
    for path in [inputs.destination / "curves.csv", *(inputs.destination / "tables").glob("*.csv")]:
        table = pd.read_csv(path, dtype=str)
        without = pd.read_csv(built.destination / path.relative_to(inputs.destination), dtype=str)
        assert list(table.columns) == [*without.columns, "note"]
        assert list(table["note"]) == [note] * len(table)
        pd.testing.assert_frame_equal(table.drop(columns="note"), without)
    for name in FIGURES:
        plain = height(built.destination / "figures" / name)
        assert height(inputs.destination / "figures" / name) > plain, "a line below"


def test_every_promised_file_is_written_and_a_second_run_gives_the_same_bytes(built: ReportInputs) -> None:
    first = digests(built.destination)
    tables = {
        f"tables/{name}.{kind}" for name in ("table1", "table2", "table3", "table4") for kind in ("csv", "md", "tex")
    }
    others = {"tables/variants.csv", "curves.csv", "provenance.json", "index.html"}
    assert set(first) == tables | others | {f"figures/{name}" for name in FIGURES}
    build_report(built)
    assert digests(built.destination) == first


def test_page_loads_nothing_and_embeds_every_figure(built: ReportInputs) -> None:
    page = page_of(built)
    elements = Elements(page)
    assert not elements.open, "all elements are closed"
    tags = {tag for tag, _ in elements.found}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed"})
    targets = [v for _, attributes in elements.found for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert all(target and target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"@import|url\(|https?:", page)
    sources = [attributes["src"] or "" for tag, attributes in elements.found if tag == "img"]
    embedded = {base64.b64decode(source.partition(",")[2]) for source in sources}
    assert embedded == {path.read_bytes() for path in (built.destination / "figures").glob("*.png")}
    assert len(embedded) == len(FIGURES)
    ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert {target[1:] for target in targets if target and target[0] == "#"} <= ids


def test_every_figure_has_n_and_speaks_of_intervals(built: ReportInputs) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_of(built), re.S)
    assert len(captions) == len(FIGURES)
    for caption in captions:
        assert re.search(r"\bN = [\d,]+", caption), caption
        assert re.search(r"seed|training run", caption), caption


def test_hostile_names_are_text_everywhere(make_inputs: Maker) -> None:
    hostile = "<script>alert('x')&_$1"
    inputs = make_inputs(
        variants=(*VARIANTS, hostile),
        changes={name: {"fid_network": "<b>net"} for name in (*VARIANTS, hostile)},
    )
    build_report(inputs)
    page = page_of(inputs)
    elements = Elements(page)
    assert {"script", "b"} & {tag for tag, _ in elements.found} == {"b"}  # the page's own
    assert hostile in elements.text
    assert "FID (<b>net)" in elements.text
    assert "<script>" not in (inputs.destination / "tables/table3.md").read_text()


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</style><script src=https://evil.example/x.js></script>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "<!--",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_notes_names_and_provenance_add_no_element_and_load_nothing(
    make_inputs: Maker, built: ReportInputs, hostile: str
) -> None:
    inputs, honest = make_inputs(), Elements(page_of(built))
    inputs.card.write_text(json.dumps({"source": "digits", "note": hostile, hostile: [hostile], "images": {"a": 1}}))
    build_report(dataclasses.replace(inputs, provenance={**inputs.provenance, hostile: hostile, "n": {hostile: 1}}))
    page = page_of(inputs)
    elements = Elements(page)
    allowed = {tag for tag, _ in honest.found}
    assert {tag for tag, _ in elements.found} <= allowed
    assert hostile in elements.text
    assert not elements.open
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "style"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), value


def texts_of(inputs: ReportInputs) -> list[str]:
    texts = [Elements(page_of(inputs)).text]
    return texts + [path.read_text() for path in (inputs.destination / "tables").glob("table*")]


def test_figures_of_a_trained_network_are_never_plain_fid(built: ReportInputs) -> None:
    for text in texts_of(built):
        for before, name in re.findall(r"(\w*:? ?)\bFID\b(?! \(digits network\))()", text):
            assert before.strip(" :") in ("study", "paper", "published"), f"{before}FID{name}"


def test_figures_of_inception_are_plain_fid(make_inputs: Maker) -> None:
    inputs = make_inputs(changes={name: {"fid_network": "inception"} for name in VARIANTS})
    build_report(inputs)
    texts = texts_of(inputs)
    assert "FID [95 %]" in "".join(texts)
    assert "d0 lowers FID from" in texts[0]
    for text in texts:
        assert not re.search(r"\b(FID|KID) \(", text)
        assert "digits network" not in text


def test_only_configured_rows_and_figures_appear(make_inputs: Maker) -> None:
    inputs = make_inputs(variants=("edm",), members=())
    build_report(inputs)
    figures = {path.name for path in (inputs.destination / "figures").iterdir()}
    assert figures == {"fig1.png", "fig3.png", "fid.png"}
    text = Elements(page_of(inputs)).text
    assert "ensemble_clipped_logit" not in text


@pytest.mark.parametrize("profile", ["cifar10", "cifar10-cond"])
def test_colour_pictures_and_networks_of_others_of_which_the_profile_names_only_the_file(
    make_inputs: Maker, profile: str
) -> None:
    settings = project_config(profile).model_dump()
    inputs = make_inputs(variants=(*VARIANTS, "authors"), channels=3, settings=settings)
    build_report(inputs)
    assert {path.name for path in (inputs.destination / "figures").iterdir()} == FIGURES
    assert (inputs.destination / "figures" / "fig1.png").stat().st_size > 1000
    table = (inputs.destination / "tables" / "table3.md").read_text()
    assert "| EDM-G++ (authors' discriminator) | AUTHORS alone |" in table


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("evaluation/d0.json", "evaluation"),
        ("discriminator/d1/history.csv", "discriminator"),
        ("discriminator/d1/calibration.csv", "discriminator"),
        ("guided/edm/trajectory.npz", "guided"),
        ("real/train.npz", "real"),
        ("real/card.json", "real"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbled"])
def test_a_missing_or_damaged_file_is_named_with_its_stage(
    make_inputs: Maker, tmp_path: Path, path: str, stage: str, damage: str
) -> None:
    inputs = make_inputs()
    if damage == "missing":
        (tmp_path / path).unlink()
    else:
        (tmp_path / path).write_text("{garbled")
    with pytest.raises(InputError, match=rf"stage `{stage}`") as caught:
        build_report(inputs)
    assert path in str(caught.value)
    assert not inputs.destination.exists(), "nothing is written before all inputs are read"


def test_unknown_variants_and_members_are_refused(make_inputs: Maker) -> None:
    inputs = make_inputs()
    for change in ({"variants": ("edm", "d9")}, {"members": ("d9",)}):
        with pytest.raises(InputError, match=r"configs/mini\.yaml to have 'd9'"):
            build_report(dataclasses.replace(inputs, **change))
    with pytest.raises(InputError, match="edm"):
        build_report(dataclasses.replace(inputs, variants=("d0",)))


def test_minus_signs_are_typeset_but_ranges_and_names_are_not() -> None:
    assert typeset("-1.50 [-2.00, -1.00], 3e-4, D0-D5, 16x16, exp") == "−1.50 [−2.00, −1.00], 3e-4, D0-D5, 16×16, exp"

"""The page loads nothing, escapes what it prints, says what the intervals say, and is the same bytes every time."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dguide.report import page
from dguide.report.gather import ReportData
from dguide.report.page import build_report
from discriminator_guidance.core.errors import InputError

from .conftest import VARIANTS, Maker, difference, maker_in

FIGURES = ("fig1", "fig2", "fig3", "fid", "calibration", "guidance", "speed")


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """The inputs of a report that has been built, for all who only look at it."""
    record = {"alone": {"d0": "d0", "d1": "d0_table1"}, "fid": 3.0, **difference(-0.7)}
    data = maker_in(tmp_path_factory.mktemp("built"))(changes={"mean_prob": {"against_members": record}})
    build_report(data)
    return data


@pytest.fixture
def words(make_data: Maker, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Builds a report without the seconds of drawing."""
    monkeypatch.setattr(page, "DRAWINGS", {})

    def build(**inputs: Any) -> ReportData:
        build_report(data := make_data(**inputs))
        return data

    return build


def page_of(data: ReportData) -> str:
    return (data.report / "index.html").read_text()


def test_every_promised_file_is_written_and_a_second_run_gives_the_same_bytes(built: ReportData) -> None:
    first = {path: path.read_bytes() for path in built.report.rglob("*") if path.is_file()}
    tables = {f"tables/table{n}.{kind}" for n in (1, 2, 3, 4) for kind in ("csv", "tex")}
    others = {"tables/variants.csv", "curves.csv", "index.html", *(f"figures/{name}.png" for name in FIGURES)}
    assert tables | others <= {str(path.relative_to(built.report)) for path in first}
    build_report(built)
    assert {path: path.read_bytes() for path in first} == first


def test_page_loads_nothing_and_embeds_every_figure(built: ReportData) -> None:
    text = page_of(built)
    elements = Elements(text)
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "link", "iframe", "object", "embed"})
    targets = [v for _, attributes in elements.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert all(target and target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"@import|url\(|https?:", text)
    embedded = {base64.b64decode(target.partition(",")[2]) for target in targets if target and target[0] == "d"}
    assert embedded == {path.read_bytes() for path in (built.report / "figures").glob("*.png")}


@pytest.mark.parametrize("word", ["better", "worse", "indistinguishable"])
def test_the_verdict_on_the_planned_comparison_follows_its_interval(words: Maker, word: str) -> None:
    shift = {"better": -0.5, "worse": 0.5, "indistinguishable": 0.05}[word]
    (verdict,) = re.findall(r'<p class="answer (\w+)">d0 is (\w+)', page_of(words(steps={"d0": shift})))
    assert verdict == (word, word)


def test_rows_whose_kids_disagree_are_those_of_the_table_each_kid_by_itself(words: Maker) -> None:
    def opposed(report: Path) -> None:
        rows = pd.read_csv(path := report / "details" / "differences.csv").set_index(["variant", "other"])
        rows.loc[("d0", "edm"), "kid_difference"] = 0.001
        rows.loc[[("mean_prob", "edm"), ("clip_logit", "edm")], "kid_holdout_difference"] = 0.001
        rows.reset_index().to_csv(path, index=False)

    data = words(damage=opposed)
    text = Elements(page_of(data)).text
    disagree = "KID disagree in sign, against edm, for"
    of_kid = f"FID (digits network) and {disagree} d0."
    assert text.count(of_kid) == 3, "below the verdict, below the results and below Table 3"
    assert text.count(f"FID (digits network) and held-out {disagree} mean_prob, clip_logit.") == 2
    assert of_kid in (data.report / "tables" / "table3.tex").read_text()


def test_notes_and_names_add_no_element(words: Maker, built: ReportData) -> None:
    hostile = "\"></style><script src=x.js></script><!-- {{ 7 * 7 }}{% include '/etc/passwd' %}"
    changes = {name: {"fid_network": hostile, "reference_statistics": hostile} for name in VARIANTS}
    elements = Elements(page_of(words(note=hostile, changes=changes)))
    assert {tag for tag, _ in elements.tags} <= {tag for tag, _ in Elements(page_of(built)).tags}
    assert hostile in elements.text
    for _, attributes in elements.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)


@pytest.mark.parametrize(("network", "label"), [("inception", "FID"), ("digits network", "FID (digits network)")])
def test_fid_of_inception_is_plain_and_of_other_networks_never(words: Maker, network: str, label: str) -> None:
    data = words(changes={name: {"fid_network": network} for name in VARIANTS})
    assert f"ours: {label} [95 %]" in pd.read_csv(data.report / "tables" / "table3.csv")
    assert ("FID (digits" in Elements(page_of(data)).text) == (network != "inception")


@pytest.mark.parametrize("path", ["evaluation/d0.json", "details/differences.csv", "discriminator/d1/calibration.csv"])
def test_a_missing_or_damaged_file_is_named_with_its_stage(make_data: Maker, path: str) -> None:
    stage = path.partition("/")[0].replace("details", "evaluation")
    for content in ("{garbled", None):

        def damage(report: Path, content: str | None = content) -> None:
            (report / path).write_text(content) if content else (report / path).unlink()

        with pytest.raises(InputError, match=rf"stage {stage}") as caught:
            make_data(damage=damage)
        assert path in str(caught.value)


@pytest.mark.integration
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_overflows_in_a_browser(tmp_path: Path, built: ReportData, width: int) -> None:
    """Outside the boxes that scroll by themselves; in a frame, because windows are at least 500 pixels wide."""
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("needs chromium")
    script = """<script>onload = () => parent.postMessage([...document.querySelectorAll("body *")].filter(element =>
        !element.closest(".scroll, .plate, svg") && element.getBoundingClientRect().right > innerWidth + 1
    ).map(element => element.tagName).join(" ") || "fits", "*")</script>"""
    (tmp_path / "page.html").write_text(page_of(built).replace("</body>", script))
    frame = f'<iframe src="page.html" width={width}></iframe><script>onmessage = e => document.title = e.data</script>'
    (tmp_path / "frame.html").write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>fits</title>" in shown

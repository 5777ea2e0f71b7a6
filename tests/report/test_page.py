"""The page loads nothing, escapes what it prints, says what the intervals say, and is the same bytes every time."""

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dguide.report import page
from dguide.report.gather import ReportData
from dguide.report.page import build_report
from discriminator_guidance.core.errors import InputError

from .conftest import report_data


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
    data = report_data(tmp_path_factory.mktemp("built"))
    build_report(data)
    return data


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ReportData, Elements]]:
    """Builds a report without the seconds of drawing."""
    monkeypatch.setattr(page, "FIGURES", {})

    def build(**inputs: Any) -> tuple[ReportData, Elements]:
        build_report(data := report_data(tmp_path, **inputs))
        return data, Elements((data.report / "index.html").read_text())

    return build


def differences(**changes: float) -> Callable[[Path], None]:
    """Changes the planned comparison in differences.csv."""

    def change(report: Path) -> None:
        rows = pd.read_csv(path := report / "details" / "differences.csv").set_index(["variant", "other"])
        rows.loc[("mean_prob", "edm"), list(changes)] = list(changes.values())
        rows.reset_index().to_csv(path, index=False)

    return change


def test_every_promised_file_is_written(built: ReportData) -> None:
    tables = {f"tables/table{n}.{kind}" for n in (1, 2, 3, 4) for kind in ("csv", "tex")}
    figures = {f"figures/{name}.png" for name in ("fig1", "fig2", "fig3", "fid", "guidance")}
    written = {str(path.relative_to(built.report)) for path in built.report.rglob("*")}
    assert tables | figures | {"tables/variants.csv", "curves.csv", "index.html"} <= written


def test_page_loads_nothing_and_embeds_every_figure(built: ReportData) -> None:
    elements = Elements(text := (built.report / "index.html").read_text())
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "link", "iframe", "object", "embed"})
    targets = [v for _, attributes in elements.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert all(target and target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"@import|url\(|https?:", text)
    embedded = {base64.b64decode(target.partition(",")[2]) for target in targets if target and target[0] == "d"}
    assert embedded == {path.read_bytes() for path in built.report.rglob("*.png")}


@pytest.mark.parametrize(("low", "high", "word"), [(-2, -1, "better"), (1, 2, "worse"), (-1, 1, "indistinguishable")])
def test_the_verdict_on_the_planned_comparison_follows_its_interval(words, low: float, high: float, word: str) -> None:
    same_sign = dict.fromkeys(("difference", "kid_difference", "kid_holdout_difference"), low + high)
    text = words(damage=differences(low=low, high=high, **same_sign))[1].text
    assert re.search(rf"Against edm \(no guidance\), mean_prob .* is {word}: .* KID and .* agree in sign\.", text)


def test_rows_whose_kids_disagree_are_named_each_kid_by_itself(words) -> None:
    data, elements = words(damage=differences(kid_difference=1.0))
    rows = pd.read_csv(data.report / "details" / "differences.csv").query("other == 'edm'")
    sentences = []
    for kid, name in (("kid", "KID"), ("kid_holdout", "held-out KID")):
        opposed = ", ".join(rows["variant"][rows["difference"] * rows[f"{kid}_difference"] < 0])
        sentences.append(f"FID (digits network) and {name} disagree in sign, against edm, for {opposed}.")
    assert "mean_prob" in sentences[0]
    assert all(elements.text.count(sentence) == 2 for sentence in sentences), "below the results and below Table 3"
    assert "FID (digits network) and KID disagree in sign." in elements.text, "below the verdict"
    assert sentences[0].replace("_", r"\_") in (data.report / "tables" / "table3.tex").read_text()


def test_notes_and_names_add_no_element(words, built: ReportData) -> None:
    hostile = "\"></style><script src=x.js></script><!-- {{ 7 * 7 }}{% include '/etc/passwd' %}"
    _, elements = words(note=hostile, changes={"fid_network": hostile, "reference_statistics": hostile})
    known = Elements((built.report / "index.html").read_text())
    assert {tag for tag, _ in elements.tags} <= {tag for tag, _ in known.tags}
    assert hostile in elements.text
    for tag, attributes in elements.tags:
        assert tag == "img" or not any(name.startswith("on") or name == "src" for name in attributes)


@pytest.mark.parametrize(("network", "label"), [("inception", "FID"), ("digits network", "FID (digits network)")])
def test_fid_of_inception_is_plain_and_of_other_networks_never(words, network: str, label: str) -> None:
    data, elements = words(changes={"fid_network": network})
    assert f"ours: {label} [95 %]" in pd.read_csv(data.report / "tables" / "table3.csv")
    assert ("FID (digits" in elements.text) == (network != "inception")


@pytest.mark.parametrize("path", ["evaluation/d0.json", "details/differences.csv", "discriminator/d1/history.csv"])
@pytest.mark.parametrize("text", ["", "{garbled", "{}"], ids=["missing", "garbled", "empty"])
def test_a_missing_or_damaged_file_is_named_with_its_stage(tmp_path: Path, path: str, text: str) -> None:
    stage = path.partition("/")[0].replace("details", "evaluation")
    with pytest.raises(InputError, match=rf"stage {stage}") as caught:
        report_data(tmp_path, damage=lambda at: (at / path).write_text(text) if text else (at / path).unlink())
    assert path in str(caught.value)


@pytest.mark.integration
def test_nothing_overflows_in_a_browser(tmp_path: Path, built: ReportData) -> None:
    """Outside the boxes that scroll by themselves; in a frame, because windows are at least 500 pixels wide."""
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("needs chromium")
    script = """<script>onload = () => parent.postMessage([...document.querySelectorAll("body *")].filter(element =>
        !element.parentElement.closest(".scroll, figure") && element.getBoundingClientRect().right > innerWidth + 1
    ).map(element => element.tagName).join(" ") || "fits", "*")</script>"""
    (tmp_path / "page.html").write_text((built.report / "index.html").read_text().replace("</body>", script))
    frame = '<iframe src="page.html" width=390></iframe><script>onmessage = e => document.title = e.data</script>'
    (tmp_path / "frame.html").write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>fits</title>" in shown

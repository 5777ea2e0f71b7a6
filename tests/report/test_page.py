"""The page loads nothing, escapes what it prints, says what the intervals say, and is the same bytes every time."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from dguide.report import page
from dguide.report.gather import ReportInputs, Standing
from dguide.report.page import build_report
from dguide.settings import load_config
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import write_json

from .conftest import MINI, PROJECT, VARIANTS, Maker, difference, maker_in

FIGURES = {"fig1.png", "fig2.png", "fig3.png", "fid.png", "calibration.png", "guidance.png"}


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text between them."""

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
    each = {"d0": difference(-0.4), "d1": difference(0.4)}
    standing = Standing({"d0": "d0", "d1": "d0"}, 3.0, difference(-0.7), each)
    inputs = maker_in(tmp_path_factory.mktemp("built"))(standings={"mean_prob": standing})
    build_report(inputs)
    return inputs


@pytest.fixture
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the seconds of drawing where a test reads words."""
    monkeypatch.setattr(page, "DRAWINGS", ())


def page_of(inputs: ReportInputs) -> str:
    return (inputs.report / "index.html").read_text()


def finding(inputs: ReportInputs, title: str) -> str:
    """The class and text of a finding."""
    (found,) = [part for part in page_of(inputs).split('<article class="')[1:] if title in part]
    return found.partition("</article>")[0]


def test_every_promised_file_is_written_and_a_second_run_gives_the_same_bytes(built: ReportInputs) -> None:
    first = {path: path.read_bytes() for path in built.report.rglob("*") if path.is_file()}
    tables = {f"tables/table{n}.{kind}" for n in (1, 2, 3, 4) for kind in ("csv", "md", "tex")}
    others = {"tables/variants.csv", "curves.csv", "provenance.json", "index.html"}
    written = {str(path.relative_to(built.report)) for path in first}
    assert tables | others | {f"figures/{name}" for name in FIGURES} <= written
    build_report(built)
    assert {path: path.read_bytes() for path in first} == first


def test_page_loads_nothing_and_embeds_every_figure(built: ReportInputs) -> None:
    text = page_of(built)
    elements = Elements(text)
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "link", "iframe", "object", "embed"})
    targets = [v for _, attributes in elements.found for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert all(target and target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"@import|url\(|https?:", text)
    embedded = {base64.b64decode(target.partition(",")[2]) for target in targets if target and target[0] == "d"}
    assert embedded == {path.read_bytes() for path in (built.report / "figures").glob("*.png")}


@pytest.mark.usefixtures("words_only")
@pytest.mark.parametrize("word", ["better", "worse", "indistinguishable"])
def test_a_finding_follows_the_interval(make_inputs: Maker, word: str) -> None:
    value, half_width = {"better": (-0.5, 0.4), "worse": (0.5, 0.4), "indistinguishable": (0.0, 0.5)}[word]
    inputs = make_inputs(changes={"d0": {"delta_fid": value}})
    edm = {**inputs.differences["edm"], "d0": difference(value, half_width)}
    build_report(dataclasses.replace(inputs, differences={**inputs.differences, "edm": edm}))
    found = finding(inputs, "(d0) help")
    assert found.startswith(f"finding {word}")
    assert set(re.findall("better|worse|indistinguishable", found)) == {word}
    assert ("KID disagree" in found) == (word == "worse"), "KID of d0 is better than that of edm"


@pytest.mark.usefixtures("words_only")
def test_tuned_variants_are_compared_with_others_on_the_samples_of_this_run(make_inputs: Maker) -> None:
    rows = MINI["variants"] | {"tuned_mean": MINI["variants"]["mean_prob"]}
    inputs = make_inputs(variants=(*VARIANTS, "tuned", "tuned_mean"), settings={**MINI, "variants": rows})
    promoted = {"study": "discriminator", "trial": 17, "values": {"fid": 9.876}, "params": {}}
    write_json(inputs.report / "study" / "promoted.json", {"discriminator": promoted})
    build_report(inputs)
    tuned, weights = finding(inputs, "(tuned)?"), finding(inputs, "(tuned_mean)?")
    assert "better than d0 (−2.00 [−2.10, −1.90])" in tuned
    assert "better than mean_prob (−1.50 [−1.60, −1.40])" in weights
    assert re.search(r"trial 17 .* 9\.876", tuned)


@pytest.mark.usefixtures("words_only")
def test_notes_names_and_provenance_add_no_element(make_inputs: Maker, built: ReportInputs) -> None:
    hostile = "\"></style><script src=x.js></script><!-- {{ 7 * 7 }}{% include '/etc/passwd' %}"
    changes = {name: {"fid_network": hostile, "reference_statistics": hostile} for name in VARIANTS}
    inputs = make_inputs(note=hostile, changes=changes)
    provenance = {**inputs.provenance, hostile: hostile, "n": {hostile: 1}}
    build_report(dataclasses.replace(inputs, provenance=provenance))
    elements = Elements(page_of(inputs))
    assert {tag for tag, _ in elements.found} <= {tag for tag, _ in Elements(page_of(built)).found}
    assert hostile in elements.text
    assert not elements.open
    for _, attributes in elements.found:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
    assert "<script" not in (inputs.report / "tables" / "table3.md").read_text()


@pytest.mark.usefixtures("words_only")
@pytest.mark.parametrize("profile", ["cifar10", "mini"])
def test_fid_of_inception_is_plain_and_of_other_networks_never(make_inputs: Maker, profile: str) -> None:
    settings = load_config(PROJECT / "configs" / f"{profile}.yaml").model_dump(mode="json")
    names, network = [name for name in VARIANTS if name in settings["variants"]], settings["fid_network"]["name"]
    changes = {name: {"fid_network": network} for name in names}
    inputs = make_inputs(variants=tuple(names), settings=settings, changes=changes)
    build_report(inputs)
    ours = [column for column in pd.read_csv(inputs.report / "tables" / "table3.csv") if column.startswith("ours: FID")]
    assert all(column.startswith("ours: FID (digits network)") == (network != "inception") for column in ours)


@pytest.mark.parametrize("path", ["evaluation/d0.json", "discriminator/d1/calibration.csv"])
def test_a_missing_or_damaged_file_is_named_with_its_stage(make_inputs: Maker, path: str) -> None:
    inputs = make_inputs()
    file, stage = inputs.report / path, path.partition("/")[0]
    for content in ("{garbled", None):
        file.write_text(content) if content else file.unlink()
        with pytest.raises(InputError, match=rf"stage {stage}") as caught:
            build_report(inputs)
        assert path in str(caught.value)
    assert not (inputs.report / "index.html").exists(), "nothing is written before all inputs are read"


@pytest.mark.integration
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_overflows_in_a_browser(tmp_path: Path, width: int) -> None:
    """Outside the boxes that scroll by themselves; in a frame, because windows are at least 500 pixels wide."""
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("needs chromium")
    script = """<script>onload = () => parent.postMessage([...document.querySelectorAll("body *")].filter(element =>
        !element.closest(".scroll, .plate, svg") && element.getBoundingClientRect().right > innerWidth + 1
    ).map(element => element.tagName).join(" ") || "fits", "*")</script>"""
    (tmp_path / "page.html").write_text((PROJECT / "reports/mini/index.html").read_text().replace("</body>", script))
    frame = f'<iframe src="page.html" width={width}></iframe><script>onmessage = e => document.title = e.data</script>'
    (tmp_path / "frame.html").write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>fits</title>" in shown

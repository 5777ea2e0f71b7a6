"""The three tables: right values, one set of numbers in three formats, LaTeX that a compiler accepts."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.records import curves_frame, variants_frame
from discriminator_guidance.report.sampling_table import sampling_table
from discriminator_guidance.report.table_files import Column, Table, table_csv, table_latex, table_markdown
from discriminator_guidance.report.tables import discriminator_table, result_table
from tests.report.conftest import MEMBERS, VARIANTS, Maker

NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")


def cells(table: Table, row: str) -> dict[str, str]:
    found = next(cells for cells in table.rows if cells[0] == row)
    return {column.full: cell for column, cell in zip(table.columns, found, strict=True)}


def all_tables(make_inputs: Maker) -> list[Table]:
    data = gather(make_inputs())
    return [sampling_table(data), discriminator_table(data), result_table(data)]


def test_sampling_table_puts_the_study_beside_ours(make_inputs: Maker) -> None:
    table = sampling_table(gather(make_inputs()))
    steps = cells(table, "steps (NFE)")
    assert steps["study: guided"] == "35 (69)"
    assert steps["ours: d0_table1"] == "8 (15)"
    assert cells(table, "total weight, (w1 + w2) / 2")["ours: d0"] == "2"
    assert cells(table, "total weight, (w1 + w2) / 2")["ours: d0_table1"] == "1"
    assert cells(table, "w1")["study: unguided"] == "–"
    assert cells(table, "time window")["study: guided"] == "[0.01, 1]"
    assert cells(table, "probability clip")["ours: d0"] == "[1e-5, 1 - 1e-5]"
    assert cells(table, "boosting")["study: guided"] == "on"
    assert "samples (N): 8 against 50,000" in table.notes[0]
    assert "boosting" not in table.notes[0], "a setting that agrees is not listed as a difference"


def test_discriminator_table_applies_both_factors(make_inputs: Maker) -> None:
    inputs = make_inputs()
    inputs.settings["discriminator"] |= {"epoch_factor": 0.3, "learning_rate_factor": 5.0}
    data = gather(inputs)
    table = discriminator_table(data)
    d0 = cells(table, "D0")
    assert (d0["study: epochs"], d0["ours: epochs"]) == ("60", "18")  # x 0.3
    assert (d0["study: learning rate"], d0["ours: learning rate"]) == ("3e-4", "0.0015")  # x 5
    assert d0["study: validation BCE"] == "1.38"
    assert cells(table, "D1")["study: validation BCE"] == "–"
    assert cells(table, "D2")["ours: t_min"] == "0.01"
    assert "× 0.3" in table.notes[0]
    assert "× 5" in table.notes[0]
    history = data.members[0].history
    assert d0["ours, BCE: train, best"] == f"{history['train_loss'].min():.3f}"
    assert [row[0] for row in table.rows] == [member.upper() for member in MEMBERS]


def test_result_table_keeps_the_two_kinds_of_precision_apart(make_inputs: Maker) -> None:
    table = result_table(gather(make_inputs()))
    row = cells(table, "d0_table1")
    assert row["ours: FID (digits network) [95 %]"] == "3.06 [2.86, 3.26]"
    assert row["ours: difference from edm [95 %]"] == "-1.00 [-1.10, -0.90]"
    assert row["ours, generative: k-NN precision"] == "0.311"
    assert row["ours, discriminator as classifier: precision"] == "0.611"
    assert row["published, cifar10, N = 50,000: study: FID"] == "2.084"
    assert row["published, discriminator as classifier: precision"] == "0.525"
    edm = cells(table, "edm")
    assert edm["ours, discriminator as classifier: AUROC"] == "–"
    assert edm["published, cifar10, N = 50,000: paper: FID"] == "2.03 (best seed 1.97)"
    assert "not comparable" in table.notes[0]
    shown = [cell for row in table.rows for cell in row]
    assert {"1.880", "14.348", "1.77"} <= set(shown), "published rows without a run of ours are still shown"


def test_every_variant_is_set_against_one_discriminator_and_against_their_mean(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    table = result_table(data)
    row = cells(table, "ensemble_probability")
    assert row["ours: difference from d0 [95 %]"] == "-1.00 [-1.10, -0.90]"
    assert row["ours: difference from ensemble_probability [95 %]"] == "–"
    assert cells(table, "edm")["ours: difference from ensemble_probability [95 %]"] == "+1.50 [+1.40, +1.60]"
    recorded = variants_frame(data).set_index("variant").loc["d0_table1"]
    assert recorded["delta_fid_vs_ensemble_probability"] == 0.5
    assert recorded["delta_fid_vs_d0_ci95_hi"] == pytest.approx(-0.4)


def test_differences_from_variants_that_are_not_there_have_no_column(make_inputs: Maker) -> None:
    headings = [column.heading for column in result_table(gather(make_inputs(variants=("edm", "d1")))).columns]
    assert "difference from edm [95 %]" in headings
    assert not [heading for heading in headings if "d0" in heading or "ensemble" in heading]


def test_every_range_is_shown_and_none_is_chosen(make_inputs: Maker) -> None:
    ranges = {"ranges": 3, "fid_ranges": [3.5, 3.2, 3.5], "fid_ranges_mean": 3.4, "fid_ranges_ci95": [2.97, 3.83]}
    data = gather(make_inputs(changes={name: ranges | {"fid": 3.4} for name in VARIANTS}))
    table = result_table(data)
    row = cells(table, "d0")
    assert row["ours: N"] == "3 x 8"
    assert row["ours: FID (digits network) of each range"] == "3.50, 3.20, 3.50; mean 3.40 [2.97, 3.83]"
    assert "those of the first range" in " ".join(table.notes)
    assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize(
    ("images", "cond", "comparable"), [(50_000, False, True), (16, False, False), (50_000, True, False)]
)
def test_published_numbers_are_compared_only_with_their_own_kind(
    make_inputs: Maker, images: int, cond: bool, comparable: bool
) -> None:
    inputs = make_inputs(changes={name: {"fid_network": "inception", "n": images} for name in VARIANTS})
    inputs.settings["real"]["source"] = "cifar10"
    inputs.settings["cond"] = cond
    data = dataclasses.replace(gather(inputs), real=np.zeros((1, 32, 32, 3), np.uint8))
    assert ("of one kind" in result_table(data).notes[0]) is comparable
    assert ("not comparable" in result_table(data).notes[0]) is not comparable


def test_a_published_reference_is_named(make_inputs: Maker) -> None:
    changes = {name: {"reference_statistics": "data/ref.npz"} for name in VARIANTS}
    assert "the statistics in data/ref.npz" in result_table(gather(make_inputs(changes=changes))).notes[0]


def test_nulls_become_dashes(make_inputs: Maker) -> None:
    changes = {"d0": {"fid_ci95": None, "delta_fid_ci95": None, "kid": None, "discriminator_auroc": None}}
    row = cells(result_table(gather(make_inputs(changes=changes))), "d0")
    assert row["ours: FID (digits network) [95 %]"] == "3.56"
    assert row["ours, generative: KID (digits network)"] == "–"
    assert row["ours, discriminator as classifier: AUROC"] == "–"


def test_three_formats_show_the_same_numbers(make_inputs: Maker) -> None:
    for table in all_tables(make_inputs):
        rows = list(csv.reader(io.StringIO(table_csv(table))))[1:]
        markdown = [line for line in table_markdown(table).splitlines() if line.startswith("|")][2:]
        latex = table_latex(table).split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
        assert len(rows) == len(markdown) == len(latex) == len(table.rows)
        for cells_csv, line_markdown, line_latex in zip(rows, markdown, latex, strict=True):
            expected = NUMBER.findall(" ".join(cells_csv))
            assert NUMBER.findall(line_markdown) == expected
            assert NUMBER.findall(line_latex) == expected


def test_discriminator_notes_follow_the_settings(make_inputs: Maker) -> None:
    inputs = make_inputs()
    fresh = " ".join(discriminator_table(gather(inputs)).notes)
    assert "in a new order every epoch" in fresh
    assert "55 (D0), 35 (D1)" in fresh
    inputs.settings["discriminator"]["reshuffle"] = False
    assert "in the same order every epoch" in " ".join(discriminator_table(gather(inputs)).notes)


def assert_compiles(text: str) -> None:
    """Balanced, ASCII, every special character escaped, every row as wide as the table says."""
    text.encode("ascii")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\&%$#_{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#]", plain)
    assert plain.count("$") % 2 == 0
    assert not re.search(r"_(?![^$]*\$)", plain), "underscores stand escaped"
    width = len(re.search(r"\\begin\{tabular\}\{(l+)\}", body).group(1))  # type: ignore[union-attr]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + sum(spans) == width - 1
    begun = re.findall(r"\\begin\{(\w+)\}", body)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", body))


def test_latex_is_well_formed(make_inputs: Maker) -> None:
    for table in all_tables(make_inputs):
        assert_compiles(table_latex(table))


def test_special_characters_survive_every_format() -> None:
    evil = r"a_b & 50 % $x$ #1 {y} ~ ^ \z | <script> -1.5 σ 漢"
    table = Table("t", evil, (Column("", "h"), Column("g_1", "h_2")), ((evil, "[1, 2]"),), (evil,))
    assert_compiles(table_latex(table))
    assert list(csv.reader(io.StringIO(table_csv(table))))[1] == [evil, "[1, 2]"]
    markdown = table_markdown(table)
    assert "<script>" not in markdown
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")] == [3, 3, 3]


def test_records_hold_everything_unrounded(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    variants = variants_frame(data)
    assert list(variants["variant"]) == list(VARIANTS)
    row = variants.set_index("variant").loc["d0"]
    assert row["fid"] == data.evaluations["d0"]["fid"]
    assert [row["fid_ci95_lo"], row["fid_ci95_hi"]] == data.evaluations["d0"]["fid_ci95"]
    keys = {key for key in data.evaluations["d0"] if not key.endswith("ci95")}
    assert keys <= set(variants.columns)
    curves = curves_frame(data)
    assert list(curves.columns) == ["member", "epoch", "split", "loss", "accuracy"]
    assert len(curves) == 2 * sum(len(member.history) for member in data.members)
    one = curves[(curves["member"] == "d1") & (curves["split"] == "validation")]
    assert one["loss"].tolist() == data.members[1].history["validation_loss"].tolist()


@pytest.mark.parametrize("members", [(), ("d1",)])
def test_tables_hold_the_configured_members_only(make_inputs: Maker, members: tuple[str, ...], tmp_path: Path) -> None:
    data = gather(make_inputs(members=members))
    assert [row[0] for row in discriminator_table(data).rows] == [member.upper() for member in members]
    assert set(curves_frame(data)["member"]) == set(members)

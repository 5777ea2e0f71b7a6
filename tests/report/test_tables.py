"""Tables: right values in right cells, one set of numbers in every format, LaTeX that a compiler accepts."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.gather import Standing, gather, summary_rows
from discriminator_guidance.report.tables import (
    Table,
    curves_frame,
    discriminator_table,
    ensemble_table,
    result_table,
    sampling_table,
    study_table,
    variants_frame,
)

from .conftest import MEMBERS, VARIANTS, Maker, difference, write_json

NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")
EVIL = r"a_b & 50 % $x$ #1 {y} ~ ^ \z | <script> -1.5 σ 漢"


def cells(table: Table, row: str) -> dict[str, str]:
    frame = table.frame.set_index(table.frame.columns[0])
    return dict(frame.loc[row])


def test_sampling_table_puts_the_reproduction_beside_ours(make_inputs: Maker) -> None:
    table = sampling_table(gather(make_inputs()))
    assert list(cells(table, "steps (NFE)").values()) == [*["35 (69)"] * 2, *["8 (15)"] * 3]
    total = cells(table, "total weight, (w1 + w2) / 2")
    assert (total["ours: d0"], total["ours: d0_table1"], total["ours: edm"]) == ("2", "1", "–")
    assert cells(table, "w1")["reproduction: unguided"] == "–"
    assert set(cells(table, "time window").values()) == {"[0.01, 1]", "–"}
    assert cells(table, "probability clip")["ours: d0"] == "[1e-5, 1 - 1e-5]"


def test_discriminator_table_shows_effective_settings_and_losses(make_inputs: Maker) -> None:
    inputs = make_inputs()
    inputs.settings["members"]["d1"]["bagging"] = 0.8
    data = gather(inputs)
    table = discriminator_table(data)
    d0, history = cells(table, "D0"), data.members[0].history
    assert (d0["reproduction: epochs"], d0["ours: epochs"]) == ("60", "12")
    assert (d0["reproduction: learning rate"], d0["ours: learning rate"]) == ("3e-4", "9e-4")
    assert d0["reproduction: validation BCE"] == "1.38"
    assert d0["ours, BCE: train, best"] == f"{history['train_loss'].min():.3f}"
    best = f"{history['validation_loss'].min():.3f} ({history['epoch'][history['validation_loss'].idxmin()]})"
    assert d0["ours, BCE: validation, best (epoch)"] == best
    assert d0["ours, accuracy: validation, best"] == f"{history['validation_accuracy'].max():.3f}"
    assert cells(table, "D1")["ours: settings of its own"] == "bagging 0.8"
    assert list(table.frame["member"]) == [member.upper() for member in MEMBERS]


def test_result_table_keeps_the_two_kinds_of_precision_apart(make_inputs: Maker) -> None:
    table = result_table(gather(make_inputs()))
    row = cells(table, "d0_table1")
    assert row["ours: FID (digits network) [95 %]"] == "3.06 [2.86, 3.26]"
    assert row["ours: difference from edm [95 %]"] == "-1.00 [-1.10, -0.90]"
    assert row["ours, generative: k-NN precision"] == "0.311"
    assert row["ours, discriminator as classifier: precision"] == "0.611"
    assert row["published, cifar10, N = 50,000: FID (reproduction)"] == "2.084"
    assert row["published, discriminator as classifier: precision"] == "0.525"
    edm = cells(table, "edm")
    assert edm["ours, discriminator as classifier: AUROC"] == "–"
    assert edm["published, cifar10, N = 50,000: FID (paper)"] == "2.03 (best seed 1.97)"
    shown = " ".join(table.frame.to_numpy().ravel())
    for value in ("2.094", "1.880", "14.348", "17.930", "1.77"):
        assert value in shown, "published rows without a run of ours are shown, too"


def test_every_variant_is_compared_with_each_baseline(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    found = result_table(data).frame.set_index("variant")
    assert found["ours: difference from d0 [95 %]"]["mean_prob"] == "-1.00 [-1.10, -0.90]"
    assert found["ours: difference from mean_prob [95 %]"]["mean_prob"] == "–"
    assert found["ours: difference from mean_prob [95 %]"]["edm"] == "+1.50 [+1.40, +1.60]"
    recorded = variants_frame(data).set_index("variant").loc["d0_table1"]
    assert recorded[["delta_fid_mean_prob", "delta_high_d0"]].tolist() == pytest.approx([0.5, -0.4])


def test_every_range_is_shown_and_none_is_chosen(make_inputs: Maker) -> None:
    ranges = {"ranges": 3, "fid_ranges": [3.5, 3.2, 3.5], "fid": 3.4, "fid_ranges_ci95": [2.97, 3.83]}
    row = cells(result_table(gather(make_inputs(changes=dict.fromkeys(VARIANTS, ranges)))), "d0")
    assert row["ours: N"] == "3 x 8"
    assert row["ours: FID (digits network) of each range"] == "3.50, 3.20, 3.50; mean 3.40 [2.97, 3.83]"


def test_ensembles_are_set_beside_their_best_and_worst_member(make_inputs: Maker) -> None:
    each = {"d0": difference(-0.4), "d1": difference(0.05), "d2": difference(0.6)}
    standing = Standing({"d0": "d0", "d1": "d1", "d2": "d2"}, 3.0, difference(-0.7), each)
    inputs = make_inputs(variants=("edm", "d0", "d1", "d2", "mean_prob"), standings={"mean_prob": standing})
    inputs.settings["members"]["d1"]["start"] = "models/mini/discriminator/d0"
    row = cells(ensemble_table(gather(inputs)), "mean_prob")
    assert row["FID (digits network) [95 %]: best member"].startswith("D2 2.56")
    assert row["FID (digits network) [95 %]: worst member"].startswith("D0 3.56")
    assert row["ensemble's difference [95 %] from: the mean of its members"] == "-0.70 [-0.80, -0.60]"
    assert row["ensemble's difference [95 %] from: its best member"] == "+0.60 [+0.50, +0.70]"
    assert (row["members it is: better than"], row["members it is: worse than"]) == ("1 of 3", "1 of 3")
    assert row["start of its members"] == "2 of 3 fresh, 1 of 3 sequential"


def test_formats_show_the_same_numbers(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    for table in (sampling_table(data), discriminator_table(data), result_table(data)):
        assert_compiles(table.latex([EVIL]))
        rows = pd.read_csv(io.StringIO(table.csv("")), dtype=str).to_numpy()
        markdown = [line for line in table.markdown([]).splitlines() if line.startswith("|")][2:]
        latex = table.latex([]).split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
        html = re.findall(r"<tr>(.*?)</tr>", table.html().split("<tbody>")[1], re.DOTALL)
        for row, *written in zip(rows, markdown, latex, html, strict=True):
            expected = NUMBER.findall(" ".join(row))
            assert all(NUMBER.findall(line.replace("×", "x")) == expected for line in written)


def assert_compiles(text: str) -> None:
    """Balanced, ASCII, every special character escaped, every row as wide as the table says."""
    text.encode("ascii")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\&%$#_{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#]", plain)
    assert plain.count("$") % 2 == 0
    assert not re.search(r"_(?![^$]*\$)", plain), "underscores are escaped"
    width = len(re.search(r"\\begin\{tabular\}\{(l+)\}", body).group(1))  # type: ignore[union-attr]
    for line in (line for line in body.splitlines() if line.endswith(r"\\")):
        spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert len(re.findall(r"(?<!\\)&", line)) + sum(spans) == width - 1


def test_special_characters_survive_every_format() -> None:
    table = Table("t", EVIL, pd.DataFrame({"h": [EVIL], "g_1: h_2": ["[1, 2]"]}))
    assert_compiles(table.latex([EVIL]))
    assert list(pd.read_csv(io.StringIO(table.csv(EVIL))).iloc[0]) == [EVIL, "[1, 2]", EVIL]
    markdown = table.markdown([EVIL])
    assert "<script>" not in markdown
    assert "<script>" not in table.html()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")] == [3, 3, 3]


def test_records_hold_everything_unrounded(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    variants = variants_frame(data)
    row = variants.set_index("variant").loc["d0"]
    assert row["fid"] == data.evaluations["d0"]["fid"]
    assert {key for key in data.evaluations["d0"] if key != "inputs"} <= set(variants.columns)
    curves = curves_frame(data)
    assert list(curves.columns) == ["member", "split", "epoch", "loss", "accuracy"]
    one = curves[(curves["member"] == "d1") & (curves["split"] == "validation")]
    assert one["loss"].tolist() == data.members[1].history["validation_loss"].tolist()
    assert len(curves) == 2 * sum(len(member.history) for member in data.members)


def test_the_best_complete_trials_are_shown(make_inputs: Maker) -> None:
    inputs = make_inputs()
    write_json(inputs.report / "study" / "ensemble.json", {})
    rows = "0,complete,d0,2.5,2.0\n1,pruned,,1.0,3.0\n2,complete,,1.5,0.12345\n"
    (inputs.report / "study" / "ensemble.csv").write_text("number,state,grid,value,params_w1\n" + rows)
    frame = study_table(gather(inputs).studies["ensemble"]).frame
    assert list(frame.columns) == ["trial", "began with", "value", "w1"]
    assert frame.to_numpy().tolist() == [["2", "–", "1.5", "0.1235"], ["0", "d0", "2.5", "2"]]


def test_summary_has_the_metrics_of_each_variant(make_inputs: Maker) -> None:
    _, row = summary_rows(make_inputs().report, ["edm", "d0"])
    assert list(row.values()) == ["d0", "3.56 [3.36, 3.76]", "-0.50 [-0.60, -0.40]", "0.0113", "0.31", "0.92", "8"]
    assert list(row)[1:4] == ["FID (digits network)", "difference to edm", "KID (digits network)"]


def test_a_metric_that_is_no_number_is_named(make_inputs: Maker) -> None:
    for value in ("high", None, float("nan")):
        with pytest.raises(InputError, match=r"'fid' in .*d0\.json"):
            gather(make_inputs(changes={"d0": {"fid": value}}))

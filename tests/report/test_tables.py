"""Tables: right values in right cells, one set of numbers in every format, LaTeX that a compiler accepts."""

import re
from pathlib import Path

import pandas as pd

from dguide.report import tables
from dguide.report.format import difference_text, estimate, fid_text
from dguide.report.tables import Table

from .conftest import report_data


def cells(table: Table, row: str) -> dict[str, str]:
    return dict(table.frame.set_index(table.frame.columns[0]).loc[row])


def test_sampling_table_puts_the_reproduction_beside_ours(tmp_path: Path) -> None:
    table = tables.sampling_table(report_data(tmp_path))
    assert list(cells(table, "steps (NFE)").values()) == [*["35 (69)"] * 2, *["12 (23)"] * 2, "35 (69)"]
    delivered = cells(table, "guidance weight delivered")
    assert (delivered["ours: d0"], delivered["ours: d0_table1"], delivered["ours: edm"]) == ("2.00", "0.85", "–")
    assert cells(table, "w1")["reproduction: unguided"] == "–"


def test_discriminator_table_shows_effective_settings_and_losses(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    data.settings["members"]["d0"]["reshuffle"] = False
    d0, history = cells(tables.discriminator_table(data), "D0"), data.histories["d0"]
    assert (d0["reproduction: epochs"], d0["ours: epochs"]) == ("60", "12")
    assert (d0["reproduction: learning rate"], d0["ours: learning rate"]) == ("0.0003", "0.0009")
    assert d0["reproduction: validation BCE"] == "1.38"
    assert d0["ours, BCE: train, best"] == f"{history['train_loss'].min():.3f}"
    assert d0["ours, BCE: validation, best (epoch)"].startswith(f"{history['validation_loss'].min():.3f} (")
    assert (d0["ours: settings of its own"], d0["what it is"]) == ("reshuffle False", "the paper's")


def test_result_table_keeps_the_two_kinds_of_precision_apart(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    table, ours = tables.result_table(data), data.evaluations["d0_table1"]
    row = cells(table, "d0_table1")
    assert (row["what it is"], row["ours: FID (digits network) [95 %]"]) == ("as reproduced", fid_text(ours))
    assert row["ours: difference from edm [95 %]"] == difference_text(data.differences["d0_table1", "edm"])
    assert row["ours, generative: k-NN precision"] == f"{ours['precision']:.3f}"
    assert row["ours, discriminator as classifier: precision"] == f"{ours['discriminator_precision']:.3f}"
    assert row["published, cifar10, N = 50,000: FID (reproduction)"] == "2.084"
    assert row["published, discriminator as classifier: precision"] == "0.525"
    assert cells(table, "edm")["ours, discriminator as classifier: AUROC"] == "–"
    shown = " ".join(table.frame.to_numpy().ravel())
    assert all(value in shown for value in ("2.094", "2.03", "1.880", "14.348", "17.930", "1.77"))


def test_a_study_of_its_own_shows_nothing_of_the_reproduction(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    data.reproduces = False
    for row in data.settings["members"].values():
        row["published"] = None
    for make in (tables.sampling_table, tables.discriminator_table, tables.result_table):
        text = make(data).frame.to_csv() + " ".join(make(data).notes)
        assert "reproduction" not in text.replace("as in the reproduction's code", "")
        assert "published" not in text


def test_ensembles_are_set_beside_their_best_and_worst_member(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    record, row = data.evaluations["mean_prob"]["against_members"], cells(tables.ensemble_table(data), "mean_prob")
    best, *_, worst = sorted(record["alone"], key=lambda member: data.evaluations[member]["fid"])
    for word, member in {"best": best, "worst": worst}.items():
        text = f"{member.upper()} {fid_text(data.evaluations[member])}"
        assert row[f"FID (digits network) [95 %]: {word} member"] == text
    from_best = difference_text(data.differences["mean_prob", best])
    assert row["ensemble's difference [95 %] from: the mean of its members"] == difference_text(record)
    assert row["ensemble's difference [95 %] from: its best member"] == from_best


def test_formats_show_the_same_numbers(tmp_path: Path) -> None:
    table = tables.result_table(report_data(tmp_path))
    rows = tables.latex("t", table, "").split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    body = re.findall(r"<tr>(.*?)</tr>", tables.html(table).split("<tbody>")[1], re.DOTALL)
    for texts in zip(map(" ".join, table.frame.to_numpy()), rows, body, strict=True):
        shown, *written = (re.findall(r"\d+(?:[.,]\d+)*(?:e-?\d+)?", text) for text in texts)
        assert written == [shown, shown]


def test_a_narrow_interval_has_more_decimals_and_zero_no_sign() -> None:
    assert estimate(4.06, (3.80, 4.32)) == "4.06 [3.80, 4.32]"
    assert estimate(4.06, (4.039, 4.081)) == "4.060 [4.039, 4.081]"
    assert estimate(-0.001, (-0.5, 0.5), sign=True) == "0.00 [-0.50, +0.50]"


def test_special_characters_survive_every_format() -> None:
    evil = r"a_b & 50 % $x$ #1 {y} ~ ^ \z | <script> -1.5 σ 漢"
    table = Table(evil, pd.DataFrame({"h": [evil], "g_1: h_2": ["[1, 2]"]}), [evil])
    assert "<script>" not in tables.html(table)
    plain = re.sub(r"\\[\\&%$#_{}]", "", tables.latex("t", table, evil).partition("\n")[2])
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#$_^~]", plain)

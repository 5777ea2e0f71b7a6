"""Tables: right values in right cells, one set of numbers in every format, LaTeX that a compiler accepts."""

from __future__ import annotations

import re

import pandas as pd

from dguide.report.format import estimate
from dguide.report.tables import Table, discriminator_table, ensemble_table, result_table, sampling_table

from .conftest import Maker, difference

NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")
EVIL = r"a_b & 50 % $x$ #1 {y} ~ ^ \z | <script> -1.5 σ 漢"


def cells(table: Table, row: str) -> dict[str, str]:
    frame = table.frame.set_index(table.frame.columns[0])
    return dict(frame.loc[row])


def test_sampling_table_puts_the_reproduction_beside_ours(make_data: Maker) -> None:
    table = sampling_table(make_data())
    assert list(cells(table, "steps (NFE)").values()) == [*["35 (69)"] * 2, *["12 (23)"] * 2, "35 (69)"]
    total = cells(table, "guidance weight, (w1 + w2) / 2")
    assert (total["ours: d0"], total["ours: d0_table1"], total["ours: edm"]) == ("2", "1", "–")
    assert cells(table, "w1")["reproduction: unguided"] == "–"


def test_discriminator_table_shows_effective_settings_and_losses(make_data: Maker) -> None:
    data = make_data()
    table = discriminator_table(data)
    d0, history = cells(table, "D0"), data.members[0].history
    assert (d0["reproduction: epochs"], d0["ours: epochs"]) == ("60", "12")
    assert (d0["reproduction: learning rate"], d0["ours: learning rate"]) == ("0.0003", "0.0009")
    assert d0["reproduction: validation BCE"] == "1.38"
    assert d0["ours, BCE: train, best"] == f"{history['train_loss'].min():.3f}"
    assert d0["ours, BCE: validation, best (epoch)"].startswith(f"{history['validation_loss'].min():.3f} (")


def test_result_table_keeps_the_two_kinds_of_precision_apart(make_data: Maker) -> None:
    table = result_table(make_data())
    row = cells(table, "d0_table1")
    assert row["ours: FID (digits network) [95 %]"] == "3.06 [2.86, 3.26]"
    assert row["ours: difference from edm [95 %]"] == "-1.00 [-1.10, -0.90]"
    assert row["ours, generative: k-NN precision"] == "0.311"
    assert row["ours, discriminator as classifier: precision"] == "0.611"
    assert row["published, cifar10, N = 50,000: FID (reproduction)"] == "2.084"
    assert row["published, discriminator as classifier: precision"] == "0.525"
    assert cells(table, "edm")["ours, discriminator as classifier: AUROC"] == "–"
    shown = " ".join(table.frame.to_numpy().ravel())
    assert all(value in shown for value in ("2.094", "2.03", "1.880", "14.348", "17.930", "1.77"))


def test_ensembles_are_set_beside_their_best_and_worst_member(make_data: Maker) -> None:
    alone = {name: name for name in ("d0", "d1", "d2")}
    record = {"alone": alone, "fid": 3.0, **difference(-0.7)}
    data = make_data(
        variants=("edm", "d0", "d1", "d2", "mean_prob"),
        changes={"mean_prob": {"against_members": record}},
        steps={"mean_prob": -1.0, "d0": -0.6, "d1": -1.05, "d2": -1.6},
    )
    row = cells(ensemble_table(data), "mean_prob")
    assert row["FID (digits network) [95 %]: best member"].startswith("D2 2.56")
    assert row["FID (digits network) [95 %]: worst member"].startswith("D0 3.56")
    assert row["ensemble's difference [95 %] from: the mean of its members"] == "-0.70 [-0.80, -0.60]"
    assert row["ensemble's difference [95 %] from: its best member"] == "+0.60 [+0.50, +0.70]"


def test_formats_show_the_same_numbers(make_data: Maker) -> None:
    table = result_table(make_data())
    assert_compiles(table.latex([EVIL]))
    latex = table.latex([]).split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    html = re.findall(r"<tr>(.*?)</tr>", table.html().split("<tbody>")[1], re.DOTALL)
    for row, *written in zip(table.frame.to_numpy(), latex, html, strict=True):
        assert all(NUMBER.findall(line.replace("×", "x")) == NUMBER.findall(" ".join(row)) for line in written)


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


def test_a_narrow_interval_has_more_decimals() -> None:
    assert estimate(4.06, (3.80, 4.32)) == "4.06 [3.80, 4.32]"
    assert estimate(4.06, (4.039, 4.081)) == "4.060 [4.039, 4.081]"


def test_special_characters_survive_every_format() -> None:
    table = Table("t", EVIL, pd.DataFrame({"h": [EVIL], "g_1: h_2": ["[1, 2]"]}))
    assert_compiles(table.latex([EVIL]))
    assert "<script>" not in table.html()

"""Chart of the factorial: by which factor each cause multiplies the distance, in three ways of asking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from discriminator_guidance.report.drawing import BLUE, GREEN, GREY, RED, STYLE, new_figure, png
from discriminator_guidance.report.wording import count, fid_label

ROWS = (("added", GREEN, "added to our ensemble"), ("effects", BLUE, "on average"), ("undone", RED, "in the study"))


def effects_chart(record: Mapping[str, Any], words: Mapping[str, str], dpi: int, note: str = "") -> bytes:
    """Draw the factors with their intervals on a logarithmic axis.

    Args:
        record: contents of factorial.json.
        words: names of the factors as printed.
        dpi: dots an inch.
        note: what must be said of the real data, "" for nothing.

    Returns:
        PNG; the same record gives the same bytes.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        return _draw(record, words, dpi, note)


def _draw(record: Mapping[str, Any], words: Mapping[str, str], dpi: int, note: str) -> bytes:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    mains = {e["effect"][0][0]: e for e in record["effects"] if len(e["effect"][0]) == 1}
    figure = new_figure(9.0, 1.4 + 0.55 * len(mains))
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.axvline(1, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    for shift, (kind, color, label) in enumerate(ROWS):
        for place, name in enumerate(mains):
            found = (mains if kind == "effects" else record[kind])[name]["log"]
            y = place + 0.24 * (shift - 1)
            low, value, high = (math.exp(found[key]) for key in ("low", "value", "high"))
            axes.plot([low, high], [y, y], color=color, linewidth=1.4)
            axes.plot(
                value, y, marker="o", color=color, markersize=5, linestyle="none", label=label if not place else None
            )
            seeds = [math.exp(value) for value in found["blocks"]]
            axes.plot(seeds, [y] * len(seeds), "|", color=color, markersize=6)
    axes.set_yticks(range(len(mains)), labels=[words[name] for name in mains])
    axes.set_ylim(len(mains) - 0.5, -0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"factor on {fid_label(record['fid_network'])}; N = {count(record['images'])} a cell; bars: 95 % over "
        f"{len(record['training_seeds'])} training seeds (ticks)"
    )
    axes.set_title("← helps    harms →", fontweight="normal", color=GREY)
    figure.legend(loc="outside lower center", ncols=3)
    return png(figure, dpi, note)

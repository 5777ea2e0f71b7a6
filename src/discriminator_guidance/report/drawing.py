"""What all figures share: style, size, rendering to the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import count, data_note, samples_text, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct for colour-blind readers.
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"
INK, GREY = "#1c2126", "#5b6570"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.parse_math": False,  # names come from configuration files: a $ in them is a $
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a939c",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ecef",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Args:
        file: its name in figures/.
        png: its bytes; the same data give the same bytes.
        title: one line.
        caption: what is shown, with N, seeds and the meaning of intervals.
        alt: what a reader who cannot see it is told.
        width: natural width, CSS pixels.
        height: natural height, CSS pixels.
    """

    file: str
    png: bytes
    title: str
    caption: str
    alt: str
    width: int
    height: int


def styled(draw: Callable[[ReportData], Picture | None]) -> Callable[[ReportData], Picture | None]:
    """Draw with this report's style only, whatever the user's matplotlibrc says."""

    @wraps(draw)
    def drawn(data: ReportData, /) -> Picture | None:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(data)

    return drawn


def new_figure(width: float, height: float, **spacing: Any) -> Figure:
    """An empty Agg figure.

    Args:
        width: inches.
        height: inches.
        spacing: w_pad, h_pad (inches) and wspace, hspace (fractions) of the constrained layout.

    Returns:
        The figure; pyplot's global state stays untouched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), facecolor="white", layout=ConstrainedLayoutEngine(**spacing))
    FigureCanvasAgg(figure)
    return figure


def logarithmic(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with plain numbers: matplotlib's own are mathematics, which is not parsed.

    Args:
        axes: any.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: scientific(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def png(figure: Figure, dpi: int) -> bytes:
    """Render a figure without dates or versions in its metadata; the same figure gives the same bytes.

    Args:
        figure: any.
        dpi: dots an inch.

    Returns:
        PNG; of 256 colours unless the figure shows pictures, which is a third of the size for lines and letters.
    """
    from PIL import Image

    stream, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    if any(axes.images for axes in figure.axes):
        return stream.getvalue()
    with Image.open(stream) as image:
        palette = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        palette.save(packed, format="png", optimize=True, dpi=(dpi, dpi))
    return packed.getvalue()


def finish(figure: Figure, data: ReportData, file: str, title: str, caption: str, alt: str) -> Picture:
    """Render a figure to PNG; the data's note ends its caption."""
    width, height = figure.get_size_inches()
    caption = f"{caption} {data_note(data.card)}".strip()
    return Picture(
        file,
        png(figure, int(data.settings["report"]["dpi"])),
        title,
        caption,
        alt,
        round(width * 96),
        round(height * 96),
    )


def sample_text(data: ReportData) -> str:
    """N and seeds of the evaluation samples, for captions."""
    edm = data.reference
    last = int(edm["seed_start"]) + int(edm["ranges"]) * int(edm["n"]) - 1
    return (
        f"N = {samples_text(edm)} samples for each variant, all from the same noise: run seed {edm['seed']}, "
        f"sample indices {count(edm['seed_start'])} to {count(last)}."
    )

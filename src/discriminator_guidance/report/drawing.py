"""What all figures share: style, size, rendering to the same bytes every time."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import count, data_note, samples_text, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

# Okabe and Ito's palette: distinct for colour-blind readers.
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"
INK, GREY = "#1c2126", "#5b6570"
FOOTER_SIZE, FOOTER_LINE, FOOTER_LETTERS = 8.0, 0.16, 13  # of a note: points; inches a line; letters an inch
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


def png(figure: Figure, dpi: int, note: str = "") -> bytes:
    """Render a figure without dates or versions in its metadata; the same figure gives the same bytes.

    Args:
        figure: any.
        dpi: dots an inch.
        note: what must be said of the real data wherever the figure goes; it is written below.

    Returns:
        PNG; of 256 colours unless the figure shows pictures, which is a third of the size for lines and letters.
    """
    from PIL import Image

    stream, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    pictured = any(axes.images for axes in figure.axes)
    if pictured and not note:
        return stream.getvalue()
    with Image.open(stream) as drawn:
        image = _with_footer(drawn, note, dpi) if note else drawn
        if not pictured:
            image = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(packed, format="png", optimize=True, dpi=(dpi, dpi))
    return packed.getvalue()


def _with_footer(image: Image.Image, note: str, dpi: int) -> Image.Image:
    """A strip with a note below a finished figure, whose own contents are laid out already."""
    from PIL import Image

    width, stream = image.width / dpi, io.BytesIO()
    lines = textwrap.wrap(note, max(1, int(FOOTER_LETTERS * width)))
    strip = new_figure(width, FOOTER_LINE * (len(lines) + 0.5))
    strip.text(0.08 / width, 1.0, "\n".join(lines), va="top", fontsize=FOOTER_SIZE, color=GREY)
    strip.savefig(stream, format="png", dpi=dpi)
    with Image.open(stream) as footer:
        whole = Image.new("RGBA", (image.width, image.height + footer.height), "white")
        whole.paste(image, (0, 0))
        whole.paste(footer, (0, image.height))
    return whole


def finish(figure: Figure, data: ReportData, file: str, title: str, caption: str, alt: str) -> Picture:
    """Render a figure to PNG; the data's note stands below it and ends its caption."""
    from PIL import Image

    note, dpi = data_note(data.card), int(data.settings["report"]["dpi"])
    content = png(figure, dpi, note)
    with Image.open(io.BytesIO(content)) as image:
        width, height = (round(96 * side / dpi) for side in image.size)
    return Picture(file, content, title, f"{caption} {note}".strip(), alt, width, height)


def sample_text(data: ReportData) -> str:
    """N and seeds of the evaluation samples, for captions."""
    edm = data.reference
    last = int(edm["seed_start"]) + int(edm["ranges"]) * int(edm["n"]) - 1
    return (
        f"N = {samples_text(edm)} samples for each variant, all from the same noise: run seed {edm['seed']}, "
        f"sample indices {count(edm['seed_start'])} to {count(last)}."
    )

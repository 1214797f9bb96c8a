"""The style of every picture: one colour and one marker for each method, and how pictures are written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dude_peft.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Marker = str | tuple[int, int, int]


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn, in every picture and on the page of `dude report`."""

    color: str
    marker: Marker


# The seven methods of the paper differ for readers with deuteranopia and protanopia too; the markers differ in grey.
METHOD_STYLES = {
    "full": MethodStyle("#000000", "o"),
    "lora": MethodStyle("#0072B2", "s"),
    "dora": MethodStyle("#882255", "^"),
    "pissa": MethodStyle("#009E73", "D"),
    "dude": MethodStyle("#D55E00", "v"),
    "dude_a": MethodStyle("#CC79A7", "P"),
    "dude_b": MethodStyle("#E0A000", "X"),
    "dude_random": MethodStyle("#A0522D", (8, 1, 0)),
    "pissa_random": MethodStyle("#3F7F5F", "H"),
    "olora": MethodStyle("#56B4E9", "<"),
    "lora_xs": MethodStyle("#332288", ">"),
    "svft": MethodStyle("#5B5A00", "p"),
    "bitfit": MethodStyle("#8A8A8A", "8"),
    "adapter": MethodStyle("#00B8C4", "h"),
    "vera": MethodStyle("#117733", "d"),
    "oft": MethodStyle("#A03CFF", "*"),
    "krona": MethodStyle("#661100", (4, 1, 0)),
    "delora": MethodStyle("#5C7FB8", (6, 1, 0)),
}
OTHER = MethodStyle("#606060", ".")  # a method without an entry above
BASE_COLOR = "#555555"  # the model before training
TEXT_COLOR = "#222222"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (8, 2)))
# For quantities that are no methods: losses, the norms of A, B and m. Different from the methods' colours.
SERIES_COLORS = ("#3B5B92", "#B5524A", "#5F8F4E", "#7A6A9B")
QUIET_COLOR = "#9A9A9A"
DARK_PAGE = (0x14, 0x17, 0x1B)  # --page of report/style.css on a dark screen

RC: dict[str, Any] = {
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in a label is one
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "svg.hashsalt": "dude",  # the same picture is the same file
    "svg.fonttype": "none",
}


def method_style(method: str) -> MethodStyle:
    """Return the style of a method, by its name in the registry."""
    return METHOD_STYLES.get(method, OTHER)


def method_rules() -> str:
    """Return the style sheet's rules that give each method its colour on the page of `dude report`.

    On a dark screen a colour is mixed with white until it is as visible as on paper.
    """
    found = {**METHOD_STYLES, "other": OTHER}
    light = "".join(f".m-{name} {{ --method: {style.color}; }}\n" for name, style in found.items())
    dark = "".join(f"  .m-{name} {{ --method: {_on_dark(style.color)}; }}\n" for name, style in found.items())
    return f"{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _on_dark(color: str, contrast: float = 4.5) -> str:
    channels = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    while _luminance(channels) < contrast * (_luminance(DARK_PAGE) + 0.05) - 0.05:
        channels = [min(255, value + 1 + (255 - value) // 16) for value in channels]
    return "#" + "".join(f"{value:02X}" for value in channels)


def _luminance(channels: Sequence[int]) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2)."""
    shares = [value / 255 for value in channels]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@contextmanager
def picture(*paths: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure in the project's style, and save it when the block ends without an error."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        save(figure, *paths)


def log_axis(axis: Axis, *subs: int) -> None:
    """Label a logarithmic axis with plain numbers at `subs` times the powers of ten (mathtext is off)."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=subs or (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def loss_axis(axes: Axes) -> None:
    """Make the y axis of drawn losses logarithmic, so that the first steps do not flatten the rest.

    It stays linear if a value is not positive, or if all values are within a factor of 2.
    """
    values = [float(y) for line in axes.get_lines() for y in np.asarray(line.get_ydata(), dtype=float).ravel()]
    if values and min(values) > 0 and max(values) > 2 * min(values):
        axes.set_yscale("log")
        log_axis(axes.yaxis, *((1, 2, 3, 5, 7) if max(values) < 20 * min(values) else (1, 2, 5)))


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure atomically, in the format of each path's suffix, without date and version: equal bytes each time.

    Raises:
        OSError: the file cannot be written; its `filename` is the path.
    """
    from matplotlib import rc_context

    for path in paths:
        kind = path.suffix.removeprefix(".")
        buffer = io.BytesIO()
        with rc_context(RC):
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        try:
            write_bytes(path, buffer.getvalue())
        except OSError as error:
            error.filename = str(path)
            raise


def marker_path(marker: Marker, radius: float = 5.0) -> str:
    """Return a marker as the path of an SVG element, centred on the origin: the page draws what matplotlib draws."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path as Outline

    style = MarkerStyle(marker)
    outline = style.get_path().transformed(style.get_transform())
    vertices: Any = outline.vertices
    scaled = Outline(vertices * radius / abs(vertices).max(), outline.codes)
    polygons: Any = scaled.to_polygons()
    return "".join("M" + "L".join(f"{x:.2f} {-y:.2f}" for x, y in points) + "Z" for points in polygons)

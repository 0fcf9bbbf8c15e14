"""How are figures drawn, so that all look alike and the same numbers give the same file?

Colours are those of Okabe and Ito, which people with colour blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
CRACK_COLOUR: Final = "#D55E00"
SOUND_COLOUR: Final = "#0072B2"

_STYLE: Final[dict[Any, Any]] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.autolayout": True,
    "figure.dpi": 100,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "crackscout",
}


@contextmanager
def figure(path: Path, *, width_in: float = 7.0, height_in: float = 4.0) -> Iterator[Figure]:
    """Draw on a new figure and write it when the block ends.

    Args:
        path: ends in `.svg` (curves, bars) or `.png` (pictures); its folder is made.
        width_in: width in inches.
        height_in: height in inches.

    Yields:
        A matplotlib figure without axes.
    """
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        drawn = Figure(figsize=(width_in, height_in))
        FigureCanvasAgg(drawn)
        yield drawn
        path.parent.mkdir(parents=True, exist_ok=True)
        # without a date the same numbers give the same bytes
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        drawn.savefig(path, metadata=metadata)

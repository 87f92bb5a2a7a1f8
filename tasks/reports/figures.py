"""What the pictures have in common: one style, and a PNG small enough for a markdown page."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

INK = "#333333"
GRID = "#e4e4e4"


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Not as a `matplotlibrc` beside us may say; and a `$` in a name begins no formula."""
    import matplotlib

    settings = dict(matplotlib.rcParamsDefault) | {"text.parse_math": False}
    del settings["backend"]
    with matplotlib.rc_context(settings):
        yield


def small_png(canvas: FigureCanvasAgg) -> bytes:
    """The drawn canvas with a palette of 256 colours: half the size, no visible loss."""
    from PIL import Image

    size = canvas.get_width_height(physical=True)
    picture = Image.frombytes("RGBA", size, bytes(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        buffer, format="png", optimize=True
    )
    return buffer.getvalue()

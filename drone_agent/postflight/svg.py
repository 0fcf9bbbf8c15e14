"""How is a drawing put together? Inline SVG from small pieces, escaped, and axes with round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

Attribute = str | float | int | None


def tag(name: str, *children: str | Markup, **attributes: Attribute) -> Markup:
    """One element; `_` in attribute names becomes `-`, a trailing one is dropped (`class_`), None leaves it out.

    Text children are escaped, floats are written with at most two decimals.
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value) if isinstance(value, float) else value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{text}>{inner}</{name}>" if inner else f"<{name}{text}/>")  # noqa: S704 - all parts escaped


def group(children: Iterable[Markup], **attributes: Attribute) -> Markup:
    """A `g` element around `children`."""
    return tag("g", *children, **attributes)


def number(value: float) -> str:
    """A coordinate with at most two decimals, without trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of an open polyline."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) if points else ""


def nice_step(span: float, ticks: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `span` into about `ticks` parts."""
    raw = span / max(1, ticks)
    if raw <= 0 or not math.isfinite(raw):
        return 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= raw * 0.999)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between `low` and `high`, both included where they are round."""
    step = nice_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, step: float) -> str:
    """`value` with as many decimals as the step between ticks needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text

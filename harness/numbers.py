"""Formatting of numbers for display."""

from __future__ import annotations

import math


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Format a number with a true minus sign; NaN (not measurable) as an en dash."""
    rounded = round(value, digits) + 0.0  # avoids a minus sign before zero
    return "–" if math.isnan(value) else f"{rounded:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """Format an interval; an en dash if an end is NaN."""
    return "–" if math.isnan(low + high) else f"{number(low, digits)} to {number(high, digits)}"


def count(value: float | None) -> str:
    """Format a whole number with separators; from millions on abbreviated. An en dash if unknown."""
    if value is None or math.isnan(value):
        return "–"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{int(value):,}"


def p_value(p: float) -> str:
    """Format a p value with three decimals, or as "< 0.001"."""
    return "< 0.001" if p < 0.001 else number(p)


def size(n_bytes: int) -> str:
    """Format a number of bytes with decimal units."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.1f} {unit}"
    return f"{n_bytes} B"


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

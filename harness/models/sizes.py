"""Parse model sizes as people write them: 7B, 350M, 1.3e9, 1,100,000,000."""

from __future__ import annotations

import re

_SIZE = re.compile(
    r"([0-9]+(?:[.,][0-9]+)?)\s*(k|m|mio|mn|b|bn|mrd|t)?(?:illion|rillion)?(?:\s*(?:parameters|params))?"
)
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "mio": 1e6, "mn": 1e6, "b": 1e9, "bn": 1e9, "mrd": 1e9, "t": 1e12}


def has_suffix(text: str) -> bool:
    """Return whether a cell is a number with a suffix for thousands, millions, billions or trillions."""
    match = _SIZE.fullmatch(text.strip().lower())
    return match is not None and bool(match[2])


def read(text: str) -> float:
    """Convert a size to a number: "7B" is 7e9, "350M" is 3.5e8, "1,3B" is 1.3e9.

    Raises:
        ValueError: if the text is not a size, or its comma is ambiguous.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number of parameters, or a short form such as 7B or 350M.")
    if re.search(r",\d{3}$", match[1]):
        raise ValueError(f"{text!r}: its comma may set off thousands or decimals; write 1.1B or 1100M.")
    return float(match[1].replace(",", ".")) * _FACTORS[match[2] or ""]

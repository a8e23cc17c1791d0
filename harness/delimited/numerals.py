"""A column of text -> numbers, by the one convention that all of its cells follow; refused where two would fit.

Decimal points and decimal commas, thousands set off by commas, points, spaces or apostrophes, Unicode's minus, percent
signs, and the codes that programs write for a missing value. "1,234" alone is 1234 or 1.234, so a column of such cells
is refused; beside "0,5" or "1,234,567" it is clear.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harness.records import Floats

# Of BIDS, R, pandas, NumPy, SQL, JSON, Excel, SPSS, SAS and Stata; compared in lower case.
MISSING = frozenset({
    "", "na", "n/a", "nan", "+nan", "-nan", "null", "none", "<na>", "#n/a", "#na", "#n/a n/a", "#null!", ".",
    "1.#qnan", "-1.#ind", "1.#ind", "-1.#qnan",
})  # fmt: skip
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "−": "-", "’": "'"})
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_OTHER = {".": ",", ",": "."}
# Decimal sign -> a number with it, whose thousands are set off by the other sign, a space or an apostrophe.
# Decimal sign -> numbers with it, whose thousands are set off by the other sign, a space or an apostrophe.
_CONVENTIONS = {
    sign: re.compile(
        rf"[+-]?(?:(?:[1-9]\d{{0,2}}([{_OTHER[sign]} '])\d{{3}}(?:\1\d{{3}})*|\d+)(?:{fraction})?|[{sign}]\d+)"
        + _EXPONENT,
        re.ASCII,
    )
    for sign, fraction in ((".", r"\.\d*"), (",", r",\d+"))
}
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)  # its sign may be that of thousands or of decimals


class Numerals(NamedTuple):
    """A column as numbers. values: (row,) float64. percent: whether its cells have a percent sign; they are divided."""

    values: Floats
    percent: bool


def read_numbers(
    column: Any, tell: Callable[[int, str], str], *, percent: bool = False, whole: bool = False
) -> Numerals:
    """Read a column of a table.

    Args:
        column: a pandas series of text, or of numbers.
        tell: the beginning of a message on a row and its cell: "FILE, line 3, column 'x' is 'high'".
        percent: whether percent signs are understood.
        whole: whether the numbers are counts, in which one comma or point sets off thousands.

    Raises:
        ValueError: naming the cell that is not a finite number, follows another convention than the rest, or can be
            read in two ways.
    """
    import pandas as pd

    if column.dtype.kind in "fiu":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        _require_finite(values, tell)
        return Numerals(values, False)
    quick: Floats = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    odd = np.flatnonzero(~np.isfinite(quick))
    cells = [_cleaned(value) for value in column.iloc[odd]]
    if all(cell.lower() in MISSING for cell in cells):
        return Numerals(quick, False)
    return _by_convention([_cleaned(value) for value in column], tell, percent=percent, whole=whole)


def looks_like_a_number(text: str) -> bool:
    """Whether a cell is a number in some notation, but for marks such as ~, % and *; a date or a version is none."""
    bare = _cleaned(text).strip("~≈<>%*†‡ ")
    return any(pattern.fullmatch(bare) for pattern in _CONVENTIONS.values())


def _cleaned(value: Any) -> str:
    if value is None or not isinstance(value, str):
        return "" if value is None or str(value) in {"nan", "<NA>"} else str(value)
    return value.translate(_SPACES).strip()


def _require_finite(values: Floats, tell: Callable[[int, str], str]) -> None:
    if len(infinite := np.flatnonzero(np.isinf(values))):
        row = int(infinite[0])
        raise ValueError(f"{tell(row, str(values[row]))}; write a finite number, or leave the cell empty.")


def _by_convention(cells: list[str], tell: Callable[[int, str], str], *, percent: bool, whole: bool) -> Numerals:
    present = {row: cell for row, cell in enumerate(cells) if cell.lower() not in MISSING}
    has_sign = {row for row, cell in present.items() if cell.endswith("%")} if percent else set()
    if has_sign and len(has_sign) < len(present):
        row = next(row for row in present if row not in has_sign)
        raise ValueError(
            f"{tell(row, present[row])}, but {tell(min(has_sign), present[min(has_sign)])}; write all values with a "
            "percent sign or none."
        )
    if has_sign:
        present = {row: cell.removesuffix("%").rstrip() for row, cell in present.items()}
    sign = _decimal_sign(present, tell, whole=whole)
    values = np.full(len(cells), np.nan)
    for row, cell in present.items():
        values[row] = float(re.sub(f"[ '{_OTHER[sign]}]", "", cell).replace(",", "."))
    _require_finite(values, tell)
    return Numerals(values / 100 if has_sign else values, bool(has_sign))


def _decimal_sign(present: dict[int, str], tell: Callable[[int, str], str], *, whole: bool) -> str:
    """The decimal sign of a column, once it is clear that all of its cells follow one convention."""
    unfit: dict[str, int] = {}
    for row, cell in present.items():
        fits = {sign: pattern.fullmatch(cell) is not None for sign, pattern in _CONVENTIONS.items()}
        if not any(fits.values()):
            raise ValueError(f"{tell(row, cell)}; write a finite number, or leave the cell empty.")
        unfit = {sign: row for sign, fit in fits.items() if not fit} | unfit
    if len(unfit) == 2:
        first, last = sorted(unfit.values())
        raise ValueError(
            f"{tell(last, present[last])}, but {tell(first, present[first])}: one has a decimal comma, the other a "
            "decimal point; write all numbers one way."
        )
    sign = "," if "." in unfit else "."
    doubtful = next((row for row, cell in present.items() if _ONE_GROUP.fullmatch(cell) and _OTHER[sign] in cell), None)
    if (
        doubtful is not None
        and not whole
        and not any(_sets_off_thousands(cell, _OTHER[sign]) for cell in present.values())
    ):
        cell, name = present[doubtful], "comma" if sign == "." else "point"
        raise ValueError(
            f"{tell(doubtful, cell)}: its {name} may set off thousands or decimals; write "
            f"{re.sub('[.,]', '', cell)} or {cell.replace(',', '.')}, with decimal points throughout."
        )
    return sign


def _sets_off_thousands(cell: str, sign: str) -> bool:
    """Whether a sign can be nothing else in this cell: it appears twice, or beside the other sign."""
    return cell.count(sign) > 1 or (sign in cell and _OTHER[sign] in cell)

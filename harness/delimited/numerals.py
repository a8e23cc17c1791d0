"""Parses a column of text as numbers in the one notation that all its cells share; an ambiguous column is rejected.

Understood are decimal points and decimal commas; commas, points, spaces or apostrophes between thousands; the Unicode
minus; percent signs; and the codes that programs write for missing values. "1,234" may be 1234 or 1.234, so a column of
such cells is rejected, unless another cell such as "0,5" or "1,234,567" settles the notation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harness.records import Floats

# Codes written by BIDS, R, pandas, NumPy, SQL, JSON, Excel, SPSS, SAS and Stata; compared in lower case.
MISSING = frozenset({
    "", "na", "n/a", "nan", "+nan", "-nan", "null", "none", "<na>", "#n/a", "#na", "#n/a n/a", "#null!", ".",
    "1.#qnan", "-1.#ind", "1.#ind", "-1.#qnan",
})  # fmt: skip
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "−": "-", "’": "'"})
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_OTHER = {".": ",", ",": "."}
# Decimal sign -> pattern of a number with it; thousands are separated by the other sign, a space or an apostrophe.
_CONVENTIONS = {
    sign: re.compile(
        rf"[+-]?(?:(?:[1-9]\d{{0,2}}([{_OTHER[sign]} '])\d{{3}}(?:\1\d{{3}})*|\d+)(?:{fraction})?|[{sign}]\d+)"
        + _EXPONENT,
        re.ASCII,
    )
    for sign, fraction in ((".", r"\.\d*"), (",", r",\d+"))
}
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)  # ambiguous: thousands or decimals


class Numerals(NamedTuple):
    """A column as numbers.

    values: (row,) float64; percentages are divided by 100.
    percent: whether the cells have a percent sign.
    """

    values: Floats
    percent: bool


def read_numbers(
    column: Any, tell: Callable[[int, str], str], *, percent: bool = False, whole: bool = False
) -> Numerals:
    """Read a column of a table.

    Args:
        column: pandas series of text or of numbers.
        tell: returns the beginning of an error message for row and cell, such as "FILE, line 3, column 'x' is 'high'".
        percent: whether to accept percent signs.
        whole: whether the numbers are counts, so that a single comma or point separates thousands.

    Raises:
        ValueError: if a cell is not a finite number, has another notation than the rest, or is ambiguous.
    """
    import pandas as pd

    if column.dtype.kind in "fiu":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        _require_finite(values, tell)
        return Numerals(values, False)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unparsed = np.flatnonzero(~np.isfinite(values))
    cells = [_cleaned(value) for value in column.iloc[unparsed]]
    if all(cell.lower() in MISSING for cell in cells):
        return Numerals(values, False)
    return _by_convention([_cleaned(value) for value in column], tell, percent=percent, whole=whole)


def looks_like_a_number(text: str) -> bool:
    """Whether a cell is a number in some notation, ignoring marks such as ~, % and *; dates and versions are not."""
    bare = _cleaned(text).strip("~≈<>%*†‡ ")
    return any(pattern.fullmatch(bare) for pattern in _CONVENTIONS.values())


def _cleaned(value: Any) -> str:
    if value is None or not isinstance(value, str):
        return "" if value is None or str(value) in {"nan", "<NA>"} else str(value)
    return value.translate(_SPACES).strip()


def _require_finite(values: Floats, tell: Callable[[int, str], str]) -> None:
    """Raise if a value is infinite."""
    if len(infinite := np.flatnonzero(np.isinf(values))):
        row = int(infinite[0])
        raise ValueError(f"{tell(row, str(values[row]))}; write a finite number, or leave the cell empty.")


def _by_convention(cells: list[str], tell: Callable[[int, str], str], *, percent: bool, whole: bool) -> Numerals:
    """Parse cells that are not all plain Python numbers."""
    present = {row: cell for row, cell in enumerate(cells) if cell.lower() not in MISSING}
    percent_rows = {row for row, cell in present.items() if cell.endswith("%")} if percent else set()
    if percent_rows and len(percent_rows) < len(present):
        row = next(row for row in present if row not in percent_rows)
        raise ValueError(
            f"{tell(row, present[row])}, but {tell(min(percent_rows), present[min(percent_rows)])}; write all values "
            "with a percent sign or none."
        )
    if percent_rows:
        present = {row: cell.removesuffix("%").rstrip() for row, cell in present.items()}
    sign = _decimal_sign(present, tell, whole=whole)
    values = np.full(len(cells), np.nan)
    for row, cell in present.items():
        values[row] = float(re.sub(f"[ '{_OTHER[sign]}]", "", cell).replace(",", "."))
    _require_finite(values, tell)
    return Numerals(values / 100 if percent_rows else values, bool(percent_rows))


def _decimal_sign(present: dict[int, str], tell: Callable[[int, str], str], *, whole: bool) -> str:
    """Determine the decimal sign of a column; raise if its cells do not share one notation, or it is ambiguous."""
    misfits: dict[str, int] = {}  # decimal sign -> a row that contradicts it
    for row, cell in present.items():
        fits = {sign: pattern.fullmatch(cell) is not None for sign, pattern in _CONVENTIONS.items()}
        if not any(fits.values()):
            raise ValueError(f"{tell(row, cell)}; write a finite number, or leave the cell empty.")
        misfits = {sign: row for sign, fit in fits.items() if not fit} | misfits
    if len(misfits) == 2:
        first, last = sorted(misfits.values())
        raise ValueError(
            f"{tell(last, present[last])}, but {tell(first, present[first])}: one has a decimal comma, the other a "
            "decimal point; use the same in all numbers."
        )
    sign = "," if "." in misfits else "."
    unclear = next((row for row, cell in present.items() if _ONE_GROUP.fullmatch(cell) and _OTHER[sign] in cell), None)
    is_settled = whole or any(_separates_thousands(cell, _OTHER[sign]) for cell in present.values())
    if unclear is not None and not is_settled:
        cell, name = present[unclear], "comma" if sign == "." else "point"
        raise ValueError(
            f"{tell(unclear, cell)}: its {name} may separate thousands or decimals; write "
            f"{re.sub('[.,]', '', cell)} or {cell.replace(',', '.')}, with decimal points throughout."
        )
    return sign


def _separates_thousands(cell: str, sign: str) -> bool:
    """Whether a sign must separate thousands in this cell: it occurs twice, or together with the other sign."""
    return cell.count(sign) > 1 or (sign in cell and _OTHER[sign] in cell)

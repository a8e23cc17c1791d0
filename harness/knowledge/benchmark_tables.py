"""Read a table of published benchmark values: one row per model, or one per model and benchmark.

Values are fractions. Percentages are accepted only with percent signs or a flag; otherwise a value above 1 is refused.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.delimited.numerals import MISSING
from harness.delimited.table import DelimitedTable
from harness.records import Floats

logger = logging.getLogger(__name__)

_NUMBERS = ("low", "high", "chance")
_WHOLE = ("n", "n_shots")
_TEXTS = ("revision", "category", "task", "metric", "source")
_FRACTIONS = {"", "accuracy", "acc", "acc_norm", "exact_match", "em"}


class Value(NamedTuple):
    """One value of a table.

    Attributes:
        where: position in the file, for error messages.
        model, benchmark: names as in the file.
        value: fraction, or the number as it is if the metric is not a fraction.
        numbers: low, high and chance.
        whole: n and n_shots.
        texts: the other columns.
    """

    where: str
    model: str
    benchmark: str
    value: float
    numbers: dict[str, float]
    whole: dict[str, int | None]
    texts: dict[str, str]


def read(file: str, benchmarks: tuple[str, ...], *, percent: bool = False, encoding: str | None = None) -> list[Value]:
    """Read a table.

    Args:
        file: path. Short form: columns model and one per benchmark. Long form: model, benchmark, value and optionally
            category, task, n, n_shots, low, high, chance, revision, metric, source.
        benchmarks: names of columns in the short form.
        percent: whether the values are percentages.
        encoding: encoding of the file, if it is not UTF-8 and does not state it.

    Raises:
        ValueError: naming file, line and column, if a column is missing, or a value is not a number, appears twice, or
            is above 1 and not marked as a percentage.
    """
    content = _named(table.read(TextSource(file, encoding), ("model", *benchmarks, "benchmark")), benchmarks)
    for note in content.notes:
        logger.warning("%s", note)
    names = [str(name) for name in content.frame]
    is_long = {"benchmark", "value"} <= set(names)
    wide = [name for name in names if name in benchmarks]
    if "model" not in names or not (is_long or wide):
        raise ValueError(
            f"{file}: wanted columns model and mmlu or bbh, or model, benchmark and value; it has {', '.join(names)}."
        )
    known = {"model", *_TEXTS, *_WHOLE, *_NUMBERS, *(("benchmark", "value") if is_long else benchmarks)}
    if ignored := [name for name in names if name not in known]:
        logger.warning("%s: not imported: %s.", content.file, ", ".join(ignored))
    values = [value for name in (["value"] if is_long else wide) for value in _of_column(content, name, percent)]
    _require_once(values)
    if not values:
        raise ValueError(f"{file}: no values in {', '.join(wide) or 'value'}.")
    return values


def _named(content: DelimitedTable, benchmarks: tuple[str, ...]) -> DelimitedTable:
    """Rename known columns to lower case."""
    known = {"model", "benchmark", "value", *benchmarks, *_TEXTS, *_WHOLE, *_NUMBERS}
    names = {name: name.lower() for name in content.frame if name.lower() in known}
    return replace(content, frame=content.frame.rename(columns=names))


def _of_column(content: DelimitedTable, column: str, percent: bool) -> list[Value]:
    """Return the values in one column, skipping empty cells."""
    cells = [cell.strip() for cell in content.texts(column)]
    values, is_percent = content.numerals(column, percent=True)
    numbers = {name: content.numerals(name, percent=True) for name in _NUMBERS if name in content.frame}
    whole = {name: _whole(content, name) for name in _WHOLE if name in content.frame}
    texts = {name: [t.strip() for t in content.texts(name)] for name in _TEXTS if name in content.frame}
    models = [model.strip() for model in content.texts("model")]
    benchmarks = [name.strip() for name in content.texts("benchmark")] if column == "value" else [column] * len(cells)
    read_values = []
    for row, cell in enumerate(cells):
        if cell.lower() in MISSING:
            continue
        where = content.where(row, column)
        if not models[row] or not benchmarks[row]:
            missing = "benchmark" if models[row] else "model"
            raise ValueError(f"{content.where(row)}: a value without its {missing}; name it.")
        metric = texts["metric"][row] if "metric" in texts else ""
        factor = _factor(where, cell, float(values[row]), metric, percent=percent and not is_percent)
        read_values.append(Value(
            where, models[row], benchmarks[row], float(values[row]) * factor,
            {name: float(parsed.values[row]) * (1 if parsed.percent else factor) for name, parsed in numbers.items()},
            {name: column[row] for name, column in whole.items()}, {name: text[row] for name, text in texts.items()},
        ))  # fmt: skip
    _require_fractions(content, column, read_values, percent=percent and not is_percent)
    return read_values


def _factor(where: str, cell: str, value: float, metric: str, *, percent: bool) -> float:
    """Return the factor that converts a value to a fraction."""
    if metric.lower() not in _FRACTIONS:
        return 1.0
    if percent and not 0 <= value <= 100:
        raise ValueError(f"{where} is {cell}, which is not a percentage of correct answers.")
    if not percent and not 0 <= value <= 1:
        hint = "; if the values are percent, give --percent or write percent signs" if value > 0 else ""
        raise ValueError(f"{where} is {cell}, which is not a fraction of correct answers between 0 and 1{hint}.")
    return 0.01 if percent else 1.0


def _require_fractions(content: DelimitedTable, column: str, values: list[Value], *, percent: bool) -> None:
    """Raise if --percent is given for values that are already fractions, or an interval is not in fractions."""
    with_fractions = [value for value in values if value.texts.get("metric", "").lower() in _FRACTIONS]
    for value in with_fractions:
        for name, number in value.numbers.items():
            if not (math.isnan(number) or 0 <= number <= 1):
                raise ValueError(
                    f"{value.where}: {name} is {number:g}, but the value {value.value:g}; write both as fractions."
                )
    fractions = [value.value for value in with_fractions]
    if percent and fractions and max(fractions) <= 0.01:
        raise ValueError(
            f"{content.file}, column {column!r}: no value is above 1, so these are not percent; drop --percent."
        )


def _whole(content: DelimitedTable, name: str) -> list[int | None]:
    values: Floats = content.numerals(name, whole=True).values
    for row in np.flatnonzero(np.isfinite(values) & (values != np.round(values))):
        raise ValueError(f"{content.where(int(row), name)} is {values[row]:g}; wanted a whole number.")
    return [None if math.isnan(value) else int(value) for value in values]


def _require_once(values: list[Value]) -> None:
    seen: dict[tuple[Any, ...], str] = {}
    for value in values:
        details = (value.texts.get(name, "") for name in ("revision", "category", "task", "metric", "source"))
        key = (value.model, value.benchmark, *details, value.whole.get("n_shots"))
        if key in seen:
            raise ValueError(f"{value.where}: {value.benchmark} of {value.model} is already given in {seen[key]}.")
        seen[key] = value.where

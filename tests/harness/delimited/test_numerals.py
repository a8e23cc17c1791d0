"""Columns of numbers in all notations, and ids whose form a program has changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.delimited.identifiers import join
from harness.delimited.numerals import read_numbers


def read(cells, **options):
    column = pd.Series(cells, dtype=object)
    return read_numbers(column, lambda row, cell: f"t.csv, line {row + 2}, column 'v' is {cell!r}", **options)


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1", "2.5", "-3e2", ".5"], [1, 2.5, -300, 0.5]),
        (["0,5", "1,5", "-2"], [0.5, 1.5, -2]),
        (["-2,024", "0,395"], [-2.024, 0.395]),
        (["1,000.5", "2,000.5"], [1000.5, 2000.5]),
        (["1,100,000,000", "7,000"], [1.1e9, 7000]),
        (["1.100.000", "7.000"], [1.1e6, 7000]),
        (["1.000,5", "7.000"], [1000.5, 7000]),
        (["1.234", "5.678"], [1.234, 5.678]),
        (["1,234", "0,5"], [1.234, 0.5]),
        (["1 000", "2 500,5"], [1000, 2500.5]),
        (["1\u202f000,5", "2\u00a0000"], [1000.5, 2000]),
        (["1'000.5", "1’000"], [1000.5, 1000]),
        (["−0.5", "−1"], [-0.5, -1]),
        (["1,5E-3"], [0.0015]),
        ([" 1 ", "\u00a02"], [1, 2]),
        (["n/a", "NA", "", "#NULL!", "#N/A", "NaN", "null", "None", ".", "1"], [np.nan] * 9 + [1]),
    ],
)
def test_a_column_in_one_notation_is_parsed(cells, wanted):
    np.testing.assert_array_equal(read(cells).values, wanted)
    assert not read(cells).percent


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1,234"], "line 2, column 'v' is '1,234': its comma may separate thousands or decimals; write 1234"),
        (["1,234", "5"], "line 2, column 'v' is '1,234': its comma"),
        (["0.5", "1,234"], "line 3, column 'v' is '1,234': its comma"),
        (["0,5", "1.500"], "line 3, column 'v' is '1.500': its point"),
        (["0.5", "0,5"], "line 3, column 'v' is '0,5', but t.csv, line 2"),
        (["1", "high"], "line 3, column 'v' is 'high'; write a finite number"),
        (["inf"], "is 'inf'; write a finite number"),
        (["1e999"], "is 'inf'; write a finite number"),
        (["1_000"], "is '1_000'"),
        (["0x1A"], "is '0x1A'"),
        (["41%"], "is '41%'"),
        (["1,23,456"], "is '1,23,456'"),
    ],
)
def test_an_invalid_or_ambiguous_cell_is_rejected(cells, message):
    with pytest.raises(ValueError, match=message):
        read(cells)


def test_counts_have_no_decimals_so_a_single_comma_is_unambiguous():
    assert read(["14,042", "166"], whole=True).values.tolist() == [14042, 166]


def test_percentages_are_divided_by_100_if_all_cells_have_a_percent_sign():
    column = read(["41.0%", "", "33,5 %".replace(",", ".")], percent=True)
    np.testing.assert_allclose(column.values, [0.41, np.nan, 0.335])
    assert column.percent
    with pytest.raises(ValueError, match=r"line 3, column 'v' is '0\.4', but"):
        read(["41%", "0.4"], percent=True)


@pytest.mark.parametrize(
    ("ids", "known", "difference"),
    [
        (["1", "2"], ["2", "1"], ""),
        (["0.0", "1.0"], ["0", "1"], "leading zeros or a decimal point"),
        (["0", "1"], ["000", "001"], "leading zeros or a decimal point"),
        (["cafe\u0301", "b"], ["café", "b"], "the Unicode form"),
        (["s1 ", "s2"], ["s1", "s2"], "spaces around them"),
    ],
)
def test_ids_whose_form_a_program_has_changed_are_joined_with_a_note(ids, known, difference):
    joined = join(ids, known, "a.csv", "b.csv")
    assert set(joined.same) == set(ids)
    assert sorted(joined.same.values()) == sorted(known)
    assert difference in joined.note
    assert bool(joined.note) == bool(difference)


def test_ids_that_become_equal_in_a_common_form_are_rejected():
    with pytest.raises(ValueError, match=r"b\.csv: ids '7' and '07' differ only in leading zeros"):
        join(["7.0"], ["7", "07"], "a.csv", "b.csv")
    assert join(["x"], ["7", "07"], "a.csv", "b.csv").same == {}
    assert join(["1.10"], ["1.1"], "a.csv", "b.csv").same == {}

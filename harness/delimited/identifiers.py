"""Ids of two tables -> which is which, also where a program has changed their form on the way.

Excel and pandas turn 007 into 7 and 7 into 7.0, some systems write é as two characters, and tables made by hand have
spaces around names. Ids that differ in such a way alone are joined, with a note, where that is unambiguous for all.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

_WHOLE = re.compile(r"0*(\d+)(?:\.0+)?", re.ASCII)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _as_number(text: str) -> str:
    found = _WHOLE.fullmatch(_composed(text))
    return found[1] if found else _composed(text)


# What may have happened to ids, from the least on; each includes those before it.
_FORMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("spaces around them", str.strip),
    ("the Unicode form of accented letters", _composed),
    ("leading zeros or a decimal point", _as_number),
)


class Joined(NamedTuple):
    """same: id of one table -> that of the other, for those that have one. note: how they differ; "" if they do not."""

    same: dict[str, str]
    note: str


def join(ids: Sequence[str], known: Sequence[str], file: str, of: str) -> Joined:
    """Find the id of another table that each id is.

    Args:
        ids: of a table, each unique.
        known: of the other table, each unique.
        file: name of the first, for the note.
        of: name of the other.

    Returns:
        The ids that are the same, as they are or, if that leaves some without a partner, in a common form.

    Raises:
        ValueError: if ids would fit in a common form, but two of one table then are the same.
    """
    same = {one: one for one in ids if one in set(known)}
    if len(same) == len(ids):
        return Joined(same, "")
    for difference, form in _FORMS:
        in_form = {form(other) for other in known}
        if all(form(one) in in_form for one in ids):
            _require_unambiguous(ids, form, file, difference)
            _require_unambiguous(known, form, of, difference)
            partner = {form(other): other for other in known}
            joined = {one: partner[form(one)] for one in ids}
            changed = next(one for one in ids if joined[one] != one)
            shown = repr if form is not _composed else ascii  # which look the same
            note = f"{file}: ids differ from those of {of} in {difference} and are joined all the same: "
            return Joined(joined, f"{note}{shown(changed)} is {shown(joined[changed])}.")
    return Joined(same, "")


def _require_unambiguous(ids: Collection[str], form: Callable[[str], str], file: str, difference: str) -> None:
    counts = Counter(map(form, ids))
    doubled = [one for one in ids if counts[form(one)] > 1]
    if doubled:
        alike = [one for one in doubled if form(one) == form(doubled[0])]
        raise ValueError(
            f"{file}: ids {alike[0]!r} and {alike[1]!r} differ only in {difference}, and so do ids of the other "
            "table; write the ids in one form in both."
        )


def difference_of(one: str, other: str) -> str:
    """In what two ids differ, where it is a matter of form; "" where they are different ids."""
    if one.casefold().strip() == other.casefold().strip():
        return "capital letters" if one.strip() != other.strip() else "spaces around them"
    return next((difference for difference, form in _FORMS if form(one) == form(other)), "")

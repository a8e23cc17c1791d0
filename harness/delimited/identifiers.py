"""Joins the ids of two tables, including ids whose form a program has changed.

Excel and pandas turn 007 into 7 and 7 into 7.0, some systems write é as two characters, and tables made by hand have
spaces around names. Ids that differ only in such a way are joined, with a note, if the match is unambiguous for all.
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
    match = _WHOLE.fullmatch(_composed(text))
    return match[1] if match else _composed(text)


# Common forms of ids, mildest change first; each form includes the ones before it.
_FORMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("spaces around them", str.strip),
    ("the Unicode form of accented letters", _composed),
    ("leading zeros or a decimal point", _as_number),
)


class Joined(NamedTuple):
    """Result of a join.

    same: id of one table -> matching id of the other, for the ids that have a match.
    note: how the ids differ; "" if they do not.
    """

    same: dict[str, str]
    note: str


def join(ids: Sequence[str], known: Sequence[str], file: str, of: str) -> Joined:
    """Match the ids of one table with those of another.

    Args:
        ids: unique ids of the first table.
        known: unique ids of the second table.
        file: name of the first table, for messages.
        of: name of the second table, for messages.

    Returns:
        Exact matches if all ids have one. Otherwise matches in the mildest common form in which all ids have one. If
        there is no such form, the exact matches only.

    Raises:
        ValueError: if the ids match in a common form, but two ids of one table become equal in it.
    """
    same = {item: item for item in ids if item in set(known)}
    if len(same) == len(ids):
        return Joined(same, "")
    for difference, form in _FORMS:
        known_forms = {form(other) for other in known}
        if all(form(item) in known_forms for item in ids):
            _require_unambiguous(ids, form, file, difference)
            _require_unambiguous(known, form, of, difference)
            partner = {form(other): other for other in known}
            joined = {item: partner[form(item)] for item in ids}
            changed = next(item for item in ids if joined[item] != item)
            show = repr if form is not _composed else ascii  # both forms look the same in print
            note = f"{file}: ids differ from those of {of} in {difference} and are joined anyway: "
            return Joined(joined, f"{note}{show(changed)} is {show(joined[changed])}.")
    return Joined(same, "")


def _require_unambiguous(ids: Collection[str], form: Callable[[str], str], file: str, difference: str) -> None:
    """Raise if two ids are equal in a common form."""
    counts = Counter(map(form, ids))
    doubled = [item for item in ids if counts[form(item)] > 1]
    if doubled:
        alike = [item for item in doubled if form(item) == form(doubled[0])]
        raise ValueError(
            f"{file}: ids {alike[0]!r} and {alike[1]!r} differ only in {difference}, and ids of the other table differ "
            "from them in the same way; write the ids in one form in both tables."
        )


def difference_of(one: str, other: str) -> str:
    """Describe how two ids differ if only their form differs; "" if they are different ids."""
    if one.casefold().strip() == other.casefold().strip():
        return "capital letters" if one.strip() != other.strip() else "spaces around them"
    return next((difference for difference, form in _FORMS if form(one) == form(other)), "")

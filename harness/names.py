"""Names of models and data sets, which become cells of tables, folders of partitions, labels of metrics, and text.

One rule for all: a name is text that can be shown, is of UTF-8, and fits the name of a folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import pandas as pd

# A folder's name holds 255 bytes on every filesystem in use; partitions write a name so, with what stands before it and
# what controls add to it ("model=", ":untrained", ":shuffled").
MOST_BYTES = 255 - 24

OF_VARIANTS = (":untrained", ":shuffled", ":chat")  # how the names of a model's own controls end


def require(name: str, what: str = "model") -> str:
    """The name itself.

    Args:
        name: to stand in tables.
        what: it names, for messages.

    Raises:
        ValueError: if it is empty, holds characters that cannot be shown (line ends, control characters), is not of
            UTF-8, or is too long for a folder; the message shows it escaped.
    """
    shown = name.encode("unicode_escape", "backslashreplace").decode("ascii") if not name.isprintable() else name
    advice = f"rename the folder, or name the {what} in a file" if what == "model" else "give it another name"
    if not name.strip():
        raise ValueError(f"a {what} has no name; {advice}.")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"the name of the {what} '{shown[:80]}' is not of UTF-8; {advice}.")
    if not name.isprintable():
        raise ValueError(f"the name of the {what} '{shown[:80]}' holds characters that cannot be shown; {advice}.")
    if name.endswith(OF_VARIANTS):
        raise ValueError(f"the name of the {what} '{shown[:80]}' ends as that of a model's own control; {advice}.")
    if (n_bytes := len(quote(name, safe=""))) > MOST_BYTES:
        raise ValueError(
            f"the name of the {what} '{shown[:80]}...' takes {n_bytes} bytes in the name of a folder of tables, where "
            f"{MOST_BYTES} fit; {advice}."
        )
    return name


# What stands before the host of an address, and what may be a key in its query.
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
_KEYS = re.compile(r"(?i)([?&](?:[\w-]*(?:token|key|secret|password|signature|credential)[\w-]*)=)[^&\s'\"]+")


def shown(text: str) -> str:
    """A text of unknown origin as a terminal, a log and a file of UTF-8 can take it.

    Control characters, but for line ends and tabs, and halves of characters are escaped; addresses lose credentials.
    """
    safe = "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return _KEYS.sub(r"\1...", _CREDENTIALS.sub("", safe)) if "://" in safe else safe


# Words of texts and ids of rows: data, and never changed. Other texts of a table are names and sentences.
_DATA = frozenset({"word", "story", "sentence", "word_id", "row_id", "neuroid_id", "passage"})


def for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose names no spreadsheet takes for formulas: those that begin as one have an apostrophe before them."""
    made = frame.copy()
    for column in made.columns.difference(list(_DATA)):
        if made[column].dtype == object or str(made[column].dtype).startswith("str"):
            made[column] = [
                f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
                for cell in made[column]
            ]
    return made

"""Validation and display of model names, which become table cells, partition folders, metric labels and printed text.

A valid name is printable UTF-8 and short enough for a folder name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from urllib.parse import quote

from harness import variants

# Common filesystems limit folder names to 255 bytes; a partition adds "model=" and the suffix of a variant.
MAX_BYTES = 255 - 48


def require(name: str) -> str:
    """Check the name of a model and return it.

    Raises:
        ValueError: if it is empty, not printable (line ends, control characters), not valid UTF-8, ends with the suffix
            of a variant, or is too long for a folder; the message shows it escaped.
    """
    advice = "rename the folder, or name the model in a file"
    if not name.strip():
        raise ValueError(f"a model has no name; {advice}.")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"the model name {name[:80]!r} is not valid UTF-8; {advice}.")
    if not name.isprintable():
        raise ValueError(f"the model name {name[:80]!r} contains control characters; {advice}.")
    if variants.base_name(name) != name:
        raise ValueError(f"the model name {name[:80]!r} ends with the suffix of a variant; {advice}.")
    if (n_bytes := len(quote(name, safe=""))) > MAX_BYTES:
        raise ValueError(
            f"the model name {name[:80]!r} takes {n_bytes} bytes as the name of a folder, and the limit is "
            f"{MAX_BYTES}; {advice}."
        )
    return name


# Credentials in a URL: before the host, and in query parameters.
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
_KEYS = re.compile(r"(?i)([?&](?:[\w-]*(?:token|key|secret|password|signature|credential)[\w-]*)=)[^&\s'\"]+")


def printable(text: str) -> str:
    """Make text safe for terminals, logs and UTF-8 files, and remove credentials from URLs.

    Args:
        text: text of unknown origin, such as the message of an exception.

    Returns:
        The text with control characters (except line ends and tabs) and lone surrogates escaped.
    """
    safe = "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return _KEYS.sub(r"\1...", _CREDENTIALS.sub("", safe)) if "://" in safe else safe


def nearest(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.4) -> list[str]:
    """Known names that are similar to a name, the most similar first; empty if none is."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown name of something: it lists the nearest known names, or all if none is near."""
    known = list(known)
    return ValueError(f"{kind} {name!r} is unknown; the nearest are {', '.join(nearest(name, known) or known)}.")

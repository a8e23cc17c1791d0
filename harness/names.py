"""Names of models, which become cells of tables, folder names of partitions, labels of metrics, and printed text.

A name is printable UTF-8 that fits into a folder's name.
"""

from __future__ import annotations

import re
from typing import get_args
from urllib.parse import quote

from harness.protocol import Variant

# Common filesystems allow 255 bytes for the name of a folder; a partition adds "model=" and the ending of a control.
MAX_BYTES = 255 - 24
_CONTROL_ENDINGS = tuple(f":{variant}" for variant in get_args(Variant))


def require(name: str) -> str:
    """Check the name of a model, and return it.

    Raises:
        ValueError: if it is empty, not printable (line ends, control characters), not valid UTF-8, ends like the name
            of a model's own control, or is too long for a folder; the message shows it escaped.
    """
    advice = "rename the folder, or name the model in a file"
    if not name.strip():
        raise ValueError(f"a model has no name; {advice}.")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"the model name {name[:80]!r} is not valid UTF-8; {advice}.")
    if not name.isprintable():
        raise ValueError(f"the model name {name[:80]!r} contains control characters; {advice}.")
    if name.endswith(_CONTROL_ENDINGS):
        raise ValueError(f"the model name {name[:80]!r} ends like that of a model's own control; {advice}.")
    if (n_bytes := len(quote(name, safe=""))) > MAX_BYTES:
        raise ValueError(
            f"the model name {name[:80]!r} takes {n_bytes} bytes as the name of a folder, at most {MAX_BYTES} fit; "
            f"{advice}."
        )
    return name


# Credentials in a URL: before the host, and as parameters of the query.
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
_KEYS = re.compile(r"(?i)([?&](?:[\w-]*(?:token|key|secret|password|signature|credential)[\w-]*)=)[^&\s'\"]+")


def printable(text: str) -> str:
    """Escape what a terminal, a log or a UTF-8 file cannot take, and remove credentials from URLs.

    Args:
        text: of unknown origin, such as the message of an exception.

    Returns:
        The text with control characters (other than line ends and tabs) and lone surrogates escaped.
    """
    safe = "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return _KEYS.sub(r"\1...", _CREDENTIALS.sub("", safe)) if "://" in safe else safe

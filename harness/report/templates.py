"""Templates, style sheet and scripts of the pages, and the content security policy that every page has.

Names come from users and from the Hub, so all text is escaped. The policy forbids loading anything, and running any
script except our own, which is identified by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

ROOM = "harness.report"


def environment(autoescape: bool = True) -> jinja2.Environment:
    """The settings of every template; only LaTeX has a way of its own to escape text."""
    import jinja2

    return jinja2.Environment(
        autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,  # noqa: S701
        loader=jinja2.FunctionLoader(text_of),
    )  # fmt: skip


def text_of(file: str, room: str = ROOM) -> str:
    """Content of a template, style sheet or script.

    Args:
        file: its name.
        room: the package that it lies in.
    """
    return (resources.files(room) / file).read_text(encoding="utf-8")


def policy(script: str) -> str:
    """The content security policy of a page with this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )

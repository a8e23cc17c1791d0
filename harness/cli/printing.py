"""Output of the commands: a table for people, or one JSON document for programs."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from harness import names

STOPPED = "stopped; run the same command again to resume"


def show(rows: list[dict[str, Any]], as_json: bool) -> int:
    """Print rows as a table, or as one JSON document; returns the exit status 0.

    Args:
        rows: at least one; all have the keys of the first, which become the headings.
        as_json: print JSON instead of a table.
    """
    if as_json:
        document(rows)
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0], box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(names.printable(_cell(value))) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # rich would wrap lines at 80 columns in a pipe
        console.width = 1000
    console.print(table)
    return 0


def shown(value: Any) -> Any:
    """The value; "" for None."""
    return "" if value is None else value


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def answer(arguments: argparse.Namespace, content: Any, text: str) -> None:
    """Print the result of a command: the text for people, or with --json the content as one JSON document."""
    if arguments.json:
        document(content)
    else:
        print(text)


def document(content: Any) -> None:
    """Print one JSON document; NaN and infinity, which JSON lacks, become null."""
    print(json.dumps(_finite(content), indent=1, default=str, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content

"""What commands print: rows as a table for people, or one JSON document for programs."""

from __future__ import annotations

import json
import math
from typing import Any

from harness import names


def show(rows: list[dict[str, Any]], as_json: bool) -> int:
    """Rows as a table for people, or as one JSON document; gives the status 0."""
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
    if not console.is_terminal:  # a pipe has no edge at which to cut words
        console.width = 1000
    console.print(table)
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def document(content: Any) -> None:
    """One JSON document; a number that is not finite, which JSON does not know, is null."""
    print(json.dumps(_finite(content), indent=1, default=str, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content

"""What commands print: rows as a table for people, or one JSON document for programs."""

from __future__ import annotations

import json
from typing import Any


def show(rows: list[dict[str, Any]], as_json: bool) -> int:
    """Rows as a table for people, or as one JSON document; gives the status 0."""
    if as_json:
        document(rows)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)
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
    """One JSON document."""
    print(json.dumps(content, indent=1, default=str))

"""The losses of a training as JSON lines: one line a step, written by the first worker.

They contain no times, so that a training which was killed and resumed leaves the same file as one which was not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "losses.jsonl"


def add(folder: Path, row: dict[str, Any]) -> None:
    """Append the line of a step."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of a training; [] if there are none."""
    if not (folder / FILE).is_file():
        return []
    text = (folder / FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut(folder: Path, step: int) -> None:
    """Remove the lines of steps after `step`, which a resumed training computes again."""
    if not (folder / FILE).is_file():
        return
    kept = [row for row in read(folder) if row["step"] <= step]
    staging = folder / f".{FILE}.aside"
    staging.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    staging.replace(folder / FILE)

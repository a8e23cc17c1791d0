"""The model card in a checkpoint's folder, README.md: which base it names."""

from __future__ import annotations

import re
from pathlib import Path


def base_of(folder: Path) -> str:
    """`base_model` of the model card's front matter (a word, or a list whose first counts), or nothing."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^base_model:\s*(?:-\s+)?[\"']?(\w[\w./-]*)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""

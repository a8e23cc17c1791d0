"""Read the base model from the model card (README.md) in a checkpoint's folder."""

from __future__ import annotations

import re
from pathlib import Path


def base_of(folder: Path) -> str:
    """Return `base_model` from the card's front matter (the first, if it is a list), or ""."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    match = re.search(r"^base_model:\s*(?:-\s+)?[\"']?(\w[\w./-]*)", front[1], re.MULTILINE) if front else None
    return match[1] if match else ""

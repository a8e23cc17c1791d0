"""`harness examples`: lists the notebooks, or copies them to a folder in which they can be run and changed."""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

from harness.cli.printing import answer, show


def examples(arguments: argparse.Namespace) -> int:
    """List the notebooks with their titles; with a folder, copy them there."""
    texts = _texts()
    if not arguments.folder:
        return show([{"notebook": name, "title": _title(text)} for name, text in texts.items()], arguments.json)
    folder = Path(arguments.folder)
    for name in texts:
        if (folder / name).exists():
            raise ValueError(f"{folder / name} exists and may have been changed; remove it, or give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    copied = [str(folder / name) for name in texts]
    answer(arguments, {"copied": copied}, "\n".join([*copied, f"open them, for instance with: jupyter lab {folder}"]))
    return 0


def _texts() -> dict[str, str]:
    """The notebooks' texts by file name."""
    files = sorted(resources.files("harness.examples").iterdir(), key=lambda file: file.name)
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".ipynb")}


def _title(text: str) -> str:
    """The heading of the first cell."""
    return str(json.loads(text)["cells"][0]["source"][0]).removeprefix("# ").strip()

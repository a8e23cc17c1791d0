"""Writes the board as a folder of HTML pages that load nothing, with all scores as a CSV file beside them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board.gathering import Gathered, Problem, gather
from harness.board.pages import Board, Page, all_pages
from harness.report import templates
from harness.report.cells import ReportTable
from harness.report.embedded_files import escape_formulas

if TYPE_CHECKING:
    import jinja2

ROOM = "harness.board"
MARKER = ".harness-board"  # in each site: what may be replaced
COLUMNS = {
    "source": "Source", "score": "Score", "low": "Interval", "ceiling": "Ceiling", "ratio": "Ratio", "plot": "Plot",
    "dataset": "Data set", "protocol": "Protocol", "measure": "Measure", "unique": "Unique R²",
    "unique_low": "Its interval", "layer": "Layer", "run": "Run",
}  # fmt: skip
_WORDS = ("source", "plot", "dataset", "protocol", "measure", "layer", "run")


def write(outs: Sequence[str], site: str) -> tuple[str, tuple[Problem, ...]]:
    """Write the board of all runs in some OUTs.

    Args:
        outs: folders or URLs that contain `tables`.
        site: local folder for the pages: a new or empty one, or that of an earlier board, which is replaced.

    Returns:
        The path of the first page, and what could not be read.

    Raises:
        ValueError: if the folder holds other files, or no OUT has a score; nothing is written then.
    """
    target = _require_free(site)
    gathered = gather(outs)
    staging = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        _fill(staging, gathered)
        if target.exists():
            replaced = target.with_name(f"{staging.name}-old")
            target.rename(replaced)
            staging.rename(target)
            shutil.rmtree(replaced)
        else:
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return str(Path(site) / "index.html"), gathered.problems


def _require_free(site: str) -> Path:
    if "://" in site:
        raise ValueError(f"--out is {site}; a local folder is wanted. Write the board there, then copy it.")
    target = Path(site).resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{site} is a file; give a folder for the board.")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKER).is_file():
        raise ValueError(f"{site} holds other files, which the board would replace; give a new folder.")
    return target


def _fill(folder: Path, gathered: Gathered) -> None:
    """Write all files into a new folder."""
    import pandas as pd

    for name in ("datasets", "models", "trainings"):
        (folder / name).mkdir(parents=True)
    for page in all_pages(Board.of(gathered)):
        problems = () if page.up else gathered.problems
        (folder / page.file).write_text(render(page, problems), encoding="utf-8")
    both = pd.concat([gathered.newest.assign(is_newest=True), gathered.earlier.assign(is_newest=False)])
    both = both.drop(columns=["table", "height", "n_earlier"])
    escape_formulas(both).to_csv(folder / "scores.csv", index=False)
    (folder / MARKER).write_text("Written by `harness board`, which replaces this folder.\n")


def render(page: Page, problems: Sequence[Problem] = ()) -> str:
    """The HTML of one page."""
    script = _script(page.rows is not None)
    style = templates.text_of("page.css") + templates.text_of("board.css", ROOM)
    return _template().render(
        page=page, problems=problems, columns=COLUMNS, words=_WORDS, script=script, style=style,
        policy=templates.policy(script),
    )  # fmt: skip


@cache
def _script(has_rows: bool) -> str:
    """The script of the report sorts plain tables; that of the board makes the list of scores."""
    return templates.text_of("report.js") + (templates.text_of("board.js", ROOM) if has_rows else "")


@cache
def _template() -> jinja2.Template:
    environment = templates.environment()
    environment.tests["table"] = lambda part: isinstance(part, ReportTable)
    return environment.from_string(templates.text_of("board.html.j2", ROOM))

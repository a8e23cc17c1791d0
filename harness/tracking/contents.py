"""What a tracker gets of a run: settings, scores by name, and a folder of files.

A tracker shows scores side by side; it is not a store of results. Tables with a row per neuroid, word or unit stay in
OUT.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from harness.names import printable
from harness.report import page
from harness.storage import table_files, tables

if TYPE_CHECKING:
    import pandas as pd

LARGE = ("neuroid_scores", "split_scores", "word_surprisals", "folds", "units")
_BRAIN = ("r", "r_low", "r_high", "ceiling", "unique_r2")
_READING = ("abs_r", "delta_ll", "delta_ll_low", "delta_ll_high")
_NOT_ALLOWED = re.compile(r"[^\w.\- /:]")  # in MLflow's names of metrics


@dataclass(frozen=True)
class Content:
    """What is sent to a tracker.

    Attributes:
        run: name of the run in the tables.
        settings: what was asked for: spec, models, data sets, protocols, seed, ...; the same for each send of the run.
        facts: how the run went: status, code version, start, seconds, failures.
        scores: DATASET/PROTOCOL/MODEL/COLUMN -> a finite number.
        folder: report.html, figures/*.svg and tables/*.parquet.
    """

    run: str
    settings: dict[str, str]
    facts: dict[str, str]
    scores: dict[str, float]
    folder: Path


def of_run(out: str, run: str | None, folder: Path) -> Content:
    """Collect what is sent of a run.

    Args:
        out: folder or URL that contains `tables`.
        run: name of a run; None is the one that started last.
        folder: empty folder for the files.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; lists the nearest names.
    """
    about = tables.pick_run(out, run)
    run = str(about["run"])
    frames = {name: tables.read(out, name, run) for name in table_files.run_tables() if name not in LARGE}
    (folder / "tables").mkdir(parents=True)
    for name, frame in frames.items():
        if len(frame):
            frame.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
    page.write_figures(out, str(folder / "figures"), run)
    with fsspec.open(page.write(out, run), "rb") as report:
        (folder / "report.html").write_bytes(report.read())
    scores = _scores(frames["model_scores"], _BRAIN) | _scores(frames["reading_scores"], _READING)
    facts = ("status", "code_version", "started", "seconds", "n_failed")
    return Content(run, _settings(about), {name: printable(str(about[name])) for name in facts}, scores, folder)


def _settings(about: dict[str, Any]) -> dict[str, str]:
    """The spec of the run, as text by name; {} if it was stored by another version."""
    asked = json.loads(about["content"] or "{}").get("spec") or {}
    listed = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in asked.items()}
    return {"spec": str(about["spec"])} | {
        name: printable(str(value)) for name, value in listed.items() if name != "name" and value not in ("", None)
    }


def _scores(frame: pd.DataFrame, columns: tuple[str, ...]) -> dict[str, float]:
    """The overall scores by name; NaN, which means not measurable, is left out."""
    if "target" in frame:
        frame = frame[frame["target"] == "all"]
    return {
        _NOT_ALLOWED.sub("_", f"{row['dataset']}/{row['protocol']}/{row['model']}/{column}"): float(row[column])
        for row in frame.to_dict("records")
        for column in columns
        if math.isfinite(row[column])
    }

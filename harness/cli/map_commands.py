"""`harness maps`: scores of neuroids as images in the format and space of the recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli.printing import answer


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `maps`."""
    option = command.add_argument
    option("dataset", metavar="local:FOLDER", help="the recording that was scored, a folder with BOLD images")
    option("--out", default="results", metavar="DIR", help="folder of the run's tables (default: results)")
    option("--run", help="run id (default: the newest run)")
    option("--model", action="append", metavar="NAME", help="model or control, as in the tables (default: all models)")
    option("--protocol", action="append", metavar="NAME", help="protocol (default: all); repeatable")
    option(
        "--stat", action="append", metavar="NAME",
        help="r, p, q, ceiling, ratio, alpha or layer (default: r and q); repeatable",
    )  # fmt: skip
    option("--max-q", type=float, metavar="Q", help="also write maps of r that are 0 unless q is below Q, such as 0.05")
    option("--to", metavar="DIR", help="folder for the maps (default: maps/RUN in the folder of the tables)")


def maps(arguments: argparse.Namespace) -> int:
    """Write the maps and print how many there are, and where."""
    import pyarrow.dataset as ds

    from harness.datasets.own import glass_brains
    from harness.datasets.own import maps as own_maps
    from harness.report import brain_maps
    from harness.storage import tables

    local = str(arguments.out).removeprefix("file://")
    if "://" in local and not arguments.to:
        raise ValueError("the tables are not on a local disk; give a folder for the maps with --to DIR.")
    run = tables.pick_run(arguments.out, arguments.run)["run"]
    scores = tables.read(arguments.out, "neuroid_scores", run, where=lambda _: ds.field("chosen"))
    scores = scores[scores.dataset == own_maps.label_of(arguments.dataset)]
    for column in ("model", "protocol"):
        scores = _only(scores, column, getattr(arguments, column))
    if not arguments.model:
        scores = scores[scores.kind != "control"]
    target = Path(arguments.to or Path(local) / "maps" / run)
    statistics = arguments.stat or ("r", "q")
    rows = scores.to_dict("records")
    written = own_maps.write(arguments.dataset, rows, target, statistics, arguments.max_q)
    drawings = brain_maps.write(target, glass_brains.brains(arguments.dataset, rows))
    drawn = f", and {len(drawings)} drawings for `harness report`," if drawings else ""
    answer(arguments, [str(path) for path in [*written, *drawings]], f"wrote {len(written)} maps{drawn} to {target}")
    return 0


def _only(scores: Any, column: str, wanted: list[str] | None) -> Any:
    """The rows of the wanted models or protocols; ValueError if there are none of one."""
    from harness.names import unknown

    there = sorted(set(scores[column]))
    for name in wanted or []:
        if name not in there:
            raise unknown(column, name, there)
    return scores[scores[column].isin(wanted)] if wanted else scores

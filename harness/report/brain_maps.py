"""Glass brains of the scores r: written beside the maps by `harness maps`, and shown by the report that is made after.

    OUT/maps/RUN/MODEL/PROTOCOL/stat-r_glassbrain.svg, and .json, which has the numbers

Source of the form: the glass brain of SPM and nilearn, a maximum-intensity projection along three axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.datasets.own import maps
from harness.datasets.own.glass_brains import Brain, View
from harness.report.figures import PROTOCOLS, Figure, best_models, in_order, of_many, standalone
from harness.report.panels import CONTROL, MODEL, TOP, WIDTH, Panel, brain_panel

if TYPE_CHECKING:
    import pandas as pd

_NAME = "stat-r_glassbrain"
MOST = 6  # models drawn for a data set
LEVELS = 10  # steps of the colour scale
_GAP, _SUBTITLE = 16.0, 18.0  # px between the views, and of the line below the title
_LONGEST = 36  # letters of a model's name
_TEXTS = ("model", "kind", "dataset", "protocol", "subject")
CAPTION = (
    "Highest score along each of three axes, at the layer chosen for each target. L and R are the left and right "
    "hemisphere, P and A posterior and anterior. Scores of 0 and below are not coloured. The outline is the brain in "
    "the first image, or the mask, atlas or surface."
)


def write(target: Path, brains: Sequence[Brain]) -> list[Path]:
    """Write the glass brains of each model and protocol into the folder of their maps.

    Args:
        target: folder of the maps of a run.
        brains: projections; those of one protocol share their scale.

    Returns:
        The drawings.
    """
    written = []
    for model, protocol in dict.fromkeys((brain.model, brain.protocol) for brain in brains):
        own = [brain for brain in brains if (brain.model, brain.protocol) == (model, protocol)]
        highest = _highest([brain for brain in brains if brain.protocol == protocol])
        folder = maps.folder_of(target, model, protocol)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_NAME}.svg"
        path.write_text(standalone(Figure(CAPTION, [_panel(brain, highest) for brain in own])), "utf-8")
        path.with_suffix(".json").write_text(json.dumps([_plain(brain) for brain in own]) + "\n", "utf-8")
        written.append(path)
    return written


def read(out: str, run: str) -> list[Brain]:
    """The glass brains that `harness maps` wrote for a run.

    Args:
        out: folder or URL of the tables.
        run: run id.

    Raises:
        ValueError: if a file is damaged; names it.
    """
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(out)
    brains: list[Brain] = []
    for path in sorted(filesystem.glob(f"{root}/maps/{run}/*/*/{_NAME}.json")):
        try:
            brains += [_brain(fields) for fields in json.loads(filesystem.cat_file(path))]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); write it again with `harness maps`.") from error
    return brains


def figures_of(brains: Sequence[Brain], model_scores: pd.DataFrame) -> list[str | Figure]:
    """For the report: the name of each data set and its figure, with the models of the highest scores.

    Args:
        brains: from `read`.
        model_scores: the table, by which models are ordered.
    """
    parts: list[str | Figure] = []
    for dataset in dict.fromkeys(brain.dataset for brain in brains):
        rows = model_scores[model_scores["dataset"] == dataset]
        best = best_models(rows, MOST)
        of_dataset = [brain for brain in brains if brain.dataset == dataset]
        n_models = len({brain.model for brain in of_dataset if brain.kind != "control"})
        rank = {name: k for k, name in enumerate(in_order(rows))}
        drawn = sorted(
            (brain for brain in of_dataset if brain.model in best or n_models <= MOST),
            key=lambda brain: (PROTOCOLS.index(brain.protocol), rank.get(brain.model, len(rank))),  # type: ignore[arg-type]
        )
        parts += [dataset, Figure(CAPTION + of_many(n_models, MOST), panels_of(drawn))]
    return parts


def panels_of(brains: Sequence[Brain]) -> list[Panel]:
    """A panel of each brain; all share the scale."""
    highest = _highest(brains)
    return [_panel(brain, highest) for brain in brains]


def _highest(brains: Sequence[Brain]) -> float:
    """Upper end of the scale: the highest score of all."""
    highest = [_highest_of(view) for brain in brains for view in brain.views]
    return max([0.01, *(value for value in highest if math.isfinite(value))])


def _highest_of(view: View) -> float:
    """The highest score of a view; NaN if it has none."""
    measured = view.values[np.isfinite(view.values)]
    return float(measured.max()) if len(measured) else math.nan


def _panel(brain: Brain, highest: float) -> Panel:
    """The three views side by side, with the colour scale below."""
    cell = math.floor(3 * (WIDTH - 2 * _GAP) / sum(view.inside.shape[1] for view in brain.views)) / 3
    views, left = [], 0.0
    for view in brain.views:
        levels = np.where(view.values > 0, np.ceil(LEVELS * np.nan_to_num(view.values) / highest), 0)
        views.append(_drawn(view, np.minimum(levels, LEVELS).astype(int), left, TOP + _SUBTITLE, cell))
        left += cell * view.inside.shape[1] + _GAP
    name = brain.model if len(brain.model) <= _LONGEST else f"… {brain.model[2 - _LONGEST :]}"
    bottom = TOP + _SUBTITLE + cell * max(view.inside.shape[0] for view in brain.views)
    colour = CONTROL if brain.kind == "control" else MODEL
    return brain_panel((name, brain.protocol.upper(), brain.subject), views, bottom, highest, LEVELS, colour)


def _drawn(view: View, levels: Any, left: float, top: float, cell: float) -> dict[str, Any]:
    """Paths of one view, in px, and its levels as text: a digit (A is the tenth), "." without a level, " " outside."""
    letters = np.array([*".123456789A"])[levels]
    present = [level for level in range(1, LEVELS + 1) if (levels == level).any()]
    return {
        "name": view.name, "left": view.left, "right": view.right, "x": left, "y": top,
        "width": cell * view.inside.shape[1], "highest": _highest_of(view),
        "silhouette": _runs(view.inside, left, top, cell), "outline": _edges(view.inside, left, top, cell),
        "levels": [(level, _runs(levels == level, left, top, cell)) for level in present],
        "rows": ["".join(row) for row in np.where(view.inside | (levels > 0), letters, " ")],
    }  # fmt: skip


def _runs(cells: Any, left: float, top: float, size: float) -> str:
    """Path of the filled cells, those side by side in a row as one rectangle."""
    parts = []
    for row, first, last in _spans(cells):
        width = f"{size * (last - first):.5g}"
        parts.append(f"M{left + size * first:.5g} {top + size * row:.5g}h{width}v{size:.5g}h-{width}z")
    return "".join(parts)


def _edges(cells: Any, left: float, top: float, size: float) -> str:
    """Path of the lines between filled and empty cells."""
    padded = np.pad(cells, 1)
    flat = _spans(np.diff(padded, axis=0))
    upright = _spans(np.diff(padded, axis=1).T)
    return "".join(
        [f"M{left + size * (a - 1):.5g} {top + size * row:.5g}h{size * (b - a):.5g}" for row, a, b in flat]
        + [f"M{left + size * column:.5g} {top + size * (a - 1):.5g}v{size * (b - a):.5g}" for column, a, b in upright]
    )


def _spans(cells: Any) -> list[tuple[int, int, int]]:
    """(row, first, end) of the runs of filled cells."""
    steps = np.diff(np.pad(cells.astype(int), ((0, 0), (1, 1))), axis=1)
    rows, firsts = np.nonzero(steps > 0)
    ends = np.nonzero(steps < 0)[1]
    return list(zip(rows.tolist(), firsts.tolist(), ends.tolist(), strict=True))


# --- JSON -------------------------------------------------------------------------------------------------------------


def _plain(brain: Brain) -> dict[str, Any]:
    """A brain as JSON: scores with three decimals, null where there is none."""
    views = [
        {
            "name": view.name, "left": view.left, "right": view.right,
            "values": [[round(v, 3) if math.isfinite(v) else None for v in row] for row in view.values.tolist()],
            "inside": ["".join("#" if inside else " " for inside in row) for row in view.inside.tolist()],
        }
        for view in brain.views
    ]  # fmt: skip
    return {**{name: getattr(brain, name) for name in _TEXTS}, "views": views}


def _brain(fields: dict[str, Any]) -> Brain:
    """The brain of a JSON object; ValueError, TypeError or KeyError if it is another one."""
    views = []
    for view in fields["views"]:
        values = np.array([[math.nan if v is None else float(v) for v in row] for row in view["values"]])
        inside = np.array([[letter == "#" for letter in row] for row in view["inside"]])
        if values.shape != inside.shape or values.ndim != 2:
            raise ValueError(f"the view {view['name']!r} has shapes {values.shape} and {inside.shape}")
        views.append(View(str(view["name"]), str(view["left"]), str(view["right"]), values, inside))
    if fields["protocol"] not in PROTOCOLS:
        raise ValueError(f"the protocol {fields['protocol']!r} is unknown")
    return Brain(**{name: str(fields[name]) for name in _TEXTS}, views=tuple(views))

"""The matplotlib scripts of the figures: their numbers are those of the tables, and they run by themselves."""

import ast
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.datasets.own.glass_brains import Brain, View
from harness.report import brain_maps, figure_scripts, figures, property_figures
from harness.report.figures import Figure
from harness.report.panels import Band, Point, point_panel

NAN = math.nan
EVIL = "a'''\"\\$x$\n\u2028__import__('os').abort()\x1b"


def brain(names):
    kinds = {"oasm": "control", "a:untrained": "untrained"}
    return pd.DataFrame([
        {"model": name, "kind": kinds.get(name, "model"), "protocol": "strict", "r": 0.5 - 0.1 * i,
         "r_low": 0.4 - 0.1 * i, "r_high": NAN if name == "b" else 0.61234567 - 0.1 * i, "ceiling": 0.8}
        for i, name in enumerate(names)
    ])  # fmt: skip


def every_kind():
    checkpoints = pd.DataFrame([
        {"training": EVIL, "seed": 0, "step": step, "tokens": NAN, "x": step, "score": 0.1 * step, "protocol": "strict",
         "low": NAN, "high": 0.3} for step in (1, 2, 3)
    ])  # fmt: skip
    points = [Point(7.0, 0.1, "m", 0), Point(8.0, 0.2, EVIL, 1, is_tuned=True)]
    band = Band([7.0, 8.0], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3])
    axes = ("number of parameters", "Pearson r")
    return {
        "dots": figures.scores(brain(["a", "a:untrained", "b", EVIL, "oasm"]), dataset="d"),
        "lines": property_figures.trajectories(checkpoints),
        "points": [point_panel("STRICT", axes, points, band, (0.0, 0.3), "r 1.0", powers=True)],
        "brain": brain_maps.panels_of([glass_brain(EVIL)]),
    }


def glass_brain(model):
    """Two scores and one cell of the brain without."""
    views = tuple(
        View(name, "L", "R", np.array([[NAN] * 4, [NAN, 0.31, -0.1, NAN], [NAN] * 4]), np.eye(3, 4, dtype=bool))
        for name in ("sagittal", "coronal", "axial")
    )
    return Brain(model, "model", "d", "strict", "sub-01", views)


def test_the_levels_of_a_glass_brain_are_text():
    (panel,) = literals(figure_scripts.script(Figure("", brain_maps.panels_of([glass_brain("m")]))))["PANELS"]
    assert [view["rows"] for view in panel["views"]] == [[".   ", " A  ", "  . "]] * 3
    assert panel["highest"] == 0.31
    assert panel["title"] == "m · STRICT, sub-01"


def literals(source):
    """Name -> value of the assignments of literals at the top of a script."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_the_numbers_of_the_script_are_those_of_the_table():
    rows = brain(["a", "a:untrained", "b", "oasm"])
    found = literals(figure_scripts.script(Figure("Scores.", figures.scores(rows, dataset="d")), "run-1"))
    assert found["RUN"] == "run-1"
    assert found["CAPTION"] == "Scores."
    (panel,) = found["PANELS"]
    assert panel["title"] == "d · STRICT"
    by_label = {(label, kind): values for label, kind, _, *values in panel["rows"]}
    assert by_label["a", "model"] == [0.5, 0.4, 0.612346]  # six digits
    assert by_label["a", "untrained"] == [0.4, 0.3, 0.512346]
    assert by_label["b", "model"] == [0.3, 0.2, None]  # an end that was not measured
    assert panel["best_control"] == by_label["oasm", "control"][0] == 0.2
    assert panel["ceilings"] == [["ceiling 0.800", 0.8]]
    heights = [row[2] for row in panel["rows"]]
    assert heights[0] == heights[1] < heights[2]  # the untrained control shares the row of its model


@pytest.mark.parametrize("kind", ["dots", "lines", "points", "brain"])
def test_names_are_literals_and_only_matplotlib_and_the_standard_library_are_imported(kind):
    source = figure_scripts.script(Figure(EVIL, every_kind()[kind]), EVIL)
    tree = ast.parse(source)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "__import__" not in calls
    assert [panel["kind"] for panel in literals(source)["PANELS"]] == [kind]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"math", "pathlib", "matplotlib", "matplotlib.pyplot"}


def test_the_scripts_draw_their_figures(tmp_path):
    """With the matplotlib of HARNESS_MATPLOTLIB_PYTHON or of this interpreter; without one they are compiled."""
    sources = {kind: figure_scripts.script(Figure(EVIL, panels)) for kind, panels in every_kind().items()}
    for kind, source in sources.items():
        compile(source, kind, "exec")
        (tmp_path / f"{kind}.py").write_text(source, encoding="utf-8")
    python = os.environ.get("HARNESS_MATPLOTLIB_PYTHON", sys.executable)
    if python == sys.executable and not importlib.util.find_spec("matplotlib"):
        return
    runs = "; ".join(f"runpy.run_path({str(tmp_path / f'{kind}.py')!r})" for kind in sources)
    subprocess.run([python, "-W", "error", "-c", f"import runpy; {runs}"], check=True, timeout=120)
    for kind in sources:
        assert Path(tmp_path, f"{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert Path(tmp_path, f"{kind}.pdf").read_bytes().startswith(b"%PDF")

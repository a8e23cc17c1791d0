"""Glass brains: written beside the maps, read again, and drawn."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from harness.datasets.own.glass_brains import Brain, View
from harness.report import brain_maps

NAN = math.nan
EVIL = "<script>a/b</script>"


def a_brain(model="m", protocol="strict", highest=0.4, kind="model", subject="sub-01"):
    rng = np.random.default_rng(len(model))
    views = []
    for name, left, right in (("sagittal", "P", "A"), ("coronal", "L", "R"), ("axial", "L", "R")):
        inside = np.zeros((9, 11), dtype=bool)
        inside[1:8, 1:10] = True
        values = np.where(inside & (rng.random(inside.shape) < 0.5), highest * rng.uniform(-0.5, 1, inside.shape), NAN)
        values[4, 5] = highest
        views.append(View(name, left, right, values, inside))
    return Brain(model, kind, "local-lab", protocol, subject, tuple(views))


def areas(path):
    """(left, top, width, height) of the rectangles of a path."""
    return [tuple(map(float, found)) for found in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", path)]


def test_what_is_written_is_read(tmp_path):
    brains = [a_brain(EVIL), a_brain(EVIL, subject="sub-02"), a_brain(EVIL, "paper"), a_brain("oasm", kind="control")]
    written = brain_maps.write(tmp_path / "maps" / "run-1", brains)
    assert [path.name for path in written] == ["stat-r_glassbrain.svg"] * 3
    got = {(brain.model, brain.protocol, brain.subject): brain for brain in brain_maps.read(str(tmp_path), "run-1")}
    for brain in brains:
        own = got.pop((brain.model, brain.protocol, brain.subject))
        assert replace(own, views=()) == replace(brain, views=())
        for view, again in zip(brain.views, own.views, strict=True):
            assert view[:3] == again[:3]
            np.testing.assert_allclose(again.values, view.values, atol=6e-4)
            np.testing.assert_array_equal(again.inside, view.inside)
    assert not got
    root = ElementTree.parse(written[0]).getroot()  # noqa: S314 - our own file
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {f"{EVIL} · STRICT", "sub-01", "sub-02", "P", "A", "L", "R", "sagittal"} <= set(titles)
    assert brain_maps.read(str(tmp_path), "run-2") == []


@pytest.mark.parametrize("content", ["[", "[{}]", '[{"views": 1}]', '{"a": 1}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (path,) = brain_maps.write(tmp_path / "maps" / "run-1", [a_brain()])
    path.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match=r"stat-r_glassbrain\.json is damaged .*harness maps"):
        brain_maps.read(str(tmp_path), "run-1")


def test_every_positive_score_is_coloured_once_by_its_level():
    view = a_brain().views[0]
    levels = np.minimum(np.where(view.values > 0, np.ceil(10 * np.nan_to_num(view.values) / 0.8), 0), 10).astype(int)
    drawn = brain_maps._drawn(view, levels, 0.0, 0.0, 1.0)
    raster = np.zeros(view.values.shape, dtype=int)
    for level, path in drawn["levels"]:
        for left, top, width, height in areas(path):
            assert height == 1
            raster[int(top), int(left) : int(left + width)] += level
    np.testing.assert_array_equal(raster, levels)
    assert raster.max() == 5  # half of the scale
    assert sum(width for _, _, width, _ in areas(drawn["silhouette"])) == view.inside.sum()
    lengths = [float(length) for length in re.findall(r"[hv]([\d.]+)", drawn["outline"])]
    assert sum(lengths) == 2 * (7 + 9)


def test_the_report_shows_the_best_models_in_order_and_one_scale():
    names = [f"m{k}" for k in range(8)]
    scores = pd.DataFrame([
        {"model": name, "kind": "model", "dataset": "local-lab", "protocol": "strict", "r": k / 10}
        for k, name in enumerate(names)
    ])  # fmt: skip
    brains = [a_brain(name, highest=0.1 + k / 20) for k, name in enumerate(names)] + [a_brain("m3", "paper")]
    heading, figure = brain_maps.figures_of(brains, scores)
    assert heading == "local-lab"
    assert "Only 6 of 8 models" in figure.caption
    titles = [re.search(r"<title>(.*?)</title>", panel)[1] for panel in figure.panels]
    assert titles == [f"m{k} · STRICT" for k in (7, 6, 5, 4, 3, 2)] + ["m3 · PAPER"]
    assert [panel.plot["highest"] for panel in figure.panels] == [pytest.approx(0.45)] * 7
    assert brain_maps.figures_of([], scores) == []


def test_long_names_are_cut_and_no_positive_score_is_no_fault():
    brain = a_brain("organisation/" + "x" * 60)
    low = tuple(view._replace(values=-np.abs(view.values)) for view in brain.views)
    (panel,) = brain_maps.panels_of([replace(brain, views=low)])
    assert "… " + "x" * 34 + " · STRICT" in panel
    assert "sagittal: highest r −0." in panel
    assert "#C2500A" in brain_maps.panels_of([replace(brain, kind="control")])[0]

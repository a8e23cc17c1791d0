"""Tests of the figures, parsed as XML: positions of the marks and their labels."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from harness.numbers import interval, number
from harness.report import figures, property_figures
from harness.report.panels import CONTROL, MODEL, Scale
from harness.statistics.scores import Scores

NAN = math.nan


def sources(scores, protocol="strict", ceiling=0.8):
    rows = []
    for name, r in scores.items():
        kind = "untrained" if ":" in name else "control" if name in {"oasm", "length"} else "model"
        rows.append({
            "model": name, "kind": kind, "protocol": protocol, "stack": "decoder", "layer": 1, "r": r, "r_low": r - 0.1,
            "r_high": r + 0.1, "ceiling": ceiling, "abs_r": abs(r), "delta_ll": NAN,
            "delta_ll_low": NAN, "delta_ll_high": NAN,
        })  # fmt: skip
    return pd.DataFrame(rows)


def curves(scores, **columns):
    """{(model, stack): r by layer}."""
    return pd.concat([
        sources({model: value}).assign(stack=stack, layer=layer, **columns)
        for (model, stack), values in scores.items() for layer, value in enumerate(values)
    ])  # fmt: skip


def pairs(*scores, protocol="strict"):
    return pd.DataFrame(
        [{"base": "gpt2", "tuned": f"tuned-{i}", "protocol": protocol, "base_score": base, "tuned_score": tuned}
         for i, (base, tuned) in enumerate(scores)]
    )  # fmt: skip


def parse(svg):
    return ET.fromstring(svg)  # noqa: S314


def marks(svg):
    """Hover text of each mark -> its element."""
    return {
        element.findtext("title"): element
        for element in parse(svg).iter()
        if element.tag != "svg" and element.find("title") is not None
    }


def texts(svg):
    return [element.text for element in parse(svg).iter("text")]


def x_of(mark):
    circle = mark.find("circle")
    return float(circle.get("cx")) if circle is not None else float(mark.find("path").get("d")[1:].split()[0])


def test_an_untrained_control_follows_its_model_before_other_variants():
    rows = sources({"a": 0.6, "a:chat": 0.5, "a:shuffled": 0.4, "a:untrained": 0.3, "oasm": 0.2})
    assert figures.in_order(rows) == ["a", "a:untrained", "a:chat", "a:shuffled", "oasm"]
    (svg,) = figures.scores(rows)
    assert [text for text in texts(svg) if text.startswith("a")] == ["a", "a, chat", "a, shuffled"]


def test_the_position_of_a_score_is_linear():
    (svg,) = figures.scores(sources({"a": 0.2, "b": 0.4, "c": 0.6}))
    a, b, c = (x_of(mark) for mark in marks(svg).values())
    assert sorted(marks(svg)) == [
        "a 0.200 (0.100 to 0.300)", "b 0.400 (0.300 to 0.500)", "c 0.600 (0.500 to 0.700)",
    ]  # fmt: skip
    assert a - b == pytest.approx(b - c, abs=0.2)  # positions are rounded to 0.1 px; the best model comes first
    assert a > b > c


def test_kinds_differ_in_shape_and_not_only_in_colour():
    (svg,) = figures.scores(sources({"a": 0.6, "a:untrained": 0.3, "oasm": 0.2}))
    model, untrained, control = marks(svg).values()
    assert model.find("circle").get("fill") == untrained.find("circle").get("stroke")
    assert untrained.find("circle").get("fill") == "none"
    assert control.find("circle") is None
    assert control.find("path") is not None


def test_an_untrained_control_shares_the_row_of_its_model():
    (svg,) = figures.scores(sources({"a": 0.6, "a:untrained": 0.3, "b:untrained": 0.2}))
    model, untrained, alone = (mark.find("circle").get("cy") for mark in marks(svg).values())
    assert model == untrained != alone
    assert [text for text in texts(svg) if "untrained" in text] == ["b, untrained"]


def test_strict_comes_first_and_both_panels_share_one_scale_and_order():
    rows = pd.concat([sources({"a": 0.1, "b": 0.2}, "paper"), sources({"a": 0.7, "b": 0.5}, "strict")])
    strict, paper = figures.scores(rows)
    assert (texts(strict)[0], texts(paper)[0]) == ("STRICT", "PAPER")
    assert [name.split()[0] for name in marks(strict)] == [name.split()[0] for name in marks(paper)] == ["a", "b"]
    ticks = [text for text in texts(strict) if text.startswith("0.")]
    assert ticks == [text for text in texts(paper) if text.startswith("0.")] != []


def test_controls_without_a_model_come_last():
    rows = sources({"oasm": 0.9, "a": 0.2, "b": 0.5, "a:untrained": 0.6, "b:untrained": NAN, "length": NAN})
    assert figures.in_order(rows) == ["b", "b:untrained", "a", "a:untrained", "oasm", "length"]


def test_the_ceiling_is_drawn_and_labelled():
    (svg,) = figures.scores(sources({"a": 0.4}, ceiling=0.75))
    assert "ceiling 0.750" in texts(svg)
    assert [line for line in parse(svg).iter("line") if line.get("stroke-dasharray") == "5 3"]
    (without,) = figures.scores(sources({"a": 0.4}, ceiling=NAN))
    assert not [text for text in texts(without) if "ceiling" in text]


def test_nan_is_an_en_dash_without_a_mark():
    (svg,) = figures.scores(sources({"a": 0.4, "b": NAN}))
    missing = marks(svg)["b –"]
    assert missing.find("circle") is None
    assert [text.text for text in missing.iter("text")] == ["b", "–"]


def test_every_panel_has_a_text_alternative():
    brain = sources({"a": 0.4, "<b>": 0.3, "oasm": 0.1})
    drawn = [
        *figures.scores(brain), *figures.reading(brain.assign(delta_ll=0.01)), *figures.layers(brain, brain),
        *figures.slopes(pairs((0.1, 0.2))),
    ]  # fmt: skip
    assert len(drawn) == 5
    for svg in drawn:
        root = parse(svg)
        assert root.get("role") == "img"
        assert "STRICT protocol." in root.get("aria-label")
        assert root.findtext("title") == "STRICT"
    assert "a 0.400 (0.300 to 0.500); <b> 0.300" in parse(drawn[0]).get("aria-label")


def test_reading_gains_have_a_panel_only_if_they_were_computed():
    assert len(figures.reading(sources({"a": 0.4}))) == 1
    panels = figures.reading(sources({"a": 0.4}).assign(delta_ll=0.0123, delta_ll_low=0.01, delta_ll_high=0.02))
    assert "Δ log-likelihood (nats per word)" in texts(panels[1])
    assert "a 0.012 (0.010 to 0.020)" in marks(panels[1])


def test_a_layer_curve_rises_with_the_score_and_has_a_ring_at_the_selected_layer():
    rows = curves({("a", "decoder"): [0.1, 0.5, 0.3]})
    (svg,) = figures.layers(rows, sources({"a": 0.5}))
    points = [marks(svg)[f"a decoder.{k}: {r:.3f}"] for k, r in enumerate((0.1, 0.5, 0.3))]
    heights = [float(point.get("cy")) for point in points]
    assert heights[1] < heights[2] < heights[0]
    (ring,) = [circle for circle in parse(svg).iter("circle") if circle.get("r") == "6"]
    assert (ring.get("cx"), ring.get("cy")) == (points[1].get("cx"), points[1].get("cy"))


def test_each_stack_is_one_line_and_controls_are_horizontal_lines():
    rows = curves({("t5", "encoder"): [0.1, 0.2], ("t5", "decoder"): [0.1, 0.3], ("oasm", "width"): [0.9, 0.8]})
    (svg,) = figures.layers(rows, sources({"t5": 0.3, "oasm": 0.9, "length": 0.1}))
    assert {"t5", "t5 encoder", "oasm (control)", "ceiling 0.800"} <= set(texts(svg))
    assert len(list(parse(svg).iter("polyline"))) == 4
    assert marks(svg)["t5 encoder.1: 0.200"].tag == "rect"
    assert marks(svg)["t5 decoder.1: 0.300"].tag == "circle"


def test_an_untrained_control_is_dashed_in_the_colour_of_its_model_and_labelled_on_hover_only():
    rows = curves(
        {("a", "decoder"): [0.1, 0.2], ("a:untrained", "decoder"): [0.1, 0.1], ("b:untrained", "decoder"): [0.1, 0.3]}
    )
    (svg,) = figures.layers(rows.assign(kind="model"), sources({"a": 0.2}))
    model, untrained, alone, _ = parse(svg).iter("polyline")
    assert model.get("stroke") == untrained.get("stroke") != alone.get("stroke")
    assert model.get("stroke-dasharray") == "none" != untrained.get("stroke-dasharray")
    assert [text for text in texts(svg) if "untrained" in text] == ["b, untrained"]
    assert "a:untrained decoder.1: 0.100" in marks(svg)


def test_labels_at_the_ends_of_lines_do_not_overlap():
    rows = curves({(f"model-{i}", "decoder"): [0.2, 0.3] for i in range(12)})
    (svg,) = figures.layers(rows, sources({"model-0": 0.3}))
    heights = sorted(float(text.get("y")) for text in parse(svg).iter("text") if "model" in text.text)
    assert len(heights) == 12
    assert min(after - before for before, after in itertools.pairwise(heights)) >= 12.9
    assert heights[-1] < float(parse(svg).get("viewBox").split()[3])


def test_a_label_with_enough_space_is_level_with_the_end_of_its_line():
    (svg,) = figures.layers(curves({("a", "decoder"): [0.2, 0.4]}), sources({"a": 0.4}))
    end = float(marks(svg)["a decoder.1: 0.400"].get("cy"))
    (name,) = (float(text.get("y")) for text in parse(svg).iter("text") if text.text == "a")
    assert name == pytest.approx(end + 4)  # the text baseline is below the middle of the letters


def test_the_scale_of_slopes_starts_at_0():
    (svg,) = figures.slopes(pairs((0.500, 0.505)))
    (line,) = parse(svg).iter("polyline")
    before, after = (float(point.split(",")[1]) for point in line.get("points").split())
    assert 0 < before - after < 4
    assert "0.0" in texts(svg)
    assert figures.slopes(pairs((NAN, 0.1))) == []


def test_a_long_name_has_two_lines_and_is_cut_only_if_that_is_not_enough():
    name = "mistralai/Mistral-7B-Instruct-v0.3-tuned-on-stories-of-somebody"
    (svg,) = figures.scores(sources({name: 0.4, "mistralai/Mistral-7B-Instruct-v0.3": 0.3}))
    lines = ["Mistral-7B-Instruct-v0.3-", "tuned-on-stories-of-somebody"]
    assert [text for text in texts(svg) if text in lines] == lines
    assert "Mistral-7B-Instruct-v0.3" in texts(svg)  # without its organisation it is short enough
    name = "-".join([name] * 2).replace("/", "-")
    (svg,) = figures.scores(sources({name: 0.4}))
    assert [text for text in texts(svg) if "…" in text] == ["mistralai-…ies-of-somebody"]
    assert f"{name} 0.400 (0.300 to 0.500)" in marks(svg)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 0.83, ["0.0", "0.2", "0.4", "0.6", "0.8"]),
        (-0.021, 0.024, ["−0.02", "−0.01", "0.00", "0.01", "0.02"]),
        (0.0, 7.0, ["0", "1", "2", "3", "4", "5", "6", "7"]),
    ],
)
def test_ticks_are_round_numbers(low, high, labels):
    assert [label for _, label in Scale(low, high, 0, 100).ticks()] == labels


def test_numbers_have_a_minus_sign_and_a_dash_for_nan():
    assert [number(-0.12345), number(-0.0001), number(0.1, 1, sign=True), number(NAN)] == [
        "−0.123",
        "0.000",
        "+0.1",
        "–",
    ]
    assert [interval(-0.1, 0.2, 1), interval(NAN, 0.2)] == ["−0.1 to 0.2", "–"]


@pytest.mark.parametrize(("names", "expected"), [
    (["llama-7b", "a-name-that-is-too-long-by-far"], ["llama-7b", "a-name-tha…too-long-by-far"]),
    (["stories260K with instructions", "stories260K without instructions"],
     ["… with instructions", "… without instructions"]),
    (["an-organisation/of-much/a-model", "an-organisation/of-much/another"], ["a-model", "another"]),
    ([f"stories260K-{arm}-instructions-seed{seed}@step-000014" for arm in ("with", "without") for seed in (0, 1)],
     ["… with seed0", "… with seed1", "… without seed0", "… without seed1"]),
    (["organisation/a-long-name-x-of-a-model", "organisation/another-long-name-y-of-a-model"],
     ["a-long-name-x-of-a-model", "another-lo…me-y-of-a-model"]),
    (["one-organisation/first/of-the-models", "one-organisation/of-the-models"],
     ["one-organi…t/of-the-models (1)", "one-organi…n/of-the-models (2)"]),
])  # fmt: skip
def test_short_names_are_never_cut_to_be_the_same(names, expected):
    assert list(figures.short_names(names).values()) == expected


def test_a_training_is_one_line_though_its_seeds_have_seen_other_tokens():
    rows = pd.DataFrame([
        {"training": "m", "seed": seed, "step": step, "tokens": tokens, "x": tokens, "score": 0.1 * step,
         "protocol": "strict"}
        for seed in (0, 1) for step, tokens in ((0, 0.0), (1, 90_000.0 + seed), (2, 180_000.0 + seed))
    ])  # fmt: skip
    (panel,) = property_figures.trajectories(rows)
    titles = re.findall(r"<title>([^<]*)", panel)
    assert [title for title in titles if title.startswith("m ")] == ["m 0 0.000", "m 90,000 0.100", "m 180,000 0.200"]
    assert "tokens seen" in panel


def test_labels_of_training_steps_do_not_overlap_and_the_ends_are_shown():
    steps = [0, 10, 100, 200, 400, 1000, 2000, 4000, 8000, 15_000, 16_000]
    rows = pd.DataFrame([
        {"training": "m", "seed": -1, "step": step, "tokens": NAN, "x": step, "score": 0.1, "protocol": "strict",
         "low": 0.05, "high": 0.2}
        for step in steps
    ])  # fmt: skip
    (panel,) = property_figures.trajectories(rows)
    bottom = max(float(text.get("y")) for text in parse(panel).iter("text") if text.get("y"))
    ticks = [(float(text.get("x")), text.text) for text in parse(panel).iter("text")
             if text.get("y") == f"{bottom - 15}" and text.get("text-anchor") == "middle"]  # fmt: skip
    assert (ticks[0][1], ticks[-1][1]) == ("0", "16,000")
    assert len(ticks) > 3
    for (x, text), (following, other) in itertools.pairwise(ticks):
        assert following - x > 6.5 * (len(text) + len(other)) / 2


def test_points_of_trainings_and_pairs_have_their_intervals():
    rows = pd.DataFrame([
        {"training": "m", "seed": seed, "step": step, "tokens": NAN, "x": step, "score": 0.1, "protocol": "strict",
         "low": 0.05 + 0.02 * seed, "high": 0.2 if step else NAN}
        for seed in (0, 1) for step in (0, 1, 2)
    ])  # fmt: skip
    (panel,) = property_figures.trajectories(rows)
    ends = [line["ends"] for line in panel.plot["lines"]]
    assert ends[0][1:] == ((pytest.approx(0.06), pytest.approx(0.2)),) * 2  # mean over the seeds
    assert math.isnan(ends[0][0][1])
    bars = [line for line in parse(panel).iter("line") if line.get("stroke-opacity") == "0.4"]
    assert len(bars) == 2
    ends = {("gpt2", "strict"): (0.05, 0.15), ("tuned-1", "strict"): (0.1, 0.3)}
    (panel,) = figures.slopes(pairs((0.1, 0.2), (0.1, 0.2)), ends)
    bars = [line for line in parse(panel).iter("line") if line.get("stroke-opacity") == "0.4"]
    assert len(bars) == 2  # the shared base once, and the tuned model with an interval
    scale = {float(line.get("y1")) for line in bars}
    assert len(scale) == 2


def test_a_line_marks_the_highest_control_and_only_the_highest_are_drawn():
    controls = {f"c{i}": 0.01 * i for i in range(6)}
    rows = sources({"a": 0.6, **controls})
    rows["kind"] = ["model", *["control"] * 6]
    (svg,) = figures.scores(rows, dataset="d")
    assert [name.split()[0] for name in marks(svg)] == ["a", "c5", "c4", "c3", "c2"]
    (line,) = [line for line in parse(svg).iter("line") if line.get("stroke-dasharray") == "1 3"]
    assert float(line.get("x1")) == x_of(marks(svg)["c5 0.050 (−0.050 to 0.150)"])
    assert texts(svg)[0] == "d · STRICT"


def test_a_colour_stands_for_one_family_model_or_training_in_all_figures():
    def colours(models, checkpoints=()):
        frame = pd.DataFrame({"family": models}, dtype=object)
        empty = ["base", "arm", "is_main", "tuning_seed", "tuning_step", "tuning_tokens"]
        frame[empty] = ["", "", True, NAN, NAN, NAN]
        rows = [{"model": m, "dataset": "d", "protocol": "strict", "target": "all", "metric": "r", "score": 0.1}
                for m in models]  # fmt: skip
        return property_figures.colours(Scores("", pd.DataFrame(rows), frame, (), pd.DataFrame()))

    one_family = colours({"a": "x", "b": "x"})
    assert one_family.of_model["a"] != one_family.of_model["b"]
    assert set(one_family.of_group.values()) == {MODEL}
    families = colours({"a": "x", "b": "x", "c": "y"})
    assert families.of_model == families.of_group
    assert families.of_model["a"] == families.of_model["b"] != families.of_model["c"]
    trained = colours({"a": "x", "t@step-1": "x", "t@step-2": "x"})
    assert trained.of_model["t@step-1"] == trained.of_model["t@step-2"] == trained.of_training("t")
    for drawn in (one_family, families, trained):
        assert not {MODEL, CONTROL} & set(drawn.of_model.values())

"""Tests of the report on small tables that look like those of the quickstart."""

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness import datasets
from harness.report import embedded_files
from harness.report import page as report
from harness.report.cells import ReportTable, filled
from harness.report.figures import Figure
from harness.report.glance import glance
from harness.storage import tables

NAN = math.nan
RUN = "quickstart-1f2e3d4c"
# name -> family, parameters
MODELS = {
    "tiny-llama": ("llama", 124_439_808), "tiny-llama-tuned": ("llama", 124_439_808), "tiny-gpt2": ("gpt2", 81_000),
    "tiny-t5": ("t5", 7_240_000_000),
}  # fmt: skip
# name -> (STRICT r, PAPER r); an untrained control is the model name followed by ":untrained"
BRAIN = {
    "tiny-llama": (0.612, 0.655), "tiny-llama-tuned": (0.598, 0.649), "tiny-gpt2": (0.401, 0.512),
    "tiny-t5": (0.377, 0.489), "tiny-llama:untrained": (0.213, 0.402), "tiny-gpt2:untrained": (0.188, 0.395),
    "tiny-t5:untrained": (0.170, 0.371),
    "length": (0.082, 0.121), "word-rate": (NAN, NAN), "position": (0.051, 0.302), "oasm": (-0.013, 0.701),
    "random": (0.004, 0.010),
}  # fmt: skip
READING = {
    "tiny-gpt2": 0.412, "tiny-llama": 0.205, "tiny-llama-tuned": 0.197, "tiny-t5": NAN, "length": 0.326,
    "frequency": -0.287,
}  # fmt: skip
PLANTED = {"model": "tiny-llama", "layer": "decoder.3", "ceiling": 0.8, "reading_model": "tiny-gpt2"}


def put(out, table, rows):
    """Write rows as the pipeline does, in Hive partitions by run, data set and model."""
    parts = [name for name in tables.PARTITIONS if name in tables.SCHEMAS[table]]
    for key in {tuple(row[name] for name in parts) for row in rows}:
        folder = Path(tables.folder(str(out), table))
        folder = folder.joinpath(*(f"{name}={quote(value, safe='')}" for name, value in zip(parts, key, strict=True)))
        folder.mkdir(parents=True, exist_ok=True)
        part = tables.rows_to_arrow(table, [row for row in rows if tuple(row[name] for name in parts) == key])
        pq.write_table(part.drop_columns(parts), folder / "part-0.parquet")


def fill(table, **values):
    """A row of a table; missing values become NaN, 0 or "" as the schema requires."""
    empty = {"string": "", "double": NAN, "int64": 0, "bool": False}
    unknown = set(values) - set(tables.SCHEMAS[table])
    assert not unknown, unknown
    return {name: values.get(name, empty[str(kind)]) for name, kind in tables.SCHEMAS[table].items()}


def source(model, dataset="", protocol=""):
    kind = "untrained" if ":" in model else "model" if model in MODELS else "control"
    made = {
        "run": RUN,
        "model": model,
        "kind": kind,
        "revision": "9a8b7c6d5e4f3a2b1c0d" * 2,
        "code_version": "0.1.0+00ba220",
    }
    made["created"] = datetime(2026, 8, 1, tzinfo=UTC).isoformat()
    if not dataset:
        return made
    used = {"protocol": protocol, "protocol_hash": datasets.protocols(dataset)[protocol].hash}
    return made | used | {"dataset": dataset, "dataset_version": "ab12cd34ef56ab78", "seed": 0, "metric": "pearson_r"}


def model_scores(brain):
    rows = []
    for model, by_protocol in brain.items():
        for protocol, r in zip(("strict", "paper"), by_protocol, strict=True):
            stack, layer = ("encoder" if "t5" in model else "decoder", 3) if model != "oasm" else ("width", 1)
            for target, shift in (("all", 0.0), ("IFG", 0.021), ("PostTemp", -0.033)):
                rows.append(fill(
                    "model_scores", **source(model, "synthetic", protocol), context="passage", stack=stack, layer=layer,
                    target=target, r=r + shift, r_low=r + shift - 0.04, r_high=r + shift + 0.035, ceiling=0.793,
                    ceiling_kind="planted", ratio=(r + shift) / 0.793, interval_kind="bootstrap over 5 subjects",
                    n_neuroids=60, n_nan=2, n_rows=240, n_folds=10, n_features=48,
                ))  # fmt: skip
    return rows


def layer_scores(brain):
    rows = []
    for model, by_protocol in brain.items():
        for protocol, r in zip(("strict", "paper"), by_protocol, strict=True):
            for stack in ("encoder", "decoder") if "t5" in model else ("decoder",):
                for layer in range(5):
                    value = (
                        r * (1 - 0.13 * abs(layer - 3)) * (0.8 if (stack, "t5" in model) == ("decoder", True) else 1)
                    )
                    rows.append(fill(
                        "layer_scores", **source(model, "synthetic", protocol), stack=stack, layer=layer, target="all",
                        r=value, ceiling=0.793, ratio=value / 0.793,
                    ))  # fmt: skip
    return rows


def reading_scores(reading):
    rows = []
    for model, r in reading.items():
        for dataset, protocol in product(("futrell2018-2016", "futrell2018-2021"), ("strict", "paper")):
            gain = {
                "delta_ll": r / 20,
                "delta_ll_low": r / 20 - 0.004,
                "delta_ll_high": r / 20 + 0.004,
                "partial_r": r / 2,
            }
            rows.append(fill(
                "reading_scores", **source(model, dataset, protocol), context="passage",
                predictor="surprisal" if model in MODELS else model, r=r, abs_r=abs(r), r_low=r - 0.03, r_high=r + 0.03,
                ceiling=0.858, ceiling_kind="published", ratio=abs(r) / 0.858, n_words=9775, n_missing=12,
                interval_kind="bootstrap over sentences", **(gain if protocol == "strict" else {}),
            ))  # fmt: skip
    return rows


def properties():
    return [
        fill("model_properties", **source(model), family=family, n_parameters=size, n_layers=5, hidden_size=48,
             context_size=256, tuned_from="tiny-llama" if model.endswith("-tuned") else "",
             pair_source="paper/models.csv" if model.endswith("-tuned") else "")
        for model, (family, size) in MODELS.items()
    ]  # fmt: skip


def run_row(run=RUN, started="2026-08-01T10:00:00+00:00", planted=PLANTED):
    return fill(
        "runs", run=run, spec="quickstart", status="complete", started=started, seconds=87.2, n_units=24, n_computed=24,
        command="harness run quickstart --out out", code_version="0.1.0+00ba220",
        content=json.dumps({"planted": planted}),
        versions=json.dumps({"python": "3.11.9", "numpy": "2.3.1", "torch": "2.10.0"}), machine="2 cores, 8 GB, no GPU",
    )  # fmt: skip


def write_tables(out, brain=BRAIN, reading=READING, planted=PLANTED, failures=()):
    """Write the tables of a complete run under OUT/tables."""
    rows = {
        "model_scores": model_scores(brain), "layer_scores": layer_scores(brain),
        "reading_scores": reading_scores(reading),
        "model_properties": properties(), "failures": list(failures), "runs": [run_row(planted=planted)],
    }  # fmt: skip
    for table, table_rows in rows.items():
        put(out, table, table_rows)
    return str(out)


class Page(HTMLParser):
    """Parses a page: elements with their attributes, and the text outside styles and scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self._open)))
        if tag not in {"meta", "line", "path", "polyline", "polygon", "input"}:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self._open)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(out, run=None):
    return Page(Path(report.write(out, run)).read_text(encoding="utf-8"))


def test_rsa_and_cka_have_a_section_with_controls_beside_models(tmp_path):
    values = {"tiny-llama": 0.31, "random": 0.006, "length": NAN}
    rows = [
        fill("similarity_scores", **{**source(model, "synthetic", protocol), "metric": metric}, target="all",
             value=value, value_low=value - 0.05, value_high=value + 0.05, stack="decoder", layer=3,
             ceiling=0.5 if protocol == "strict" else NAN, ratio=value / 0.5 if protocol == "strict" else NAN)
        for model, value in values.items() for protocol in ("strict", "paper") for metric in ("rsa", "cka")
    ]  # fmt: skip
    out = write_tables(tmp_path)
    assert "RSA and CKA" not in page_of(out).text
    put(out, "similarity_scores", [*rows, {**rows[0], "subject": "p1", "value": 0.777}])
    text = page_of(out).text
    assert "RSA and CKA Similarity without a fit." in text
    assert "tiny-llama model decoder.3 0.310 0.260 to 0.360 0.500 0.62 decoder.3 0.310 0.260 to 0.360 – –" in text
    assert "0.777" not in text
    assert text.count("random control decoder.3 0.006") == 2
    assert "CKA. Interval" in report.markdown(out)


def test_a_recovered_planted_layer_is_reported(tmp_path):
    text = page_of(write_tables(tmp_path)).text
    assert "Planted layer recovered" in text
    assert "simulated from layer decoder.3 of tiny-llama. STRICT selects that layer" in text
    assert "scores highest of 4 models, r = 0.612 (0.572 to 0.647)." in text
    assert "The planted signal allows at most r = 0.800; the ceiling in the table is 0.793." in text


@pytest.mark.parametrize(
    ("brain", "planted", "expected"),
    [
        ({"tiny-gpt2": (0.7, 0.7)}, {}, "below tiny-gpt2 (r = 0.700)"),
        ({}, {"layer": "decoder.2"}, "STRICT selects its layer decoder.3 instead"),
    ],
)
def test_a_planted_layer_that_is_not_recovered_is_reported(tmp_path, brain, planted, expected):
    text = page_of(write_tables(tmp_path, brain=BRAIN | brain, planted=PLANTED | planted)).text
    assert "Planted layer not recovered" in text
    assert expected in text


def test_a_run_with_paper_alone_does_not_report_on_the_planted_layer(tmp_path):
    put(tmp_path, "model_scores", [row for row in model_scores(BRAIN) if row["protocol"] == "paper"])
    put(tmp_path, "runs", [run_row()])
    text = page_of(str(tmp_path)).text
    assert "Planted layer" not in text
    assert "Under PAPER, tiny-llama (layer decoder.3) scores highest" in text


@pytest.mark.parametrize(
    ("oasm", "phrases"),
    [
        ((-0.013, 0.701), ("it reaches r = 0.701 (0.661 to 0.736); not tested", "it reaches r = −0.013 (−0.053 to")),
        ((0.450, 0.330), ("the highest-scoring model (tiny-llama, 0.655).", "it reaches r = 0.450")),
        ((NAN, 0.701), ("it reaches r = 0.701", "it cannot be scored")),
    ],
)
def test_the_time_only_control_is_compared_with_the_highest_scoring_model(tmp_path, oasm, phrases):
    text = page_of(write_tables(tmp_path, brain=BRAIN | {"oasm": oasm})).text
    for phrase in phrases:
        assert phrase in text


def test_the_best_model_is_reported_with_its_ceiling_and_controls(tmp_path):
    text = page_of(write_tables(tmp_path, planted={})).text
    assert "planted" not in text.split("Findings")[1].split("Brain scores")[0]
    assert "Planted layer" not in text
    assert (
        "Under STRICT, tiny-llama (layer decoder.3) scores highest, r = 0.612 (0.572 to 0.647), 0.77 of the ceiling "
        "0.793; its untrained control reaches 0.213, the highest-scoring control (length) reaches 0.082 and the next "
        "model (tiny-llama-tuned) reaches 0.598. These differences were not tested." in text
    )
    assert "control reaches 0.402, the highest-scoring control (oasm) reaches 0.701 (higher) and the next model" in text


def test_reading_times_and_tuning_are_reported(tmp_path):
    text = page_of(write_tables(tmp_path)).text
    assert (
        "the surprisal of tiny-gpt2 has the highest gain in log-likelihood, as planted: Δ log-likelihood 0.0206 "
        "(0.0166 to 0.0246) per word, partial r = 0.206; r = 0.412 (0.382 to 0.442), ceiling 0.858." in text
    )
    assert "The control with the highest |r|, length, reaches r = 0.326." in text
    assert "synthetic −0.014 under STRICT (higher in 0 of 1 pair; one base is too few for a test), −0.006" in text


def test_protocols_are_described_in_words_with_their_hash(tmp_path):
    text = page_of(write_tables(tmp_path)).text
    assert f"{datasets.protocols('synthetic')['strict'].hash} context: passage; ridge" in text
    assert "10 random splits, 10% of the rows held out" in text


def test_a_name_that_contains_a_script_is_escaped(tmp_path, monkeypatch):
    evil = "<script>alert(1)</script>"
    monkeypatch.setitem(MODELS, evil, ("<b>", 10))
    failure = fill("failures", run=RUN, model=evil, dataset="synthetic", stage="extract", exception=evil, message=evil)
    out = write_tables(tmp_path, BRAIN | {evil: (0.7, 0.7)}, READING | {evil: 0.5}, failures=[failure])
    page = page_of(out)
    assert evil in page.text
    assert len(page.all("script")) == 1  # ours
    assert "<script>alert" not in Path(out, "report.html").read_text()
    assert "<script" not in report.markdown(out)


def test_the_page_loads_no_external_resource(tmp_path):
    page = page_of(write_tables(tmp_path))
    links = [attributes["href"] for attributes in page.all("a")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not [tag for tag, _, _ in page.elements if tag in {"link", "img", "iframe", "object", "embed", "use"}]
    assert not [
        attributes for _, attributes, _ in page.elements if {"src", "srcset", "data", "xlink:href"} & set(attributes)
    ]
    assert not re.search(r"@import|url\(|https?://", Path(tmp_path, "report.html").read_text())
    (policy,) = [meta["content"] for meta in page.all("meta") if "default-src 'none'" in (meta.get("content") or "")]
    (script,) = re.findall(r"<script>(.*?)</script>", Path(tmp_path, "report.html").read_text(), re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_links_lead_to_anchors_on_the_page(tmp_path):
    page = page_of(write_tables(tmp_path))
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= set(ids)


def test_every_figure_has_a_text_alternative_and_every_table_a_caption(tmp_path):
    page = page_of(write_tables(tmp_path))
    panels = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]  # without the symbols of the key
    # scores, layers, slopes on three data sets, size on three, reading with its gains
    assert len(panels) == 2 + 2 + 3 * 2 + 3 * 2 + 2 * 3
    assert all(panel["role"] == "img" and "protocol." in panel["aria-label"] for panel in panels)
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(cell.get("scope") in {"col", "row", "colgroup"} for cell in page.all("th"))


def test_values_that_cannot_be_measured_are_en_dashes(tmp_path):
    page = page_of(write_tables(tmp_path))
    assert "word-rate control decoder.3 – – 0.793 – 60 (2)" in page.text
    assert "An en dash (–) marks values that could not be measured" in page.text
    assert not re.search(r"\bnan\b", page.text)


def test_scores_by_target_are_collapsed(tmp_path):
    page = page_of(write_tables(tmp_path))
    assert len(page.all("details")) == 3 + 3  # boards of PAPER; notes on protocols, scores and pairs by target
    folded = page.text.split("By target: 2 regions or networks")[-1]
    assert "tiny-llama IFG decoder.3 0.633" in folded
    assert "tiny-llama PostTemp decoder.3 0.579" in folded
    assert "IFG" not in page.text.split("By target")[0]


def test_failures_are_listed(tmp_path):
    failure = fill(
        "failures", run=RUN, model="tiny-broken", dataset="synthetic", protocol="strict", stage="extract",
        exception="ValueError", message="weights are missing;\n  fetch it again.",
    )  # fmt: skip
    page = page_of(write_tables(tmp_path, failures=[failure]))
    assert "ValueError in extract: tiny-broken on synthetic, STRICT weights are missing; fetch it again." in page.text
    assert "1 evaluation failed (tiny-broken)" in page.text
    assert "1 failure ." in page.text.split("At a glance")[0]
    without = page_of(write_tables(tmp_path / "other"))
    assert not [tag for tag, attributes, _ in without.elements if attributes.get("id") == "failures"]


def test_a_run_without_reading_times_or_without_scores_has_a_report(tmp_path):
    page = page_of(write_tables(tmp_path / "brain", reading={}))
    assert "Reading times" not in page.text
    put(tmp_path / "empty", "runs", [run_row()])
    assert "Nothing was scored." in page_of(str(tmp_path / "empty")).text


def test_the_newest_run_is_shown_unless_another_is_named(tmp_path):
    out = write_tables(tmp_path)
    put(out, "runs", [run_row("older", "2026-07-01T10:00:00+00:00"), run_row("newer", "2026-08-02T10:00:00+00:00")])
    assert "Run newer , started 2026-08-02 10:00:00" in page_of(out).text
    assert "Planted layer recovered" in page_of(out, RUN).text
    with pytest.raises(ValueError, match=f"quickstart-1f2e is not .* {RUN}"):
        report.write(out, "quickstart-1f2e")


def test_no_temporary_file_is_left_and_a_second_report_is_equal(tmp_path):
    out = write_tables(tmp_path)
    assert report.write(out + "/") == f"{out}/report.html"
    first = Path(out, "report.html").read_text()
    report.write(out)
    assert Path(out, "report.html").read_text() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "tables"]


def test_missing_tables_are_an_error_that_suggests_a_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="harness run quickstart"):
        report.write(str(tmp_path))


def test_markdown_has_the_findings_and_the_tables(tmp_path):
    text = report.markdown(write_tables(tmp_path))
    assert "- **Planted layer recovered.** The responses of synthetic" in text
    assert "| tiny-llama | model | decoder.3 | 0.612 | 0.572 to 0.647 | 0.793 | 0.77 | 60 (2) |" in text
    tables_of_text = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables_of_text) > 5
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables_of_text)


def test_the_page_begins_with_a_summary(tmp_path):
    text = page_of(write_tables(tmp_path)).text
    short = text.split("Summary", 2)[2].split("Findings")[0]
    assert (
        "Under STRICT, the highest score of a language model is r = 0.61 on synthetic (tiny-llama, 77 % of the "
        "ceiling; differences to controls and other models were not tested)." in short
    )
    assert (
        "Tuned models score −0.014 relative to their bases on synthetic under STRICT (mean over 1 base, 1 pair" in short
    )
    assert "one base is too few for a test" in short
    assert "(oasm) reaches r = 0.70 on synthetic under PAPER and r = −0.01 under STRICT." in short


def test_a_run_without_pairs_has_three_sentences_too(tmp_path):
    brain = {name: r for name, r in BRAIN.items() if "tuned" not in name}
    text = page_of(write_tables(tmp_path, brain, {"tiny-gpt2": 0.412})).text
    short = text.split("Summary", 2)[2].split("Findings")[0]
    assert "Tuned models" not in short
    assert "Under STRICT, the surprisal of tiny-gpt2 has the highest gain in predicting the reading times of" in short
    assert "futrell2018-2016: Δ log-likelihood 0.0206 per word, r = 0.41." in short


def test_the_summary_names_a_control_that_scores_higher(tmp_path):
    text = page_of(write_tables(tmp_path, brain=BRAIN | {"length": (0.7, 0.7)})).text
    assert "(tiny-llama, 77 % of the ceiling; the highest-scoring control (length) reaches 0.70;" in text


def test_the_tables_are_embedded_in_the_page(tmp_path):
    out = write_tables(tmp_path)
    page = page_of(out)
    files = {link["download"]: link["href"] for link in page.all("a") if "download" in link}
    content = base64.b64decode(files[f"{RUN}-model_scores.parquet"].partition(",")[2])
    assert len(pd.read_parquet(io.BytesIO(content))) == len(tables.read(out, "model_scores", RUN))
    content = base64.b64decode(files[f"{RUN}-tuning_tests.csv"].partition(",")[2])
    assert pd.read_csv(io.BytesIO(content))["n_pairs"].tolist() == [1] * 8  # three data sets, two protocols, two gains


def test_a_table_too_large_to_embed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded_files, "MOST_BYTES", 8000)
    text = page_of(write_tables(tmp_path)).text
    assert f"too large to embed: {tmp_path}/tables/model_scores" in text


def test_latex_is_balanced_and_escaped(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "a_b&c%", ("x", 10))
    text = report.latex(write_tables(tmp_path, BRAIN | {"a_b&c%": (0.7, 0.7)}))
    assert text.count("\\begin{longtable}") == text.count("\\end{longtable}") > 5
    assert r"a\_b\&c\% & model & decoder.3 & 0.700" in text
    columns = re.search(r"longtable}\{(l+r+)\}", text).group(1)
    line = next(line for line in text.splitlines() if line.startswith("tiny-gpt2 &"))
    assert line.count(" & ") == len(columns) - 1


def test_pages_of_many_models_draw_only_the_best(tmp_path, monkeypatch):
    many = {f"m{i:03}": (0.3 + i / 1000, 0.4) for i in range(45)}
    for name in many:
        monkeypatch.setitem(MODELS, name, ("x", 10))
    page = page_of(write_tables(tmp_path, BRAIN | many))
    assert "Only 30 of 49 models, those with the highest scores, are drawn; the table lists all." in page.text
    assert "m000 model decoder.3 0.300" in page.text
    first = next(svg for svg in page.all("svg") if "aria-label" in svg)["aria-label"]
    assert "m044" in first
    assert "m000" not in first


def test_figures_are_written_as_svg_files_of_their_own(tmp_path):
    write_tables(tmp_path / "out")
    paths = report.write_figures(str(tmp_path / "out"), str(tmp_path / "figures"))
    assert {Path(path).name.partition("-")[0] for path in paths} >= {"glance", "layers", "tuning"}
    assert [path for path in paths if path.endswith(".py")] == [path[:-3] + "py" for path in paths if "svg" in path]
    for path in paths[::2]:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
        panels = root.findall("{http://www.w3.org/2000/svg}svg")
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        ends = [float(panel.get("x")) + float(panel.get("width")) for panel in panels]
        assert ends == sorted(ends)
        assert ends[-1] <= float(root.get("width"))


def test_the_page_opens_with_a_figure_and_a_board_of_every_data_set(tmp_path):
    out = write_tables(tmp_path)
    text = page_of(out).text
    first = text.split("Summary", 2)[1]
    boards = ["synthetic", "futrell2018-2016", "futrell2018-2021"]
    places = [first.index(f"{name} under STRICT") for name in boards]
    assert places == sorted(places)
    assert first.index("synthetic · STRICT") < places[0]  # the figure comes before the board
    assert first.index("synthetic · PAPER") > places[-1]
    assert (
        "Model Score (r) Interval Of ceiling Minus best control Best control Minus untrained Untrained "
        "tiny-llama 0.612 0.572 to 0.647 77 % +0.530 length 0.082 +0.399 0.213 "
        "tiny-llama-tuned 0.598 0.558 to 0.633 75 % +0.516 length 0.082 – – "
        "tiny-gpt2 0.401 0.361 to 0.436 51 % +0.319 length 0.082 +0.213 0.188" in first
    )
    assert "Gain (nats) Interval r Interval of r Of ceiling Minus best control" in first
    assert "oasm 0.701" in first.split("synthetic · PAPER")[-1]


def test_the_board_shows_the_tested_difference_with_its_interval():
    test = fill(
        "paired_tests", dataset="synthetic", protocol="strict", target="all", metric="pearson_r", model="tiny-gpt2",
        other="tiny-gpt2:untrained", relation="untrained control", difference=0.21, low=0.1, high=0.32, p=0.001,
        p_adjusted=0.002,
    )  # fmt: skip
    frames = {
        "model_scores": pd.DataFrame(model_scores(BRAIN)),
        "reading_scores": pd.DataFrame(reading_scores(READING)),
    }
    frames["paired_tests"] = pd.DataFrame([test, test | {"difference": 0.2, "p_adjusted": 0.001}])
    board = next(part for part in glance(frames) if isinstance(part, ReportTable))
    column = board.columns.index("Minus untrained")
    cells = {row[0]: row[column] for row in board.rows}
    assert cells["tiny-gpt2"] == "+0.210 (0.100 to 0.320)"  # of two tests, the one with the larger p
    assert cells["tiny-llama"] == "+0.399"


def test_parts_without_content_are_left_out():
    empty = ReportTable("c", ["A", "B"], [["a", "–"]], 1)
    full = replace(empty, rows=[["a", "1"]])
    words = ReportTable("c", ["A"], [["a"]], 1)
    figure = Figure("f", [])
    assert filled(["one", empty, "two", full, "three", figure, words, "four"]) == ["two", full, "three", words]
    assert filled(["one", figure]) == []

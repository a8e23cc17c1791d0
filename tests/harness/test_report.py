"""The report, on small tables that look like those of the quickstart."""

import json
import math
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from harness import datasets, report, statistics, tables

NAN = math.nan
RUN = "quickstart-1f2e3d4c"
MODELS = {"tiny-llama": ("llama", 5), "tiny-llama-tuned": ("llama", 5), "tiny-gpt2": ("gpt2", 5), "tiny-t5": ("t5", 5)}
# name -> (STRICT r, PAPER r); a twin is the model's name and ":untrained"
BRAIN = {
    "tiny-llama": (0.612, 0.655), "tiny-llama-tuned": (0.598, 0.649), "tiny-gpt2": (0.401, 0.512), "tiny-t5": (0.377, 0.489),
    "tiny-llama:untrained": (0.213, 0.402), "tiny-gpt2:untrained": (0.188, 0.395), "tiny-t5:untrained": (0.170, 0.371),
    "length": (0.082, 0.121), "word-rate": (NAN, NAN), "position": (0.051, 0.302), "oasm": (-0.013, 0.701),
    "random": (0.004, 0.010),
}  # fmt: skip
READING = {
    "tiny-gpt2": 0.412, "tiny-llama": 0.205, "tiny-llama-tuned": 0.197, "tiny-t5": NAN, "length": 0.326, "frequency": -0.287,
}  # fmt: skip
PLANTED = {"model": "tiny-llama", "layer": "decoder.3", "ceiling": 0.8, "reading_model": "tiny-gpt2"}


def put(out, table, rows):
    """Write rows as the pipeline does: Hive partitions by run, data set and model."""
    parts = [name for name in tables.PARTITIONS if name in tables.SCHEMAS[table]]
    for key in {tuple(row[name] for name in parts) for row in rows}:
        folder = Path(tables.folder(str(out), table))
        folder = folder.joinpath(*(f"{name}={quote(value, safe='')}" for name, value in zip(parts, key, strict=True)))
        folder.mkdir(parents=True, exist_ok=True)
        part = tables.rows_to_arrow(table, [row for row in rows if tuple(row[name] for name in parts) == key])
        pq.write_table(part.drop_columns(parts), folder / "part-0.parquet")


def fill(table, **known):
    """A row of a table: what is not given is NaN, 0 or empty by the schema."""
    empty = {"string": "", "double": NAN, "int64": 0, "bool": False}
    unknown = set(known) - set(tables.SCHEMAS[table])
    assert not unknown, unknown
    return {name: known.get(name, empty[str(kind)]) for name, kind in tables.SCHEMAS[table].items()}


def source(model, dataset="", protocol=""):
    kind = "untrained" if ":" in model else "model" if model in MODELS else "control"
    made = {"run": RUN, "model": model, "kind": kind, "revision": "9a8b7c6d5e4f3a2b1c0d" * 2, "code_version": "0.1.0+00ba220"}
    made["created"] = datetime(2026, 8, 1, tzinfo=UTC).isoformat()
    if not dataset:
        return made
    used = {"protocol": protocol, "protocol_hash": datasets.protocols(dataset)[protocol].hash}
    return made | used | {"dataset": dataset, "dataset_version": "ab12cd34ef56ab78", "seed": 0, "metric": "pearson_r"}


def model_scores(brain):
    rows = []
    for model, by_protocol in brain.items():
        for protocol, r in zip(("strict", "paper"), by_protocol, strict=True):
            stack, layer = ("encoder" if "t5" in model else "decoder", 3) if model not in ("oasm",) else ("width", 1)
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
                    value = r * (1 - 0.13 * abs(layer - 3)) * (0.8 if (stack, "t5" in model) == ("decoder", True) else 1)
                    rows.append(fill(
                        "layer_scores", **source(model, "synthetic", protocol), stack=stack, layer=layer, target="all",
                        r=value, ceiling=0.793, ratio=value / 0.793,
                    ))  # fmt: skip
    return rows


def reading_scores(reading):
    rows = []
    for model, r in reading.items():
        for dataset, protocol in product(("futrell2018-2016", "futrell2018-2021"), ("strict", "paper")):
            gain = {"delta_ll": r / 20, "delta_ll_low": r / 20 - 0.004, "delta_ll_high": r / 20 + 0.004, "partial_r": r / 2}
            rows.append(fill(
                "reading_scores", **source(model, dataset, protocol), context="passage",
                predictor="surprisal" if model in MODELS else model, r=r, abs_r=abs(r), r_low=r - 0.03, r_high=r + 0.03,
                ceiling=0.858, ceiling_kind="published", ratio=abs(r) / 0.858, n_words=9775, n_missing=12,
                interval_kind="bootstrap over sentences", **(gain if protocol == "strict" else {}),
            ))  # fmt: skip
    return rows


def properties():
    return [
        fill("model_properties", **source(model), family=family, n_parameters=124_439_808, n_layers=layers, hidden_size=48,
             context_size=256, tuned_from="tiny-llama" if model.endswith("-tuned") else "",
             pair_source="paper/models.csv" if model.endswith("-tuned") else "")
        for model, (family, layers) in MODELS.items()
    ]  # fmt: skip


def run_row(run=RUN, started="2026-08-01T10:00:00+00:00", planted=PLANTED):
    return fill(
        "runs", run=run, spec="quickstart", status="complete", started=started, seconds=87.2, n_units=24, n_computed=24,
        command="harness run quickstart --out out", code_version="0.1.0+00ba220", content=json.dumps({"planted": planted}),
        versions=json.dumps({"python": "3.11.9", "numpy": "2.3.1", "torch": "2.10.0"}), machine="2 cores, 8 GB, no GPU",
    )  # fmt: skip


def write_tables(out, brain=BRAIN, reading=READING, planted=PLANTED, failures=()):
    """A whole run under OUT/tables."""
    rows = {
        "model_scores": model_scores(brain), "layer_scores": layer_scores(brain), "reading_scores": reading_scores(reading),
        "model_properties": properties(), "failures": list(failures), "runs": [run_row(planted=planted)],
    }  # fmt: skip
    for table, part in rows.items():
        put(out, table, part)
    frames = [tables.read(str(out), name) for name in ("model_scores", "reading_scores", "model_properties")]
    put(out, "comparisons", statistics.comparisons(*frames, RUN))
    put(out, "correlations", statistics.correlations(*frames, RUN))
    return str(out)

"""Seconds and bytes of the report of a large run: `python tests/benchmarks/pages.py` (500 models x 5 data sets).

Tables of that size are made up (scores, layers of 33 blocks, reading times, pairs of 125 bases, controls), the
page is written, and opened in headless Chromium three times from nothing; the time until it is drawn is the browser's
own (`loadEventEnd`, then two frames). Aims: under 10 s to make, 10 MB, 2 s to open.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.report import page as report
from harness.storage import tables

spec = importlib.util.spec_from_file_location(
    "small_tables", Path(__file__).resolve().parents[1] / "harness" / "report" / "test_page.py"
)
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)

BRAIN = ("pereira2018", "blank2014", "wehbe2014", "tuckute2024", "brennan2016")
TARGETS = ("all", "PostTemp", "AntTemp", "IFG", "IFGorb", "MFG", "AngG")
N_LAYERS = 33
FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def main() -> None:
    """Print one line for the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=int, default=500)
    twins = "each model has an untrained twin: twice the files and rows"
    parser.add_argument("--twins", action="store_true", help=twins)
    parser.add_argument("--keep", metavar="DIR", help="write the tables and the page there, and leave them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.keep or folder
        fill(out, arguments.models, arguments.twins)
        started = time.perf_counter()
        path = report.write(out)
        seconds = time.perf_counter() - started
        opened = [open_page(path) for _ in range(3)]
        print(
            f"{arguments.models} models x {len(BRAIN)} data sets: {seconds:.1f} s to make, "
            f"{Path(path).stat().st_size / 1e6:.1f} MB, {statistics.median(opened):.2f} s to open "
            f"({', '.join(f'{each:.2f}' for each in opened)})"
        )


def fill(out: str, n: int, twins: bool) -> None:
    """Write the tables: every fourth model is a base, with three tuned from it."""
    draw = np.random.default_rng(0)
    names = [f"lab/model-{i:03}{'-instruct' if i % 4 else ''}" for i in range(n)]
    sizes = {name: int(10 ** draw.uniform(8, 11)) for name in names}
    base = {name: names[i - i % 4] for i, name in enumerate(names) if i % 4}
    sources = [(name, "model") for name in names]
    sources += [(f"{name}:untrained", "untrained") for name in names if twins]
    sources += [(name, "control") for name in ("length", "position", "word-rate", "oasm", "random")]
    rows = {"model_scores": [], "layer_scores": []}
    for dataset in BRAIN:
        for protocol in ("strict", "paper"):
            for name, kind in sources:
                origin = origin_of(name, kind, dataset, protocol)
                r = float(draw.uniform(0.1, 0.4))
                rows["model_scores"] += [score(origin, target, r + draw.normal(0, 0.01)) for target in TARGETS]
                if kind != "control":
                    rows["layer_scores"] += [layer(origin, k, r * (1 - 0.01 * abs(k - 20))) for k in range(N_LAYERS)]
    rows["reading_scores"] = [
        small.fill("reading_scores", **origin_of(name, kind, "futrell2018-2021", protocol), predictor="surprisal",
                   r=0.3, abs_r=0.3, r_low=0.28, r_high=0.32, n_words=9775, delta_ll=0.01 if protocol == "strict" else
                   np.nan)
        for protocol in ("strict", "paper") for name, kind in sources if kind != "untrained"
    ]  # fmt: skip
    rows["model_properties"] = [
        small.fill("model_properties", run=small.RUN, model=name, kind="model", family="llama",
        n_parameters=sizes[name],
                   tuned_from=base.get(name, ""), pair_source="card", n_layers=32, hidden_size=4096)
        for name in names
    ]  # fmt: skip
    rows["runs"] = [small.run_row(planted={})]
    for table, part in rows.items():
        write(out, table, part)


def write(out: str, table: str, rows: list[dict[str, object]]) -> None:
    """One file for each data set, as few as Hive partitions allow: thousands of files are another benchmark."""
    import pyarrow.dataset as ds

    parts = [name for name in tables.PARTITIONS if name in tables.SCHEMAS[table]]
    ds.write_dataset(
        tables.rows_to_arrow(table, rows), tables.folder(out, table), format="parquet", max_partitions=100_000,
        partitioning=parts, partitioning_flavor="hive", max_open_files=10_000,
    )  # fmt: skip


def origin_of(name: str, kind: str, dataset: str, protocol: str) -> dict[str, object]:
    """The columns that say what a row is."""
    return {
        "run": small.RUN, "model": name, "kind": kind, "revision": "9a8b7c6d5e4f3a2b1c0d" * 2, "dataset": dataset,
        "code_version": "0.1.0", "created": "2026-08-01T10:00:00", "protocol": protocol, "protocol_hash": "abc",
        "dataset_version": "ab12cd34ef56ab78", "metric": "pearson_r", "context": "passage",
    }  # fmt: skip


def score(origin: dict[str, object], target: str, r: float) -> dict[str, object]:
    """A row of model_scores."""
    return small.fill(
        "model_scores", **origin, stack="decoder", layer=20, target=target, r=r, r_low=r - 0.02, r_high=r + 0.02,
        ceiling=0.4, ratio=r / 0.4, n_neuroids=60, interval_kind="bootstrap", unique_r2=0.01, unique_low=0.0,
        unique_high=0.02, controls_r2=0.05, joint_r2=0.06, unique_over="length, position",
    )  # fmt: skip


def layer(origin: dict[str, object], k: int, r: float) -> dict[str, object]:
    """A row of layer_scores."""
    return small.fill("layer_scores", **origin, stack="decoder", layer=k, target="all", r=r, ceiling=0.4, ratio=r / 0.4)


def open_page(path: str) -> float:
    """Seconds from nothing to drawn, in a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.goto(Path(path).absolute().as_uri(), wait_until="load")
        milliseconds = page.evaluate(FRAMES)
        browser.close()
    return float(milliseconds) / 1000


if __name__ == "__main__":
    main()

"""Pereira2018 at full size, from its file to its scores: `python tests/benchmarks/pereira.py [--quick]`.

A made-up recording in exactly the published form, 627 sentences x 13,553 voxels of 10 subjects in two experiments, is
written, loaded, and scored for 33 layers of 4,096 features under each protocol. All is done in this process, as many
layers beside each other as there are threads (a run hands the same pieces to as many worker processes); then the
unique variance of one layer over the controls. Beside it stands Brain-Score's ridge on the experiment with 384
sentences, on one thread each: one fold is timed and scaled to ten (marked *); it must give our alpha and our r.
At last tests/benchmarks/ceilings.py computes the ceilings of a recording of this size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch  # noqa: F401 - or its import would count, and its threads would not be limited

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ceilings
import measure
import peers
import workloads
from rounds import say

from harness.datasets import pereira2018
from harness.features import controls
from harness.records import Dataset, Features, Floats, Layer, Responses
from harness.scoring import folds
from harness.scoring.brain_scores import score_layers
from harness.scoring.unique_variance import over_controls
from tests.harness.datasets import published

PART = "384sentences"
BESIDE = ("length", "word-rate", "position", "oasm", "random")  # the controls that need no file
BRAIN_SCORE_S = 12.5  # its own code, 10 folds of 384 x 4,096 -> 12,155, recorded on two cores
HEADINGS = {
    "what": "what", "seconds": "seconds", "per_layer": "a layer", "cpu_s": "CPU s", "peak_bytes": "peak MB",
    "foreign": "others", "note": "",
}  # fmt: skip


class Size(NamedTuple):
    """Of the recording and of the model."""

    recording: published.Sizes
    layers: int
    features: int


FULL = Size(published.FULL, 33, 4096)
MINIATURE = Size(published.SMALL.with_passages(4), 2, 160)  # folds of ten rows or more


def main() -> None:
    """Print one line for each step, and the ceilings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a miniature: does it run at all?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-ceilings", action="store_true", help="they take some minutes")
    parser.add_argument("--out", type=Path, help="a JSON file for the lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, measure.limited(arguments.threads):
        size = MINIATURE if arguments.quick else FULL
        rows = [{**row, "machine": measure.machine()} for row in steps(size, Path(folder), arguments.threads)]
    show(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))
    if not arguments.without_ceilings:
        ceilings.report(ceilings.MINIATURE if arguments.quick else ceilings.PEREIRA, arguments.threads)


def steps(size: Size, folder: Path, threads: int) -> list[dict[str, Any]]:
    """Write, load, score; a row for each step."""
    path, features = make(size, folder)
    say(f"{size.layers} layers and a file are made")
    sample, dataset = measure.measured(partial(pereira2018.read, path))
    rows = [row("load", sample, f"{path.stat().st_size / 1e6:.0f} MB in the file")]
    responses = dataset.responses
    for protocol in (pereira2018.PAPER, pereira2018.STRICT, pereira2018.BRAINSCORE2026):
        sample, _ = measure.measured(partial(score_layers, features, responses, protocol))
        rows.append(row(f"score, {protocol.name}", sample, f"{size.layers} layers, {threads} threads", size.layers))
    rows += unique(features, dataset, threads)
    with measure.limited(1):  # two BLAS threads wait for each other, theirs most of all, where others compute
        return rows + beside_brain_score(features, responses.of_part(PART)[0], is_full=size is FULL)


def make(size: Size, folder: Path) -> tuple[Path, Features]:
    """The file, and features of layers that all know what the voxels know; some columns are massive.

    Rows are in the order in which the loader puts them.
    """
    rng, recording = np.random.default_rng(0), size.recording
    names = [row["stimulus_id"] for row in published.sentences(recording)]
    latent = workloads.latents(len(names), size.features, rng)
    values = workloads.responses(latent, sum(n for n, _ in recording.subjects.values()), rng)
    layers = {
        Layer("decoder", k): workloads.features(latent, size.features, massive=True, rng=rng)
        for k in range(size.layers)
    }
    return published.pereira(folder / "pereira.nc", recording, values=values), Features(layers, tuple(names))


def unique(features: Features, dataset: Dataset, threads: int) -> list[dict[str, Any]]:
    """The unique variance of the first layer over the controls."""

    def in_threads(task: Callable[[Floats], Floats], Y: Floats, _: float) -> Floats:
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(task, np.array_split(Y, threads, axis=1))), axis=-1)

    layer, rows = features.layers[0], []
    known = {name: controls.features(name, dataset, seed=0) for name in BESIDE}
    for protocol in (pereira2018.PAPER, pereira2018.STRICT):
        call = partial(over_controls, features, layer, known, dataset.responses, protocol, in_threads)
        sample, found = measure.measured(call)
        note = f"one layer, {len(known)} controls; median unique R2 {np.nanmedian(found.unique):.3f}"
        rows.append(row(f"unique variance, {protocol.name}", sample, note, 1))
    return rows


def beside_brain_score(features: Features, responses: Responses, is_full: bool) -> list[dict[str, Any]]:
    """One layer of one experiment by ours and by Brain-Score's way; raises where alpha or r differ."""
    layer, protocol = features.layers[0], pereira2018.BRAINSCORE2026
    at = [features.row_ids.index(name) for name in responses.row_ids]
    X, Y = features.values[layer], responses.values
    one, splits = Features({layer: X}, features.row_ids), folds.make(protocol.folds, responses.row_groups)
    ours, fits = measure.measured(partial(score_layers, one, responses, protocol))
    alphas = protocol.regression.alphas
    peers.brain_score([X[at]], Y[:, :20], splits[:1], alphas=alphas)  # its first call takes longer
    theirs, found = measure.measured(partial(peers.brain_score, [X[at]], Y, splits[:1], alphas=alphas))
    np.testing.assert_array_equal(fits[layer].alpha[0], found["alpha"][0, 0])
    np.testing.assert_allclose(fits[layer].r[0], found["r"][0, 0], rtol=0, atol=1e-6)
    theirs |= {name: theirs[name] * len(splits) for name in ("seconds", "cpu_s")}
    ratio = f"1 thread, {theirs['cpu_s'] / max(ours['cpu_s'], 0.01):.0f} times our CPU s; same alpha and r"
    quoted = f"; its own code took {BRAIN_SCORE_S} s on 2 threads" if is_full else ""
    return [
        row(f"ours, {PART}", ours, "1 thread, one layer", 1),
        row(f"Brain-Score's way, {PART} *", theirs, ratio + quoted, 1),
    ]


def row(what: str, sample: dict[str, Any], note: str, layers: int = 0) -> dict[str, Any]:
    """A line: seconds in all and a layer, of the processor, memory above what was in use before, others' share."""
    say(f"{what}: {sample['seconds']:.1f} s")
    return {"what": what, **sample, "per_layer": sample["seconds"] / layers if layers else None, "note": note}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(rows[0]["machine"])
    lines = [tuple(HEADINGS.values())] + [tuple(_cell(name, row[name]) for name in HEADINGS) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for what, *cells, note in lines:
        print(
            what.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=False)), note, sep="  "
        )
    print("* one fold, times ten.  others: their share of the machine meanwhile; much of it makes seconds worthless.\n")


def _cell(name: str, value: Any) -> str:
    """A number in the unit of its heading."""
    if value is None or isinstance(value, str):
        return value or ""
    if name == "peak_bytes":
        return f"{value / 1e6:.0f}"
    return f"{value:.0%}" if name == "foreign" else f"{value:.2f}"


if __name__ == "__main__":
    main()

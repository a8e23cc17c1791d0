"""Surprisal in volume: a million words by three tiny models, killed half-way and begun again; growth; memory.

    python tests/benchmarks/words.py [--words N] [--out FILE]

The words are WikiText-2's, repeated, where the shared data are, else made-up. The command is the user's: `harness
surprisal`. Memory is the sum over its processes of what each holds alone or shares in part (PSS), every half second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.dataset as ds

from harness.datasets import synthetic
from harness.models import tiny

SHARED = Path(os.environ.get("HARNESS_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MODELS = ("llama", "gpt2", "gpt_neox")
ROOT = Path(__file__).resolve().parents[2]


def paragraphs() -> list[list[str]]:
    """Those of more than ten words."""
    files = [SHARED / "data" / "wikitext2" / f"wiki.{part}.txt" for part in ("val", "test")]
    if not all(file.is_file() for file in files):
        return [text.split() for text in synthetic.stimuli().texts]
    lines = [line.split() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if len(line) > 10]


def write(n_words: int, file: Path) -> None:
    """A CSV of so many words, each paragraph a passage."""
    words, passages = [], []
    for number, paragraph in enumerate(cycle(paragraphs())):
        words += paragraph
        passages += [str(number)] * len(paragraph)
        if len(words) >= n_words:
            break
    pd.DataFrame({"passage": passages[:n_words], "word": words[:n_words]}).to_csv(file, index=False)


class Memory(threading.Thread):
    """The largest memory of a process and all that come of it, in bytes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = process, 0
        self.start()

    def run(self) -> None:
        """Look until it ends."""
        while self.process.poll() is None:
            try:
                root = psutil.Process(self.process.pid)
                every = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(map(_pss, every)))
            time.sleep(0.5)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def start(file: Path, models: list[str], out: Path) -> tuple[subprocess.Popen[str], Memory]:
    """The user's command."""
    given = [part for model in models for part in ("--model", model)]
    command = [sys.executable, "-m", "harness.cli", "surprisal", str(file), *given, "--out", str(out), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    return process, Memory(process)


def timed(file: Path, models: list[str], out: Path) -> dict[str, float]:
    """From beginning to end: what the command says, the wall clock, and the peak."""
    began = time.monotonic()
    process, memory = start(file, models, out)
    said = json.loads(process.communicate()[0])
    assert not said["failures"], said["failures"]
    return {**said, "wall_s": time.monotonic() - began, "peak_mb": memory.peak / 1e6}


def killed_half_way(file: Path, models: list[str], out: Path, n_shards: int) -> tuple[int, float, float]:
    """SIGKILL to the driver when half of all shards are stored: how many there are then, seconds, peak."""
    began = time.monotonic()
    process, memory = start(file, models, out)
    while sum(1 for _ in out.glob("units/surprisals/*/manifest.json")) < n_shards / 2:
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)
    n_stored = sum(1 for _ in out.glob("units/surprisals/*/manifest.json"))
    return n_stored, time.monotonic() - began, memory.peak / 1e6


def main() -> None:
    """Print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("words.json"))
    arguments = parser.parse_args()
    found: dict[str, object] = {"machine": f"{os.cpu_count()} cores", "n_words": arguments.words}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = [" ".join(words) for words in paragraphs()[:2000]]
        models = [str(tiny.build(family, folder / family, train, seed=0)) for family in MODELS]
        found["growth"] = growth(folder, models[0], arguments.words)
        file, out = folder / "words.csv", folder / "out"
        write(arguments.words, file)
        n_shards = 3 * -(-arguments.words // 5_000)
        n_stored, before_s, before_mb = killed_half_way(file, models, out, n_shards)
        rest = timed(file, models, out)
        found |= {
            "killed": {"n_stored": n_stored, "seconds": before_s, "peak_mb": before_mb},
            "rest": {name: rest[name] for name in ("n_words", "n_read", "wall_s", "peak_mb")},
            "s_per_million_words": (before_s + rest["wall_s"]) / (3 * arguments.words / 1e6),
            "rows": rows(Path(str(rest["table"])), arguments.words),
        }
    arguments.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def growth(folder: Path, model: str, n_words: int) -> dict[str, object]:
    """Seconds and peak of one model for an eighth, a quarter and a half of the words, and the exponent of seconds."""
    sizes, seconds, peaks = [n_words // 8, n_words // 4, n_words // 2], [], []
    for size in sizes:
        file = folder / f"words-{size}.csv"
        write(size, file)
        said = timed(file, [model], folder / f"out-{size}")
        seconds.append(said["wall_s"])
        peaks.append(said["peak_mb"])
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return {"n_words": sizes, "seconds": seconds, "peak_mb": peaks, "exponent": exponent}


def rows(table: Path, n_words: int) -> dict[str, dict[str, object]]:
    """Of each model: whether every word stands in the table once, in order, with bits."""
    said = {}
    for family in MODELS:
        stored, columns = ds.dataset(table, partitioning="hive"), ["word_id", "surprisal_bits"]
        frame = stored.to_table(columns=columns, filter=ds.field("model") == family)
        ids = frame["word_id"].to_pandas().astype(int).to_numpy()
        bits = frame["surprisal_bits"].to_numpy()
        whole = np.array_equal(ids, np.arange(1, n_words + 1)) and bool(np.isfinite(bits).all())
        said[family] = {"n": len(ids), "each_once_in_order": whole, "mean_bits": float(bits.mean())}
    return said


if __name__ == "__main__":
    main()

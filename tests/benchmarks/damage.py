"""Damage, bad company and a watch that is killed: are all numbers those of an undisturbed run, or is the fault named?

Each function is a fault of chaos.py and is run by `python tests/benchmarks/chaos.py --full`, or by name with --only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from chaos import SPEC, Bench, Tried, kill_all, rows_of
from safetensors.numpy import load_file, save_file

from harness.models import tiny
from harness.runs import pipeline
from harness.spec import quickstart as quickstart_spec
from harness.storage import tables
from harness.units import quickstart

N_FLIPS, N_ROUNDS, N_CHECKPOINTS, N_WATCH_KILLS = 50, 200, 100, 5

# --- flipped bits -----------------------------------------------------------------------------------------------------


def bits_flipped(bench: Bench, folder: Path) -> Tried:
    """One bit of one file of units or tables, and then the same command, or `cache verify` and the same command.

    Found: the tables are right afterwards, and the flipped content is nowhere: named and removed, or written anew.
    """
    out, survived, lost, silent = str(folder), 0, 0, 0
    for k in range(N_FLIPS):
        shutil.rmtree(folder, ignore_errors=True)  # damaged features of finished scores are not computed again
        shutil.copytree(bench.good, folder)
        kind = bench.numbers.choice(["units/scores", "units/features", "tables"])
        files = [path for path in sorted((folder / kind).rglob("*")) if path.is_file() and path.stat().st_size]
        file = bench.numbers.choice(files)
        content = bytearray(file.read_bytes())
        at = bench.numbers.randrange(len(content))
        content[at] ^= 1 << bench.numbers.randrange(8)
        file.write_bytes(content)
        named = k % 2 and _verify(out)
        failures = pipeline.run(SPEC, out).failures
        named = named or _verify(out)
        n_differ = bench.differences(out)
        found = not file.exists() or file.read_bytes() != bytes(content)
        survived += found and not n_differ and not failures
        lost, silent = lost + n_differ, silent + (n_differ > 0 or not found)
        print(f"bit {at} of {file.relative_to(folder)}: found {found}, verify said so {named}", file=sys.stderr)
    return Tried(survived, lost, 0, silent=silent, n=N_FLIPS)


def _verify(out: str) -> bool:
    """Whether `harness cache verify` finds something."""
    return bool(subprocess.run([sys.executable, "-m", "harness.cli", "cache", "verify", out], check=False,
                               capture_output=True).returncode)  # fmt: skip


# --- two drivers ------------------------------------------------------------------------------------------------------

_DRIVER = """
import sys, time, traceback
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from harness.runs import pipeline, ray_session
from harness.storage import tables
import chaos
out, mine, n = sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])
ray_session.start(None)
for k in range(n):
    (mine / f"ready-{k}").touch()
    while not (mine.parent / f"go-{k}").exists():
        time.sleep(0.002)
    try:
        run = pipeline.run(chaos.SPEC, out).run
        assert len(tables.read(out, "model_scores", run))
        (mine / f"done-{k}").touch()
    except BaseException:
        (mine / f"failed-{k}").write_text(traceback.format_exc())
"""


def two_drivers_at_the_tables(bench: Bench, folder: Path) -> Tried:
    """Two processes, each with its own Ray, that find all units and no tables, and begin to write them together."""
    shutil.copytree(bench.good, folder / "out")
    out, both = str(folder / "out"), [folder / "one", folder / "two"]
    here, drivers = Path(__file__).resolve(), []
    for mine in both:
        mine.mkdir()
        arguments = [str(here.parents[2]), str(here.parent), out, str(mine), str(N_ROUNDS)]
        drivers.append(subprocess.Popen([sys.executable, "-c", _DRIVER, *arguments], stderr=subprocess.DEVNULL))
    survived = lost = 0
    for k in range(N_ROUNDS):
        _until(lambda k=k: all((mine / f"ready-{k}").exists() for mine in both))
        shutil.rmtree(folder / "out" / "tables")
        (folder / f"go-{k}").touch()
        _until(lambda k=k: all((mine / f"done-{k}").exists() or (mine / f"failed-{k}").exists() for mine in both))
        n_differ, failed = bench.differences(out), [mine / f"failed-{k}" for mine in both]
        lost += n_differ
        survived += not n_differ and not any(path.exists() for path in failed) and tables.holds(out, bench.run)
        for path in failed:
            if path.exists():
                print(path.read_text(), file=sys.stderr)
    for driver in drivers:
        driver.wait(timeout=60)
    return Tried(survived, lost, 0, silent=int(lost > 0), n=N_ROUNDS)


def _until(true: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


# --- hostile and broken checkpoints -----------------------------------------------------------------------------------

_NAMES = [
    "ünï", "[/b]", "a b", "100%", "[bold red]x", "{x}", "=cmd()", "%s%d", "a\nb", "a\x1b[31mb", "你好", "..hid",
    "$(id)", "-rf", "a;b", "x" * 255, "a:untrained", "@evil", "o'brien", "<script>", "\\textbf{x}",
]  # fmt: skip
_CONFIGS: dict[str, Any] = {
    "vocab_size": "729", "hidden_size": 48.5, "num_attention_heads": 0, "num_hidden_layers": 20000,
    "rms_norm_eps": float("inf"), "model_type": ["llama"], "max_position_embeddings": 10**30, "architectures": "x",
}  # fmt: skip


def hostile_checkpoints(bench: Bench, folder: Path) -> Tried:
    """Forty hostile or broken checkpoints beside five good ones: the tables of the good ones are those without them."""
    text = ["The old bee watched the hive."] * 3
    families = ["gpt2", "llama", "gpt_neox", "bert", "t5"]
    good = [str(tiny.build(family, folder / f"good-{family}", text, seed=k)) for k, family in enumerate(families)]
    bad = [str(path) for path in _hostile(folder / "bad", Path(good[1]))]
    spec = replace(quickstart_spec(), models=tuple(good), datasets=("synthetic",), protocols=("strict",))
    alone = pipeline.run(spec, str(folder / "alone"))
    together = pipeline.run(replace(spec, models=(*bad, *good)), str(folder / "together"))
    lost = 0
    for table in ("neuroid_scores", "layer_scores", "model_scores", "word_surprisals"):
        frames = (tables.read(str(folder / name), table, run.run)
                  for name, run in (("alone", alone), ("together", together)))  # fmt: skip
        ours, theirs = (rows_of(frame[frame["model"].str.startswith("good-")]) for frame in frames)
        lost += len(ours ^ theirs)
    scores = tables.read(str(folder / "together"), "model_scores", together.run)
    answered = {failure.model.partition(":")[0] for failure in together.failures} | set(scores["model"])
    counts = f"rows of failures {len(together.failures)}; models named {len(answered)}"
    print(f"hostile: {len(bad)}; {counts}", file=sys.stderr)
    return Tried(0 if lost or alone.failures else len(bad), lost, 0, silent=int(lost > 0), n=len(bad))


def _hostile(folder: Path, like: Path) -> Iterator[Path]:
    folder.mkdir()

    def new(name: str) -> Path:
        shutil.copytree(like, folder / name)
        return folder / name

    def header(path: Path, shape: list[int]) -> Path:
        text = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 64]}})
        content = struct.pack("<Q", len(text)) + text.encode() + bytes(64)
        (path / "model.safetensors").write_bytes(content)
        return path

    def instead(path: Path, name: str, make: Callable[[Path], Any]) -> Path:
        (path / name).unlink(missing_ok=True)
        make(path / name)
        return path

    yield from map(new, _NAMES)
    for key, value in _CONFIGS.items():
        path = new(f"config-{key}")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, key: value}))
        yield path
    yield header(new("huge"), [2**40, 2**40])
    yield header(new("negative"), [-1])
    yield instead(new("surrogate"), "config.json", lambda path: path.write_text('{"model_type": "ll\\ud800ama"}'))
    yield instead(new("deep"), "config.json", lambda path: path.write_text("[" * 100_000))
    yield instead(new("empty"), "config.json", lambda path: path.write_text(""))
    yield instead(new("fifo"), "model.safetensors", os.mkfifo)
    yield instead(new("fifo-tokenizer"), "tokenizer.json", os.mkfifo)
    yield instead(new("folder"), "model.safetensors", Path.mkdir)
    yield instead(new("loop"), "config.json", lambda path: path.symlink_to("config.json"))
    yield instead(new("cut"), "model.safetensors", lambda path: path.write_bytes(
        (like / "model.safetensors").read_bytes()[:9000]))  # fmt: skip
    yield instead(new("card"), "README.md", lambda path: path.write_bytes(b"---\nbase_model: \xff\xfe\n---\n"))


# --- a watch ----------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """A folder of checkpoints that come and go, each with weights of its own."""

    folder: Path
    like: Path
    numbers: random.Random
    n_made: int = 0

    def add(self, name: str = "") -> Path:
        """A new checkpoint, or new content in the place of an old one."""
        self.n_made += 1
        to = self.folder / (name or f"step-{self.n_made}")
        to.mkdir(parents=True, exist_ok=True)
        for file in self.like.iterdir():
            if file.suffix != ".safetensors":
                shutil.copyfile(file, to / file.name)
        weights = load_file(self.like / "model.safetensors")
        first = max(weights, key=lambda key: weights[key].size)
        weights[first] = weights[first] * (1 + 0.01 * self.n_made)
        save_file(weights, to / "model.safetensors.part", metadata={"format": "pt"})
        (to / "model.safetensors.part").replace(to / "model.safetensors")
        return to

    def disturb(self) -> None:
        """Change, touch, delete or rename one that is there."""
        there = sorted(self.folder.iterdir())
        which, what = self.numbers.choice(there), self.numbers.choice(["change", "touch", "delete", "rename"])
        if what == "change":
            self.add(which.name)
        elif what == "touch":
            os.utime(which / "model.safetensors")
        elif what == "delete":
            shutil.rmtree(which)
        else:
            self.n_made += 1
            which.rename(self.folder / f"step-{self.n_made}")


def watch_killed(bench: Bench, folder: Path) -> Tried:
    """A hundred checkpoints that are changed, touched, deleted and renamed under a watch that is killed five times.

    At the end each one that is there has been evaluated, and its scores are those of a run of its own.
    """
    out = folder / "out"
    quickstart.build(str(quickstart.folder_of(str(out))), 0)
    like = quickstart.folder_of(str(out)) / "tiny-llama"
    training, written, twice = Training(folder / "training", like, bench.numbers), {}, 0
    process = _watch(training.folder, out)
    for wave in range(10):
        for _ in range(10):
            training.add()
            training.disturb()
        time.sleep(bench.numbers.uniform(2, 12))
        twice += _rewritten(out, written)
        if wave % 2:
            kill_all(process)
            process.wait()
            process = _watch(training.folder, out)

    def is_done() -> bool:
        nonlocal twice
        time.sleep(1)
        twice += _rewritten(out, written)
        assert process.poll() is None, "the watch ended"
        try:
            rows = tables.read(str(out), "watched")
        except FileNotFoundError:
            return False
        newest = rows.sort_values("created", kind="stable").groupby("where").tail(1)
        done = set(newest["where"][newest["state"] == "evaluated"])
        return {str(path) for path in training.folder.iterdir()} <= done and time.monotonic() > settled

    settled = time.monotonic() + 30  # a look or two after the last change
    _until(is_done, 1500)
    process.terminate()
    process.wait(timeout=120)
    there = tuple(str(path) for path in sorted(training.folder.iterdir()))
    alone = pipeline.run(_spec_of(there), str(folder / "alone"))
    ray.shutdown()
    lost = 0
    run = tables.pick_run(str(out))["run"]
    for table in ("reading_scores", "word_surprisals"):
        ours = tables.read(str(out), table, run)
        theirs = tables.read(str(folder / "alone"), table, alone.run)
        names = {name.rpartition("@")[2] for name in theirs["model"]}
        lost += len(rows_of(_short(theirs, names)) - rows_of(_short(ours, names)))
    watched = tables.read(str(out), "watched")
    print(f"watch: {training.n_made} made, {len(there)} there at the end, attempts by state "
          f"{watched['state'].value_counts().to_dict()}", file=sys.stderr)  # fmt: skip
    survived = 0 if lost or alone.failures else N_CHECKPOINTS
    return Tried(survived, lost, 0, twice=twice, silent=int(lost > 0), n=N_CHECKPOINTS)


def _spec_of(models: tuple[str, ...]) -> Any:
    chosen = {"datasets": ("synthetic-reading",), "protocols": ("strict",), "variants": ()}
    return replace(quickstart_spec(), models=models, **chosen)


def _short(frame: Any, names: set[str]) -> Any:
    """Rows of such checkpoints, by the name of the folder alone."""
    frame = frame.assign(model=frame["model"].str.rpartition("@")[2])
    return frame[frame["model"].isin(names)]


def _rewritten(out: Path, written: dict[Path, int]) -> int:
    """How many finished features were written again since the last look."""
    now = {path: path.stat().st_mtime_ns for path in out.glob("units/features/*/manifest.json")}
    n = sum(written.get(path, when) != when for path, when in now.items())
    written.update(now)
    return n


def _watch(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "harness.cli", "watch", str(folder), "--spec", "quickstart", "--protocol", "strict",
        "--dataset", "synthetic-reading", "--no-untrained", "--quiet", "1s", "--every", "2s", "--out", str(out),
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


FAULTS: dict[str, Callable[[Bench, Path], Tried]] = {
    call.__name__: call for call in (bits_flipped, two_drivers_at_the_tables, hostile_checkpoints, watch_killed)
}

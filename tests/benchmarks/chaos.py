"""Faults, one after another, on made-up clusters: does the run end, or go on, with the tables of an undisturbed one?

`make chaos`, or `python tests/benchmarks/chaos.py [--only FAULT,...] [--tries 2] [--full] [--fleet] [--json]`. Two tiny
models, a recording and reading times under STRICT; each try strikes at another moment. By default two tries of each
fault of this file; --full takes the counts of COUNTS and adds damage.py (bit flips, two drivers, hostile checkpoints,
a watch that is killed); --fleet adds 20 nodes that are killed under 100 models (fleet.py).

The columns: fault; tried; survived: tries that ended with all score tables equal to those of an undisturbed run, after
the same command was given again where the run ended, and without a traceback; rows_lost: rows that differ, over all
tries; units_repeated: units begun more than once (what was in work at a kill is begun again); computed_twice: finished
units that were computed again; silent: tries that reported success although rows differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
import ray
from ray.cluster_utils import Cluster

from harness.runs import pipeline
from harness.runs.outcome import Outcome
from harness.spec import EvaluationSpec
from harness.spec import quickstart as quickstart_spec
from harness.storage import tables
from harness.units import quickstart

SPEC = replace(quickstart_spec(), models=("tiny-llama", "tiny-gpt2"), protocols=("strict",))
TABLES = ("neuroid_scores", "layer_scores", "model_scores", "reading_scores", "word_surprisals", "folds")
OF_A_RUN = ["created", "code_version", "run"]
MEMORY = {"object_store_memory": 2**27}
READS, SCORES = "ray::ModelActor.extract", "ray::score"


@dataclass
class Tried:
    """What came of n tries; the columns of the table, summed."""

    survived: int
    lost: int
    repeated: int
    twice: int = 0
    silent: int = 0
    n: int = 1


@dataclass
class Bench:
    """What the faults share: an OUT whose run nothing disturbs, made when first asked for, and random numbers."""

    folder: Path
    numbers: random.Random

    @cached_property
    def run(self) -> str:
        """The name of the undisturbed run."""
        name = pipeline.run(SPEC, str(self.folder)).run
        ray.shutdown()
        return name

    @property
    def good(self) -> Path:
        """OUT of the undisturbed run."""
        assert self.run
        return self.folder

    def out(self, folder: Path) -> str:
        """A fresh OUT with the same models and recording."""
        shutil.copytree(quickstart.folder_of(str(self.good)), quickstart.folder_of(str(folder)))
        return str(folder)

    def judge(self, out: str, repeated: int, *, without: str = "", good: str = "", run: str = "") -> Tried:
        """Compare all tables of scores with those of the undisturbed run; rows of one model may be left out."""
        lost = self.differences(out, without=without, good=good, run=run)
        return Tried(not lost, lost, repeated, silent=int(lost > 0))

    def differences(self, out: str, *, without: str = "", good: str = "", run: str = "") -> int:
        """How many rows of the tables of scores differ."""
        return n_differing(TABLES, out, good or str(self.good), run or self.run, without)


def n_differing(names: tuple[str, ...], out: str, other: str, run: str, without: str = "") -> int:
    """Rows of the tables of one run that another OUT has not, or has otherwise; without those of one model."""
    pairs = [[rows_of(tables.read(each, name, run), without) for each in (out, other)] for name in names]
    return sum(len(ours ^ theirs) for ours, theirs in pairs)


def rows_of(frame: Any, without: str = "") -> set[tuple[Any, ...]]:
    """The rows of a table, but for what differs between runs."""
    if without and "model" in frame:
        frame = frame[~frame["model"].str.startswith(without)]
    frame = frame.drop(columns=OF_A_RUN, errors="ignore")
    return {tuple(map(repr, row)) for row in frame.itertuples(index=False)}


def recoveries(out: str, run: str) -> int:
    """Readings that were begun again within a run."""
    return int(tables.read(out, "runs", run)["n_recoveries"].sum())


# --- killing ----------------------------------------------------------------------------------------------------------


def processes(what: str) -> Iterator[psutil.Process]:
    """Ray's processes of such a title that this one started."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if what in " ".join(process.cmdline()):
                yield process


def kill_one(what: str, after_s: float, do: Callable[[psutil.Process], Any] = psutil.Process.kill) -> threading.Event:
    """In a thread: once a process of such a title is there, and a while has passed, do something to one.

    Returns:
        An event that is set once it was done to a process that was there.
    """
    struck = threading.Event()

    def wait() -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            for process in processes(what):
                time.sleep(after_s)
                with contextlib.suppress(psutil.NoSuchProcess):
                    do(process)
                    struck.set()
                return
            time.sleep(0.02)

    threading.Thread(target=wait, daemon=True).start()
    return struck


@contextlib.contextmanager
def nodes() -> Iterator[Cluster]:
    """A head without cores, and two nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **MEMORY})
    made.workers = [made.add_node(num_cpus=2, **MEMORY) for _ in range(2)]
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def node_of(made: Cluster, process: psutil.Process) -> Any:
    """The node that a process is on."""
    raylets = [parent.pid for parent in process.parents() if "raylet" in parent.name()]
    return next(node for node in made.workers if node.all_processes["raylet"][0].process.pid in raylets)


def command(out: str) -> list[str]:
    """The same run as a command."""
    models = [part for name in SPEC.models for part in ("--model", name)]
    run = ["run", "quickstart", *models, "--protocol", "strict", "--out", out, "--json"]
    return [sys.executable, "-m", "harness.cli", *run]


def descendants(process: subprocess.Popen[str], name: str = "") -> list[psutil.Process]:
    """The processes that a command started, of such a name or all."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [one for one in psutil.Process(process.pid).children(recursive=True) if name in one.name()]
    return []


def kill(struck: list[psutil.Process]) -> int:
    """SIGKILL for some processes; how many there were."""
    for one in struck:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return len(struck)


def kill_all(process: subprocess.Popen[str]) -> int:
    """SIGKILL for a command and all that it started; how many processes there were."""
    children = descendants(process)
    process.kill()
    return 1 + kill(children)


def manifests(out: str) -> dict[Path, int]:
    """The manifests of finished units, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(out).glob("units/[!.]*/*/manifest.json")}


# --- the faults -------------------------------------------------------------------------------------------------------


def actor_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for a model's process while it reads, as the out-of-memory killer does."""
    out = bench.out(folder)
    kill_one(READS, bench.numbers.uniform(0, 3))
    outcome = pipeline.run(SPEC, out)
    return bench.judge(out, recoveries(out, outcome.run))


def worker_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for a process that scores."""
    for k in range(5):
        out = bench.out(folder / str(k))
        struck = kill_one(SCORES, bench.numbers.uniform(0, 0.3))
        pipeline.run(SPEC, out)
        if struck.is_set():
            return bench.judge(out, 1)
    raise RuntimeError("no process that scores was struck, five times")


def node_killed(bench: Bench, folder: Path) -> Tried:
    """A node is gone from one moment to the next."""
    out = bench.out(folder)
    with nodes() as made:
        kill_one(READS, bench.numbers.uniform(0, 3), lambda one: made.remove_node(node_of(made, one), False))
        outcome = pipeline.run(SPEC, out)
    return bench.judge(out, recoveries(out, outcome.run))


def node_preempted(bench: Bench, folder: Path) -> Tried:
    """A spot machine: a notice, and a few seconds later it is gone."""
    out = bench.out(folder)
    with nodes() as made:

        def take(process: psutil.Process) -> None:
            node = node_of(made, process)
            drain = [
                "drain-node", f"--address={made.address}", f"--node-id={node.node_id}", "--reason-message=spot",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds=4",
            ]  # fmt: skip
            subprocess.run([Path(sys.executable).parent / "ray", *drain], capture_output=True, check=True)
            time.sleep(4)
            made.remove_node(node, allow_graceful=False)

        kill_one(READS, bench.numbers.uniform(0, 1), take)
        outcome = pipeline.run(SPEC, out)
    return bench.judge(out, recoveries(out, outcome.run))


def _driver(bench: Bench, folder: Path, strike: Callable[[subprocess.Popen[str]], int]) -> Tried:
    """Start a command, strike once some units are finished, and give the same command again.

    strike: gives how many processes it hit. A command that ended before it was struck is no try, and is begun anew.
    """
    for k in range(5):
        out = bench.out(folder / str(k))
        first = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wanted, until = bench.numbers.randint(1, len(manifests(str(bench.good))) - 4), time.monotonic() + 120
        while len(manifests(out)) < wanted and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(bench.numbers.uniform(0, 0.3))
        if first.poll() is None and strike(first):
            break
        first.communicate()
    else:
        raise RuntimeError("the command ended before it was struck, five times")
    printed = first.communicate(timeout=300)[1]
    begun = len(list(Path(out).glob("units/.claims/*/*")))
    time.sleep(1)  # a worker that outlives its driver may store one more
    claimed_success = first.returncode == 0 and bench.differences(out) > 0
    before = manifests(out)
    done = subprocess.run(command(out), capture_output=True, text=True, check=True)
    twice = sum(manifests(out).get(path) != written for path, written in before.items())
    tried = bench.judge(out, begun)
    clean = "Traceback" not in printed and not json.loads(done.stdout)["failures"]
    if not clean:
        print(printed, done.stderr, file=sys.stderr)
    return replace(tried, survived=int(tried.survived and clean), twice=twice, silent=int(claimed_success))


def group_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for the driver and every process of its Ray; the same command again."""
    return _driver(bench, folder, kill_all)


def gcs_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for Ray's control plane alone: the run ends, or goes on; the same command again."""
    return _driver(bench, folder, lambda process: kill(descendants(process, "gcs_server")))


def raylet_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for the raylet alone: the run ends, or goes on; the same command again."""
    return _driver(bench, folder, lambda process: kill(descendants(process, "raylet")))


def head_killed(bench: Bench, folder: Path) -> Tried:
    """The control plane is gone, and two seconds later the driver; the same command again, on another cluster."""

    def strike(process: subprocess.Popen[str]) -> int:
        n = kill(descendants(process, "gcs_server"))
        time.sleep(2)
        process.kill()
        return n

    return _driver(bench, folder, strike)


def driver_killed(bench: Bench, folder: Path) -> Tried:
    """SIGKILL for the driver; the same command again."""
    return _driver(bench, folder, lambda process: kill([psutil.Process(process.pid)]))


def driver_terminated(bench: Bench, folder: Path) -> Tried:
    """SIGTERM: it drains, and writes the tables of what is done; the same command again."""

    def strike(process: subprocess.Popen[str]) -> int:
        process.send_signal(signal.SIGTERM)
        return 1

    return _driver(bench, folder, strike)


def storage_fails(bench: Bench, folder: Path) -> Tried:
    """OUT is a remote that fails every call for eight seconds, in the middle of a run."""
    import flaky
    import fleet

    folder.mkdir()
    recording = fleet.sentences(folder)
    quickstart.build(str(folder / "models"), SPEC.seed)
    names = tuple(str(folder / "models" / name) for name in SPEC.models)
    spec = EvaluationSpec("storage", names, (f"local:{recording}",), ("strict",), controls=("length", "random"))
    good = pipeline.run(spec, str(folder / "good"))
    ray.shutdown()
    down, after_s = flaky.install(folder / "site"), bench.numbers.uniform(0, 2)

    def fail() -> None:
        while not list(Path(folder, "out").glob("units/[!.]*/*/manifest.json")):
            time.sleep(0.05)
        time.sleep(after_s)
        down.touch()
        time.sleep(8)
        down.unlink()

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    out = f"flaky://{folder}/out"
    outcome = pipeline.run(spec, out)
    struck = not thread.is_alive()
    tried = bench.judge(out, recoveries(out, outcome.run), good=str(folder / "good"), run=good.run)
    return replace(tried, survived=tried.survived and struck and not outcome.failures)


def disk_full(bench: Bench, folder: Path) -> Tried:
    """No space left in the middle of a run: units fail by name; some is freed, and the same command given again."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        out = bench.out(folder)
        try:
            failed = len(pipeline.run(SPEC, out).failures)
        except OSError:  # not even the tables found room
            failed = 1
        subprocess.run(["mount", "-o", "remount,size=500m", str(folder)], check=True, capture_output=True)
        stored = len(list(Path(out).glob("units/scores/*/manifest.json")))
        again = pipeline.run(SPEC, out)
        tried = bench.judge(out, stored + again.n_computed - again.n_units)
        return replace(tried, survived=tried.survived and failed > 0)
    finally:
        ray.shutdown()
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def model_poisoned(bench: Bench, folder: Path) -> Tried:
    """Whoever loads one of the models is ended by SIGSEGV: it alone fails, by name; nothing of the other is lost."""
    out = bench.out(folder)
    poison = str(quickstart.folder_of(out) / "tiny-gpt2" / "model.safetensors")
    ended = threading.Event()

    def bite() -> None:
        while not ended.wait(0.005):
            for process in processes("ray::ModelActor"):
                with contextlib.suppress(psutil.Error, OSError):
                    if poison in Path(f"/proc/{process.pid}/maps").read_text() or poison in [
                        one.path for one in process.open_files()
                    ]:
                        process.send_signal(signal.SIGSEGV)

    threading.Thread(target=bite, daemon=True).start()
    outcome: Outcome = pipeline.run(SPEC, out)
    ended.set()
    named = {failure.model.partition(":")[0] for failure in outcome.failures} == {"tiny-gpt2"}
    tried = bench.judge(out, 3, without="tiny-gpt2")  # three more actors were tried
    return replace(tried, survived=tried.survived and named)


FAULTS: dict[str, Callable[[Bench, Path], Tried]] = {
    call.__name__: call
    for call in (
        actor_killed, worker_killed, node_killed, node_preempted, driver_killed, driver_terminated, group_killed,
        head_killed, gcs_killed, raylet_killed, storage_fails, disk_full, model_poisoned,
    )
}  # fmt: skip
COLUMNS = ("fault", "tried", "survived", "rows_lost", "units_repeated", "computed_twice", "silent")
COUNTS = {"group_killed": 20, "gcs_killed": 5, "raylet_killed": 5, "worker_killed": 5, "driver_killed": 5}


def main() -> int:
    """Print the table; 1 where a try did not survive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    import damage

    faults = FAULTS | damage.FAULTS
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {', '.join(faults)}")
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="the counts of COUNTS, and the faults of damage.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fleet", action="store_true", help="also 20 nodes killed under 100 models")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.faults = {name: faults[name] for name in arguments.only or (faults if arguments.full else FAULTS)}
    logging.getLogger().setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        rows = list(tried(Path(folder), arguments))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        line = "{:<18} {:>5} {:>8} {:>9} {:>14} {:>14} {:>6}"
        print(line.format(*COLUMNS))
        for row in rows:
            print(line.format(*(row[name] for name in COLUMNS)))
    return int(any(row["survived"] < row["tried"] for row in rows))


def tried(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each fault."""
    bench = Bench(folder / "good", random.Random())  # noqa: S311
    for name, fault in arguments.faults.items():
        bench.numbers.seed(f"{arguments.seed} {name}")
        results = []
        for k in range(COUNTS.get(name, arguments.tries) if arguments.full else arguments.tries):
            try:
                results.append(fault(bench, folder / f"{name}-{k}"))
            except Exception as error:  # noqa: BLE001 - a fault that was not survived is what is counted
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                results.append(Tried(0, 0, 0))
            finally:
                ray.shutdown()
                shutil.rmtree(folder / f"{name}-{k}", ignore_errors=True)
        yield _row(name, results)
    if arguments.fleet:
        import fleet

        rows = fleet.runs(folder, 100, 2, 10, arguments.seed)[1:]
        ended = [(row["rows_lost"], row["failures"], row["units_repeated"]) for row in rows]
        results = [Tried(not (n_lost or failures), n_lost, repeated) for n_lost, failures, repeated in ended]
        yield _row("nodes_of_a_fleet", results) | {"kills": sum(row["killed"] for row in rows)}


def _row(name: str, results: list[Tried]) -> dict[str, Any]:
    fields = ("n", "survived", "lost", "repeated", "twice", "silent")
    sums = [sum(getattr(one, field) for one in results) for field in fields]
    row = dict(zip(COLUMNS, (name, *sums), strict=True))
    print(row, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())

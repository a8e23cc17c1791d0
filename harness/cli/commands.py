"""The `harness` command: parses, makes one call, prints, returns a status.

Exit status: 0 all done, 1 something failed and is listed, 2 wrong use. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from harness import names
from harness.cli import (
    analysis_commands,
    cluster_commands,
    fleet_commands,
    logs,
    property_commands,
    run_commands,
    watch_commands,
    word_commands,
)
from harness.spec import SPECS

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the entry point of the console script."""
    arguments = _parser().parse_args(argv)
    logs.configure()
    try:
        status: int = arguments.command(arguments)
    except BrokenPipeError:  # whoever reads our lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"harness: {names.printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("harness: stopped; the same command goes on where this one ended", file=sys.stderr)
        return 1
    except Exception as error:
        logger.debug("where it came from", exc_info=True)
        said = names.printable(next(iter(str(error).strip().splitlines()), ""))
        print(
            f"harness: {type(error).__name__}: {said}; what was computed is stored, and the same command goes on from "
            "there. HARNESS_LOG=debug shows where it came from.",
            file=sys.stderr,
        )
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness", description="Score language models against brains and reading times."
    )
    listed = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, call: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        command = listed.add_parser(name, help=about, description=about)
        command.set_defaults(command=call)
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout, nothing else")
        return command

    def add_data_root(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--data-root",
            default=os.environ.get("HARNESS_DATA"),
            metavar="DIR",
            help="recordings (default: HARNESS_DATA)",
        )

    run = add("run", run_commands.run, "Run a spec: models -> features -> scores -> tables -> report.")
    _add_run(run)
    run.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: a local Ray)")
    add_data_root(run)
    _add_cluster(add, add_data_root)

    report = add("report", run_commands.report, "Tables -> one self-contained HTML page.")
    report.add_argument("out", metavar="OUT")
    report.add_argument("--run", help="which run (default: the newest)")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the main tables as Markdown instead")
    form.add_argument("--latex", action="store_true", help="print the main tables as LaTeX instead")

    add_data_root(_add_analysis(add))
    _add_fleet(add)
    shown = add(
        "datasets", run_commands.datasets, "The data sets: what is here, what is missing, licences; NAME shows one."
    )
    shown.add_argument("name", nargs="?", metavar="NAME", help="of the table, or local:FOLDER, which is checked")
    add_data_root(shown)
    fetch = add("fetch", run_commands.fetch, "Download data sets to their place, resumed and checked.")
    fetch.add_argument("dataset", nargs="+", metavar="DATASET", help="name, or a stem such as futrell2018")
    fetch.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="for another fetch to end (default: 600)"
    )
    add_data_root(fetch)
    add("specs", run_commands.specs, "The named evaluations.")
    add("controls", run_commands.controls, "Features without a language model.")

    words = add("surprisal", word_commands.surprisal, "Bits per word of your own texts, or of the data sets'.")
    word_commands.add_options(words)
    _add_precision(words)
    add_data_root(words)

    known = add("properties", property_commands.properties, "MMLU and BBH of models: measured here, or imported.")
    property_commands.add_options(known)
    add_data_root(known)

    kept = add("cache", run_commands.cache, "What the store holds: list it, read it through, clear what is of no use.")
    kept.add_argument("what", choices=("ls", "verify", "gc"), help="list; compare checksums; remove what is of no use")
    kept.add_argument("out", nargs="?", default="results", metavar="OUT", help="as of `run` (default: results)")
    kept.add_argument("--unused", action="store_true", help="gc: also units of which no run's tables are made")
    kept.add_argument("--yes", action="store_true", help="gc: remove, instead of showing what would be removed")

    conform = add(
        "conform", run_commands.conform, "Compare with recorded vectors of Brain-Score: |dr|, splits, alphas, by case."
    )
    conform.add_argument("folder", metavar="FOLDER", help=".npz archives, one for each case")

    add_data_root(add("doctor", run_commands.doctor, "What works on this machine."))
    return parser


def _add_run(run: argparse.ArgumentParser, is_named: bool = True) -> None:
    """What `run`, `submit` and `watch` take; of the last the spec is an option."""
    if is_named:
        run.add_argument("spec", metavar="SPEC", help=f"one of {', '.join(SPECS)}")
    run.add_argument(
        "--model", action="append", metavar="NAME_OR_FOLDER", help="table name, Hub id or folder; repeatable"
    )
    _add_precision(run)
    run.add_argument("--allow-pickle", action="store_true", help="load pickled weights too, which can run any code")
    run.add_argument(
        "--dataset", action="append", metavar="NAME", help="instead of the spec's, or local:FOLDER; repeatable"
    )
    run.add_argument(
        "--protocol", choices=tuple(run_commands.PROTOCOLS), default="both", help="default: both, strict and paper"
    )
    run.add_argument(
        "--unpinned",
        action="store_true",
        help="read files of the published form that are not the published ones, by checksum",
    )
    run.add_argument("--vectors", default="", metavar="FILE", help="word vectors; adds the control static-vectors")
    run.add_argument("--corpus", default="", metavar="FILE", help="plain text; adds the control ngram")
    run.add_argument("--no-untrained", action="store_true", help="leave out the untrained twins")
    run.add_argument(
        "--keep-going", action="store_true",
        help="where the name of a model is not known: compute the others, instead of nothing",
    )  # fmt: skip
    run.add_argument("--shuffled", action="store_true", help="each model also reads its text with the words shuffled")
    run.add_argument(
        "--chat-template", action="store_true", help="each model that has one also reads its text in its chat template"
    )
    run.add_argument(
        "--out", default="results", metavar="URL", help="folder or URL of units and tables (default: results)"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="a price, to have the cost in table `runs`")


def _add_cluster(
    add: Callable[..., argparse.ArgumentParser], add_data_root: Callable[[argparse.ArgumentParser], None]
) -> None:
    submit = add("submit", cluster_commands.submit, "The same run as a job of a Ray cluster, under the run's name.")
    _add_run(submit)
    cluster_commands.add_submission(submit)
    add_data_root(submit)
    watch = add("watch", watch_commands.watch, "Evaluate the checkpoints of a training as they appear, each once.")
    watch.add_argument("source", metavar="SOURCE", help="folder or bucket of checkpoints, Hub repository, or a list")
    watch.add_argument(
        "--spec", default="real", choices=tuple(SPECS), help="what they are evaluated on (default: real)"
    )
    _add_run(watch, is_named=False)
    watch.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: a local Ray)")
    watch_commands.add_options(watch)
    add_data_root(watch)
    status = add("status", cluster_commands.status, "The jobs of a Ray cluster, or one of them.")
    status.add_argument("job", nargs="?", metavar="JOB", help="as `submit` names it")
    cancel = add("cancel", cluster_commands.cancel, "End a job: it finishes what runs, and writes its tables.")
    cancel.add_argument("job", metavar="JOB")
    manifest = add("manifest", cluster_commands.manifest, "The same cluster, run and watch for Kubernetes.")
    manifest.add_argument("kind", choices=("kuberay",), help="whose operator reads them")
    _add_run(manifest)
    cluster_commands.add_manifest(manifest)
    add_data_root(manifest)
    preempt = add("preempt", cluster_commands.preempt, "On a spot machine: tell Ray when it is about to be taken away.")
    preempt.add_argument("--address", default="auto", metavar="ADDR", help="of the cluster (default: auto)")
    preempt.add_argument("--node-id", metavar="ID", help="Ray's (default: of this machine)")
    for command in (status, cancel):
        cluster_commands.add_address(command)


def _add_analysis(add: Callable[..., argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Both commands about scores; returns `compare`, which looks beside the data root."""
    analyse = add("analyse", analysis_commands.analyse, "Statistics of a run's tables, or of anyone's file of scores.")
    analyse.add_argument("path", metavar="OUT|FILE", help="folder of tables, or a CSV, TSV, JSON or Parquet file")
    analyse.add_argument("--save", metavar="DIR", help="write every table there as CSV")
    compare = add("compare", analysis_commands.compare, "Scores beside the paper's tables, model by model.")
    compare.add_argument("what", choices=("paper",), help="what to compare with")
    compare.add_argument(
        "path", nargs="?", metavar="OUT|FILE", help="as of `analyse`; without it only the paper beside its own tables"
    )
    compare.add_argument(
        "--paper", metavar="FILE", help="the paper's tables (default: paper/scores.csv beside the data)"
    )
    for command in (analyse, compare):
        command.add_argument("--run", help="of a folder: which run (default: the newest)")
        command.add_argument(
            "--score",
            action="append",
            metavar="COLUMN",
            help="of a file with a row per model: a column of scores (default: those in _r or _score); repeatable",
        )
        command.add_argument("--where", action="append", metavar="COLUMN=VALUE", help="of a file: rows to keep")
        command.add_argument(
            "--encoding", metavar="NAME", help="of a file that is not UTF-8 and does not state it, such as windows-1252"
        )
    return compare


def _add_fleet(add: Callable[..., argparse.ArgumentParser]) -> None:
    table = add("models", fleet_commands.models, "The table of models; `pin` writes a lock, `checkpoints` lists.")
    table.add_argument("what", nargs="?", metavar="NAME|pin|checkpoints", help="one model in full, or one of these two")
    table.add_argument("names", nargs="*", metavar="NAME", help="of `pin` and `checkpoints`")
    table.add_argument("--family", metavar="FAMILY", help="only those of a family, such as llama")
    table.add_argument(
        "--group", metavar="GROUP",
        help="only paper, gpt2, 'appendix J', current, lm-adapted, polypythia, encoders or user",
    )  # fmt: skip
    table.add_argument("--stage", metavar="STAGE", help="only those of a stage of training: base, SFT, DPO, RL ...")
    table.add_argument("--weights", metavar="FORM", help="only those in a form: safetensors, pickle, delta or adapter")
    table.add_argument("--all", action="store_true", help="pin: all models of the table")
    table.add_argument("--lock", metavar="FILE", help="pin: where (default: HARNESS_MODELS_LOCK, or models.lock)")
    table.add_argument("--every", type=int, default=1, metavar="N", help="checkpoints: each N-th")
    table.add_argument("--models", metavar="FILE", help="also the models of a TOML or YAML file")

    plan = add("plan", fleet_commands.plan, "What would run where, when and at what cost; nothing is run.")
    plan.add_argument("spec", metavar="SPEC", help=f"one of {', '.join(SPECS)}")
    plan.add_argument("--model", action="append", metavar="NAME_OR_FOLDER", help="instead of the spec's; repeatable")
    plan.add_argument("--allow-pickle", action="store_true", help="count folders whose weights are pickles only")
    _add_precision(plan)
    plan.add_argument(
        "--cluster", metavar="FILE", help="of Ray's launcher (default: ./cluster.yaml, or the one that is shipped)"
    )
    plan.add_argument("--nodes", type=int, metavar="N", help="a made-up cluster instead")
    plan.add_argument("--gpus-per-node", type=int, metavar="G", help="of the made-up cluster; 0 reads on cores")
    plan.add_argument("--gpu-memory-gb", type=float, metavar="M", help="of one GPU")
    plan.add_argument("--storage-gb-s", type=float, default=1.0, metavar="R", help="weights to one node (default: 1)")
    plan.add_argument("--gpu-tflops", type=float, default=200.0, metavar="R", help="reached by a GPU (default: 200)")
    plan.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="a price, to have the cost")


def _add_precision(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", metavar="FILE", help="models of your own: a TOML or YAML file")
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16", "int8"), default="auto",
        help="of the weights (default: float32 up to 3 billion parameters, bfloat16 above)",
    )  # fmt: skip
    command.add_argument(
        "--backend", choices=("auto", "transformers", "vllm"), default="auto", help="library that reads (default: auto)"
    )


if __name__ == "__main__":
    sys.exit(main())

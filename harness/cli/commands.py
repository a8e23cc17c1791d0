"""The `harness` command: parse the arguments, call one function, return its exit status.

Exit status: 0 everything succeeded; 1 something failed and is listed; 2 wrong usage. Heavy libraries are imported only
by the commands that need them.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable

from harness import names
from harness.cli import (
    analysis_commands,
    board_commands,
    cluster_commands,
    example_commands,
    fleet_commands,
    logs,
    map_commands,
    printing,
    property_commands,
    run_commands,
    track_commands,
    tuning_commands,
    watch_commands,
    word_commands,
)
from harness.cli.suggesting_parser import SuggestingParser
from harness.spec import SPECS

logger = logging.getLogger(__name__)

# Adds a subcommand: (name, function, description) -> its parser.
_Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status; the entry point of the console script.

    Args:
        argv: the arguments after `harness`; None reads them from `sys.argv`.
    """
    atexit.register(gc.freeze)  # else Python looks for cycles among all objects as it exits: a second, with torch
    made = parser()
    if not (sys.argv[1:] if argv is None else argv):
        made.print_help()
        return 0
    arguments = made.parse_args(argv)
    logs.configure()
    try:
        status: int = arguments.command(arguments)
    except BrokenPipeError:  # the reading end of the pipe was closed, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"harness: {names.printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"harness: {printing.STOPPED}", file=sys.stderr)
        return 1
    except Exception as error:
        logger.debug("traceback of the error", exc_info=True)
        message = names.printable(next(iter(str(error).strip().splitlines()), ""))
        print(
            f"harness: {type(error).__name__}: {message}. Finished results are stored; run the same command again to "
            "resume. HARNESS_LOG=debug shows the traceback.",
            file=sys.stderr,
        )
        return 1
    return status


class _Version(argparse.Action):
    """Prints the version and ends; it is looked up only then, since the commit is asked of git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from harness.storage.origin import code_version

        print(f"harness {code_version()}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command, for `main` and for completion."""
    made = SuggestingParser(
        prog="harness", description="Score language models against brain recordings and reading times."
    )
    made.add_argument("--version", action=_Version, nargs=0, help="show the version and commit of this program")
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=description, description=description)
        command.set_defaults(command=function, parser=command)
        command.add_argument("--json", action="store_true", help="print only one JSON document on stdout")
        return command

    for add_some in (
        _add_run, _add_cluster, _add_report, _add_analysis, _add_models, _add_plan, _add_datasets, _add_listings,
        _add_texts, _add_tuning, _add_checks,
    ):  # fmt: skip
        add_some(add)
    return made


def _add_data_root(command: argparse.ArgumentParser) -> None:
    default = os.environ.get("HARNESS_DATA")
    command.add_argument(
        "--data-root", default=default, metavar="DIR", help="folder of the data sets (default: HARNESS_DATA)"
    )


def _add_run(add: _Add) -> None:
    run = add("run", run_commands.run, "Run an evaluation: extract features, score them, write tables and report.")
    _add_run_options(run)
    track_commands.add_tracking(run)
    run.add_argument("--address", metavar="ADDR", help="address of a Ray cluster, or auto (default: a local Ray)")
    _add_data_root(run)


def _add_run_options(command: argparse.ArgumentParser, has_spec: bool = True) -> None:
    """Add the options shared by `run`, `submit`, `manifest` and `watch`; `watch` has the spec as an option."""
    option = command.add_argument
    if has_spec:
        option("spec", metavar="SPEC", help=f"named evaluation: one of {', '.join(SPECS)}")
    option(
        "--model", action="append", metavar="NAME_OR_FOLDER",
        help="model to evaluate: name in the table, Hub id or checkpoint folder; repeatable",
    )  # fmt: skip
    _add_precision(command)
    _add_allow_pickle(command)
    option(
        "--dataset", action="append", metavar="NAME",
        help="data set to use instead of the spec's; local:FOLDER for your own recording; repeatable",
    )  # fmt: skip
    option(
        "--protocol", choices=tuple(run_commands.PROTOCOLS), default="both",
        help="scoring protocol; both means strict and paper (default: both)",
    )  # fmt: skip
    option(
        "--unpinned", action="store_true",
        help="accept data files in the published format whose checksum is not the published one",
    )  # fmt: skip
    option("--vectors", default="", metavar="FILE", help="word vectors; adds the control static-vectors")
    option("--corpus", default="", metavar="FILE", help="plain text; adds the trigram control ngram")
    option(
        "--control", action="append", default=[], metavar="NAME",
        help="control of an installed distribution (`harness controls`), beside the built-in ones; repeatable",
    )  # fmt: skip
    _add_variants(command)
    option(
        "--keep-going", action="store_true",
        help="if a model name is unknown, evaluate the other models instead of none",
    )  # fmt: skip
    option(
        "--keep", action="append", choices=("predictions", "weights"), default=[],
        help="store the held-out predictions, or the regression weights, of the chosen layer of brain recordings; "
        "repeatable",
    )  # fmt: skip
    option("--out", default="results", metavar="URL", help="folder or URL for results and tables (default: results)")
    _add_device(command)
    option("--usd-per-gpu-hour", type=float, metavar="USD", help="GPU price; adds the cost to the table `runs`")


def _add_variants(command: argparse.ArgumentParser) -> None:
    """Add the options for sources made of each model: other weights, other texts, chosen units."""
    option = command.add_argument
    option("--no-untrained", action="store_true", help="leave out the untrained controls (random initialisation)")
    option("--shuffled", action="store_true", help="also evaluate each model on text with shuffled words")
    option(
        "--chat-template", action="store_true",
        help="also evaluate each model on text in its chat template, if it has one",
    )  # fmt: skip
    option(
        "--condition", action="append", default=[], metavar="NAME=TEXT",
        help="also evaluate each model on the stimuli after this prompt, a prefix or a template with {stimulus}; "
        "repeatable",
    )  # fmt: skip
    option("--conditions", default="", metavar="FILE", help="JSON or YAML file of conditions: names and texts")
    option(
        "--localise", action="append", default=[], metavar="N|P%",
        help="also evaluate this many language-selective units of each model and of its untrained control, and as many "
        "random units; repeatable",
    )  # fmt: skip
    option(
        "--localiser", default="", metavar="FILE",
        help="sentences and non-words that localise units, or a folder of such files (default: built-in, made up)",
    )  # fmt: skip
    option("--random-draws", type=int, metavar="N", help="draws of random units (default: 1)")


def _add_cluster(add: _Add) -> None:
    submit = add("submit", cluster_commands.submit, "Submit a run as a job to a Ray cluster.")
    _add_run_options(submit)
    cluster_commands.add_submission(submit)
    _add_data_root(submit)
    watch = add("watch", watch_commands.watch, "Evaluate each checkpoint of a training run once, as it appears.")
    watch.add_argument(
        "source", metavar="SOURCE", help="folder or bucket of checkpoints, Hub repository, or text file that lists them"
    )
    watch.add_argument(
        "--spec", default="real", choices=tuple(SPECS), help="evaluation to run on each checkpoint (default: real)"
    )
    _add_run_options(watch, has_spec=False)
    watch.add_argument("--address", metavar="ADDR", help="address of a Ray cluster, or auto (default: a local Ray)")
    watch_commands.add_options(watch)
    _add_data_root(watch)
    status = add("status", cluster_commands.status, "List the jobs of a Ray cluster, or show one of them.")
    status.add_argument("job", nargs="?", metavar="JOB", help="job name, as printed by `submit`")
    cancel = add("cancel", cluster_commands.cancel, "Cancel a job; it finishes running units and writes its tables.")
    cancel.add_argument("job", metavar="JOB", help="job name, as printed by `submit`")
    manifest = add("manifest", cluster_commands.manifest, "Print Kubernetes manifests: cluster, run and watch.")
    manifest.add_argument("kind", choices=("kuberay",), help="operator that the manifests are for")
    _add_run_options(manifest)
    cluster_commands.add_manifest(manifest)
    _add_data_root(manifest)
    preempt = add("preempt", cluster_commands.preempt, "On a spot machine: drain its Ray node on a preemption notice.")
    preempt.add_argument("--address", default="auto", metavar="ADDR", help="address of the cluster (default: auto)")
    preempt.add_argument("--node-id", metavar="ID", help="Ray node id (default: the node on this machine)")
    for command in (status, cancel):
        cluster_commands.add_address(command)


def _add_report(add: _Add) -> None:
    report = add("report", run_commands.report, "Write the report of a run as one self-contained HTML page.")
    report.add_argument("out", metavar="OUT", help="folder or URL with the tables of a run")
    report.add_argument("--run", help="run id (default: the newest run)")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the main tables as Markdown instead")
    form.add_argument("--latex", action="store_true", help="print the main tables as LaTeX instead")
    form.add_argument(
        "--figures", metavar="DIR", help="write the figures to this folder instead, as SVG and as scripts"
    )
    report.add_argument(
        "--columns", metavar="NAME,...",
        help="print one table for a paper with these columns, such as model,r,interval,minus_control, as Markdown or "
        "with --latex; `help` lists them",
    )  # fmt: skip
    report.add_argument("--dataset", action="append", default=[], help="for --columns; may be repeated (default: all)")
    report.add_argument("--protocol", action="append", default=[], help="for --columns; may be repeated (strict)")
    track = add("track", track_commands.track, "Send scores, figures and tables of a run to MLflow or W&B.")
    track_commands.add_options(track)
    board = add("board", board_commands.board, "Write or serve a site of all scores of the runs in one or many OUTs.")
    board_commands.add_options(board)
    maps = add("maps", map_commands.maps, "Write scores of voxels, vertices or parcels as brain images.")
    map_commands.add_options(maps)


def _add_analysis(add: _Add) -> None:
    analyse = add("analyse", analysis_commands.analyse, "Run the statistics on a run's tables or on a file of scores.")
    analyse.add_argument("path", metavar="OUT|FILE", help="folder of tables, or a CSV, TSV, JSON or Parquet file")
    analyse.add_argument("--save", metavar="DIR", help="write each result table to this folder as CSV")
    compare = add("compare", analysis_commands.compare, "Compare scores with the paper's tables, model by model.")
    compare.add_argument("what", choices=("paper",), help="what to compare with")
    compare.add_argument(
        "path", nargs="?", metavar="OUT|FILE",
        help="scores, as in `analyse`; without them, only check the paper's statements against its tables",
    )  # fmt: skip
    compare.add_argument(
        "--paper", metavar="FILE", help="the paper's tables (default: paper/scores.csv beside the data)"
    )
    for command in (analyse, compare):
        command.add_argument("--run", help="for a folder: run id (default: the newest run)")
        command.add_argument(
            "--score", action="append", metavar="COLUMN",
            help="for a file with one row per model: score column (default: names ending in _r or _score); repeatable",
        )  # fmt: skip
        command.add_argument(
            "--where", action="append", metavar="COLUMN=VALUE", help="for a file: keep only these rows; repeatable"
        )
        _add_encoding(command)
    _add_data_root(compare)


def _add_models(add: _Add) -> None:
    table = add("models", fleet_commands.models, "List the models; `pin` locks their revisions.")
    option = table.add_argument
    option(
        "what", nargs="?", metavar="NAME|pin|checkpoints",
        help="show one model; `pin`: write a lock file of revisions; `checkpoints`: list those of a training run",
    )  # fmt: skip
    option("names", nargs="*", metavar="NAME", help="models for `pin` or `checkpoints`")
    option("--family", metavar="FAMILY", help="list only this family, such as llama")
    option(
        "--group", metavar="GROUP",
        help="list only this group: paper, gpt2, 'appendix J', current, lm-adapted, polypythia, encoders or user",
    )  # fmt: skip
    option("--stage", metavar="STAGE", help="list only this training stage: base, SFT, DPO, RL ...")
    option("--weights", metavar="FORM", help="list only this format: safetensors, pickle, delta or adapter")
    option("--all", action="store_true", help="pin: all models of the table")
    option("--lock", metavar="FILE", help="pin: lock file (default: HARNESS_MODELS_LOCK, or models.lock)")
    option("--every", type=int, default=1, metavar="N", help="checkpoints: list every N-th (default: 1)")
    _add_own_models(table)


def _add_plan(add: _Add) -> None:
    plan = add("plan", fleet_commands.plan, "Forecast placement, run times and cost of a spec; runs nothing.")
    option = plan.add_argument
    option("spec", metavar="SPEC", help=f"named evaluation: one of {', '.join(SPECS)}")
    option("--model", action="append", metavar="NAME_OR_FOLDER", help="model to use instead of the spec's; repeatable")
    option("--allow-pickle", action="store_true", help="accept checkpoint folders with pickled weights only")
    _add_precision(plan)
    _add_planned_scoring(plan)
    option(
        "--cluster", metavar="FILE", help="cluster file of Ray's launcher (default: ./cluster.yaml or the shipped one)"
    )
    option("--nodes", type=int, metavar="N", help="number of nodes of a hypothetical cluster")
    option("--gpus-per-node", type=int, metavar="G", help="GPUs per node of the hypothetical cluster; 0: CPU only")
    option("--gpu-memory-gb", type=float, metavar="M", help="memory of one GPU, in GB")
    option("--node-memory-gb", type=float, default=0.0, metavar="M", help="main memory of a hypothetical node, in GB")
    option(
        "--storage-gb-s", type=float, default=1.0, metavar="R",
        help="rate at which a node loads weights, in GB/s (default: 1)",
    )  # fmt: skip
    option("--gpu-tflops", type=float, default=200.0, metavar="R", help="sustained TFLOP/s of one GPU (default: 200)")
    option("--usd-per-gpu-hour", type=float, metavar="USD", help="GPU price; adds the cost to the forecast")


def _add_planned_scoring(plan: argparse.ArgumentParser) -> None:
    """Add the options that include scoring in the forecast."""
    plan.add_argument(
        "--dataset", action="append", metavar="NAME", help="also forecast scores of this data set, from its files; "
        "repeatable",
    )  # fmt: skip
    plan.add_argument(
        "--recording", action="append", metavar="NAME:SxRxN",
        help="also forecast scores of a recording of S subjects, R rows (scans, sentences) and N neuroids per subject, "
        "under the protocols of data set NAME, such as lebel2023:3x9000x80000; repeatable",
    )  # fmt: skip
    plan.add_argument("--protocol", choices=tuple(run_commands.PROTOCOLS), default="both", help="of these scores")
    _add_data_root(plan)


def _add_datasets(add: _Add) -> None:
    datasets = add("datasets", run_commands.datasets, "List the data sets and missing files, or show one in full.")
    datasets.add_argument("name", nargs="?", metavar="NAME", help="data set to show; local:FOLDER checks your own")
    _add_data_root(datasets)
    fetch = add("fetch", run_commands.fetch, "Download data sets; resumes partial files and verifies checksums.")
    fetch.add_argument("dataset", nargs="+", metavar="DATASET", help="data set, or all releases of one: futrell2018")
    fetch.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS",
        help="how long to wait for another fetch into the same folder (default: 600)",
    )  # fmt: skip
    _add_data_root(fetch)


def _add_listings(add: _Add) -> None:
    add("specs", run_commands.specs, "List the named evaluations (specs).")
    add("controls", run_commands.controls, "List the controls: features without a trained language model.")
    examples = add("examples", example_commands.examples, "List the example notebooks; with DIR, copy them there.")
    examples.add_argument("folder", nargs="?", metavar="DIR", help="folder to copy them to")
    tables = add("tables", run_commands.tables, "Describe the result tables; with NAME, every column of one.")
    tables.add_argument("name", nargs="?", metavar="NAME", help="table, such as model_scores")


def _add_texts(add: _Add) -> None:
    surprisal = add("surprisal", word_commands.surprisal, "Compute the surprisal of each word of a text, in bits.")
    word_commands.add_options(surprisal)
    _add_allow_pickle(surprisal)
    _add_precision(surprisal)
    _add_device(surprisal)
    _add_encoding(surprisal)
    _add_data_root(surprisal)
    properties = add("properties", property_commands.properties, "Measure or import MMLU and BBH scores of models.")
    property_commands.add_options(properties)
    _add_allow_pickle(properties)
    _add_own_models(properties)
    _add_device(properties)
    _add_encoding(properties)
    _add_data_root(properties)


def _add_tuning(add: _Add) -> None:
    tune = add("tune", tuning_commands.tune, "Tune a base model with and without instructions, saving checkpoints.")
    tuning_commands.add_options(tune)
    _add_allow_pickle(tune)
    _add_own_models(tune)
    _add_data_root(tune)


def _add_checks(add: _Add) -> None:
    cache = add("cache", run_commands.cache, "List, verify or clean up the stored results.")
    option = cache.add_argument
    option("what", choices=("ls", "verify", "gc"), help="list; compare checksums; remove unneeded files")
    option("out", nargs="?", default="results", metavar="OUT", help="--out of a run (default: results)")
    option("--unused", action="store_true", help="gc: also remove results that no run's tables use")
    option("--yes", action="store_true", help="gc: remove the files instead of only listing them")
    conform = add("conform", run_commands.conform, "Check scores against recorded Brain-Score results, case by case.")
    conform.add_argument("folder", metavar="FOLDER", help="folder of .npz archives, one per case")
    _add_data_root(add("doctor", run_commands.doctor, "Check libraries, GPU, disk and data of this machine."))
    completion = add("completion", _completion, "Print a script that completes this command's arguments in a shell.")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(parser(), arguments.shell))
    return 0


def _add_precision(command: argparse.ArgumentParser) -> None:
    _add_own_models(command)
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16", "int8"), default="auto",
        help="precision of the weights (default: float32 up to 3 billion parameters, bfloat16 above)",
    )  # fmt: skip
    command.add_argument(
        "--backend", choices=("auto", "transformers", "vllm"), default="auto",
        help="library that runs the models (default: auto)",
    )  # fmt: skip


def _add_own_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", metavar="FILE", help="TOML or YAML file that defines your own models")


def _add_allow_pickle(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-pickle", action="store_true", help="also load pickled weights, which can run arbitrary code"
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where models run (default: auto, a GPU where there is one)",
    )  # fmt: skip


def _add_encoding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoding", metavar="NAME", help="encoding of a text file or table that is not UTF-8, such as windows-1252"
    )

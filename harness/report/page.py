"""The report of one run: its tables as one self-contained HTML page, as Markdown or as LaTeX.

All text is escaped, and the page loads nothing (templates.py).
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import datasets, names
from harness.protocol import protocol_of
from harness.report import brain_maps, embedded_files, figure_scripts, figures, paper_table, templates
from harness.report.cells import ReportTable, records
from harness.report.figures import PROTOCOLS, Figure, standalone
from harness.report.findings import findings, summary
from harness.report.sections import first_screen, sections
from harness.statistics import analysis, scores
from harness.storage import tables, transfer
from harness.storage.schemas import SCHEMAS
from harness.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from harness.protocol import Protocol

# Tables that the page shows; those by neuroid and by word are too large.
_FRAMES = (
    "model_scores", "similarity_scores", "reading_scores", "reader_slopes", "next_word_scores", "model_properties",
    "failures",
)  # fmt: skip
LARGE = 5000  # rows of model_scores; larger pages lay out only the visible part
MOST_WITH_SUBJECTS = 100  # models; with more, only `harness analyse` computes intervals over subjects
# Characters that are special in LaTeX or missing from its fonts.
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "−": "$-$",
    "–": "--", "Δ": r"$\Delta$", "²": "$^2$", "→": r"$\to$", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip


_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # Markdown passes HTML through


def write(out: str, run: str | None = None) -> str:
    """Write OUT/report.html for one run and return its path.

    Args:
        out: folder or URL that contains `tables`.
        run: a run id; None selects the run that started last.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; the message has the nearest names.
    """
    import fsspec

    script = templates.text_of("report.js")
    run_id = tables.pick_run(out, run)["run"]
    with Store(out).lock_tables(run_id):
        content = _content(out, run_id)
    not_embedded = {"failures", *(["layer_scores"] if content["is_large"] else [])}
    files = embedded_files.embed({name: frame for name, frame in content["frames"].items() if name not in not_embedded})
    shell = {"script": script, "policy": templates.policy(script), "style": templates.text_of("page.css")}
    page = _render("report.html.j2", content | shell | {"files": files})
    filesystem, root = fsspec.core.url_to_fs(out)
    temporary = f"{root}/.report-{uuid.uuid4().hex}.html"
    transfer.retry(filesystem.pipe_file, temporary, page.encode())
    transfer.retry(filesystem.mv, temporary, f"{root}/report.html")
    return f"{out.rstrip('/')}/report.html"


def markdown(out: str, run: str | None = None) -> str:
    """The findings and the main tables as Markdown; arguments and errors as in `write`."""
    return _render("report.md.j2", _content(out, run))


def latex(out: str, run: str | None = None) -> str:
    """The main tables as LaTeX (booktabs, longtable); arguments and errors as in `write`."""
    return _render("report.tex.j2", _content(out, run))


def table(
    out: str, columns: Sequence[str] = (), form: str = "markdown", run: str | None = None,
    datasets: Collection[str] = (), protocols: Collection[str] = (),
) -> str:  # fmt: skip
    """One table of the scores for a paper, with a caption or comment that says what its columns are.

    Args:
        out: as in `write`.
        columns: names in `paper_table.COLUMNS`, in the order of the table; none means `paper_table.DEFAULT`.
        form: "markdown", or "latex" (booktabs).
        run: as in `write`.
        datasets: data sets to include; none means all.
        protocols: protocols to include; none means STRICT, or the first that the run has.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run, a column, a data set or a protocol is unknown; the message has the nearest names.
    """
    content = _content(out, run)
    made = paper_table.paper_table(content["frames"], columns, datasets, protocols)
    return _render(f"paper_table.{'tex' if form == 'latex' else 'md'}.j2", content | {"table": made})


def write_figures(out: str, folder: str, run: str | None = None) -> list[str]:
    """Write each figure of the report as SVG and as a matplotlib script; return the paths. Otherwise as `write`."""
    to = Path(folder)
    to.mkdir(parents=True, exist_ok=True)
    paths = []
    content = _content(out, run)
    for section in filter(None, [content["glance"], *content["sections"]]):
        drawn = [part for part in section.parts if isinstance(part, Figure) and part.panels]
        for k, figure in enumerate(drawn, 1):
            drawing, program = (to / f"{section.id}-{k}.{form}" for form in ("svg", "py"))
            drawing.write_text(standalone(figure), encoding="utf-8")
            program.write_text(figure_scripts.script(figure, content["about"]["run"]), encoding="utf-8")
            paths += [str(drawing), str(program)]
    return paths


def _render(template: str, content: dict[str, Any]) -> str:
    environment = templates.environment(autoescape=not template.endswith(".tex.j2"))
    environment.filters["tex"] = lambda text: "".join(_TEX.get(letter, letter) for letter in _one_line(text))
    environment.filters["one_line"] = lambda text: _TAG.sub("&lt;", _one_line(text)).replace("|", "¦")
    environment.filters["script_url"] = lambda figure: figure_scripts.url(figure, content["about"]["run"])
    environment.tests["table"] = lambda part: isinstance(part, ReportTable)
    return environment.from_string(templates.text_of(template)).render(content)


def _one_line(text: Any) -> str:
    return " ".join(names.printable(str(text)).split())


def _content(out: str, run: str | None) -> dict[str, Any]:
    """All values that the templates use."""
    import pandas as pd

    about = tables.pick_run(out, run)
    frames = {name: tables.read(out, name, about["run"]) for name in _FRAMES}
    if "paired_tests" in SCHEMAS:
        frames["paired_tests"] = tables.read(out, "paired_tests", about["run"])
    frames["layer_scores"] = _layers(out, about["run"], frames["model_scores"])
    run_scores = _scores(out, about["run"], frames)
    results = analysis.analyse(run_scores)
    frames |= {
        "comparisons": results.pairs, "paired_tests": results.paired, "tuning_tests": results.tuning,
        "correlations": results.correlations, "trajectories": results.trajectories,
        "trajectory_tests": results.trajectory_tests,
    }  # fmt: skip
    run_content = _mapping(about["content"])
    scored = pd.concat([frames[name][["dataset", "protocol", "seed"]] for name in ("model_scores", "reading_scores")])
    protocols = _protocols(set(scored["dataset"]), run_content.get("protocols") or [])
    return {
        "out": names.printable(out.rstrip("/")),
        "about": about,
        "machine": _mapping(about["machine"]) or {"": about["machine"]},
        "versions": _mapping(about["versions"]) or {"": about["versions"]},
        "is_large": len(frames["model_scores"]) > LARGE,
        "seeds": sorted(set(scored["seed"])),
        "frames": frames,
        "protocols": [name for name in PROTOCOLS if name in set(scored["protocol"])],
        "glance": first_screen(frames),
        "answer": summary(frames, results),
        "findings": findings(frames, protocols, run_content.get("planted") or {}),
        "sections": sections(frames, protocols, run_scores, results, brain_maps.read(out, about["run"])),
        "failures": [*records(frames["failures"]), *_parked(out, about["run"])],
    }


def _parked(out: str, run: str) -> list[dict[str, Any]]:
    """Parked checkpoints of a watched training run, in the form of rows of failures."""
    rows = tables.read(out, "watched")
    watches = rows[rows["evaluated_in"] == run][["source", "spec_hash"]].drop_duplicates()
    attempts = rows.merge(watches, on=["source", "spec_hash"]).sort_values(["created", "attempt"], kind="stable")
    last = attempts.groupby("where").tail(1)
    return [
        {"exception": "parked", "stage": "watch", "model": row.model, "dataset": row.source, "protocol": "",
         "message": f"parked after {row.attempt} attempts: {row.reason}"}
        for row in last[last["state"] == "parked"].itertuples()
    ]  # fmt: skip


def _layers(out: str, run: str, brain: pd.DataFrame) -> pd.DataFrame:
    """The table layer_scores; for a large run only the sources whose curves may be drawn."""
    if len(brain) <= LARGE:
        return tables.read(out, "layer_scores", run)
    overall = brain[brain["target"] == "all"]
    drawn = [figures.best_models(part, figures.MOST_CURVES) for _, part in overall.groupby("dataset")]
    return tables.read(out, "layer_scores", run, models=set().union(*drawn))


def _scores(out: str, run: str, frames: dict[str, pd.DataFrame]) -> scores.Scores:
    """The scores of the run; includes single subjects unless there are too many models to read them quickly."""
    brain, reading, properties = (frames[name] for name in ("model_scores", "reading_scores", "model_properties"))
    run_scores = scores.of_run(out, brain, reading, properties, tables.read(out, "benchmark_scores"))
    run_scores = replace(run_scores, fold_scores=tables.read(out, "fold_scores", run))
    if len(run_scores.models) > MOST_WITH_SUBJECTS:
        return run_scores
    return replace(run_scores, by_subject=scores.subject_scores(out, run, brain))


def _protocols(names: set[str], of_run: list[dict[str, Any]]) -> dict[str, Protocol]:
    """Protocols by hash: those of the data sets, and those stored with the run that this version can read."""
    protocols = [
        protocol for name in names if datasets.is_known(name) for protocol in datasets.protocols(name).values()
    ]
    for fields in of_run:
        with contextlib.suppress(TypeError, KeyError):  # stored by another version of the program
            protocols.append(protocol_of(fields))
    return {protocol.hash: protocol for protocol in protocols}


def _mapping(text: str) -> dict[str, Any]:
    """Parse a JSON object; {} if the text is empty or something else."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}

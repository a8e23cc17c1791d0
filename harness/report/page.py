"""The report: the tables of one run as one HTML page that needs no network, as Markdown, or as LaTeX.

Names come from users and from hubs: everything is escaped, and the page's content policy forbids loading and every
script but our own, by its hash.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import uuid
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from harness import datasets, names
from harness.protocol import protocol_of
from harness.report import embedded_files, figures
from harness.report.cells import ReportTable, records
from harness.report.figures import PROTOCOLS
from harness.report.findings import findings, in_short
from harness.report.sections import sections
from harness.statistics import analysis, scores
from harness.storage import tables, transfer
from harness.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from harness.protocol import Protocol

# The large tables, by neuroid and by word, are left to pandas and DuckDB.
_FRAMES = (
    "model_scores", "reading_scores", "reader_slopes", "next_word_scores", "model_properties", "failures",
)  # fmt: skip
LARGE = 5000  # rows of model_scores; of such a page only what is on the screen is laid out
MOST_WITH_PEOPLE = 100  # models; beyond it intervals over people are left to `harness analyse`
# LaTeX's own characters, and those that its fonts lack.
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "−": "$-$",
    "–": "--", "Δ": r"$\Delta$", "²": "$^2$", "→": r"$\to$", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip


_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # in Markdown, which takes HTML


def write(out: str, run: str | None = None) -> str:
    """Write OUT/report.html for the newest run or the one named, and return its path.

    Args:
        out: folder or URL that holds `tables`.
        run: a run id; None is the run that started last.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; names the nearest.
    """
    import fsspec

    script = (resources.files("harness.report") / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    named = tables.pick_run(out, run)["run"]
    with Store(out).tables_of(named):
        content = _content(out, named)
    left_out = {"failures", *(["layer_scores"] if content["is_large"] else [])}
    held = embedded_files.of({name: frame for name, frame in content["frames"].items() if name not in left_out})
    page = _render("report.html.j2", content | {"files": held, "script": script, "script_hash": f"sha256-{digest}"})
    filesystem, root = fsspec.core.url_to_fs(out)
    aside = f"{root}/.report-{uuid.uuid4().hex}.html"
    transfer.retry(filesystem.pipe_file, aside, page.encode())
    transfer.retry(filesystem.mv, aside, f"{root}/report.html")
    return f"{out.rstrip('/')}/report.html"


def markdown(out: str, run: str | None = None) -> str:
    """The sentences and the main tables as Markdown; arguments and errors as in `write`."""
    return _render("report.md.j2", _content(out, run))


def latex(out: str, run: str | None = None) -> str:
    """The main tables as LaTeX (booktabs, longtable); arguments and errors as in `write`."""
    return _render("report.tex.j2", _content(out, run))


def _render(template: str, content: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=not template.endswith(".tex.j2"), trim_blocks=True, lstrip_blocks=True,  # noqa: S701 - LaTeX has `tex`
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["tex"] = lambda text: "".join(_TEX.get(letter, letter) for letter in _one_line(text))
    environment.filters["one_line"] = lambda text: _TAG.sub("&lt;", _one_line(text)).replace("|", "¦")
    environment.tests["table"] = lambda part: isinstance(part, ReportTable)
    text = (resources.files("harness.report") / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(content)


def _one_line(text: Any) -> str:
    return " ".join(names.printable(str(text)).split())


def _content(out: str, run: str | None) -> dict[str, Any]:
    """Everything that the templates show."""
    import pandas as pd

    about = tables.pick_run(out, run)
    frames = {name: tables.read(out, name, about["run"]) for name in _FRAMES}
    frames["layer_scores"] = _layers(out, about["run"], frames["model_scores"])
    known_scores = _scores(out, about["run"], frames)
    found = analysis.analyse(known_scores)
    frames |= {"comparisons": found.pairs, "tuning_tests": found.tuning, "correlations": found.correlations}
    known = _mapping(about["content"])
    scored = pd.concat([frames[name][["dataset", "protocol", "seed"]] for name in ("model_scores", "reading_scores")])
    protocols = _protocols(set(scored["dataset"]), known.get("protocols") or [])
    return {
        "out": names.printable(out.rstrip("/")),
        "about": about,
        "machine": _mapping(about["machine"]) or {"": about["machine"]},
        "versions": _mapping(about["versions"]) or {"": about["versions"]},
        "is_large": len(frames["model_scores"]) > LARGE,
        "seeds": sorted(set(scored["seed"])),
        "frames": frames,
        "protocols": [name for name in PROTOCOLS if name in set(scored["protocol"])],
        "answer": in_short(frames, found),
        "findings": findings(frames, protocols, known.get("planted") or {}),
        "sections": sections(frames, protocols, known_scores, found),
        "failures": [*records(frames["failures"]), *_parked(out, about["run"])],
    }


def _parked(out: str, run: str) -> list[dict[str, Any]]:
    """Checkpoints of a watched training that were given up, as failures beside those of its run."""
    rows = tables.read(out, "watched")
    of = rows[rows["evaluated_in"] == run][["source", "asked"]].drop_duplicates()
    last = (
        rows.merge(of, on=["source", "asked"])
        .sort_values(["created", "attempt"], kind="stable")
        .groupby("where")
        .tail(1)
    )
    return [
        {"exception": "parked", "station": "watch", "model": row.model, "dataset": row.source, "protocol": "",
         "message": f"given up after {row.attempt} attempts: {row.reason}"}
        for row in last[last["state"] == "parked"].itertuples()
    ]  # fmt: skip


def _layers(out: str, run: str, brain: pd.DataFrame) -> pd.DataFrame:
    """The table layer_scores; of a large run only of the sources whose curves may be drawn."""
    if len(brain) <= LARGE:
        return tables.read(out, "layer_scores", run)
    overall = brain[brain["target"] == "all"]
    drawn = [figures.best_models(part, figures.MOST_CURVES) for _, part in overall.groupby("dataset")]
    return tables.read(out, "layer_scores", run, models=set().union(*drawn))


def _scores(out: str, run: str, frames: dict[str, pd.DataFrame]) -> scores.Scores:
    """The scores of the frames; of single people too, unless the models are so many that reading them takes long."""
    brain, read, known = (frames[name] for name in ("model_scores", "reading_scores", "model_properties"))
    found = scores.of_run(out, brain, read, known, tables.read(out, "benchmark_scores"))
    if len(found.models) > MOST_WITH_PEOPLE:
        return found
    return replace(found, people=scores.people_of(out, run, brain))


def _protocols(names: set[str], of_run: list[dict[str, Any]]) -> dict[str, Protocol]:
    """Protocols by hash: of the data sets of the table, and those that the run wrote down, as far as they are read."""
    known = [protocol for name in names if name in datasets.DATASETS for protocol in datasets.protocols(name).values()]
    for said in of_run:
        with contextlib.suppress(TypeError, KeyError):  # a run of another version of the program
            known.append(protocol_of(said))
    return {protocol.hash: protocol for protocol in known}


def _mapping(text: str) -> dict[str, Any]:
    """A JSON object; {} where the column is empty or holds something else."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}

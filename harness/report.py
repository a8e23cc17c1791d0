"""The report: the tables of one run as one HTML page that needs no network, or as Markdown.

Names come from users and from hubs: everything is escaped, and the page's content policy forbids scripts and loading.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from importlib import resources
from typing import TYPE_CHECKING, Any

from harness import analysis, datasets, scores, tables
from harness.cells import Table, records
from harness.findings import findings
from harness.sections import sections
from harness.spec import protocol_of

if TYPE_CHECKING:
    from harness.spec import Protocol

# The large tables, by neuroid and by word, are left to pandas and DuckDB.
_FRAMES = (
    "model_scores", "layer_scores", "reading_scores", "model_properties", "failures",
)  # fmt: skip


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

    page = _render("report.html.j2", out, run)
    filesystem, root = fsspec.core.url_to_fs(out)
    aside = f"{root}/.report-{uuid.uuid4().hex}.html"
    filesystem.pipe_file(aside, page.encode())
    filesystem.mv(aside, f"{root}/report.html")
    return f"{out.rstrip('/')}/report.html"


def markdown(out: str, run: str | None = None) -> str:
    """The sentences and the main tables as Markdown; arguments and errors as in `write`."""
    return _render("report.md.j2", out, run)


def _render(template: str, out: str, run: str | None) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["one_line"] = lambda text: " ".join(str(text).split()).replace("|", "¦")
    environment.tests["table"] = lambda part: isinstance(part, Table)
    text = (resources.files("harness") / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(_content(out, run))


def _content(out: str, run: str | None) -> dict[str, Any]:
    """Everything that the templates show."""
    about = tables.pick_run(out, run)
    frames = {name: tables.read(out, name, about["run"]) for name in _FRAMES}
    found = analysis.analyse(scores.of_tables(out, about["run"]))
    frames |= {"comparisons": found.pairs, "correlations": found.correlations}
    known = _mapping(about["content"])
    scored = records(frames["model_scores"]) + records(frames["reading_scores"])
    protocols = _protocols({row["dataset"] for row in scored}, known.get("protocols") or [])
    return {
        "out": out.rstrip("/"),
        "about": about,
        "machine": _mapping(about["machine"]) or {"": about["machine"]},
        "versions": _mapping(about["versions"]) or {"": about["versions"]},
        "seeds": sorted({row["seed"] for row in scored}),
        "findings": findings(frames, protocols, known.get("planted") or {}),
        "sections": sections(frames, protocols),
        "failures": records(frames["failures"]),
    }


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

"""Text output of `harness datasets` and `harness fetch`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from harness.datasets.entry import Entry
from harness.datasets.fetching.fetch import Fetched
from harness.text.frequencies import language_label as language_in_words
from harness.wording import in_words


def summary(entry: Entry, root: Path) -> dict[str, Any]:
    """Summary of one data set under a data root; checks the sizes of files, not their checksums."""
    states = [(file, file.state(root, verify=False)) for file in entry.files]
    absent = [file for file, state in states if state != "here"]
    return entry.described() | {
        "here": not absent,
        "n_files": len(states),
        "n_missing": sum(state == "missing" for _, state in states),
        "n_damaged": sum(state == "damaged" for _, state in states),
        "n_bytes_to_fetch": sum(file.n_bytes for file in absent),
        "n_by_hand": sum(not file.url for file in absent),
    }


def described(entry: Entry, root: Path) -> dict[str, Any]:
    """One data set with the state of every file, checked by checksum, and its protocols."""
    return entry.described() | {
        "files": [file._asdict() | {"place": str(root / file.path), "state": file.state(root)} for file in entry.files],
        "missing": [file._asdict() for file in entry.files if file.state(root, verify=False) == "missing"],
        "optional": [file._asdict() | {"state": file.state(root)} for file in entry.optional],
        "protocols": {protocol.name: asdict(protocol) | {"hash": protocol.hash} for protocol in entry.protocols},
    }


def table(summaries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of the table that `harness datasets` prints; it fits in 80 columns."""
    return [
        {"name": summary["name"], "kind": summary["kind"], "measured": summary["extent"], "state": _state(summary),
         "licence": summary["licence"].partition(":")[0]}
        for summary in summaries
    ]  # fmt: skip


def remarks(summaries: list[dict[str, Any]], root: Path) -> Iterator[str]:
    """Lines below that table: licence restrictions, manual downloads, what to do next."""
    restricted = [summary["name"] for summary in summaries if summary["non_commercial"]]
    if restricted:
        yield f"NON-COMMERCIAL use only: {', '.join(restricted)}"
    by_hand = [summary["name"] for summary in summaries if summary["n_by_hand"]]
    if by_hand:
        yield f"no direct download, get these by hand: {', '.join(by_hand)}"
    yield f"data root: {root}"
    yield "harness fetch NAME downloads missing files; harness datasets NAME shows one data set"


def _state(summary: dict[str, Any]) -> str:
    if summary["here"]:
        return "here" if summary["n_files"] else "generated"
    counts = [f"{summary[f'n_{state}']}/{summary['n_files']} {state}" for state in ("missing", "damaged")
              if summary[f"n_{state}"]]  # fmt: skip
    return f"{', '.join(counts)}, {_size(summary['n_bytes_to_fetch'])}"


def in_full(entry: Entry, root: Path) -> Iterator[str]:
    """Lines about one data set: source, licence, files, and protocols in words."""
    description = described(entry, root)
    yield from (
        f"{entry.title}{f' ({entry.extent})' if entry.extent else ''}",
        entry.citation,
        f"licence: {entry.licence}{warning_of(entry)}",
        f"language: {language_in_words(entry.language)}",
        *(f"note: {note}" for note in entry.notes),
    )
    if entry.landing:
        yield f"published at: {entry.landing}"
    if entry.files:
        yield f"\nfiles under {root}:"
    for file in description["files"]:
        yield f"  {file['state']:<8} {file['path']} ({_size(file['n_bytes'])})"
        yield f"           {file['checksum'] or 'no published checksum'}"
        yield f"           {file['url'] or 'no direct download'}"
    if any(file["url"] and file["state"] != "here" for file in description["files"]):
        yield f"  harness fetch {entry.name} downloads missing files"
    for file in description["optional"]:
        yield f"  {file['state']:<8} {file['path']} (optional; {file['url'] or entry.landing})"
    words = {protocol.name: in_words(protocol) for protocol in entry.protocols}
    for name, protocol in description["protocols"].items():
        yield f"\n{name} ({protocol['hash']}): {words[name]}"
        yield from (f"  {key}: {value}" for key, value in protocol.items()
                    if key not in {"name", "hash", "notes"} and value is not None)  # fmt: skip
        yield from (f"  - {note}" for note in protocol["notes"])


def warning_of(entry: Entry) -> str:
    """Warning for data sets with a non-commercial licence; "" for the others."""
    return " (NON-COMMERCIAL use only)" if entry.non_commercial else ""


def of_fetch(entries: Iterable[Entry], rows: list[Fetched]) -> Iterator[str]:
    """Lines after a fetch: counts per data set, then the failed files and how to get them by hand."""
    for entry in entries:
        own = [row for row in rows if row.dataset == entry.name]
        by_state = {state: [row for row in own if row.state == state] for state in ("fetched", "there", "failed")}
        words = {"fetched": "fetched", "there": "already present", "failed": "failed"}
        counts = [f"{len(files)} {words[state]} ({_size(sum(row.n_bytes for row in files))})"
                  for state, files in by_state.items() if files]  # fmt: skip
        yield f"{entry.name}: {', '.join(counts) or 'nothing to fetch, it is generated'}"
        for row in by_state["fetched"]:
            yield from (f"  {row.file}: {row.why}",) if row.why else ()
        for row in own:
            if row.state != "failed" and not row.pinned:
                yield f"  {row.file}: no published checksum; the file has {row.checksum}"
        for row in by_state["failed"]:
            if row.url:
                optional = "optional, " if row.optional else ""
                yield (f"  {row.file}: {optional}{row.why}. Download {row.url} ({_size(row.n_bytes)}) by other means "
                       f"and save it as {row.place}")  # fmt: skip
        yield from _by_hand([row for row in by_state["failed"] if not row.url])


def _by_hand(rows: list[Fetched]) -> Iterator[str]:
    """One line for each folder with files that have no direct download."""
    folders = defaultdict(list)
    for row in rows:
        folders[Path(row.place).parent, row.why, row.landing].append(row)
    for (folder, reason, landing), files in folders.items():
        names = [Path(row.place).name for row in files]
        shown = ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]}, {len(names)} files"
        size, pronoun = _size(sum(row.n_bytes for row in files)), "it" if len(files) == 1 else "them"
        yield f"  {shown} ({size}): {reason}. See {landing} and put {pronoun} into {folder}"


def _size(n_bytes: int) -> str:
    return decimal(n_bytes) if n_bytes else "size unknown"

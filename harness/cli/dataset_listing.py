"""Data sets in words: what is here, what is missing and how to get it, what a fetch did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from harness.datasets.entry import Entry
from harness.datasets.fetching.fetch import Fetched
from harness.text.frequencies import in_words as language_in_words
from harness.wording import in_words


def summary(entry: Entry, root: Path) -> dict[str, Any]:
    """One data set under a data root; files are judged by their size, without reading them."""
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
    """One data set with the state of every file, by checksum, and its protocols."""
    return entry.described() | {
        "files": [file._asdict() | {"place": str(root / file.path), "state": file.state(root)} for file in entry.files],
        "missing": [file._asdict() for file in entry.files if file.state(root, verify=False) == "missing"],
        "optional": [file._asdict() | {"state": file.state(root)} for file in entry.optional],
        "protocols": {protocol.name: asdict(protocol) | {"hash": protocol.hash} for protocol in entry.protocols},
    }


def table(summaries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of the table that `harness datasets` shows, which fits 80 columns."""
    return [
        {"name": known["name"], "kind": known["kind"], "measured": known["extent"], "state": _state(known),
         "licence": known["licence"].partition(":")[0]}
        for known in summaries
    ]  # fmt: skip


def remarks(summaries: list[dict[str, Any]], root: Path) -> Iterator[str]:
    """Lines under that table: what a licence forbids, what must be had by hand, what to do next."""
    forbidding = [known["name"] for known in summaries if known["non_commercial"]]
    if forbidding:
        yield f"NON-COMMERCIAL use only: {', '.join(forbidding)}"
    by_hand = [known["name"] for known in summaries if known["n_by_hand"]]
    if by_hand:
        yield f"no direct address, to be had by hand: {', '.join(by_hand)}"
    yield f"data root: {root}"
    yield "harness fetch NAME brings what is missing; harness datasets NAME shows more"


def _state(known: dict[str, Any]) -> str:
    if known["here"]:
        return "here" if known["n_files"] else "made here"
    counts = [f"{known[f'n_{state}']}/{known['n_files']} {state}" for state in ("missing", "damaged")
              if known[f"n_{state}"]]  # fmt: skip
    return f"{', '.join(counts)}, {_size(known['n_bytes_to_fetch'])}"


def in_full(entry: Entry, root: Path) -> Iterator[str]:
    """Lines about one data set: where it is published, its files, its protocols in words."""
    known = described(entry, root)
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
    for file in known["files"]:
        yield f"  {file['state']:<8} {file['path']} ({_size(file['n_bytes'])})"
        yield f"           {file['checksum'] or 'nobody pins it'}"
        yield f"           {file['url'] or 'no direct address is known'}"
    if any(file["url"] and file["state"] != "here" for file in known["files"]):
        yield f"  harness fetch {entry.name} brings what is missing"
    for file in known["optional"]:
        yield f"  {file['state']:<8} {file['path']} (read where it is there; {file['url'] or entry.landing})"
    words = {protocol.name: in_words(protocol) for protocol in entry.protocols}
    for name, protocol in known["protocols"].items():
        yield f"\n{name} ({protocol['hash']}): {words[name]}"
        yield from (f"  {key}: {value}" for key, value in protocol.items()
                    if key not in {"name", "hash", "notes"} and value is not None)  # fmt: skip
        yield from (f"  - {note}" for note in protocol["notes"])


def warning_of(entry: Entry) -> str:
    """What a non-commercial licence asks of whoever uses the data; "" for the others."""
    return " (NON-COMMERCIAL use only)" if entry.non_commercial else ""


def of_fetch(entries: Iterable[Entry], rows: list[Fetched]) -> Iterator[str]:
    """Lines about what was fetched: counts for each data set, then what failed and how to get it by hand."""
    for entry in entries:
        own = [row for row in rows if row.dataset == entry.name]
        counts = {state: [row for row in own if row.state == state] for state in ("fetched", "there", "failed")}
        words = {"fetched": "fetched", "there": "there already", "failed": "failed"}
        said = [f"{len(some)} {words[state]} ({_size(sum(row.n_bytes for row in some))})"
                for state, some in counts.items() if some]  # fmt: skip
        yield f"{entry.name}: {', '.join(said) or 'nothing to fetch, it is made here'}"
        for row in counts["fetched"]:
            yield from (f"  {row.file}: {row.why}",) if row.why else ()
        for row in own:
            if row.state != "failed" and not row.pinned:
                yield f"  {row.file}: nobody pins it; what lies there has {row.checksum}"
        for row in counts["failed"]:
            if row.url:
                yield (f"  {row.file}: {row.why}. Download {row.url} ({_size(row.n_bytes)}) by other means "
                       f"and put it at {row.place}")  # fmt: skip
        yield from _by_hand([row for row in counts["failed"] if not row.url])


def _by_hand(rows: list[Fetched]) -> Iterator[str]:
    """One line for each folder that waits for files without an address."""
    folders = defaultdict(list)
    for row in rows:
        folders[Path(row.place).parent, row.why, row.landing].append(row)
    for (folder, why, landing), some in folders.items():
        names = [Path(row.place).name for row in some]
        shown = ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]}, {len(names)} files"
        size, them = _size(sum(row.n_bytes for row in some)), "it" if len(some) == 1 else "them"
        yield f"  {shown} ({size}): {why}. See {landing} and put {them} into {folder}"


def _size(n_bytes: int) -> str:
    return decimal(n_bytes) if n_bytes else "size not known"

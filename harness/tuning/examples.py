"""Instruction examples in Alpaca's form (instruction, input, output), read from JSON or JSON lines.

BIG-Bench-Hard questions become such examples: the task's description is the instruction, the question the input and the
target the output.

Source: Stanford Alpaca, alpaca_data.json (a JSON list of objects with these three fields; `input` may be empty).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_BBH_INSTRUCTIONS = Path(__file__).with_name("bbh_instructions.csv")
_FORM = '{"instruction": ..., "input": ..., "output": ...}'


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        instruction: what to do; may be empty.
        input: what to do it with; "" if the instruction says everything.
        output: the response to learn.
    """

    instruction: str
    input: str
    output: str


def read(file: Path) -> list[Example]:
    """Read examples from a JSON list or from JSON lines, in the file's order.

    Further fields are ignored; `input` may be missing or null.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it holds no examples, or one has another form; the message names the line or the place.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file; give examples as JSON lines {_FORM}, or a JSON list of these.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    rows = _in_list(file, text) if text.lstrip().startswith("[") else _in_lines(file, text)
    examples = [_example(row, where) for where, row in rows]
    if not examples:
        raise ValueError(f"{file} holds no examples; wanted JSON lines {_FORM}, or a JSON list of these.")
    return examples


def _in_list(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not valid JSON ({error.msg}); copy the file again.") from error
    yield from ((f"{file}, example {place}", row) for place, row in enumerate(content, start=1))


def _in_lines(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at U+2028 within a string
        if not line.strip():
            continue
        try:
            yield f"{file}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: not valid JSON ({error.msg}); wanted one object a line, {_FORM}."
            ) from error


def _example(row: Any, where: str) -> Example:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: wanted an object {_FORM}, got {type(row).__name__}.")
    missing = [name for name in ("instruction", "output") if name not in row]
    if missing:
        raise ValueError(f"{where}: no field {missing[0]!r} (it has {', '.join(row) or 'none'}); wanted {_FORM}.")
    values = {name: "" if row.get(name) is None else row[name] for name in ("instruction", "input", "output")}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name!r} must be text, not {type(value).__name__}.")
    if not values["output"].strip():
        raise ValueError(f"{where}: 'output' is empty, so there is nothing to learn; remove the example.")
    return Example(**values)


def write(examples: Iterable[Example], file: Path) -> int:
    """Write examples as JSON lines, moved into place when complete; returns their number."""
    lines = [json.dumps(asdict(example), ensure_ascii=False) for example in examples]
    staging = file.with_name(f".{file.name}.aside")
    staging.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    staging.replace(file)
    return len(lines)


def of_bbh(folder: Path) -> list[Example]:
    """Turn the questions of BIG-Bench-Hard into examples, task by task.

    Args:
        folder: holds TASK.json files, each {"examples": [{"input": ..., "target": ...}]}.

    Raises:
        FileNotFoundError: if there are none; the message says where they are published.
        ValueError: if a task is unknown or a file has another form.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"no BIG-Bench-Hard questions (TASK.json) in {folder}; copy the folder bbh of "
            "https://github.com/suzgunmirac/BIG-Bench-Hard there."
        )
    with _BBH_INSTRUCTIONS.open(encoding="utf-8", newline="") as stream:
        instructions = {row["task"]: row["instruction"] for row in csv.DictReader(stream)}
    return [example for file in files for example in _of_task(file, instructions)]


def _of_task(file: Path, instructions: dict[str, str]) -> Iterator[Example]:
    if file.stem not in instructions:
        raise ValueError(f"{file} is not one of the 27 tasks of BIG-Bench-Hard; remove it from the folder.")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["examples"]
        yield from (Example(instructions[file.stem], row["input"], row["target"]) for row in rows)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{file} is not a task of BIG-Bench-Hard ({type(error).__name__}: {error}); wanted {{"examples": '
            '[{"input": ..., "target": ...}]}.'
        ) from error


def sha256_of(file: Path) -> str:
    """Hash of a file's bytes, as 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

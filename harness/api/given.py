"""What users give as objects: models in memory, recordings, controls and metrics, as the program needs them.

Each object gets a version, which distinguishes its stored results from those of an earlier object of the same name: a
hash of the numbers of an array, of the content of a recording, or of the code and defaults of a function. A function
whose code is not all of it (a closure, a method, a callable object, an array as a default) gets a new version each
time, so that its results are never reused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import datasets, names
from harness.datasets.entry import Entry, version_of
from harness.datasets.own import own_protocols
from harness.features import controls
from harness.features.controls import Control
from harness.plugins import Plugin
from harness.protocol import Protocol, content_hash
from harness.records import Dataset

if TYPE_CHECKING:
    from harness.loading.in_memory import InMemory


def several(given: Any) -> list[Any]:
    """What was given, as a list; a list or tuple of names or objects is several, (model, tokenizer) is one."""
    if isinstance(given, list) or (isinstance(given, tuple) and not _is_pair(given)):
        return list(given)
    return [given]


def _is_pair(given: tuple[Any, ...]) -> bool:
    return len(given) == 2 and hasattr(given[0], "config") and hasattr(given[1], "save_pretrained")


# --- models -----------------------------------------------------------------------------------------------------------


def models(given: Any, folder: Path) -> tuple[tuple[str, ...], dict[str, InMemory]]:
    """Names of the models, and those of them that are in memory.

    Args:
        given: a name, folder or Hub id; (model, tokenizer); a function that returns these two; {name: one of the last
            two}; or a list of any of these.
        folder: where configurations and tokenizers of models in memory are kept.

    Raises:
        ValueError: if two models in memory have one name, or one is not usable (`in_memory.of`).
    """
    named: list[str] = []
    in_memory: dict[str, InMemory] = {}
    for item in several(given):
        for name, model in item.items() if isinstance(item, Mapping) else [("", item)]:
            if isinstance(model, str | os.PathLike):
                named.append(_of_path(name, model))
                continue
            own = _in_memory(model, folder / str(len(named)), name)
            if own.checkpoint.name in named:
                raise ValueError(f"two models are called {own.checkpoint.name!r}; give {{name: (model, tokenizer)}}.")
            named.append(own.checkpoint.name)
            in_memory[own.checkpoint.name] = own
    if not named:
        raise ValueError("no model was given; give at least one.")
    return tuple(named), in_memory


def _of_path(name: str, model: str | os.PathLike[str]) -> str:
    if name:
        raise ValueError(f"{name!r}: only models in memory can be named; a model given as {model!r} has its own name.")
    return os.fspath(model)


def _in_memory(model: Any, folder: Path, name: str) -> InMemory:
    from harness.loading import in_memory

    if isinstance(model, FunctionType):
        model = model()
    if not isinstance(model, tuple | list) or len(model) != 2:
        raise ValueError(
            f"a model is a {type(model).__name__}; give a name, a folder, a Hub id, or (model, tokenizer) of "
            "transformers."
        )
    return in_memory.of(model[0], model[1], folder, name)


# --- recordings -------------------------------------------------------------------------------------------------------


def entries(given: Any, folder: Path) -> dict[str, Entry]:
    """The data sets, by name.

    Args:
        given: a name, "local:FOLDER", a folder as a Path, an `Entry`, a `Dataset`, {table: frame} with the tables of an
            own recording ("stimuli", "responses", ...), or a list of any of these.
        folder: where frames are written to be read.

    Raises:
        ValueError: if a data set is unknown, not valid, or given twice.
    """
    found: dict[str, Entry] = {}
    for number, item in enumerate(several(given)):
        for entry in _entries(item, folder / f"{number}"):
            if entry.name in found:
                raise ValueError(f"two data sets are called {entry.name!r}; give one of them another name.")
            found[entry.name] = entry
    return found


def _entries(given: Any, folder: Path) -> list[Entry]:
    if isinstance(given, str):
        return [datasets.find(name) for name in datasets.expand(given)]
    if isinstance(given, os.PathLike):
        return [datasets.find(f"local:{os.fspath(given)}")]
    if isinstance(given, Mapping):
        return [_of_frames(given, folder)]
    if isinstance(given, Entry):
        return [given]
    if isinstance(given, Dataset):
        return [_of_dataset(given)]
    raise ValueError(f"a data set is a {type(given).__name__}; give a name, a folder, a Dataset or frames.")


def _of_dataset(dataset: Dataset) -> Entry:
    """Entry of a recording in memory, with the protocols of the data set of that name, else those of an own one."""
    contents = [content for content in (dataset.stimuli, dataset.responses, dataset.reading) if content is not None]
    dataset = replace(dataset, version=version_of(*contents))
    kind: Any = "brain" if dataset.responses else "reading" if dataset.reading else "text"
    if datasets.is_known(dataset.name):
        protocols = datasets.find(dataset.name).protocols
    elif kind == "text":
        raise ValueError(f"{dataset.name} has neither responses nor reading times; use harness.surprisal.")
    else:
        protocols = own_protocols.choose(dataset, None, None)
    return Entry(dataset.name, dataset.name, kind, "", lambda _: dataset, protocols, language=dataset.language)


def _of_frames(frames: Mapping[str, Any], folder: Path) -> Entry:
    """Entry of a recording given as the tables of a `local:` folder; "dataset" may hold the content of dataset.json."""
    folder = folder / "recording"
    folder.mkdir(parents=True)
    for table, frame in frames.items():
        if table == "dataset":
            (folder / "dataset.json").write_text(json.dumps(frame))
        elif hasattr(frame, "to_parquet"):
            frame.to_parquet(folder / f"{table}.parquet", index=False)
        else:
            raise ValueError(f"table {table!r} of the recording is a {type(frame).__name__}; give a pandas frame.")
    return datasets.find(f"local:{folder}")


def with_protocols(
    found: Mapping[str, Entry], wanted: Iterable[str | Protocol], metric: str
) -> tuple[dict[str, Plugin], tuple[str, ...]]:
    """The entries with own protocols and an own metric, and the names of the protocols.

    Args:
        found: entries by name.
        wanted: names of protocols, or protocols, which replace those of the same name of every data set.
        metric: name of a metric of brain scores; "" for that of the protocols.

    Raises:
        ValueError: if a name of a protocol is unknown.
    """
    wanted = list(wanted)
    own = {protocol.name: protocol for protocol in wanted if isinstance(protocol, Protocol)}
    named = tuple(dict.fromkeys(item.name if isinstance(item, Protocol) else item for item in wanted))
    known = {protocol.name: None for entry in found.values() for protocol in entry.protocols} | dict.fromkeys(own)
    if not found or not named:
        raise ValueError("no data set or no protocol was given; give at least one of each.")
    for name in named:
        if name not in known:
            raise names.unknown("protocol", name, known)
    plugins = {}
    for entry in found.values():
        protocols = {protocol.name: protocol for protocol in entry.protocols} | own
        if metric and entry.kind == "brain":
            protocols = {name: replace(protocol, metric=metric) for name, protocol in protocols.items()}
        plugins[entry.name] = Plugin(replace(entry, protocols=tuple(protocols.values())), "given")
    return plugins, named


# --- controls and metrics ---------------------------------------------------------------------------------------------


def own_controls(given: Mapping[str, Any]) -> dict[str, Plugin]:
    """Controls by name, each an array of (row, feature), a function of the recording, or a `Control`."""
    return {name: _control(name, value) for name, value in given.items()}


def _control(name: str, value: Any) -> Plugin:
    if name in controls.CONTROLS:
        raise ValueError(f"{name!r} is the name of a built-in control; give yours another.")
    names.require(name)
    if isinstance(value, Control) and value.compute:
        settings = [value.kinds, value.pool, value.row_level, value.one_unit]
        return Plugin(value, f"{_version(value.compute)} {content_hash(settings)[:8]}")
    if callable(value):
        return Plugin(value, _version(value))
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.full(0, np.nan)
    if not array.ndim or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"control {name!r}: wanted finite numbers, an array of (row, feature), or a function; got {value!r:.60}."
        )
    return Plugin(Control(name, "given as an array", ("sentences", "scans", "words"), compute=lambda _: array),
                  _version(array))  # fmt: skip


def metric(given: str | Callable[..., Any] | None) -> tuple[str, dict[str, Plugin]]:
    """Name of a metric, and the metric itself if it was given as a function."""
    if given is None or isinstance(given, str):
        return given or "", {}
    name = getattr(given, "__name__", "")
    if not callable(given) or not name.isidentifier():
        raise ValueError("a metric must be a name, or a named function of predictions and observations.")
    from harness.kernels.metrics import METRICS

    if name in METRICS and METRICS[name] is not given:
        raise ValueError(f"{name!r} is the name of a built-in metric; give your function another.")
    return name, {} if name in METRICS else {name: Plugin(given, _version(given))}


def _version(value: Any) -> str:
    """Version of an array or a function; see the docstring of the module."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(f"{value.shape}".encode() + np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {digest[:16]}"
    if isinstance(value, FunctionType) and not value.__closure__:
        with contextlib.suppress(TypeError):  # a default that JSON cannot represent
            defaults = json.dumps([value.__defaults__, value.__kwdefaults__], sort_keys=True)
            return f"function {content_hash([_code(value.__code__), defaults])[:16]}"
    return f"object {uuid.uuid4().hex[:16]}"


def _code(code: CodeType) -> list[Any]:
    constants = [_code(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames]

"""Data sets, metrics, controls from outside: entry points of installed distributions, and objects given in Python.

A distribution that declares an entry point in one of the `GROUPS` adds to the built-in table of that name, in every
process, Ray's workers included. Names of the built-in tables cannot be replaced by an entry point. Objects given to
`harness.evaluate` are known in its process, while it runs.

Source: https://packaging.python.org/en/latest/specifications/entry-points
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

logger = logging.getLogger(__name__)

Group = Literal["harness.datasets", "harness.metrics", "harness.controls"]
GROUPS: tuple[Group, ...] = ("harness.datasets", "harness.metrics", "harness.controls")


@dataclass(frozen=True)
class Plugin:
    """One object from outside.

    Attributes:
        value: the object.
        version: what distinguishes it from an earlier one of the same name: the distribution and its version, or a hash
            of its content. It enters the keys of stored results.
    """

    value: Any
    version: str


_given: dict[tuple[Group, str], Plugin] = {}


@contextmanager
def given(group: Group, plugins: Mapping[str, Plugin]) -> Iterator[None]:
    """Add objects to a table of this process while the context is open; they precede all others of their names."""
    before = dict(_given)
    _given.update({(group, name): plugin for name, plugin in plugins.items()})
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def find(group: Group, name: str, built_in: Mapping[str, Any]) -> Plugin | None:
    """Look a name up: among given objects, in the built-in table (version ""), then among entry points.

    Raises:
        ValueError: if the entry point of this name cannot be imported; names its distribution.
    """
    if plugin := _given.get((group, name)):
        return plugin
    if name in built_in:
        return Plugin(built_in[name], "")
    return _load(group, name) if name in _installed(group) else None


def known(group: Group, built_in: Mapping[str, Any]) -> list[str]:
    """All names of a table: built-in ones first. Nothing is imported."""
    return list(dict.fromkeys([*built_in, *_installed(group), *(name for kind, name in _given if kind == group)]))


@cache
def _installed(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


@cache
def _load(group: Group, name: str) -> Plugin:
    point = _installed(group)[name]
    origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        return Plugin(point.load(), origin)
    except Exception as error:
        raise ValueError(
            f"{name!r} of {group} cannot be imported from {origin} ({point.value}): {type(error).__name__}: {error}"
        ) from error


def forget() -> None:
    """Look for installed entry points again, after an installation in the same process."""
    _installed.cache_clear()
    _load.cache_clear()

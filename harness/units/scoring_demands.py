"""The forecasts of scores and ceilings of units, or of models and recordings of which only the sizes are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from harness import datasets
from harness.cluster.machines import Cluster
from harness.cluster.placement import RESERVED
from harness.cluster.scoring import ScoringDemand
from harness.datasets.entry import Entry
from harness.features.controls import OASM_WIDTHS
from harness.protocol import Protocol
from harness.records import Dataset, Responses
from harness.scoring import costs, fitting, remedies
from harness.scoring.costs import Experiment
from harness.storage.store import Store
from harness.units import ceiling_units
from harness.units.score_units import ScoreUnit, fits_oasm

# Columns of a control, of which most have one to three and word vectors 300.
_CONTROL = 300


def of_score(
    labels: tuple[str, str], experiments: Sequence[Experiment], protocol: Protocol, shape: tuple[int, int], *,
    has_controls: bool, n_workers: int, available: float,
) -> ScoringDemand:  # fmt: skip
    """Forecast one score.

    Args:
        labels: model and recording.
        experiments: sizes of the recording.
        protocol: as it is scored.
        shape: number of layers, and columns of a layer.
        has_controls: whether unique variance is computed.
        n_workers: GPUs, or cores, over which fits are divided.
        available: main memory in bytes for which advice is given; 0 if unknown.
    """
    forecast = partial(costs.of_score, n_layers=shape[0], width=shape[1], has_controls=has_controls)
    cost, n_neuroids = forecast(experiments, protocol), sum(experiment.n_neuroids for experiment in experiments)
    is_divided = cost.fits.operations >= fitting.LEAST_DIVIDED
    n_pieces = cost.n_layers * len(fitting.cut(n_neuroids, cost.n_layers, n_workers)) if is_divided else 1
    divided, alone = (cost.fits.operations, 0.0) if is_divided else (0.0, cost.fits.operations)
    n_folds = sum(len(experiment.splits) for experiment in experiments)  # predicted beside each other
    alone += cost.rest.operations / (n_folds if cost.rest.operations >= fitting.LEAST_DIVIDED else 1)
    alone += cost.similarity

    def n_bytes(experiments: Sequence[Experiment], protocol: Protocol) -> float:
        return forecast(experiments, protocol).n_bytes

    return ScoringDemand(
        *labels, protocol.name, cost.fits.way, divided, alone, n_pieces, cost.n_bytes,
        _advice(experiments, protocol, n_bytes, available, cost.n_bytes),
    )  # fmt: skip


def of_ceiling(
    recording: str, experiments: Sequence[Experiment], protocol: Protocol, available: float
) -> ScoringDemand:  # fmt: skip
    """Forecast the ceilings of a recording; arguments as in `of_score`."""

    def n_bytes(experiments: Sequence[Experiment], protocol: Protocol) -> float:
        return costs.of_ceiling(experiments, protocol).n_bytes

    cost = costs.of_ceiling(experiments, protocol)
    n_pieces = costs.n_pools(experiments) if cost.operations >= fitting.LEAST_DIVIDED else 1
    return ScoringDemand(
        "", recording, protocol.name, cost.way, 0.0, cost.operations, n_pieces, cost.n_bytes,
        _advice(experiments, protocol, n_bytes, available, cost.n_bytes),
    )  # fmt: skip


def of_units(
    units: Iterable[ScoreUnit], recordings: Mapping[str, Dataset], store: Store, n_workers: int, available: float
) -> dict[str, ScoringDemand]:
    """Forecasts of the scores of brain recordings by unit key, and of ceilings not yet stored by "recording protocol".

    Reading times and texts are scored in seconds and are left out, as are recordings whose folds cannot be made: their
    scores fail with the reason.
    """
    demands: dict[str, ScoringDemand] = {}
    known: dict[tuple[str, str], list[Experiment] | None] = {}
    for unit in units:
        dataset, protocol = recordings[unit.dataset], unit.protocol
        if dataset.responses is None:
            continue
        if (unit.dataset, protocol.hash) not in known:
            known[unit.dataset, protocol.hash] = experiments = _sizes(dataset.responses, protocol)
            if experiments and not ceiling_units.are_stored(dataset, protocol, store):
                demand = of_ceiling(unit.dataset, experiments, protocol, available)
                demands[f"{unit.dataset} {protocol.name}"] = demand
        if not (experiments := known[unit.dataset, protocol.hash]):
            continue
        demands[unit.key] = of_score(
            (unit.source.name, unit.dataset), experiments, protocol, _shape(unit, dataset),
            has_controls=bool(unit.beside), n_workers=n_workers, available=available,
        )  # fmt: skip
    return demands


@dataclass(frozen=True)
class SizedRecording:
    """A recording of which only sizes are needed: its name, and its experiments under each protocol."""

    name: str
    by_protocol: tuple[tuple[Protocol, tuple[Experiment, ...]], ...]


def loaded(entry: Entry, root: str, wanted: Sequence[str]) -> SizedRecording:
    """The sizes of a data set, from its files; none for reading times and texts, which are scored in seconds."""
    responses = datasets.load(entry, root, pinned=False).responses
    if responses is None:
        return SizedRecording(entry.name, ())
    protocols = [protocol for protocol in entry.protocols if protocol.name in wanted]
    return SizedRecording(
        entry.name, tuple((protocol, tuple(costs.of_recording(responses, protocol))) for protocol in protocols)
    )


def parsed(text: str, find: Callable[[str], Entry], wanted: Sequence[str]) -> SizedRecording:
    """The sizes given as NAME:SUBJECTSxROWSxNEUROIDS, with x GROUPS (stories, passages) if known.

    Raises:
        ValueError: if the text has another form, or the data set is unknown or has no such protocol.
    """
    name, _, numbers = text.rpartition(":")
    if not re.fullmatch(r"[0-9]+(x[0-9]+){2,3}", numbers) or not name:
        raise ValueError(
            f"--recording {text!r}: wanted NAME:SUBJECTSxROWSxNEUROIDS, such as lebel2023:3x9000x80000; NAME is a data "
            "set whose protocols are used, and a fourth number the number of stories."
        )
    entry, (n_subjects, n_rows, n_neuroids, *n_groups) = find(name), map(int, numbers.split("x"))
    protocols = [protocol for protocol in entry.protocols if protocol.name in wanted]
    if entry.kind != "brain" or not protocols:
        raise ValueError(
            f"--recording {text!r}: {name} has no responses, or none of the protocols {', '.join(wanted)}."
        )
    return SizedRecording(
        text,
        tuple(
            (protocol, tuple(costs.made_up(n_subjects, n_rows, n_neuroids, protocol, *n_groups)))
            for protocol in protocols
        ),
    )


def of_sizes(
    recording: SizedRecording, shapes: Mapping[str, tuple[int, int]], cluster: Cluster
) -> Iterator[ScoringDemand]:  # fmt: skip
    """Forecast the ceilings of a recording, and the scores of models by name: number of layers and width."""
    available = max((node.memory_bytes for node in cluster.nodes), default=0) * (1 - RESERVED)
    n_workers = cluster.n_gpus or sum(node.n_cpus for node in cluster.nodes)
    for protocol, experiments in recording.by_protocol:
        yield of_ceiling(recording.name, experiments, protocol, available)
        for model, shape in shapes.items():
            yield of_score(
                (model, recording.name), experiments, protocol, shape, has_controls=True, n_workers=n_workers,
                available=available,
            )  # fmt: skip


def _sizes(responses: Responses, protocol: Protocol) -> list[Experiment] | None:
    """The sizes of a recording; None if its folds cannot be made."""
    try:
        return costs.of_recording(responses, protocol)
    except ValueError:
        return None


def _shape(unit: ScoreUnit, dataset: Dataset) -> tuple[int, int]:
    """Number of layers of a unit's source, and columns of a layer."""
    source, checkpoint = unit.source, unit.source.checkpoint
    if source.name == "oasm" and dataset.responses:
        n_columns = len(dataset.responses.row_ids) if fits_oasm(unit.protocol, dataset) else 1
        return len(OASM_WIDTHS), n_columns
    if checkpoint is None:
        return 1, _CONTROL
    n_layers = checkpoint.n_layers + (2 if checkpoint.is_encoder_decoder else 1)
    if source.n_units:
        return 1, source.n_units.of(n_layers * checkpoint.hidden_size)
    return n_layers, checkpoint.hidden_size


def _advice(
    experiments: Sequence[Experiment], protocol: Protocol,
    n_bytes: Callable[[Sequence[Experiment], Protocol], float], available: float, needed: float,
) -> str:  # fmt: skip
    return remedies.advice(experiments, protocol, n_bytes, available) if 0 < available < needed else ""

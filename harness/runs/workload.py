"""What a run consists of, found out before anything runs.

Models are resolved and recordings loaded, so that what is wrong with them is known first; then every score that the
spec asks for is listed as a unit, with the features it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from harness import datasets, names
from harness.checkpoints import checkpoints, pairs
from harness.datasets.entry import Entry, checksum_of
from harness.features import controls
from harness.models import precision, tiny
from harness.protocol import AskedDtype, Protocol, content_hash
from harness.records import Dataset
from harness.spec import EvaluationSpec
from harness.storage.origin import now
from harness.units import quickstart
from harness.units.feature_units import FeatureSource, FeatureUnit
from harness.units.score_units import ScoreUnit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """What did not work: at which station, on what."""

    station: str
    model: str
    dataset: str
    protocol: str
    exception: str
    message: str

    @classmethod
    def of(cls, error: BaseException, station: str, model: str = "", dataset: str = "", protocol: str = "") -> Failure:
        """From an exception, a remote one told by its cause."""
        cause = getattr(error, "cause", None) or error
        said = names.printable(str(cause).strip())
        return cls(station, names.printable(model), dataset, protocol, type(cause).__name__, said)


@dataclass
class Workload:
    """What a run consists of, and what stood in the way of planning it."""

    spec: EvaluationSpec
    sources: list[FeatureSource] = field(default_factory=list)
    recordings: dict[str, Dataset] = field(default_factory=dict)
    protocols: dict[str, dict[str, Protocol]] = field(default_factory=dict)
    scores: list[ScoreUnit] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    started: str = field(default_factory=now)

    @property
    def run(self) -> str:
        """Name of the run: the spec's name and a hash of what was asked for and of the units that come of it."""
        return f"{self.spec.name}-{content_hash([asdict(self.spec), sorted(unit.key for unit in self.scores)])[:8]}"


class ProgressListener:
    """Hears what a run does; the base class hears and says nothing."""

    def planned(self, plan: Workload, pending: list[ScoreUnit]) -> None:
        """The plan is made; `pending` is what the store does not hold."""

    def busy(self, what: str) -> None:
        """Something that is not a unit is going on."""

    def noted(self, model: str, what: str) -> None:
        """Something happened to a model that is not a unit's end: it got its place, it was lost, it waits."""

    def remarked(self, model: str, note: str) -> None:
        """There is something that a user should know of a model's numbers, in a sentence."""

    def finished(self, unit: FeatureUnit | ScoreUnit, seconds: float) -> None:
        """A unit is stored."""

    def found(self, unit: ScoreUnit) -> None:
        """Another driver has stored a unit that this one waited for."""

    def words(self, model: str, n_read: int, n_words: int) -> None:
        """A model has read so many of the words of all corpora."""

    def failed(self, failure: Failure) -> None:
        """A unit, a model or a data set failed."""


def guarded(listener: ProgressListener | None) -> ProgressListener:
    """Wrap a listener so that its exceptions are logged and never end a run."""
    return cast("ProgressListener", _Guarded(listener or ProgressListener()))


class _Guarded:
    def __init__(self, listener: ProgressListener) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Callable[..., None]:
        call = getattr(self._listener, name)

        def guarded(*arguments: Any) -> None:
            try:
                call(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever a listener does
                logger.warning("%s could not be shown: %s", name, names.printable(f"{type(error).__name__}: {error}"))

        return guarded


def make_workload(
    spec: EvaluationSpec, out: str, data_root: str | None, *, pinned: bool = True, allow_pickle: bool = False
) -> Workload:
    """Resolve the models, load the recordings and list the units; what cannot be had becomes a failure."""
    plan = Workload(spec)
    plan.sources = [*_models(plan, out, allow_pickle), *_controls(spec)]
    for name in dict.fromkeys(member for group in spec.datasets for member in datasets.expand(group)):
        root = quickstart.folder_of(out) if name.startswith("synthetic") else data_root or "."
        try:
            _add_recording(plan, datasets.find(name), root, pinned)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one recording, the others go on
            plan.failures.append(Failure.of(error, "datasets", dataset=name))
    plan.scores = list(_score_units(plan))
    return plan


def _add_recording(plan: Workload, entry: Entry, root: str | Path, pinned: bool) -> None:
    """Recordings and their protocols go by the name in the tables, which of a "local:FOLDER" is another one."""
    if entry.name in plan.recordings:
        raise ValueError(f"two data sets are called {entry.name!r}; give one of them a `name` in its dataset.json.")
    plan.recordings[entry.name] = datasets.load(entry, root, pinned=pinned)
    plan.protocols[entry.name] = {protocol.name: protocol for protocol in entry.protocols}


_UNKNOWN = frozenset({"UnknownModelError", "NotOnHubError"})


def require_known(plan: Workload) -> None:
    """Raise ValueError, with the nearest names, where the name of a model is not known."""
    unknown = [failure for failure in plan.failures if failure.exception in _UNKNOWN]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{unknown[0].message}{more} Nothing was computed; --keep-going computes what is left without such models."
        )


def require_model_and_data(plan: Workload) -> None:
    """Raise where there is no model or no recording at all.

    Raises:
        ValueError: that says why the first cannot be had.
    """
    has_models = any(source.kind == "model" for source in plan.sources)
    if (plan.spec.models and not has_models) or not plan.recordings:
        what, station = ("recording", "datasets") if has_models or not plan.spec.models else ("model", "models")
        said = next((f": {failure.message}" for failure in plan.failures if failure.station == station), ".")
        raise ValueError(f"no {what} of those asked for can be had, so nothing was computed{said}")


def require_files(spec: EvaluationSpec) -> None:
    """Raise FileNotFoundError where a file that a control needs is named and not there."""
    for file in filter(None, (spec.vectors, spec.corpus)):
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} is no file; give the vectors or the corpus of a control by its path.")


def _controls(spec: EvaluationSpec) -> Iterator[FeatureSource]:
    """The controls, without those whose file is not given.

    The revision is by all of a file's content, each time: a second for a gigabyte, which is less than reading it costs.
    """
    for name in spec.controls:
        needs = controls.find(name).needs
        file = getattr(spec, needs) if needs else ""
        if file or not needs:
            revision = checksum_of(Path(file), "sha256").replace(":", "-")[:23] if file else ""
            yield FeatureSource(name, "control", revision, spec.seed, file=str(Path(file).absolute()) if file else "")


def _models(plan: Workload, out: str, allow_pickle: bool) -> Iterator[FeatureSource]:
    found: dict[str, checkpoints.Checkpoint] = {}
    names = checkpoints.names_of(dict.fromkeys(plan.spec.models))
    for name in names:
        where = str(quickstart.folder_of(out) / name) if name in tiny.MODELS else name
        try:
            checkpoint = checkpoints.resolve(where, names[name], allow_pickle=allow_pickle)
            precision.dtype_of(checkpoint.family, checkpoint.stack, checkpoint.n_parameters, plan.spec.dtype)
            _require_other_name(checkpoint, found)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one model, the others go on
            plan.failures.append(Failure.of(error, "models", model=names[name]))
        else:
            found[checkpoint.name] = checkpoint
    for checkpoint in pairs.pair(found.values()):
        yield FeatureSource(checkpoint.name, "model", checkpoint.revision, plan.spec.seed, checkpoint)
        for variant in plan.spec.variants:
            if variant != "chat" or checkpoints.has_chat_template(checkpoint):
                name = f"{checkpoint.name}:{variant}"
                yield FeatureSource(name, variant, checkpoint.revision, plan.spec.seed, checkpoint)


def _require_other_name(checkpoint: checkpoints.Checkpoint, found: dict[str, checkpoints.Checkpoint]) -> None:
    """Two checkpoints of one name could not be told apart in the tables; the same one given twice is no harm."""
    other = found.get(checkpoint.name)
    if other and other.revision != checkpoint.revision:
        raise ValueError(
            f"{checkpoint.folder} and {other.folder} are both called {checkpoint.name!r}; rename a folder."
        )


def _score_units(plan: Workload) -> Iterator[ScoreUnit]:
    for name, dataset in plan.recordings.items():
        known = plan.protocols[name]
        for protocol in (known[wanted] for wanted in plan.spec.protocols if wanted in known):
            beside = _beside(plan, dataset)
            for source in plan.sources:
                if source.checkpoint is None and not controls.applies(source.name, dataset):
                    continue
                features = feature_unit(source, dataset, protocol, plan.spec.dtype) if source.checkpoint else None
                held_against = beside if features else ()
                yield ScoreUnit(source, name, dataset.version, protocol, plan.spec.seed, features, held_against)


def _beside(plan: Workload, dataset: Dataset) -> tuple[FeatureSource, ...]:
    """The controls beyond which a model's variance is unique: all that apply to a recording but noise."""
    if dataset.responses is None:
        return ()
    known = [source for source in plan.sources if source.kind == "control" and source.name != "random"]
    return tuple(source for source in known if controls.applies(source.name, dataset))


def feature_unit(
    source: FeatureSource, dataset: Dataset, protocol: Protocol, asked: AskedDtype = "auto"
) -> FeatureUnit:
    """What a model must read for a data set: states for responses, surprisals for reading times.

    A decoder gives the surprisals of a recording's stimuli in the pass that gives its states; T5 would need a second,
    and an encoder has none.
    """
    assert source.checkpoint is not None  # noqa: S101 - controls read nothing
    brain = dataset.responses is not None
    surprisals = not brain or source.checkpoint.stack == "decoder"
    dtype = precision.dtype_of(source.checkpoint.family, source.checkpoint.stack, source.checkpoint.n_parameters, asked)
    if dtype == "int8" and source.kind == "untrained":  # its weights are drawn, not measured
        dtype = "bfloat16"
    return FeatureUnit(source, dataset.stimuli, protocol, states=brain, surprisals=surprisals, dtype=dtype)

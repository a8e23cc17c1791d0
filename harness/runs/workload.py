"""The workload of a run: its models, recordings and score units, determined before anything runs.

Models are resolved and recordings loaded first, so that faulty ones are reported early. Then every score that the spec
requires is listed as a unit, with the features it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from harness import datasets, names
from harness.checkpoints import checkpoints, pairs
from harness.cluster.scoring import ScoringDemand
from harness.datasets.entry import Entry, checksum_of
from harness.features import controls
from harness.models import precision, tiny
from harness.protocol import AskedDtype, Protocol, content_hash
from harness.records import Dataset
from harness.spec import EvaluationSpec
from harness.storage.origin import now
from harness.text import localiser_texts
from harness.text.localiser_texts import Contrast
from harness.units import quickstart
from harness.units.feature_units import FeatureSource, FeatureUnit
from harness.units.localiser_units import LocaliserUnit
from harness.units.score_units import ScoreUnit
from harness.variants import UnitCount

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Something that failed: the stage, the model, data set and protocol, and the exception."""

    stage: str
    model: str
    dataset: str
    protocol: str
    exception: str
    message: str

    @classmethod
    def of(cls, error: BaseException, stage: str, model: str = "", dataset: str = "", protocol: str = "") -> Failure:
        """Make a failure from an exception; a Ray exception is replaced by its cause."""
        cause = getattr(error, "cause", None) or error
        message = names.printable(str(cause).strip())
        return cls(stage, names.printable(model), dataset, protocol, type(cause).__name__, message)


@dataclass
class Workload:
    """The units of a run, their sources and recordings, and the failures found while listing them.

    `forecasts` are those of pending scores by unit key, and of ceilings by "recording protocol".
    """

    spec: EvaluationSpec
    sources: list[FeatureSource] = field(default_factory=list)
    recordings: dict[str, Dataset] = field(default_factory=dict)
    protocols: dict[str, dict[str, Protocol]] = field(default_factory=dict)
    scores: list[ScoreUnit] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    forecasts: dict[str, ScoringDemand] = field(default_factory=dict)
    started: str = field(default_factory=partial(now, "milliseconds"))

    @property
    def run(self) -> str:
        """Name of the run: the spec's name and a hash of the spec and the keys of its score units."""
        return f"{self.spec.name}-{content_hash([self.spec.content, sorted(unit.key for unit in self.scores)])[:8]}"


class ProgressListener:
    """Receives the progress of a run; the base class ignores it."""

    def planned(self, workload: Workload, pending: list[ScoreUnit]) -> None:
        """Called when the workload is known; `pending` are the score units that the store does not hold."""

    def forecast(self, scoring: Sequence[ScoringDemand]) -> None:
        """Called with the forecasts of scores and ceilings before they are computed."""

    def ceiling(self, dataset: str, protocol: str, n_done: int, n_pools: int) -> None:
        """Called when `n_done` of the `n_pools` pools of subjects of a ceiling have predicted the other subjects."""

    def busy(self, activity: str) -> None:
        """Called when work other than a unit starts, such as assembling tables."""

    def noted(self, model: str, state: str) -> None:
        """Called when the state of a model changes, such as waiting for resources or a lost actor."""

    def remarked(self, model: str, note: str) -> None:
        """Called with a note, in a sentence, that users of a model's scores should know."""

    def finished(self, unit: FeatureUnit | LocaliserUnit | ScoreUnit, seconds: float) -> None:
        """Called when this driver has stored a unit."""

    def found(self, unit: ScoreUnit) -> None:
        """Called when another driver has stored a unit that this driver waited for."""

    def words(self, model: str, n_read: int, n_words: int) -> None:
        """Called when a model has processed `n_read` of the `n_words` words of all corpora."""

    def failed(self, failure: Failure) -> None:
        """Called when a unit, a model or a data set failed."""


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
            except Exception as error:  # noqa: BLE001 - any fault of a listener
                logger.warning("%s could not be shown: %s", name, names.printable(f"{type(error).__name__}: {error}"))

        return guarded


def make_workload(
    spec: EvaluationSpec, out: str, data_root: str | None, *, pinned: bool = True, allow_pickle: bool = False,
    in_memory: Mapping[str, checkpoints.Checkpoint] = MappingProxyType({}),
) -> Workload:  # fmt: skip
    """Resolve the models, load the recordings and list the score units.

    Models and recordings that cannot be loaded become failures of the workload.

    Args:
        spec: the evaluation.
        out: folder or URL of units and tables, where the quickstart's models and recordings are.
        data_root: folder of the recordings.
        pinned: whether recordings must match the published checksums.
        allow_pickle: whether models with pickled weights only are accepted.
        in_memory: models of the spec that need not be resolved, by name.
    """
    workload = Workload(spec)
    workload.sources = [*_models(workload, out, allow_pickle, in_memory), *_controls(spec)]
    for name in dict.fromkeys(member for group in spec.datasets for member in datasets.expand(group)):
        root = quickstart.folder_of(out) if name.startswith("synthetic") else data_root or "."
        try:
            _add_recording(workload, datasets.find(name), root, pinned)
        except Exception as error:  # noqa: BLE001 - the other recordings go on
            workload.failures.append(Failure.of(error, "datasets", dataset=name))
    workload.scores = list(_score_units(workload))
    return workload


def _add_recording(workload: Workload, entry: Entry, root: str | Path, pinned: bool) -> None:
    """Load a recording. It is listed by its name in the tables, which for "local:FOLDER" is not that string."""
    if entry.name in workload.recordings:
        raise ValueError(f"two data sets are called {entry.name!r}; give one of them a `name` in its dataset.json.")
    workload.recordings[entry.name] = datasets.load(entry, root, pinned=pinned)
    workload.protocols[entry.name] = {protocol.name: protocol for protocol in entry.protocols}


_UNKNOWN = frozenset({"UnknownModelError", "NotOnHubError"})


def require_known(workload: Workload) -> None:
    """Raise ValueError, with the nearest names, if the name of a model is unknown."""
    unknown = [failure for failure in workload.failures if failure.exception in _UNKNOWN]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(f"{unknown[0].message}{more} Nothing was computed; use --keep-going to run the other models.")


def require_model_and_data(workload: Workload) -> None:
    """Check that at least one model and one recording could be loaded.

    Raises:
        ValueError: if not, with the reason for the first of them.
    """
    has_models = any(source.kind == "model" for source in workload.sources)
    if (workload.spec.models and not has_models) or not workload.recordings:
        kind, stage = ("recording", "datasets") if has_models or not workload.spec.models else ("model", "models")
        reason = next((f": {failure.message}" for failure in workload.failures if failure.stage == stage), ".")
        raise ValueError(f"none of the requested {kind}s could be loaded, so nothing was computed{reason}")


def require_files(spec: EvaluationSpec) -> None:
    """Raise FileNotFoundError if the file given for a control or the localiser does not exist."""
    for file in filter(None, (spec.vectors, spec.corpus)):
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist; give the path of the file with --vectors or --corpus.")
    if spec.localise:
        localiser_texts.load(spec.localiser)


def _controls(spec: EvaluationSpec) -> Iterator[FeatureSource]:
    """Yield the controls, without those whose file is not given.

    The revision is a hash of the whole file, computed at each run: about a second per gigabyte, less than reading it.
    """
    for name in spec.controls:
        control = controls.find(name)
        needs = control.needs
        file = getattr(spec, needs) if needs else ""
        if file or not needs:
            revision = checksum_of(Path(file), "sha256").replace(":", "-")[:23] if file else control.version
            yield FeatureSource(name, "control", revision, spec.seed, file=str(Path(file).absolute()) if file else "")


def _models(
    workload: Workload, out: str, allow_pickle: bool, in_memory: Mapping[str, checkpoints.Checkpoint]
) -> Iterator[FeatureSource]:
    """Resolve the models and yield them with their variants; those that fail become failures of the workload."""
    resolved: dict[str, checkpoints.Checkpoint] = {}
    contrast = localiser_texts.load(workload.spec.localiser) if workload.spec.localise else None
    names = checkpoints.names_of(dict.fromkeys(workload.spec.models))
    for name in names:
        location = str(quickstart.folder_of(out) / name) if name in tiny.MODELS else name
        try:
            checkpoint = in_memory.get(name) or checkpoints.resolve(location, names[name], allow_pickle=allow_pickle)
            precision.dtype_of(checkpoint.family, checkpoint.stack, checkpoint.n_parameters, workload.spec.dtype)
            _require_unique_name(checkpoint, resolved)
        except Exception as error:  # noqa: BLE001 - the other models go on
            workload.failures.append(Failure.of(error, "models", model=names[name]))
        else:
            resolved[checkpoint.name] = checkpoint
    for checkpoint in pairs.pair(resolved.values()):
        yield FeatureSource(checkpoint.name, "model", checkpoint.revision, workload.spec.seed, checkpoint)
        for variant in workload.spec.variants:
            if variant != "chat" or checkpoints.has_chat_template(checkpoint):
                name = f"{checkpoint.name}:{variant}"
                yield FeatureSource(name, variant, checkpoint.revision, workload.spec.seed, checkpoint)
        for condition in workload.spec.conditions:
            name = f"{checkpoint.name}:condition-{condition.name}"
            yield FeatureSource(
                name, "condition", checkpoint.revision, workload.spec.seed, checkpoint, condition=condition
            )
        yield from _chosen_units(workload.spec, checkpoint, contrast)


def _chosen_units(
    spec: EvaluationSpec, checkpoint: checkpoints.Checkpoint, contrast: Contrast | None
) -> Iterator[FeatureSource]:
    """Yield the localised units of a model, of its untrained control, and random ones, in each requested number."""
    for text in spec.localise:
        count = UnitCount(text)
        source = FeatureSource(
            f"{checkpoint.name}:localised-{count.label}", "localised", checkpoint.revision, spec.seed, checkpoint,
            n_units=count, contrast=contrast,
        )  # fmt: skip
        yield source
        if "untrained" in spec.variants:
            name = f"{checkpoint.name}:untrained-localised-{count.label}"
            yield replace(source, name=name, kind="untrained localised")
        for draw in range(spec.random_draws):
            name = f"{checkpoint.name}:random-units-{count.label}" + (f"-{draw + 1}" if draw else "")
            yield replace(source, name=name, kind="random units", seed=spec.seed + draw)


def _require_unique_name(checkpoint: checkpoints.Checkpoint, resolved: dict[str, checkpoints.Checkpoint]) -> None:
    """Raise ValueError if two different checkpoints have the same name; the same checkpoint twice is accepted."""
    other = resolved.get(checkpoint.name)
    if other and other.revision != checkpoint.revision:
        raise ValueError(
            f"{checkpoint.folder} and {other.folder} are both called {checkpoint.name!r}; rename a folder."
        )


def _score_units(workload: Workload) -> Iterator[ScoreUnit]:
    for name, dataset in workload.recordings.items():
        protocols, faulty = workload.protocols[name], _faulty_controls(workload, dataset)
        for protocol in (protocols[wanted] for wanted in workload.spec.protocols if wanted in protocols):
            joint_controls = tuple(source for source in _joint_controls(workload, dataset) if source.name not in faulty)
            for source in workload.sources:
                if source.checkpoint is None and (source.name in faulty or not controls.applies(source.name, dataset)):
                    continue
                if source.n_units and dataset.responses is None:  # surprisals have no units
                    continue
                network = source.network
                features = feature_unit(network, dataset, protocol, workload.spec.dtype) if source.checkpoint else None
                unique_over = joint_controls if features else ()
                yield ScoreUnit(
                    source, name, dataset.version, protocol, workload.spec.seed, features, unique_over,
                    workload.spec.keep if dataset.responses else (), _localiser(source, features),
                )  # fmt: skip


def _faulty_controls(workload: Workload, dataset: Dataset) -> set[str]:
    """Names of controls from outside that cannot be computed, which are failures: models go on without them."""
    faulty = set()
    own = (source for source in workload.sources if source.kind == "control" and controls.find(source.name).compute)
    for source in own:
        compute = controls.features if dataset.responses else controls.reading_predictor
        try:
            if controls.applies(source.name, dataset):
                compute(source.name, dataset, source.seed)
        except Exception as error:  # noqa: BLE001 - any error of a function from outside
            workload.failures.append(Failure.of(error, "controls", source.name, dataset.name))
            faulty.add(source.name)
    return faulty


def _localiser(source: FeatureSource, features: FeatureUnit | None) -> LocaliserUnit | None:
    """Return the localiser of a source of chosen units, which reads its texts as the features are read."""
    if source.contrast is None or features is None:
        return None
    return LocaliserUnit(features.source, source.contrast, features.protocol, features.dtype)


def _joint_controls(workload: Workload, dataset: Dataset) -> tuple[FeatureSource, ...]:
    """Return the controls over which unique variance is computed: all that apply to a recording, except `random`."""
    if dataset.responses is None:
        return ()
    candidates = [source for source in workload.sources if source.kind == "control" and source.name != "random"]
    return tuple(source for source in candidates if controls.applies(source.name, dataset))


def feature_unit(
    source: FeatureSource, dataset: Dataset, protocol: Protocol, requested_dtype: AskedDtype = "auto"
) -> FeatureUnit:
    """Return the features of a model that a data set needs: hidden states for responses, surprisals for reading times.

    For brain recordings a decoder's surprisals are kept too, since the same forward pass yields them; T5 would need a
    second pass, and an encoder has none.
    """
    checkpoint = source.checkpoint
    assert checkpoint is not None  # noqa: S101 - controls have no feature unit
    has_responses = dataset.responses is not None
    surprisals = not has_responses or checkpoint.stack == "decoder"
    dtype = precision.dtype_of(checkpoint.family, checkpoint.stack, checkpoint.n_parameters, requested_dtype)
    if dtype == "int8" and source.kind == "untrained":  # random weights are not quantised
        dtype = "bfloat16"
    return FeatureUnit(source, dataset.stimuli, protocol, states=has_responses, surprisals=surprisals, dtype=dtype)

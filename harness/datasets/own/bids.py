"""Finds the runs of a folder in BIDS style by their file names, and the files that belong to each.

`sub-01/func/sub-01_task-alice_run-01_bold.nii.gz`, with or without a folder `ses-XX`. Names are entities (`sub-01`,
`task-alice`, `run-01`) and a suffix (`bold`). A run is what several subjects heard: its label is task and run, and
session where a subject has the same task and run in several. Surfaces have a file for each hemisphere (`hemi-L`).
EEG, MEG and ECoG lie in folders `eeg`, `meg` and `ieeg` instead of `func`.

Source: Brain Imaging Data Structure 1.10, "File name structure" and "The inheritance principle".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_IMAGES = (".nii.gz", ".nii", ".func.gii", ".dtseries.nii", ".ptseries.nii")
# XCP-D writes means of parcels as `..._seg-Gordon_den-91k_stat-mean_timeseries.ptseries.nii`; earlier `atlas-`.
_MEANS, _ATLAS = "timeseries", {"seg", "atlas"}
_PARENTS = ("sub-*", "sub-*/ses-*")
# Forms of samples that BIDS allows and MNE reads; preprocessed ones have the suffix "raw".
_SAMPLES = (".vhdr", ".edf", ".bdf", ".set", ".fif", ".fif.gz", ".ds", ".con", ".sqd")


class Name(NamedTuple):
    """A file name: entities in order, suffix ("bold"; "" if it has none) and extension (".nii.gz")."""

    entities: dict[str, str]
    suffix: str
    extension: str


class Kind(NamedTuple):
    """A kind of recordings.

    Attributes:
        folders: those of a subject or session that hold them.
        is_file: whether a name is that of a run's file.
        names: how the files are called, for messages.
        key: of dataset.json with their settings.
        entity: that tells apart several files of a run.
    """

    folders: tuple[str, ...]
    is_file: Callable[[Name], bool]
    names: tuple[str, ...]
    key: str
    entity: str


@dataclass(frozen=True)
class Run:
    """One run of one subject.

    Attributes:
        label: what was presented, such as "task-alice_run-01"; the same for all subjects.
        subject: such as "sub-01".
        images: the image or file of samples; of GIfTI, those of both hemispheres, the left one first.
        name: the first image's name, divided.
        folders: folders in which files of the run may lie, the nearest first.
    """

    label: str
    subject: str
    images: tuple[Path, ...]
    folders: tuple[Path, ...]
    name: Name = field(repr=False, compare=False)

    @property
    def file(self) -> Path:
        """The image, or the first one."""
        return self.images[0]

    def find(self, suffix: str, extension: str, *, desc: str = "") -> Path | None:
        """The file of a kind that applies to this run by the inheritance principle; None if there is none.

        Its entities are some of the run's: the nearest folder wins, then the most entities. A TextGrid has no suffix
        and may also be called by the task alone.
        """
        for folder in self.folders:
            fitting = [path for path in _files(folder, extension) if self._owns(path, suffix, desc)]
            if fitting:
                return max(fitting, key=lambda path: len(parse(path.name).entities))
        return None

    def _owns(self, path: Path, suffix: str, desc: str) -> bool:
        name = parse(path.name)
        if not suffix and path.name.partition(".")[0] == self.name.entities.get("task"):
            return True
        own = {**self.name.entities, "desc": desc} if desc else self.name.entities
        return name.suffix == suffix and bool(name.entities or suffix) and name.entities.items() <= own.items()


def parse(file_name: str) -> Name:
    """Divide a file name into entities, suffix and extension."""
    stem, dot, extension = file_name.partition(".")
    parts = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return Name(entities, "" if "-" in parts[-1] else parts[-1], dot + extension)


def _is_bold(name: Name) -> bool:
    """Whether a name is that of one image of a run: not of an echo of several, nor of a phase image.

    GIfTI files of fMRIPrep before version 20.1 and of AFNI have no suffix: `..._space-fsaverage6_hemi-L.func.gii`.
    """
    has_suffix = (
        name.suffix == "bold"
        or (not name.suffix and name.extension == ".func.gii")
        or (name.suffix == _MEANS and name.extension == ".ptseries.nii")
    )
    return has_suffix and name.extension in _IMAGES and name.entities.get("part", "mag") == "mag"


def _is_samples(name: Name) -> bool:
    """Whether a name is that of a run's samples; MNE finds the other parts of a divided file (`split-02`) itself."""
    is_first = int(split) == 1 if (split := name.entities.get("split", "1")).isdigit() else True
    return name.suffix in {"eeg", "meg", "ieeg", "raw"} and name.extension in _SAMPLES and is_first


BOLD = Kind(("func",), _is_bold, ("*_bold.nii.gz", "*_bold.func.gii", "*_bold.dtseries.nii"), "bold", "space")
SENSORS = Kind(
    ("eeg", "meg", "ieeg"), _is_samples, ("*_eeg.vhdr", "*_eeg.edf", "*_eeg.set", "*_meg.fif"), "sensors", "proc"
)


def has_runs(folder: Path, kind: Kind = BOLD) -> bool:
    """Whether a folder has recordings of a kind in BIDS style, or derivatives of such."""
    derived = [f"derivatives/*/{parent}/{name}" for parent in _PARENTS for name in kind.folders]
    return next(_recordings(folder, kind), None) is not None or any(map(any, map(folder.glob, derived)))


def find_runs(folder: Path, derivatives: str, choice: str, notes: list[str], kind: Kind = BOLD) -> tuple[Run, ...]:
    """Find all runs, in order of subject, session, task and run.

    Args:
        folder: root of the BIDS folder.
        derivatives: folder below it with the files to read, such as "derivatives/fmriprep"; "" for the root itself.
        choice: value of the kind's entity in the files to read, and others if needed ("fsLR_den-91k"); "" if a run has
            one file.
        notes: list to which notes on files that are not read are appended.
        kind: of the recordings.

    Raises:
        ValueError: if there is no file, a run has several, or a name has no task.
    """
    source = folder / derivatives
    if not source.is_dir():
        raise ValueError(f"derivatives {derivatives!r} of dataset.json: {source} is not a folder.")
    wanted = parse(f"{kind.entity}-{choice}").entities if choice else {}
    fitting = [path for path in _recordings(source, kind) if wanted.items() <= parse(path.name).entities.items()]
    paths = _chosen(fitting, wanted)
    if not paths:
        raise ValueError(_nothing_found(folder, source, choice, kind))
    notes += _ignored_derivatives(folder, source, kind)
    if without := next((path for path in paths if "task" not in parse(path.name).entities), None):
        raise ValueError(f"{without.name} has no task; wanted sub-XX_task-NAME_run-01{kind.names[0][1:]}.")
    files = _by_run(paths)
    by_run = Counter((_subject(path), _label(parse(path.name), with_session=False)) for path, *_ in files)
    by_session: dict[tuple[str, str], list[str]] = {}
    for path, *_ in files:
        by_session.setdefault((_subject(path), _label(parse(path.name), with_session=True)), []).append(path.name)
    for (subject, label), names in by_session.items():
        if len(names) > 1:
            raise ValueError(
                f"{subject} has {len(names)} files of {label}: {', '.join(names[:3])}; keep one, or choose by "
                f'"{kind.entity}" of "{kind.key}" in dataset.json.'
            )
    with_session = max(by_run.values()) > 1
    return tuple(_run(paths_of_run, source, folder, with_session=with_session) for paths_of_run in files)


def _nothing_found(folder: Path, source: Path, choice: str, kind: Kind) -> str:
    """The message that a folder has no recordings of a kind, with where others are."""
    others = sorted({
        label for path in _recordings(source, kind) if (label := parse(path.name).entities.get(kind.entity))
    })  # fmt: skip
    has = ", ".join(others) or f"none with a {kind.entity}"
    hint = f" of {kind.entity} {choice!r}; there is {has}" if choice else ""
    other = ", ".join(str(path.relative_to(folder)) for path in sorted(folder.glob("derivatives/*/")))
    *most, last = kind.names
    return f"{source} has no sub-XX/{kind.folders[0]}/{', '.join(most)} or {last}{hint}." + (
        f' To read those of {other}, set "derivatives" of "{kind.key}" in dataset.json.' if other else ""
    )


def _chosen(paths: list[Path], wanted: dict[str, str]) -> list[Path]:
    """Without means of parcels where the images themselves are there too, unless their atlas is asked for."""
    images = [path for path in paths if parse(path.name).suffix != _MEANS]
    return paths if _ATLAS & wanted.keys() or not images else images


def _by_run(paths: list[Path]) -> list[tuple[Path, ...]]:
    """Images in order, those of both hemispheres together."""
    pairs: dict[tuple[Any, ...], tuple[Path, ...]] = {}
    for path in paths:
        name = parse(path.name)
        others = frozenset(item for item in name.entities.items() if item[0] != "hemi")
        key = (path.parent, others, name.suffix, name.extension)
        pairs[key] = (*pairs.get(key, ()), path)
    return list(pairs.values())


def _run(images: tuple[Path, ...], source: Path, root: Path, *, with_session: bool) -> Run:
    name = parse(images[0].name)
    label = _label(name, with_session=with_session)
    return Run(label, _subject(images[0]), images, _folders(images[0], source, root), name)


def _recordings(source: Path, kind: Kind) -> Iterator[Path]:
    """Files of runs of all subjects and sessions, in order."""
    for parent in _PARENTS:
        for folder in sorted(path for name in kind.folders for path in source.glob(f"{parent}/{name}")):
            yield from (path for path in sorted(folder.iterdir()) if kind.is_file(parse(path.name)))


def _subject(path: Path) -> str:
    return next(part for part in reversed(path.parts) if part.startswith("sub-") and "." not in part)


def _label(name: Name, *, with_session: bool) -> str:
    keys = ("ses", "task", "acq", "dir", "run") if with_session else ("task", "acq", "dir", "run")
    return "_".join(f"{key}-{name.entities[key]}" for key in keys if key in name.entities)


def _folders(path: Path, source: Path, root: Path) -> tuple[Path, ...]:
    """Folders of the run from the nearest to the root, in the derivatives and then in the folder itself."""
    own = [folder for folder in path.parents if folder.is_relative_to(source)]
    raw = [root / folder.relative_to(source) for folder in own]
    return tuple(dict.fromkeys([*own, *raw, root / "stimuli"]))


def _files(folder: Path, extension: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{extension}") if path.is_file()) if folder.is_dir() else []


def _ignored_derivatives(folder: Path, source: Path, kind: Kind) -> list[str]:
    """A note on derivatives with recordings that are not those to read."""
    others = [
        path for path in sorted(folder.glob("derivatives/*"))
        if path != source and next(_recordings(path, kind), None)
    ]  # fmt: skip
    return [
        f'{path.relative_to(folder)} is ignored; to read its files, set "derivatives" of "{kind.key}" in dataset.json.'
        for path in others
    ]

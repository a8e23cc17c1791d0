"""Finds the runs of a folder in BIDS style by their file names, and the files that belong to each.

`sub-01/func/sub-01_task-alice_run-01_bold.nii.gz`, with or without a folder `ses-XX`. Names are entities (`sub-01`,
`task-alice`, `run-01`) and a suffix (`bold`). A run is what several subjects heard: its label is task and run, and
session where a subject has the same task and run in several. Surfaces have a file for each hemisphere (`hemi-L`).

Source: Brain Imaging Data Structure 1.10, "File name structure" and "The inheritance principle".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_IMAGES = (".nii.gz", ".nii", ".func.gii", ".dtseries.nii", ".ptseries.nii")
# XCP-D writes means of parcels as `..._seg-Gordon_den-91k_stat-mean_timeseries.ptseries.nii`; earlier `atlas-`.
_MEANS, _ATLAS = "timeseries", {"seg", "atlas"}


class Name(NamedTuple):
    """A file name: entities in order, suffix ("bold"; "" if it has none) and extension (".nii.gz")."""

    entities: dict[str, str]
    suffix: str
    extension: str


@dataclass(frozen=True)
class Run:
    """One run of one subject.

    Attributes:
        label: what was presented, such as "task-alice_run-01"; the same for all subjects.
        subject: such as "sub-01".
        images: the image; of GIfTI, those of both hemispheres, the left one first.
        name: the first image's name, divided.
        folders: folders in which files of the run may lie, the nearest first.
    """

    label: str
    subject: str
    images: tuple[Path, ...]
    folders: tuple[Path, ...]
    name: Name = field(repr=False, compare=False)

    @property
    def bold(self) -> Path:
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


def has_runs(folder: Path) -> bool:
    """Whether a folder has a BOLD image in BIDS style, or is the root of such a folder."""
    return next(_images(folder), None) is not None or next(folder.glob("derivatives/*/sub-*"), None) is not None


def find_runs(folder: Path, derivatives: str, space: str, notes: list[str]) -> tuple[Run, ...]:
    """Find all runs, in order of subject, session, task and run.

    Args:
        folder: root of the BIDS folder.
        derivatives: folder below it with the images to read, such as "derivatives/fmriprep"; "" for the root itself.
        space: entity `space` of the images to read, and others if needed ("fsLR_den-91k"); "" if a run has one image.
        notes: list to which notes on files that are not read are appended.

    Raises:
        ValueError: if there is no image, a run has several, or a name has no task.
    """
    source = folder / derivatives
    if not source.is_dir():
        raise ValueError(f"derivatives {derivatives!r} of dataset.json: {source} is not a folder.")
    wanted = parse(f"space-{space}").entities if space else {}
    paths = _chosen([path for path in _images(source) if wanted.items() <= parse(path.name).entities.items()], wanted)
    if not paths:
        others = sorted({label for path in _images(source) if (label := parse(path.name).entities.get("space"))})
        hint = f" of space {space!r}; there is {', '.join(others) or 'none with a space'}" if space else ""
        other = ", ".join(str(path.relative_to(folder)) for path in sorted(folder.glob("derivatives/*/")))
        raise ValueError(
            f"{source} has no sub-XX/func/*_bold.nii.gz, *_bold.func.gii or *_bold.dtseries.nii{hint}."
            + (f' To read those of {other}, set "derivatives" of "bold" in dataset.json.' if other else "")
        )
    notes += _ignored_derivatives(folder, source)
    if without := next((path for path in paths if "task" not in parse(path.name).entities), None):
        raise ValueError(f"{without.name} has no task; wanted sub-XX_task-NAME_run-01_bold.nii.gz.")
    images = _by_run(paths)
    by_run = Counter((_subject(path), _label(parse(path.name), with_session=False)) for path, *_ in images)
    by_session: dict[tuple[str, str], list[str]] = {}
    for path, *_ in images:
        by_session.setdefault((_subject(path), _label(parse(path.name), with_session=True)), []).append(path.name)
    for (subject, label), names in by_session.items():
        if len(names) > 1:
            raise ValueError(
                f"{subject} has {len(names)} images of {label}: {', '.join(names[:3])}; keep one, or choose by "
                '"space" of "bold" in dataset.json.'
            )
    with_session = max(by_run.values()) > 1
    return tuple(_run(paths_of_run, source, folder, with_session=with_session) for paths_of_run in images)


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


def _images(source: Path) -> Iterator[Path]:
    """BOLD images of all subjects and sessions, in order."""
    for pattern in ("sub-*/func", "sub-*/ses-*/func"):
        for folder in sorted(source.glob(pattern)):
            yield from (path for path in sorted(folder.iterdir()) if _is_bold(parse(path.name)))


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


def _ignored_derivatives(folder: Path, source: Path) -> list[str]:
    """A note on derivatives with images that are not those to read."""
    others = [path for path in sorted(folder.glob("derivatives/*")) if path != source and next(_images(path), None)]
    return [
        f'{path.relative_to(folder)} is ignored; to read its images, set "derivatives" of "bold" in dataset.json.'
        for path in others
    ]

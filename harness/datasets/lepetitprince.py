"""Le Petit Prince: fMRI of English, French and Chinese listeners to the whole book, each in their own language.

Li et al. (2022), Scientific Data 9, 530; OpenNeuro ds003643, CC0. 49 English, 28 French and 35 Chinese participants,
one audiobook per language in nine sections of about ten minutes, scans of 2 s. One data set per language, read from
`derivatives/sub-EN057/func/sub-EN057_task-lppEN_run-15_space-MNIColin27_desc-preproc_bold.nii.gz` and its like, and
from `annotation/EN/lppEN_word_information.csv` (columns word, onset, offset, section).

A mask or an atlas has to be added, since whole brains (486,180 voxels) of all subjects do not fit into memory:
`ds003643/mask.nii.gz` (every voxel is a neuroid) or `ds003643/atlas.nii.gz` (means of parcels, named by `atlas.tsv`),
on the grid of the images (73 x 90 x 74 voxels of 2 mm), as for a user's own images (harness/datasets/README.md).

Sections: files are numbered as they were scanned, from another number in each subject; in order, they are the nine
sections. So a subject's folder must have all nine names; a name without content (a link of datalad) is a section that
is not read. Every image must have the number of scans that the data set's README states for its section.

Clock: the preprocessed images begin with the sound: the first four volumes of a run, 8 s before the sound, are already
removed. Scan k of a section is thus at 2 k s of the sound and of the words, as in the authors' own analysis
(Bonnasse-Gahot & Pallier 2024, github.com/l-bg/llms_brain_lateralization). The README's remark that the Chinese extra
scans are "at the audio offset" contradicts its own counts (and the paper's 8 s before the sound) and is not followed.

As in that analysis, drift of periods above 128 s is removed and each section is z-scored; then ten scans at its start
and ten at its end are dropped. Words are as published, without punctuation.

Omitted: rows of the table without a word, and all other annotations. English and Chinese listeners saw three pictures
in section 1, which are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.datasets import blank2014, brennan2016
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.own import bids, bold
from harness.datasets.own.bids import Run
from harness.datasets.own.bold import Block
from harness.datasets.own.images import Bold
from harness.datasets.own.settings import BoldSettings
from harness.datasets.own.words import Words, stimuli_of
from harness.protocol import equal_dimension
from harness.records import Dataset

_FOLDER = "ds003643"
_URL = "https://s3.amazonaws.com/openneuro.org/ds003643"
_TR_S, _N_SECTIONS, _N_CUT = 2.0, 9, 10
_COLUMNS = ("word", "onset", "offset", "section")
_OPTIONS = BoldSettings(high_pass_s=128.0, zscore=True)
# Scans of the preprocessed sections 1 to 9, from the README of ds003643.
_N_SCANS = {
    "EN": (282, 298, 340, 303, 265, 343, 325, 292, 368),
    "FR": (309, 326, 354, 315, 293, 378, 332, 294, 336),
    "CN": (283, 322, 322, 307, 293, 392, 364, 293, 401),
}

PAPER = brennan2016.PAPER
STRICT = replace(
    blank2014.STRICT,
    sampling=brennan2016.STRICT.sampling,
    notes=(
        "One of the nine sections is left out at a time, as by Bonnasse-Gahot & Pallier (2024); alpha and layer are "
        "chosen by leaving sections out of the training rows. Features are delayed by 1 to 4 scans.",
        "Differences from them: delays instead of the canonical response of a word's duration; single subjects instead "
        "of their mean; hidden states of the published words, which have no punctuation, instead of the book's text; "
        "alpha per neuroid on all training sections, there one alpha for all voxels on the first training section.",
    ),
)


def load(root: Path, language: str) -> Dataset:
    """Load all subjects of a language under the data root.

    Args:
        root: data root.
        language: "EN", "FR" or "CN", as in the names of the files.

    Returns:
        Words with times, and responses (scan, neuroid); each section is a passage, block and group with its own clock.

    Raises:
        ValueError: if there is no image, mask or atlas, or a file does not have the published form; names the file.
    """
    runs = _find_runs(root / _FOLDER / "derivatives", language)
    bolds = bold.opened(runs)
    words = _read_words(root / _words_file(language))
    blocks = _blocks(bolds, words, language)
    stimuli = stimuli_of({label: words[label] for label in blocks}, "" if language == "CN" else " ")
    responses = bold.read_responses(root / _FOLDER, bolds, blocks, _OPTIONS, unit="", encoding=None, notes=[])
    places = np.concatenate([np.arange(block.n_scans) for block in blocks.values()])
    lengths = np.repeat([block.n_scans for block in blocks.values()], [block.n_scans for block in blocks.values()])
    kept = np.flatnonzero((places >= _N_CUT) & (places < lengths - _N_CUT))
    responses = responses.of(kept, np.arange(len(responses.neuroid_ids)))
    name, code = _NAMES[language], _CODES[language]
    return Dataset(name, version_of(stimuli, responses, code), stimuli, responses, language=code)


def _words_file(language: str) -> str:
    return f"{_FOLDER}/annotation/{language}/lpp{language}_word_information.csv"


def _find_runs(derivatives: Path, language: str) -> list[Run]:
    """All images of a language, labelled by section; ValueError if there is none, or a subject's are incomplete."""
    pattern = f"*_task-lpp{language}_run-*_space-MNIColin27_desc-preproc_bold.nii.gz"
    runs = []
    for folder in sorted(derivatives.glob(f"sub-{language}*")):
        names = {path: bids.parse(path.name) for path in (folder / "func").glob(pattern)}
        in_order = sorted(names, key=lambda path: int(names[path].entities["run"]))
        if not any(path.is_file() for path in in_order):
            continue
        if len(in_order) != _N_SECTIONS:
            raise ValueError(
                f"{folder / 'func'} has {len(in_order)} images {pattern}, wanted {_N_SECTIONS}: the section of a run "
                "is known only by the order of all nine. Get all of a subject, or clone the data set with datalad, "
                "which has all names, and get some."
            )
        runs += [
            Run(f"section{section}", folder.name, (path,), (), names[path])
            for section, path in enumerate(in_order, start=1) if path.is_file()
        ]  # fmt: skip
    if not runs:
        raise ValueError(
            f"{derivatives} has no image sub-{language}XXX/func/{pattern}; get the derivatives with datalad or from "
            "openneuro.org."
        )
    return runs


def _read_words(path: Path) -> dict[str, Words]:
    """The words of each section, in the order of the file."""
    import pandas as pd

    try:
        # As the published code reads it, but "null" and "nan" are words.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); fetch it again.") from error
    if missing := [name for name in _COLUMNS if name not in frame]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(frame)}. Fetch it again.")
    frame = frame[frame["word"].str.strip() != ""]
    numbers = {name: pd.to_numeric(frame[name], errors="coerce") for name in _COLUMNS[1:]}
    for name, column in numbers.items():
        if not (is_number := np.isfinite(column)).all():
            row = frame[~is_number].iloc[0]
            raise ValueError(f"{path.name}: {name} of the word {row['word']!r} is {row[name]!r}, wanted a number.")
    sections = {}
    for section in range(1, _N_SECTIONS + 1):
        rows = (numbers["section"] == section).to_numpy()
        texts = tuple(frame["word"][rows].str.strip())
        if not texts:
            raise ValueError(f"{path.name} has no word of section {section}; fetch it again.")
        onsets, ends = (numbers[name].to_numpy(dtype=np.float64)[rows] for name in ("onset", "offset"))
        sections[f"section{section}"] = Words(texts, onsets, ends, path.name)
    return sections


def _blocks(bolds: dict[Run, Bold], words: Mapping[str, Words], language: str) -> dict[str, Block]:
    """The sections that any subject has, in order, with their words; ValueError if an image has another length."""
    n_scans = {f"section{section}": n for section, n in enumerate(_N_SCANS[language], start=1)}
    file_of = {run.label: run.file.name for run in reversed(bolds)}
    for run, image in bolds.items():
        if image.n_scans != n_scans[run.label]:
            raise ValueError(
                f"{run.file.name} has {image.n_scans} scans, but {run.label} has {n_scans[run.label]}; are files of "
                f"{run.subject} missing or of another release? Fetch them again."
            )
    present = [label for label in n_scans if label in file_of]
    return {label: Block(label, n_scans[label], _TR_S, 0.0, words[label], file_of[label]) for label in present}


_NAMES = {"EN": "lepetitprince-en", "FR": "lepetitprince-fr", "CN": "lepetitprince-zh"}
_CODES = {"EN": "en", "FR": "fr", "CN": "zh"}
# Sizes and checksums of the words, from the keys of the data set's annexed files.
_WORDS = {
    "EN": ("md5:e157ef21efb92a887656eeba8004e569", 1_041_287),
    "FR": ("md5:7e202a048bc9eee76c7c787d6e958218", 912_926),
    "CN": ("md5:582aae73f8d10b9982362b99d7f55919", 981_893),
}


def _entry(language: str, title: str, notes: tuple[str, ...] = ()) -> Entry:
    path, (checksum, n_bytes) = _words_file(language), _WORDS[language]
    return Entry(
        name=_NAMES[language],
        title=title,
        kind="brain",
        licence="CC0",
        load=partial(load, language=language),
        protocols=(PAPER, STRICT, equal_dimension(STRICT)),
        citation="Li, Bhattasali, Zhang, Franzluebbers, Luh, Spreng, Brennan, Yang, Pallier, Hale (2022), Le Petit "
        "Prince multilingual naturalistic fMRI corpus, Scientific Data 9, 530, doi:10.1038/s41597-022-01625-7",
        landing="https://openneuro.org/datasets/ds003643",
        extent=f"{sum(_N_SCANS[language]) - _N_SECTIONS * 2 * _N_CUT:,} x voxels or parcels",
        files=(File(path, f"{_URL}{path.removeprefix(_FOLDER)}", checksum, n_bytes),),
        language=_CODES[language],
        notes=(
            "`harness fetch` gets the words only. Images: `datalad clone "
            "https://github.com/OpenNeuroDatasets/ds003643` and, in that folder, `datalad get "
            f"derivatives/sub-{language}*` (about 0.6 GB a subject). Add mask.nii.gz or atlas.nii.gz (and atlas.tsv) "
            "to the folder, on the grid of the images, resampled by nearest neighbour.",
            *notes,
        ),
    )


ENTRIES = (
    _entry("EN", "Le Petit Prince in English: 49 participants listening to the whole book"),
    _entry("FR", "Le Petit Prince in French: 28 participants listening to the whole book"),
    _entry(
        "CN",
        "Le Petit Prince in Chinese: 35 participants listening to the whole book",
        ("Words are joined without spaces; their frequencies need the extra `cjk`.",),
    ),
)

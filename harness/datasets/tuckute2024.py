"""Tuckute2024: fMRI responses to 1,000 single sentences of six words.

Tuckute et al. (2024), Nature Human Behaviour 8, 544-561; github.com/gretatuckute/drive_suppress_brains, MIT. One file,
`bold_response_LH.csv`, with one row per sentence (items B.1 to B.1000): mean response over 5 participants in five
left-hemisphere language regions and in their network, which is a target of its own and not a region of "all". Voxels
were z-scored by session before averaging.

The file is downloaded from a public repository that has a copy, at a fixed commit; the checksum verifies that it is the
file examined here. The reliability of the participants cannot be computed from their mean: the ceilings are those that
the authors publish (`NC-allroi-data.csv`, printed in full by their notebook of figure 4): correlation of the mean of
these 5 participants with its expectation, from their variance around it (Allen et al. 2022, Nature Neuroscience 25).

`tuckute2024-participants` has the participants one by one: `brain-lang-data_participant_20230728.csv`, read inside the
authors' archive `data.tar` (downloaded from the address in their repository; no checksum is published), 10 participants
by 5 regions and a network. The 1,000 baseline sentences are used (`cond` B); a participant without a sentence has NaN.

`tuckute2024-brainscore` is Brain-Score's assembly: the network's mean over 5 participants, one neuroid, made as
`lang_LH_netw` is (whose maximum, 1.2814, passes Brain-Score's own test of the assembly). Its rows are sorted by item as
text (B.1, B.10, B.100), and random splits are drawn over them, as in Brain-Score.

Omitted: the sentences selected to drive or suppress responses, the linguistic properties of the sentences and the
blocked experiment.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from harness.datasets import pereira2018
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import netcdf
from harness.protocol import FoldRule, equal_dimension
from harness.records import Dataset, Responses, Stimuli

_FILE = "tuckute2024/bold_response_LH.csv"
_COPY = (
    "https://raw.githubusercontent.com/flawreen/LLM2vec/ae89da442fe76ea50ea07b63f525ba367e55486d/bold_response_LH.csv"
)
_ARCHIVE = "tuckute2024/data.tar"
_ARCHIVE_URL = "https://evlabwebapps.mit.edu/public_data/tuckute2024_driving_suppressing/data.tar"
_TABLE = "brain-lang-data_participant_20230728.csv"
_TABLE_COLUMNS = ("item_id", "sentence", "cond", "target_UID", "roi", "response_target")
_BASELINE = "B"
_ASSEMBLY = "tuckute2024/assy_Tuckute2024_language.nc"
_NETWORK = "lang_LH_netw"
_UNIT = "BOLD response, voxels z-scored by session"
# Region -> noise ceiling of the mean of participants 848, 853, 865, 875 and 876, as a correlation.
NOISE_CEILINGS = {
    "lang_LH_AntTemp": 0.45771223, "lang_LH_IFG": 0.45248414, "lang_LH_IFGorb": 0.45220189,
    "lang_LH_MFG": 0.51544540, "lang_LH_PostTemp": 0.57890406, _NETWORK: 0.55915458,
}  # fmt: skip
_CEILING_SOURCE = "published by the authors, from the variance between participants"
COLUMNS = tuple(NOISE_CEILINGS)

PAPER = replace(
    pereira2018.PAPER,
    context="none",
    notes=("Aw et al. (2023) did not use this data set; the protocol is theirs for Pereira2018.",),
)
STRICT = replace(
    pereira2018.STRICT,
    context="none",
    folds=FoldRule("kfold", n=10, seed=0, min_test_rows=10),
    notes=(
        "The sentences are unrelated, so each is its own group: shuffled folds have no group in common, and leaving "
        "out one group of the training rows is leave-one-out.",
    ),
)

BRAINSCORE2026 = replace(
    pereira2018.BRAINSCORE2026,
    context="none",
    folds=PAPER.folds,
    notes=(
        "Brain-Score language's Tuckute2024-ridge of August 2026; sentences are encoded as there. Two differences: "
        "`all` is the median of the five regions, there only the network is scored, here the target `LH network`; the "
        "best layer is used, there each model has a fixed layer. Not compared with Brain-Score's own recording: random "
        "splits are drawn over the rows of this file.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the 1,000 sentences and six neuroids (five regions, and the network with roi "LH network").

    Raises:
        ValueError: if a response is not a number.
    """
    import pandas as pd

    frame = pd.read_csv(root / _FILE, dtype=str, keep_default_na=False)
    ids = tuple(frame["item_id"])
    stimuli = Stimuli(ids=ids, texts=tuple(frame["sentence"]), passages=ids)
    rois = tuple(_roi(name) for name in COLUMNS)
    responses = Responses(
        frame[list(COLUMNS)].to_numpy(dtype=np.float32), ids, ids, ids, COLUMNS, ("group",) * len(COLUMNS), rois, _UNIT
    )
    return _of_group("tuckute2024", stimuli, responses)


def load_participants(root: Path) -> Dataset:
    """Load the baseline sentences and the responses of each participant from the authors' archive.

    Returns:
        1,000 sentences (items in the order B.1, B.2, ...) and responses (1,000, participant x region).

    Raises:
        ValueError: if the archive or its table does not have the published form; names the file and the error.
    """
    path = root / _ARCHIVE
    frame = _baseline(path, _read_table(path))
    items = sorted(set(frame["item_id"]), key=lambda item: (len(item), item))
    text_of = frame.drop_duplicates("item_id").set_index("item_id")["sentence"]
    pairs = [(uid, roi) for uid in sorted(set(frame["target_UID"]), key=int) for roi in COLUMNS]
    wide = frame.pivot(index="item_id", columns=["target_UID", "roi"], values="response_target")
    pairs = [pair for pair in pairs if pair in wide.columns]
    values = wide.reindex(index=items)[pairs].to_numpy(dtype=np.float32)
    ids = tuple(items)
    stimuli = Stimuli(ids, tuple(text_of[items]), ids)
    subjects, names = (tuple(column) for column in zip(*pairs, strict=True))
    neuroids = tuple(f"{uid}.{name}" for uid, name in pairs)
    responses = Responses(values, ids, ids, ids, neuroids, subjects, tuple(map(_roi, names)), _UNIT)
    name = "tuckute2024-participants"
    return Dataset(name, version_of(stimuli, responses), stimuli, responses, rows_in_order=False)


def load_brainscore(root: Path) -> Dataset:
    """Load Brain-Score's assembly: 1,000 sentences in the order of the file, responses (1,000, 1).

    Raises:
        ValueError: if the file does not have the published format; names the file and the error.
    """
    assembly = netcdf.read(root / _ASSEMBLY, ("stimulus_id", "stimulus"), ("neuroid_id", "roi"))
    ids, texts = (tuple(labels.tolist()) for labels in assembly.presentation.values())
    neuroids, rois = (tuple(labels.tolist()) for labels in assembly.neuroid.values())
    stimuli, values = Stimuli(ids, texts, ids), assembly.values.astype(np.float32)
    group = ("group",) * len(neuroids)
    responses = Responses(values, ids, ids, ids, neuroids, group, tuple(map(_roi, rois)), _UNIT)
    return _of_group("tuckute2024-brainscore", stimuli, responses)


def _of_group(name: str, stimuli: Stimuli, responses: Responses) -> Dataset:
    """The data set of the mean over 5 participants, with the published ceilings of its regions."""
    of_roi = {_roi(region): ceiling for region, ceiling in NOISE_CEILINGS.items()}
    ceilings = {neuroid: of_roi[roi] for neuroid, roi in zip(responses.neuroid_ids, responses.rois, strict=True)}
    return Dataset(
        name, version_of(stimuli, responses, str(ceilings)), stimuli, responses, published_ceiling=ceilings,
        ceiling_source=_CEILING_SOURCE, rows_in_order=False,
    )  # fmt: skip


def _roi(name: str) -> str:
    return "LH network" if name == _NETWORK else name.removeprefix("lang_")


def _read_table(path: Path) -> Any:
    """The table of the archive as a data frame of text; nothing is unpacked."""
    import pandas as pd

    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if PurePosixPath(member.name).name == _TABLE and member.isfile()]
            if len(members) != 1:
                raise ValueError(f"{path.name} has {len(members)} files {_TABLE}, wanted 1; fetch it again.")
            # A member that is a file always has a stream.
            frame = pd.read_csv(archive.extractfile(members[0]), dtype=str, keep_default_na=False)  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as the authors' archive ({error}); fetch it again.") from error
    if missing := [name for name in _TABLE_COLUMNS if name not in frame]:
        raise ValueError(f"{_TABLE} has no column {', '.join(missing)}; it has {', '.join(frame)}. Fetch it again.")
    return frame


def _baseline(path: Path, frame: Any) -> Any:
    """Rows of baseline sentences and left language regions with a response, each once, responses as numbers."""
    import pandas as pd

    frame = frame[(frame["cond"] == _BASELINE) & frame["roi"].isin(COLUMNS)].copy()
    frame["response_target"] = pd.to_numeric(frame["response_target"], errors="coerce")
    frame = frame[frame["response_target"].notna()]
    if frame.empty:
        raise ValueError(
            f"{path.name}: no response with cond {_BASELINE!r} and roi {', '.join(COLUMNS)}; fetch it again."
        )
    for columns, value in ((["item_id", "target_UID", "roi"], "response"), (["item_id"], "sentence")):
        rows = frame if value == "response" else frame.drop_duplicates(["item_id", "sentence"])
        if (repeated := rows.duplicated(columns)).any():
            where = ", ".join(f"{name} {rows[repeated].iloc[0][name]}" for name in columns)
            raise ValueError(f"{path.name}: {where} has more than one {value}, wanted one; fetch it again.")
    return frame


ENTRY = Entry(
    name="tuckute2024",
    title="1,000 single sentences: five left-hemisphere language regions and their network, mean of 5 participants",
    kind="brain",
    licence="MIT",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    citation="Tuckute, Sathe, Srikant, Taliaferro, Wang, Schrimpf, Kay, Fedorenko (2024), Driving and suppressing "
    "the human language network using large language models, Nature Human Behaviour 8, 544-561, "
    "doi:10.1038/s41562-023-01783-7",
    landing="https://github.com/gretatuckute/drive_suppress_brains",
    extent="1,000 x 6",
    files=(File(_FILE, _COPY, "sha256:7b794f7efbd2abd76012d629e4f7a19bb758bb0a85a1fae8c50e8fadd52f1e0f", 140_742),),
)
PARTICIPANTS = replace(
    ENTRY,
    name="tuckute2024-participants",
    title="1,000 single sentences: five left-hemisphere language regions and their network, participants one by one",
    load=load_participants,
    extent="",
    files=(File(_ARCHIVE, _ARCHIVE_URL, "", 0),),
)
BRAINSCORE = replace(
    ENTRY,
    name="tuckute2024-brainscore",
    title="1,000 single sentences: left-hemisphere language network, mean of 5 participants, Brain-Score's assembly",
    load=load_brainscore,
    extent="1,000 x 1",
    files=(netcdf.published(_ASSEMBLY, "5c8fc7f3e24cc1af5f5296459377b638b6492641"),),
)
ENTRIES = (ENTRY, PARTICIPANTS, BRAINSCORE)

"""Tuckute2024: fMRI responses to 1,000 single sentences of six words.

Tuckute et al. (2024), Nature Human Behaviour 8, 544-561; github.com/gretatuckute/drive_suppress_brains, MIT. One file,
`bold_response_LH.csv`, with one row per sentence (items B.1 to B.1000): mean response over 5 participants in five
left-hemisphere language regions and in their network, which is a target of its own and not a region of "all". Voxels
were z-scored by session before averaging.

The authors publish the responses of each participant (`brain-lang-data_participant_20230728.csv`, in the archive named
in their repository); this file is the mean. It is downloaded from a public repository that has a copy, at a fixed
commit; the checksum verifies that it is the file examined here.

Omitted: the sentences selected to drive or suppress responses, the other participants, and the linguistic properties of
the sentences. There is no ceiling, because the reliability of the participants cannot be computed from their mean.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.datasets import pereira2018
from harness.datasets.entry import Entry, File, version_of
from harness.protocol import FoldRule, equal_dimension
from harness.records import Dataset, Responses, Stimuli

_FILE = "tuckute2024/bold_response_LH.csv"
_COPY = (
    "https://raw.githubusercontent.com/flawreen/LLM2vec/ae89da442fe76ea50ea07b63f525ba367e55486d/bold_response_LH.csv"
)
_NETWORK = "lang_LH_netw"
COLUMNS = ("lang_LH_AntTemp", "lang_LH_IFG", "lang_LH_IFGorb", "lang_LH_MFG", "lang_LH_PostTemp", _NETWORK)

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
    rois = tuple("LH network" if name == _NETWORK else name.removeprefix("lang_") for name in COLUMNS)
    responses = Responses(
        frame[list(COLUMNS)].to_numpy(dtype=np.float32), ids, ids, ids, COLUMNS, ("group",) * len(COLUMNS), rois,
        unit="BOLD response, voxels z-scored by session",
    )  # fmt: skip
    return Dataset("tuckute2024", version_of(stimuli, responses), stimuli, responses, rows_in_order=False)


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

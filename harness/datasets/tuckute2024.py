"""Tuckute2024: brain responses to 1,000 single sentences of six words.

Tuckute et al. (2024), Nature Human Behaviour 8, 544-561; github.com/gretatuckute/drive_suppress_brains, MIT. One file,
`bold_response_LH.csv`: one row per sentence (item B.1 .. B.1000); the mean over 5 participants of the response in five
left-hemisphere language regions, and in their network. Each voxel was z-scored by session before averaging.

The authors publish the responses of each participant (`brain-lang-data_participant_20230728.csv`, in the archive that
their repository names); this file is their mean. It is fetched from a public repository that holds a copy, at a commit;
the checksum says whether it is the file that was examined here.

Left out: the sentences that drive or suppress, other participants, and the linguistic properties of the sentences. No
ceiling: the mean over participants hides their reliability.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets.entry import Entry, File, version_of
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression, equal_dimension
from harness.records import Dataset, Responses, Stimuli

_FILE = "tuckute2024/bold_response_LH.csv"
_COPY = (
    "https://raw.githubusercontent.com/flawreen/LLM2vec/ae89da442fe76ea50ea07b63f525ba367e55486d/bold_response_LH.csv"
)
_NETWORK = "lang_LH_netw"
COLUMNS = ("lang_LH_AntTemp", "lang_LH_IFG", "lang_LH_IFGorb", "lang_LH_MFG", "lang_LH_PostTemp", _NETWORK)

PAPER = Protocol(
    name="paper",
    context="none",
    folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=Regression("ols", scale="center"),
    layer_choice="max",
    notes=("The paper did not use this set; the protocol is that of its Pereira2018 (METHODS section 2).",),
)
STRICT = Protocol(
    name="strict",
    context="none",
    folds=FoldRule("kfold", n=10, seed=0, min_test_rows=10),
    regression=WIDE_RIDGE,
    layer_choice="nested",
    notes=(
        "The sentences are unrelated and stand alone, so that every sentence is its own group: shuffled folds share "
        "nothing, and leaving out a group within the training rows is leave-one-out.",
    ),
)

BRAINSCORE2026 = Protocol(
    name="brainscore2026",
    context="none",
    folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=BRAINSCORE_RIDGE,
    layer_choice="max",
    metric="brainscore_r",
    notes=(
        "As Brain-Score language's Tuckute2024-ridge of August 2026, but for two things: all six neuroids are scored "
        "where it scores one, and the best layer is taken where a model there comes with its own.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the 1,000 sentences and their six neuroids (five regions, and the network as roi "LH network").

    Raises:
        ValueError: if a response is not a number.
    """
    import pandas as pd

    frame = pd.read_csv(root / _FILE, dtype=str, keep_default_na=False)
    ids = tuple(frame["item_id"])
    stimuli = Stimuli(ids=ids, texts=tuple(frame["sentence"]), passages=ids)
    responses = Responses(
        values=frame[list(COLUMNS)].to_numpy(dtype=np.float32),
        row_ids=ids,
        row_groups=ids,
        row_blocks=ids,
        neuroid_ids=COLUMNS,
        subjects=("group",) * len(COLUMNS),
        rois=tuple("LH network" if name == _NETWORK else name.removeprefix("lang_") for name in COLUMNS),
        unit="BOLD response, voxels z-scored by session",
    )
    return Dataset("tuckute2024", version_of(stimuli, responses), stimuli, responses)


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

"""Futrell2018: how long people look at each word of ten stories (Natural Stories, self-paced reading).

Futrell et al. (2021), github.com/languageMIT/naturalstories, CC BY-NC-SA 4.0 (non-commercial, share-alike). 10 stories,
10,256 words, means over readers in milliseconds (readers with more than 4 correct answers, times of 100-3000 ms).

Two releases by name: 2016 is what the paper scored (the constant of Brain-Score's own test, .00853059, comes out of
it); 2021 corrects an offset by one word in story 3 (812 words, from word 229 on). Means as published.

Left out: the readers themselves (the published means only), and words.tsv, whose word forms differ where the experiment
had typing errors; `all_stories.tok` holds the words as shown.

Sentences are not marked in the published files. They are found here by punctuation: a sentence ends at . ! or ? (quotes
and brackets may follow), but not after "Mr.", nor before a word in lower case ('... are ended!' he announced). This
gives the 481 sentences, hence the 9,775 scored words, of METHODS section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.entry import Entry, File, version_of
from harness.records import Dataset, Floats, ReadingTimes, Stimuli
from harness.spec import FoldRule, Protocol, Regression

_FOLDER = "naturalstories"
_MEANS = {"2016": "processed_wordinfo_2016_d5cbe5aa.tsv", "2021": "processed_wordinfo_2021_HEAD.tsv"}
_CEILING = 0.858
_CEILING_SOURCE = "METHODS section 2: median of 10 random split halves of the readers, Spearman-Brown corrected"

PAPER = Protocol(
    name="paper",
    context="corpus",
    folds=FoldRule("grouped", n=10),
    regression=Regression("ols"),
    layer_choice="max",
    reading="correlation",
    notes=(
        "METHODS section 2: Pearson r of surprisal and mean reading time, sign dropped; first word of a sentence left "
        "out; one growing context over all ten stories, truncated from the left. Folds and regression are not used.",
        "The paper says perplexity, the code uses surprisal in bits. How T5's surprisal was taken is not stated.",
    ),
)
STRICT = Protocol(
    name="strict",
    context="passage",
    folds=FoldRule("grouped", n=10, seed=0, min_test_rows=10),
    regression=Regression("ols"),
    layer_choice="nested",
    reading="regression",
    notes=(
        "METHODS section 2: context starts afresh at each story; gain in held-out log-likelihood over length, "
        "frequency, position and spill-over, and partial r. Ten folds of ten stories: one story is left out.",
    ),
)


def load_2016(root: Path) -> Dataset:
    """The release that the paper scored: word ids "story.word", means in milliseconds."""
    return _load(root, "2016", _CEILING_SOURCE)


def load_2021(root: Path) -> Dataset:
    """The release with story 3 corrected; its ceiling is that of the 2016 release, and says so."""
    return _load(root, "2021", f"{_CEILING_SOURCE}; computed on the 2016 release, none is published for this one")


def _load(root: Path, release: str, ceiling_source: str) -> Dataset:
    stimuli = _read_words(root / _FOLDER / "all_stories.tok")
    starts = sentence_starts(stimuli)
    numbers = np.cumsum(starts)
    reading = ReadingTimes(
        word_ids=stimuli.ids,
        mean_ms=_read_means(root / _FOLDER / _MEANS[release], stimuli),
        sentences=tuple(str(number) for number in numbers),
        scored=~starts,
        release=release,
    )
    return Dataset(
        name=f"futrell2018-{release}",
        version=version_of(stimuli, reading),
        stimuli=stimuli,
        reading=reading,
        published_ceiling=_CEILING,
        ceiling_source=ceiling_source,
    )


def sentence_starts(stimuli: Stimuli) -> NDArray[np.bool_]:
    """(word,) True at the first word of each sentence; the rule is that of the module's docstring."""
    ends = re.compile(r"[.!?]['\")]*\.?$")
    lower = re.compile(r"[^A-Za-z]*[a-z]")
    words = list(zip(stimuli.passages, stimuli.texts, strict=True))
    after = [
        story != story_before or (ends.search(before) is not None and before != "Mr." and lower.match(word) is None)
        for (story_before, before), (story, word) in pairwise(words)
    ]
    return np.array([True, *after])


def _read_words(path: Path) -> Stimuli:
    """Words as shown, in order of presentation; ids "story.word", both from 1; the story is passage and group."""
    frame = _read_table(path)
    stories = tuple(frame["item"])
    ids = tuple(f"{story}.{zone}" for story, zone in zip(stories, frame["zone"], strict=True))
    return Stimuli(ids=ids, texts=tuple(frame["word"]), passages=stories)


def _read_means(path: Path, stimuli: Stimuli) -> Floats:
    """(word,) float64 mean reading time in ms, joined by id; ValueError names a word that is absent or differs."""
    frame = _read_table(path)
    ids = (f"{story}.{zone}" for story, zone in zip(frame["item"], frame["zone"], strict=True))
    rows = dict(zip(ids, zip(frame["word"], frame["meanItemRT"], strict=True), strict=True))
    for word_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        found = rows.get(word_id, ("nothing", ""))[0]
        if found != text:
            raise ValueError(f"{path.name}: word {word_id} is {found!r}, but {text!r} was shown. Fetch the file again.")
    means = [rows[word_id][1] for word_id in stimuli.ids]
    return np.array([np.nan if mean == "NA" else float(mean) for mean in means])


def _read_table(path: Path):  # type: ignore[no-untyped-def]  # pandas is untyped here
    """Every column as text: words such as NA, null or a lone quote are words, not absent values or quoting."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False, dtype=str)


_STORIES = "https://raw.githubusercontent.com/languageMIT/naturalstories"
# The release that the paper scored, and the corrected one of 2021 as it stood in 2025.
_COMMIT = {"2016": "d5cbe5aa3758d551d0c51ca8fc44bde973f0836f", "2021": "4700daad696e942f5aba23c957a7423d0de66612"}
_WORDS = File(
    f"{_FOLDER}/all_stories.tok",
    f"{_STORIES}/{_COMMIT['2021']}/naturalstories_RTS/all_stories.tok",
    "sha256:0e4e9bd4708aaa01d8bea342696bb83cedff679c09184545483f6f3f4ba8aca3",
    119_005,
)


def _entry(release: str, title: str, load: Callable[[Path], Dataset], sha256: str, n_bytes: int) -> Entry:
    means = f"{_STORIES}/{_COMMIT[release]}/naturalstories_RTS/processed_wordinfo.tsv"
    return Entry(
        name=f"futrell2018-{release}",
        title=f"Natural Stories: self-paced reading of 10 stories, means over readers, {title}",
        kind="reading",
        licence="CC BY-NC-SA 4.0",
        load=load,
        protocols=(PAPER, STRICT),
        non_commercial=True,
        citation="Futrell, Gibson, Tily, Blank, Vishnevetsky, Piantadosi, Fedorenko (2021), The Natural Stories "
        "corpus, Language Resources and Evaluation 55(1), 63-77",
        landing="https://github.com/languageMIT/naturalstories",
        extent="10,256 words",
        files=(_WORDS, File(f"{_FOLDER}/{_MEANS[release]}", means, f"sha256:{sha256}", n_bytes)),
    )


ENTRIES = (
    _entry("2016", "release of 2016", load_2016,
           "2feb6bf378d6e77d16626f5cb8bdc6f7deda9672ef2c927f2c79fe00c1106195", 835_542),
    _entry("2021", "corrected release of 2021", load_2021,
           "047d2a0b84eff99d90535d1517f7fa7d466b81fbd60e990f2f08caac04d8aa56", 901_515),
)  # fmt: skip

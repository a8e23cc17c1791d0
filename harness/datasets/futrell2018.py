"""Futrell2018: how long people look at each word of ten stories (Natural Stories, self-paced reading).

Futrell et al. (2021), github.com/languageMIT/naturalstories, CC BY-NC-SA 4.0 (non-commercial, share-alike). 10 stories,
10,256 words, means over readers in milliseconds (readers with more than 4 correct answers, times of 100-3000 ms).

Two releases by name: 2016 is what the paper scored (the constant of Brain-Score's own test, .00853059, comes out of
it); 2021 corrects an offset by one word in story 3 (812 words, from word 229 on). Means as published.

Readers, where they are at hand, give the ceiling. `processed_RTs.tsv` (179 readers) is read beside the means of 2021
where it lies; those of 2016 keep the published .858, which was computed on that release. `futrell2018-batch2` is the
second batch of readers, who read stories 6-10 only, with a mean and a ceiling of their own: the ceiling of 88 readers,
17 to a word (.638), is not that of the published means, 84 to a word over ten stories (.858), and cannot stand for it.
How times and words are brought together: `readers.py`.

Left out: words.tsv, whose word forms differ where the experiment had typing errors; `all_stories.tok` holds the words
as shown.

Sentences are not marked in the published files. They are found here by punctuation (`sentences.py`), with "Mr." as the
only title after which none ends. This gives the 481 sentences, hence the 9,775 scored words, of METHODS section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import natural_stories
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, Floats, ReadingTimes, Stimuli
from harness.text import sentences

_FOLDER = "naturalstories"
_MEANS = {"2016": "processed_wordinfo_2016_d5cbe5aa.tsv", "2021": "processed_wordinfo_2021_HEAD.tsv"}
_STORIES_OF_BATCH2 = ("6", "7", "8", "9", "10")
_CEILING = 0.858
_CEILING_SOURCE = "METHODS section 2: median of 10 random split halves of the readers, Spearman-Brown corrected"

PAPER = Protocol(
    name="paper",
    context="corpus",
    folds=FoldRule("grouped", n=10),
    regression=Regression("ols"),
    layer_choice="max",
    reading="correlation",
    decoder_reads="text",
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
    decoder_reads="text",
    notes=(
        "METHODS section 2: context starts afresh at each story; gain in held-out log-likelihood over length, "
        "frequency, position and spill-over, and partial r. Ten folds of ten stories at most: one story is left out.",
    ),
)


def load_2016(root: Path) -> Dataset:
    """The release that the paper scored: word ids "story.word", means in milliseconds."""
    stimuli = _read_words(root / _FOLDER / "all_stories.tok")
    return _dataset("2016", stimuli, _read_means(root / _FOLDER / _MEANS["2016"], stimuli), _CEILING_SOURCE)


def load_2021(root: Path) -> Dataset:
    """The release with story 3 corrected.

    Its ceiling comes from the readers where `processed_RTs.tsv` is there, whose means must be the published ones; else
    it is that of the 2016 release, and says so.
    """
    stimuli = _read_words(root / _FOLDER / "all_stories.tok")
    mean_ms = _read_means(root / _FOLDER / _MEANS["2021"], stimuli)
    if (path := root / _READERS.path).is_file():
        return _dataset(
            "2021", stimuli, mean_ms, people=natural_stories.read(path, stimuli, mean_ms, natural_stories.SAME)
        )
    return _dataset(
        "2021", stimuli, mean_ms, f"{_CEILING_SOURCE}; computed on the 2016 release, none is published for this one"
    )


def load_batch2(root: Path) -> Dataset:
    """The second batch: stories 6-10, the mean and the ceiling of its own 88 readers (8 or more of them to a word)."""
    every = _read_words(root / _FOLDER / "all_stories.tok")
    published = _read_means(root / _FOLDER / _MEANS["2021"], every)
    rows = np.flatnonzero([story in _STORIES_OF_BATCH2 for story in every.passages])
    ids, texts, stories = (tuple(column[row] for row in rows) for column in (every.ids, every.texts, every.passages))
    stimuli = Stimuli(ids, texts, stories)
    found = natural_stories.read(root / _BATCH2.path, stimuli, published[rows], natural_stories.ALIKE)
    return _dataset("batch2", stimuli, natural_stories.mean_of_readers(found.by_subject_ms), people=found)


def _dataset(
    release: str,
    stimuli: Stimuli,
    mean_ms: Floats,
    ceiling_source: str = "",
    people: natural_stories.Readers | None = None,
) -> Dataset:
    """The published ceiling, with its source, where there are no readers to compute one from."""
    starts = sentence_starts(stimuli)
    stimuli = replace(stimuli, sentences=tuple(str(number) for number in np.cumsum(starts)))
    reading = ReadingTimes(
        word_ids=stimuli.ids,
        mean_ms=mean_ms,
        scored=~starts,
        release=release,
        **(people._asdict() if people else {}),
    )
    published = None if people else _CEILING
    return Dataset(
        f"futrell2018-{release}", version_of(stimuli, reading), stimuli, None, reading, published, ceiling_source
    )


def sentence_starts(stimuli: Stimuli) -> NDArray[np.bool_]:
    """(word,) True at the first word of each sentence of the corpus."""
    return sentences.starts(stimuli.texts, stimuli.passages, titles=("Mr.",))


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


_READERS = File(
    f"{_FOLDER}/processed_RTs.tsv",
    f"{_STORIES}/{_COMMIT['2021']}/naturalstories_RTS/processed_RTs.tsv",
    "",  # not pinned: whatever release it is of, its means must be the published ones
    0,
)
# Made from batch2_pro.csv of the corpus: names of readers replaced; that file itself is read under no name.
_BATCH2 = File(
    f"{_FOLDER}/batch2_rts_by_participant.tsv",
    "",
    "sha256:cdcb392ea80745e9642a597928670d8ed924bd3aaa2bb4373d78b97ce030df2f",
    2_375_504,
)


def _entry(
    release: str,
    title: str,
    load: Callable[[Path], Dataset],
    extent: str,
    *files: File,
    optional: tuple[File, ...] = (),
) -> Entry:
    return Entry(
        name=f"futrell2018-{release}",
        title=f"Natural Stories: self-paced reading of {title}",
        kind="reading",
        licence="CC BY-NC-SA 4.0",
        load=load,
        protocols=(PAPER, STRICT),
        non_commercial=True,
        citation="Futrell, Gibson, Tily, Blank, Vishnevetsky, Piantadosi, Fedorenko (2021), The Natural Stories "
        "corpus, Language Resources and Evaluation 55(1), 63-77",
        landing="https://github.com/languageMIT/naturalstories",
        files=(_WORDS, *files),
        optional=optional,
        extent=extent,
    )


def _means(release: str, sha256: str, n_bytes: int) -> File:
    url = f"{_STORIES}/{_COMMIT[release]}/naturalstories_RTS/processed_wordinfo.tsv"
    return File(f"{_FOLDER}/{_MEANS[release]}", url, f"sha256:{sha256}", n_bytes)


_MEANS_2016 = _means("2016", "2feb6bf378d6e77d16626f5cb8bdc6f7deda9672ef2c927f2c79fe00c1106195", 835_542)
_MEANS_2021 = _means("2021", "047d2a0b84eff99d90535d1517f7fa7d466b81fbd60e990f2f08caac04d8aa56", 901_515)
ENTRIES = (
    _entry("2016", "10 stories, means over readers, release of 2016", load_2016, "10,256 words", _MEANS_2016),
    _entry(
        "2021", "10 stories, means over readers, corrected release of 2021", load_2021, "10,256 words", _MEANS_2021,
        optional=(_READERS,),
    ),
    _entry("batch2", "stories 6-10, 88 readers one by one", load_batch2, "5,055 words", _MEANS_2021, _BATCH2),
)  # fmt: skip

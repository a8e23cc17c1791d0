"""Futrell2018: self-paced reading times of the words of ten stories (Natural Stories).

Futrell et al. (2021), github.com/languageMIT/naturalstories, CC BY-NC-SA 4.0 (non-commercial, share-alike). 10 stories,
10,256 words, mean over readers in milliseconds (readers with more than 4 correct answers, times of 100-3000 ms).

Two releases: 2016 is the one that Aw et al. scored (it reproduces the constant of Brain-Score's own test, 0.00853059);
2021 corrects an offset by one word in story 3 (812 words, from word 229 on). The means are as published.

If times of single readers are available, the ceiling is computed from them: with the means of 2021 from
`processed_RTs.tsv`, with those of 2016 from Brain-Score's `assy_Futrell2018.nc` (180 readers each). Both are optional;
without them the ceiling is the published 0.858, which was computed on the release of 2016.
`futrell2018-batch2` is the second batch of readers, who read stories 6-10 only. It is a data set with its own
mean and ceiling: 88 readers, 17 per word, give 0.638, which does not apply to the published means of 84 readers per
word over ten stories (0.858). Times are aligned with words in `formats/natural_stories.py`.

Omitted: words.tsv, in which words with typing errors in the experiment are spelled differently; `all_stories.tok` has
the words as shown.

Sentences are not marked in the published files. They are detected by punctuation (`harness/text/sentences.py`), with
"Mr." as the only title that does not end a sentence. This gives the 481 sentences, hence 9,775 scored words, of the
paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import natural_stories, netcdf
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, Floats, ReadingTimes, Stimuli
from harness.text import sentences

_FOLDER = "naturalstories"
_MEANS = {"2016": "processed_wordinfo_2016_d5cbe5aa.tsv", "2021": "processed_wordinfo_2021_HEAD.tsv"}
_STORIES_OF_BATCH2 = ("6", "7", "8", "9", "10")
_CEILING = 0.858
_CEILING_SOURCE = "published (Brain-Score): median of 10 random split halves of the readers, Spearman-Brown corrected"

PAPER = Protocol(
    name="paper",
    context="corpus",
    folds=FoldRule("grouped", n=10),
    regression=Regression("ols"),
    layer_choice="max",
    reading="correlation",
    decoder_reads="text",
    notes=(
        "Aw et al. (2023): absolute Pearson r of surprisal and mean reading time, without the first word of each "
        "sentence; one growing context over all ten stories, truncated from the left. Folds and regression are not "
        "used.",
        "The paper says perplexity, its code uses surprisal in bits. How surprisal of T5 was computed is not stated.",
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
    ceiling_curve="reliability",
    notes=(
        "The context restarts at each story. Scores are the gain in held-out log-likelihood over length, frequency, "
        "position and spill-over, and the partial r. With ten folds of ten stories, one story is left out at a time.",
    ),
)


def load_2016(root: Path) -> Dataset:
    """Load the release that Aw et al. scored: word ids "story.word", means in milliseconds.

    If Brain-Score's assembly exists, the ceiling is computed from its readers, whose means must equal the published
    ones. Otherwise it is the published ceiling.
    """
    stimuli = _read_words(root / _FOLDER / "all_stories.tok")
    mean_ms = _read_means(root / _FOLDER / _MEANS["2016"], stimuli)
    if (path := root / _ASSEMBLY.path).is_file():
        return _dataset("2016", stimuli, mean_ms, readers=natural_stories.read_assembly(path, stimuli, mean_ms))
    return _dataset("2016", stimuli, mean_ms, _CEILING_SOURCE)


def load_2021(root: Path) -> Dataset:
    """Load the release in which story 3 is corrected.

    If `processed_RTs.tsv` exists, the ceiling is computed from its readers, whose means must equal the published ones.
    Otherwise the ceiling is that of the 2016 release, which is noted in its source.
    """
    stimuli = _read_words(root / _FOLDER / "all_stories.tok")
    mean_ms = _read_means(root / _FOLDER / _MEANS["2021"], stimuli)
    if (path := root / _READERS.path).is_file():
        readers = natural_stories.read(path, stimuli, mean_ms, natural_stories.MIN_R_ALL)
        return _dataset("2021", stimuli, mean_ms, readers=readers)
    source = f"{_CEILING_SOURCE}; computed on the 2016 release, none is published for this one"
    return _dataset("2021", stimuli, mean_ms, source)


def load_batch2(root: Path) -> Dataset:
    """Load the second batch: stories 6-10, mean and ceiling of its own 88 readers (at least 8 per word)."""
    all_words = _read_words(root / _FOLDER / "all_stories.tok")
    published_ms = _read_means(root / _FOLDER / _MEANS["2021"], all_words)
    rows = np.flatnonzero(np.isin(all_words.passages, _STORIES_OF_BATCH2))
    columns = (all_words.ids, all_words.texts, all_words.passages)
    ids, texts, stories = (tuple(column[row] for row in rows) for column in columns)
    stimuli = Stimuli(ids, texts, stories)
    readers = natural_stories.read(root / _BATCH2.path, stimuli, published_ms[rows], natural_stories.MIN_R_SUBSET)
    return _dataset("batch2", stimuli, natural_stories.mean_of_readers(readers.by_subject_ms), readers=readers)


def _dataset(
    release: str, stimuli: Stimuli, mean_ms: Floats, ceiling_source: str = "",
    readers: natural_stories.Readers | None = None,
) -> Dataset:  # fmt: skip
    """Assemble the data set; it has the published ceiling only if there are no readers to compute one from."""
    starts = sentence_starts(stimuli)
    stimuli = replace(stimuli, sentences=tuple(str(number) for number in np.cumsum(starts)))
    reading = ReadingTimes(stimuli.ids, mean_ms, ~starts, release, *(readers or ()))
    version, ceiling = version_of(stimuli, reading), None if readers else _CEILING
    return Dataset(f"futrell2018-{release}", version, stimuli, None, reading, ceiling, ceiling_source)


def sentence_starts(stimuli: Stimuli) -> NDArray[np.bool_]:
    """(word,) bool, True at the first word of each sentence."""
    return sentences.starts(stimuli.texts, stimuli.passages, titles=("Mr.",))


def _read_words(path: Path) -> Stimuli:
    """Read the words as shown, in order of presentation; ids "story.word", both from 1; passages are the stories."""
    frame = _read_table(path)
    stories = tuple(frame["item"])
    ids = tuple(f"{story}.{zone}" for story, zone in zip(stories, frame["zone"], strict=True))
    return Stimuli(ids=ids, texts=tuple(frame["word"]), passages=stories)


def _read_means(path: Path, stimuli: Stimuli) -> Floats:
    """Read (word,) float64 mean reading times in ms, joined by id; ValueError if a word is missing or differs."""
    frame = _read_table(path)
    ids = (f"{story}.{zone}" for story, zone in zip(frame["item"], frame["zone"], strict=True))
    rows = dict(zip(ids, zip(frame["word"], frame["meanItemRT"], strict=True), strict=True))
    for word_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        word = rows.get(word_id, ("nothing", ""))[0]
        if word != text:
            raise ValueError(f"{path.name}: word {word_id} is {word!r}, but {text!r} was shown. Fetch the file again.")
    means = [rows[word_id][1] for word_id in stimuli.ids]
    return np.array([np.nan if mean == "NA" else float(mean) for mean in means])


def _read_table(path: Path):  # type: ignore[no-untyped-def]  # pandas is untyped here
    """Read all columns as text: NA, null and single quotes are words, not missing values or quoting."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False, dtype=str)


_STORIES = "https://raw.githubusercontent.com/languageMIT/naturalstories"
# The release that Aw et al. scored, and the corrected one of 2021, as of 2025.
_COMMIT = {"2016": "d5cbe5aa3758d551d0c51ca8fc44bde973f0836f", "2021": "4700daad696e942f5aba23c957a7423d0de66612"}


def _published(name: str, original: str, release: str, checksum: str, n_bytes: int) -> File:
    url = f"{_STORIES}/{_COMMIT[release]}/naturalstories_RTS/{original}"
    return File(f"{_FOLDER}/{name}", url, checksum, n_bytes)


_WORDS = _published(
    "all_stories.tok", "all_stories.tok", "2021",
    "sha256:0e4e9bd4708aaa01d8bea342696bb83cedff679c09184545483f6f3f4ba8aca3", 119_005,
)  # fmt: skip
_READERS = _published(
    "processed_RTs.tsv", "processed_RTs.tsv", "2021",
    "sha256:208ee6c451f3827734d5b2de32b91e2cf3bd76aa177c412cb426373fa7d50b22", 0,
)  # fmt: skip
_ASSEMBLY = netcdf.published(f"{_FOLDER}/assy_Futrell2018.nc", "381ccc8038fbdb31235b5f3e1d350f359b5e287f")
_MEANS_2016 = _published(
    _MEANS["2016"], "processed_wordinfo.tsv", "2016",
    "sha256:2feb6bf378d6e77d16626f5cb8bdc6f7deda9672ef2c927f2c79fe00c1106195", 835_542,
)  # fmt: skip
_MEANS_2021 = _published(
    _MEANS["2021"], "processed_wordinfo.tsv", "2021",
    "sha256:047d2a0b84eff99d90535d1517f7fa7d466b81fbd60e990f2f08caac04d8aa56", 901_515,
)  # fmt: skip
# Made from batch2_pro.csv of the corpus by replacing the names of readers; batch2_pro.csv itself is not read.
_BATCH2 = File(
    f"{_FOLDER}/batch2_rts_by_participant.tsv", "",
    "sha256:cdcb392ea80745e9642a597928670d8ed924bd3aaa2bb4373d78b97ce030df2f", 2_375_504,
)  # fmt: skip


def _entry(
    release: str, title: str, load: Callable[[Path], Dataset], extent: str, *files: File,
    optional: tuple[File, ...] = (),
) -> Entry:  # fmt: skip
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


ENTRIES = (
    _entry(
        "2016", "10 stories, means over readers, release of 2016", load_2016, "10,256 words", _MEANS_2016,
        optional=(_ASSEMBLY,),
    ),
    _entry(
        "2021", "10 stories, means over readers, corrected release of 2021", load_2021, "10,256 words", _MEANS_2021,
        optional=(_READERS,),
    ),
    _entry("batch2", "stories 6-10, 88 readers one by one", load_batch2, "5,055 words", _MEANS_2021, _BATCH2),
)  # fmt: skip

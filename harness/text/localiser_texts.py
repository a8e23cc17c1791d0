"""Contrast texts of a language localiser: sentences against lists of non-words, from files or made up here.

The published texts (EvLab; Fedorenko et al. 2010, J Neurophysiol 104; used by AlKhamissi et al. 2024, arXiv 2411.02280,
and by Brain-Score) are 240 sentences and 240 lists of non-words of 12 words each, in ten files called
langloc_fmri_run{1,2}_stim_set{1..5}.csv with the columns stim1 (number), stim2 ... stim13 (words), stim14 (S or N).
They are not part of this program. The built-in texts are made up: sentences by a small grammar, and non-words by
trigrams of its letters. They have the same number of words and are lower-case too, but they are simpler, more alike and
less varied than the published ones.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.delimited.table import DelimitedTable
from harness.protocol import content_hash
from harness.text.frequencies import zipf_frequencies

BUILT_IN = "built-in"
N_TEXTS = 240  # of each condition, as published
_WORDS = tuple(f"stim{k}" for k in range(2, 14))
_SENTENCE = frozenset({"s", "sentence", "sentences"})
_NON_WORDS = frozenset({"n", "nonword", "nonwords"})


@dataclass(frozen=True)
class Contrast:
    """Texts of two conditions.

    Attributes:
        name: file or folder, or "built-in".
        texts: (text,).
        is_sentence: (text,) whether it is a sentence; otherwise it is a list of non-words.
    """

    name: str
    texts: tuple[str, ...]
    is_sentence: tuple[bool, ...]

    def __post_init__(self) -> None:
        n_sentences = sum(self.is_sentence)
        if min(n_sentences, len(self.texts) - n_sentences) < 2:
            raise ValueError(
                f"{self.name} has {n_sentences} sentences and {len(self.texts) - n_sentences} lists of non-words; the "
                "localiser needs two or more of each."
            )

    @property
    def hash(self) -> str:
        """12 hex digits over the texts and their conditions."""
        return content_hash([self.texts, self.is_sentence])[:12]


def load(path: str = "") -> Contrast:
    """Read the contrast texts.

    Args:
        path: CSV or TSV file with the columns text and condition (sentence or non-word), a file of the published form,
            or a folder of such files; "" for the built-in texts.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if a column or condition is missing or unknown; names file and line.
    """
    if not path:
        return built_in()
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path} does not exist; give a file or folder of contrast texts with --localiser.")
    files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.suffix in {".csv", ".tsv"})
    if not files:
        raise ValueError(f"{path} holds no .csv or .tsv file; give the file or folder of the contrast texts.")
    pairs = [pair for file in files for pair in _of_file(file)]
    return Contrast(place.name, tuple(text for text, _ in pairs), tuple(is_sentence for _, is_sentence in pairs))


def _of_file(file: Path) -> list[tuple[str, bool]]:
    content = table.read(TextSource(str(file), None), ("text", "condition", "stim14"))
    columns = set(content.frame.columns)
    if {*_WORDS, "stim14"} <= columns:
        words = zip(*(content.texts(name) for name in _WORDS), strict=True)
        texts, column = [" ".join(row).lower() for row in words], "stim14"
    elif {"text", "condition"} <= columns:
        texts, column = content.texts("text"), "condition"
    else:
        raise ValueError(
            f"{file.name} has the columns {', '.join(map(str, content.frame.columns))}; wanted are text and condition, "
            "or the published stim2 ... stim14."
        )
    labels = content.texts(column)
    return [
        (_text(content, row, text), _is_sentence(content, row, column, labels[row])) for row, text in enumerate(texts)
    ]


def _text(content: DelimitedTable, row: int, text: str) -> str:
    if not text.strip():
        raise ValueError(f"{content.where(row)} has no text; leave the line out.")
    return " ".join(text.split())


def _is_sentence(content: DelimitedTable, row: int, column: str, label: str) -> bool:
    plain = label.strip().casefold().replace("-", "").replace(" ", "").replace("_", "")
    if plain in _SENTENCE | _NON_WORDS:
        return plain in _SENTENCE
    raise ValueError(f"{content.where(row, column)} is {label!r}; write sentence or non-word (or S and N).")


# --- built-in texts ---------------------------------------------------------------------------------------------------

# Each template ends in a noun of a long list: with few endings, even untrained networks would tell them from non-words.
_TEMPLATES = (
    "ADVERB the ADJECTIVE PERSON VERB the ADJECTIVE THING PLACED the ADJECTIVE PLACE",
    "when the PERSON VERB the THING the PERSON waited near the PLACE",
    "she knew that the ADJECTIVE PERSON would never again find the THING",
    "every PERSON from the PLACE had already heard about the ADJECTIVE THING",
    "his PERSON and her PERSON both VERB the THING behind the PLACE",
    "the PERSON who VERB the THING was ADJECTIVE and left the PLACE",
)
_LEXICON = {
    "ADJECTIVE": "quiet heavy golden narrow gentle broken distant modern curious wooden clever silent bright careful "
    "empty famous frozen honest lonely rusty sleepy tired yellow younger",
    "PERSON": "farmer teacher sailor doctor painter soldier neighbour student captain merchant singer baker brother "
    "daughter lawyer miner nurse pilot writer uncle hunter tailor widow stranger",
    "VERB": "carried painted repaired dropped borrowed counted covered followed washed watched noticed opened polished "
    "returned studied wrapped collected examined forgot mentioned ordered remembered signed stole",
    "THING": "basket letter ladder lantern bottle carpet engine mirror needle package pillow ribbon saddle teapot "
    "trumpet blanket candle compass drawer hammer kettle map portrait wheel anchor apple axe ball bell belt bicycle "
    "book boot box bowl bread brush button cake camera chain clock coat coin crown cup desk dish doll dress fan flag "
    "flute guitar hat jar key knife lamp medal net orange paddle pen piano plate pot purse ring rope scarf shirt shoe "
    "spoon statue sword ticket vase violin watch whistle",
    "PLACED": "inside behind beside near beneath outside towards across",
    "PLACE": "market harbour kitchen library garden station chapel cellar theatre meadow factory bakery bridge castle "
    "forest hospital island office orchard palace river school tower village airport bank bar barn bay beach cabin "
    "camp cave church circus club coast college cottage court desert farm fence field fort fountain garage gate hall "
    "hill hotel house hut inn jail lake lodge mill mine monastery museum park pier pool port prison pub ranch road "
    "shed shop stable studio temple tent valley wall well wharf wood zoo",
    "ADVERB": "yesterday today together slowly again twice alone early",
}
# A non-word is at least this long, and as an English word rarer than this Zipf frequency: shorter ones are often words.
_FEWEST_LETTERS, _MOST_FREQUENT = 4, 1.5


@cache
def built_in(seed: int = 0) -> Contrast:
    """Make the built-in texts: sentences, and for each a list of non-words of the same lengths (at least 4 letters)."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    sentences: dict[str, None] = {}
    while len(sentences) < N_TEXTS:
        sentences[_sentence(draw, _TEMPLATES[len(sentences) % len(_TEMPLATES)])] = None
    words = Counter(word for sentence in sentences for word in sentence.split())
    following = _trigrams(words)
    non_words = tuple(_non_words(draw, sentence, frozenset(words), following) for sentence in sentences)
    return Contrast(BUILT_IN, (*sentences, *non_words), (True,) * N_TEXTS + (False,) * N_TEXTS)


def _sentence(draw: random.Random, template: str) -> str:
    words: list[str] = []
    for slot in template.split():
        options = [word for word in _LEXICON.get(slot, slot).split() if slot not in _LEXICON or word not in words]
        words.append(options[int(draw.random() * len(options))])
    return " ".join(words)


def _non_words(draw: random.Random, sentence: str, words: frozenset[str], following: dict[str, str]) -> str:
    return " ".join(_non_word(draw, max(_FEWEST_LETTERS, len(word)), words, following) for word in sentence.split())


def _non_word(draw: random.Random, n_letters: int, words: frozenset[str], following: dict[str, str]) -> str:
    """A chain of trigrams with this number of letters that is no word."""
    while True:
        letters = ""
        while len(letters) <= n_letters:  # a chain that grows longer is given up
            options = following[f"  {letters}"[-2:]]
            letter = options[int(draw.random() * len(options))]
            if letter == " ":
                break
            letters += letter
        if len(letters) == n_letters and letters not in words and zipf_frequencies([letters])[0] < _MOST_FREQUENT:
            return letters


def _trigrams(words: Counter[str]) -> dict[str, str]:
    """Two letters -> the letters that follow them in the words, as often as there; spaces stand around a word."""
    following: defaultdict[str, str] = defaultdict(str)
    for word, n in sorted(words.items()):
        padded = f"  {word} "
        for k in range(len(padded) - 2):
            following[padded[k : k + 2]] += padded[k + 2] * n
    return dict(following)

"""The table of data sets: what each is, where its files are published, and which file loads it.

Every file is pinned by its sha256, so that a score names exactly the recording it was made with. Nothing is downloaded
here; a missing file is an error that says where to fetch it and where to put it. Loaders are imported when they are
asked for, so that listing the table loads nothing heavy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from harness.records import Dataset, Floats, ReadingTimes, Responses, Stimuli
from harness.spec import Protocol, content_hash


class File(NamedTuple):
    """One published file: path under the data root, direct address ("" where none is known), sha256, size in bytes."""

    path: str
    url: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class Entry:
    """One data set of the table.

    Attributes:
        kind: "brain" (responses) or "reading" (reading times).
        landing: the page where the data are published.
        module, loader, paper, strict, brainscore2026: the module and, in it, the names of `load(root)` and of the
            protocols; "" where there is none (Brain-Score scores reading times by what PAPER says).
    """

    name: str
    title: str
    kind: Literal["brain", "reading"]
    licence: str
    non_commercial: bool
    citation: str
    landing: str
    module: str
    files: tuple[File, ...] = ()
    loader: str = "load"
    paper: str = "PAPER"
    strict: str = "STRICT"
    brainscore2026: str = ""


_STORIES = "https://raw.githubusercontent.com/languageMIT/naturalstories"
# The release that the paper scored, and the corrected one of 2021 as it stood in 2025.
_RELEASE_2016, _RELEASE_2021 = "d5cbe5aa3758d551d0c51ca8fc44bde973f0836f", "4700daad696e942f5aba23c957a7423d0de66612"
_WORDINFO = "naturalstories_RTS/processed_wordinfo.tsv"
_FUTRELL = (
    "Futrell, Gibson, Tily, Blank, Vishnevetsky, Piantadosi, Fedorenko (2021), The Natural Stories corpus, "
    "Language Resources and Evaluation 55(1), 63-77"
)
_FUTRELL_WORDS = File(
    "naturalstories/all_stories.tok",
    f"{_STORIES}/{_RELEASE_2021}/naturalstories_RTS/all_stories.tok",
    "0e4e9bd4708aaa01d8bea342696bb83cedff679c09184545483f6f3f4ba8aca3",
    119_005,
)
_FUTRELL_2016 = File(
    "naturalstories/processed_wordinfo_2016_d5cbe5aa.tsv",
    f"{_STORIES}/{_RELEASE_2016}/{_WORDINFO}",
    "2feb6bf378d6e77d16626f5cb8bdc6f7deda9672ef2c927f2c79fe00c1106195",
    835_542,
)
_FUTRELL_2021 = File(
    "naturalstories/processed_wordinfo_2021_HEAD.tsv",
    f"{_STORIES}/{_RELEASE_2021}/{_WORDINFO}",
    "047d2a0b84eff99d90535d1517f7fa7d466b81fbd60e990f2f08caac04d8aa56",
    901_515,
)
_TUCKUTE = File(
    "tuckute2024/bold_response_LH.csv",
    "",
    "7b794f7efbd2abd76012d629e4f7a19bb758bb0a85a1fae8c50e8fadd52f1e0f",
    140_742,
)
_ALICE_WORDS = File(
    "alice_brennan2016/alice_stim_shared/DownTheRabbitHoleFinal_exp120_pad_1.TextGrid",
    "",
    "f42484c61db089132eaa0ed633468f04709669b89bbfbc712282c1478e2bd6b3",
    301_992,
)
# subject -> sha256 of its time courses in the regions of 6 mm radius.
_ALICE_SUBJECTS = {
    "s18": "0c286ab2c70fa71e4bc68eabaa4421ed18f54f06e8bab55cc83bb471b02fefaa",
    "s22": "e340210515ded59ea1ffe30bcc2fddd216d7c179015bf9afbfe3f8195313bb5e",
    "s23": "30c1d4a9fefa128d378b39692b54f8916518b7a256a771d609b0e4ba481a4ab1",
    "s24": "928a6ca603ffd1f8e9491efec5d2d7ee36bbc578bd580e78bfaeb660569ae672",
    "s26": "7bd4bdda8fc9e553ecfb9c3c285d32c6b50dc0780aaa4bb04f5c7205f8b27aad",
    "s28": "4a2a6bb2417060cd9764c799016018df77ec913f0854fe9ba2af7e5579d986fb",
    "s30": "85f565a3de9137c230291f74f24dd594df3fbd9230e4578a4e6c856dd017ab45",
    "s31": "b3c99e9e0636dc5679c2b27c40c51bf54d0c21423faf6c2c0b8c9e3911bbb891",
    "s35": "1fbc985acef8b68f4594fb6d70be7d57857689d7f1516cb4526dd4801092e51f",
    "s36": "8ab0864cf176fa3bc3ef1776764db7e42e82ba4ce697aa9a68fb590795749ddc",
    "s37": "5af32f59eaf44a582265869085a9dbf4e042a391a6933e74f7d2933a5ca0ba82",
    "s38": "77c09557720d25504ce4cdde8a5c9fc4c94c74389e9f8de33d0b0f1154ee2ce5",
    "s39": "635a838c1b788b37b0cf0161a8c00a32b81b4dbe2bd0000f47010625b855150e",
    "s40": "8da36539f93677cd6d97b8c060c4ed083431e0416f674805636aecc038589ec9",
    "s41": "d320ecf3661d6c4d8d8aada90578c77a3e376184abae35ad2114f6ce56a19cef",
    "s42": "d44d44ff34784c0d2a8ced6a6782ca93014fe90a1e80dbcb808a9b93a694b4b6",
    "s43": "41ecea7dd52766c67d783540fa3696b40c6115fed2a88d328b16d6d896a0d969",
    "s44": "f251062ccf4a7ba2fe05cc12a9345ec4a38fee9b64e522d1f110248794132eee",
    "s45": "477283d63de715c2e76515fcf8d9f516835e6adc2eaea56dd9cb81d21d7fcaaa",
    "s46": "571562d39082c49ec853bc8ea80040cd2ae6f98049f6a250b4fdd7b4060e46f9",
    "s47": "44791bc9e3170f566bf41d60fedd71ef3911e052e35165d209d0463ebb11acd8",
    "s48": "3e74bc754645204e373262f0437c077c6b879c8d40c323af0e29990d1671e5bb",
    "s49": "c390fbe98d8b7de34bbd9b2216ebc517a1e68b90879c419b485671dfbaaa88d1",
    "s50": "550909cba09a7e43898351c40ae6db54f9ece0f0abb1a8bb9ed0ad96c53a5000",
    "s51": "302e2d8085810256ad829314dbcb7f81186ab3ee16172648c0c91fda742fc25d",
    "s52": "65c8812b757b7f747f6750a8d980342c02aa2059e70a5fdacbcf84bb38ddff99",
    "s53": "0a7f1db27c50c71e162976800e36836a3ee5cb9e4540816c0527d534e8af9822",
}
_ALICE = tuple(
    File(f"alice_brennan2016/alice_data_shared/6mm/{subject}-timecourses.txt", "", sha256, 35_114)
    for subject, sha256 in _ALICE_SUBJECTS.items()
)

_TABLE = (
    Entry(
        name="futrell2018-2016",
        title="Natural Stories: self-paced reading of 10 stories, means over readers, release of 2016",
        kind="reading",
        licence="CC BY-NC-SA 4.0",
        non_commercial=True,
        citation=_FUTRELL,
        landing="https://github.com/languageMIT/naturalstories",
        module="harness.datasets.futrell2018",
        files=(_FUTRELL_WORDS, _FUTRELL_2016),
        loader="load_2016",
    ),
    Entry(
        name="futrell2018-2021",
        title="Natural Stories: self-paced reading of 10 stories, means over readers, corrected release of 2021",
        kind="reading",
        licence="CC BY-NC-SA 4.0",
        non_commercial=True,
        citation=_FUTRELL,
        landing="https://github.com/languageMIT/naturalstories",
        module="harness.datasets.futrell2018",
        files=(_FUTRELL_WORDS, _FUTRELL_2021),
        loader="load_2021",
    ),
    Entry(
        name="tuckute2024",
        title="1,000 single sentences: five left-hemisphere language regions and their network, mean of 5 participants",
        kind="brain",
        licence="MIT",
        non_commercial=False,
        citation="Tuckute, Sathe, Srikant, Taliaferro, Wang, Schrimpf, Kay, Fedorenko (2024), Driving and suppressing "
        "the human language network using large language models, Nature Human Behaviour 8, 544-561, "
        "doi:10.1038/s41562-023-01783-7",
        landing="https://github.com/gretatuckute/drive_suppress_brains",
        module="harness.datasets.tuckute2024",
        files=(_TUCKUTE,),
        brainscore2026="BRAINSCORE2026",
    ),
    Entry(
        name="brennan2016",
        title="Alice: 27 participants x 6 language regions, listening to a chapter of Alice in Wonderland",
        kind="brain",
        licence="CC BY 4.0",
        non_commercial=False,
        citation="Brennan, Stabler, Van Wagenen, Luh, Hale (2016), Abstract linguistic structure correlates with "
        "temporal activity during naturalistic comprehension, Brain and Language 157-158, 81-94",
        landing="https://doi.org/10.1016/j.bandl.2016.04.008",
        module="harness.datasets.brennan2016",
        files=(_ALICE_WORDS, *_ALICE),
        brainscore2026="BRAINSCORE2026",
    ),
    Entry(
        name="synthetic",
        title="Made-up responses whose answer is known, for the quickstart and tests",
        kind="brain",
        licence="none needed: made by this program",
        non_commercial=False,
        citation="",
        landing="",
        module="harness.datasets.synthetic",
        brainscore2026="BRAINSCORE2026",
    ),
    Entry(
        name="synthetic-reading",
        title="Made-up reading times whose answer is known, for the quickstart and tests",
        kind="reading",
        licence="none needed: made by this program",
        non_commercial=False,
        citation="",
        landing="",
        module="harness.datasets.synthetic",
        loader="load_reading",
        paper="READING_PAPER",
        strict="READING_STRICT",
    ),
)
DATASETS: dict[str, Entry] = {entry.name: entry for entry in _TABLE}


def find(name: str) -> Entry:
    """The entry of a data set; ValueError lists the nearest names where there is none."""
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=3, cutoff=0.4) or list(DATASETS)
        raise ValueError(f"data set {name!r} is unknown; the nearest are {', '.join(near)}.")
    return DATASETS[name]


def expand(name: str) -> tuple[str, ...]:
    """A name -> itself; the stem of several releases ("futrell2018") -> each of them; else ValueError as in `find`."""
    releases = tuple(known for known in DATASETS if known.startswith(f"{name}-"))
    return releases if name not in DATASETS and releases else (find(name).name,)


def missing(name: str, root: str | Path) -> list[File]:
    """The files of a data set that are not under the data root."""
    return [file for file in find(name).files if not (Path(root) / file.path).is_file()]


def load(name: str, root: str | Path) -> Dataset:
    """Load one data set from the data root.

    Args:
        name: a name of the table.
        root: the folder that holds the data sets' folders.

    Raises:
        ValueError: if the name is unknown, or a file is not the pinned one.
        FileNotFoundError: if a file is missing: which, where it is published, and where to put it.
    """
    entry = find(name)
    for file in entry.files:
        _require(entry, file, Path(root))
    loader = cast("Callable[[Path], Dataset]", getattr(import_module(entry.module), entry.loader))
    return loader(Path(root))


def protocols(name: str) -> dict[str, Protocol]:
    """The protocols of a data set: "paper", "strict" and, where it has one, "brainscore2026"."""
    entry = find(name)
    module = import_module(entry.module)
    names = {"paper": entry.paper, "strict": entry.strict, "brainscore2026": entry.brainscore2026}
    return {protocol: getattr(module, variable) for protocol, variable in names.items() if variable}


def version_of(*contents: Stimuli | Responses | ReadingTimes | Floats) -> str:
    """sha256 over everything that was loaded: ids, texts and the bytes of the values; 16 hex digits."""
    return content_hash([_digest(content) for content in contents])[:16]


def _digest(content: Any) -> Any:
    """A record -> the digests of its fields; an array -> sha256 of its bytes; the rest as it is."""
    if is_dataclass(content):
        return [_digest(getattr(content, field.name)) for field in fields(content)]
    if isinstance(content, np.ndarray):
        described = f"{content.dtype.str}{content.shape}".encode()
        return hashlib.sha256(described + np.ascontiguousarray(content).tobytes()).hexdigest()
    return content


def _require(entry: Entry, file: File, root: Path) -> None:
    """Raise unless the file lies under the root and is the pinned one."""
    path = root / file.path
    source = f"Fetch it from {file.url}" if file.url else f"No direct address is known; see {entry.landing}"
    if not path.is_file():
        raise FileNotFoundError(
            f"{entry.name} needs {file.path}, which is not there. {source} and put it at {path.absolute()} "
            "(--data-root DIR or HARNESS_DATA sets the root)."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise ValueError(
            f"{entry.name}: {path.absolute()} is damaged or another release: {path.stat().st_size} bytes with sha256 "
            f"{found}, wanted {file.n_bytes} bytes with {file.sha256}. {source} and replace it."
        )

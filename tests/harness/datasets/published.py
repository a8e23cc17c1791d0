"""Writers of small files in exactly the published formats: names, dimensions, coordinates, types, missing values.

The numbers are synthetic: a few latent time courses per recording, mixed into every neuroid, and a little noise, so
that subjects can be predicted from each other.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray

N_LATENT = 5
TOPICS = (
    "beekeeping", "dreams", "gambling", "hurricane", "ice", "lawn", "opera", "pyramid", "skiing", "taste", "astronaut",
    "blindness", "castle", "disease", "fingerprints", "infection", "knitting", "law", "music", "owl", "painter",
    "polar bears", "stress", "tuxedo",
)  # fmt: skip
REGIONS = ("PostTemp", "AntTemp", "IFG", "IFGorb", "MFG", "AngG")
STORIES = ("Aqua", "Boar", "Elvis", "HighSchool", "KingOfBirds", "MatchstickSeller", "MrSticky", "Tulips")


def people(rng, n_rows: int, n_neuroids: int, noise: float = 0.1):
    """(row, neuroid) float64 mixtures of a few shared time courses."""
    latent = rng.standard_normal((n_rows, N_LATENT)) @ rng.standard_normal((N_LATENT, n_neuroids))
    return latent / np.sqrt(N_LATENT) + noise * rng.standard_normal((n_rows, n_neuroids))


def write(path: Path, values, presentation: dict, neuroid: dict, dimension: str = "neuroid") -> Path:
    """Write a netCDF file as Brain-Score does: no MultiIndex, gzip, variable-length strings."""
    coordinates = {name: ("presentation", np.asarray(column)) for name, column in presentation.items()}
    coordinates |= {name: (dimension, np.asarray(column)) for name, column in neuroid.items()}
    assembly = xarray.Dataset({"data": (("presentation", dimension), values)}, coords=coordinates)
    path.parent.mkdir(parents=True, exist_ok=True)
    assembly.to_netcdf(path, engine="h5netcdf", encoding={"data": {"compression": "gzip", "_FillValue": np.nan}})
    return path


class Experiment(NamedTuple):
    """An experiment of Pereira2018.

    passages: passages per topic.
    sentences: sentences of consecutive passages, repeated cyclically.
    """

    passages: int
    sentences: tuple[int, ...]


class Sizes(NamedTuple):
    """Sizes of a Pereira2018 file: topics per experiment, experiments, and voxels and experiments of each subject."""

    topics: int
    experiments: dict[str, Experiment]
    subjects: dict[str, tuple[int, tuple[str, ...]]]

    def with_passages(self, n: int) -> Sizes:
        """The same sizes with n passages per topic."""
        experiments = {name: experiment._replace(passages=n) for name, experiment in self.experiments.items()}
        return self._replace(experiments=experiments)


_BOTH = ("243sentences", "384sentences")
# Three passages in each of ten topics; subjects 018 and 288 took part in both experiments.
SMALL = Sizes(
    10,
    {"243sentences": Experiment(3, (3,)), "384sentences": Experiment(3, (4,))},
    {"018": (6, _BOTH), "288": (6, _BOTH), **dict.fromkeys(("199", "407"), (6, _BOTH[1:])),
     **dict.fromkeys(("215", "366"), (6, _BOTH[:1]))},
)  # fmt: skip
# As published: 243 sentences in 72 passages, 384 in 96; 6 and 9 subjects, 8,031 and 12,155 voxels, 13,553 distinct.
FULL = Sizes(
    24,
    {"243sentences": Experiment(3, (4, 3, 3, 4, 3, 3, 4, 3)), "384sentences": Experiment(4, (4,))},
    {"018": (1327, _BOTH), "199": (1381, _BOTH[1:]), "215": (1398, _BOTH[:1]), "288": (1327, _BOTH),
     "289": (1327, _BOTH), "296": (1326, _BOTH), "343": (1381, _BOTH[1:]), "366": (1326, _BOTH),
     "407": (1380, _BOTH[1:]), "426": (1380, _BOTH[1:])},
)  # fmt: skip


def pereira(path: Path, sizes: Sizes = SMALL, seed: int = 0, shuffled: bool = True, values=None) -> Path:
    """Write two experiments.

    `values` (sentence, voxel) replaces the default `people`; sentences in the order of `sentences`, voxels in that of
    the subjects. NaN is inserted if a subject did not take part. Then the sentences are shuffled.
    """
    rng, rows = np.random.default_rng(seed), list(sentences(sizes))
    presentation = {name: [row[name] for row in rows] for name in rows[0]}
    subjects = np.repeat(list(sizes.subjects), [n for n, _ in sizes.subjects.values()])
    data = people(rng, len(rows), len(subjects)) if values is None else values.astype(np.float64)
    for subject, (_, took_part) in sizes.subjects.items():
        data[np.ix_(~np.isin(presentation["experiment"], took_part), subjects == subject)] = np.nan
    voxel = rng.permutation(90_000)[: len(subjects)]
    neuroid = {
        "subject": subjects, "voxel_num": voxel,
        "neuroid_id": [f"{s}.{v}" for s, v in zip(subjects, voxel, strict=True)],
        "atlas": ["language"] * len(subjects), "filter_strategy": ["HminusE"] * len(subjects),
        "atlas_selection": ["from90to100prcnt"] * len(subjects), "atlas_selection_lower": [90] * len(subjects),
        "roi": [f"LH_{REGIONS[k % 6]}" for k in range(len(subjects))], "indices_in_3d": voxel * 7,
        "col_to_coord_1": voxel % 80, "col_to_coord_2": voxel % 90, "col_to_coord_3": voxel % 70,
    }  # fmt: skip
    order = rng.permutation(len(rows)) if shuffled else np.arange(len(rows))
    return write(path, data[order], {name: np.array(column)[order] for name, column in presentation.items()}, neuroid)


def sentences(sizes: Sizes):
    """Yield the presentation coordinates of each sentence, in order."""
    for name, experiment in sizes.experiments.items():
        number = 0
        for passage in range(sizes.topics * experiment.passages):
            topic = TOPICS[passage // experiment.passages]
            for sentence in range(experiment.sentences[passage % len(experiment.sentences)]):
                text = f"Sentence {sentence + 1} of passage {passage % experiment.passages} tells of the {topic}."
                yield {
                    "experiment": name, "stimulus_num": number, "sentence": text, "stimulus": text,
                    "passage_index": passage + 1, "passage_label": topic, "passage_category": topic,
                    "stimulus_id": f"{name}.{number}", "story": f"{name}.{topic}",
                }  # fmt: skip
                number += 1


def blank(path: Path, n_scans: int = 16, seed: int = 0) -> Path:
    """Write eight stories of `n_scans` scans, 5 subjects x 12 regions; sentences of four scans."""
    rng = np.random.default_rng(seed)
    rows = [(story, scan // 4 + 1, scan % 4 + 1, scan) for story in STORIES for scan in range(n_scans)]
    texts = [f"{'Once' if scan == 0 else 'then'} {story.lower()} went on {scan} times " for story, _, _, scan in rows]
    presentation = {
        "stimulus_id": [f"{story}.{sentence}.{part}" for story, sentence, part, _ in rows],
        "story": [row[0] for row in rows], "sentence_number_in_story": [row[1] for row in rows],
        "part_number_in_sentence": [row[2] for row in rows], "stimulus": texts,
        "meta_sentence": [text.strip() for text in texts],
    }  # fmt: skip
    areas = [f"{i + 1:02d}_{'LH' if i < 6 else 'RH'}_{REGIONS[i % 6]}" for i in range(12)]
    pairs = [(subject, i, area) for subject in ("061", "085", "088", "090", "098") for i, area in enumerate(areas)]
    neuroid = {
        "neuroid_id": [f"{subject}.{area}" for subject, _, area in pairs], "subject_id": [pair[0] for pair in pairs],
        "fROI_area": [pair[2] for pair in pairs], "fROI_index": [pair[1] + 1 for pair in pairs],
        "region": ["language"] * 60, "threshold": ["from90to100"] * 60,
    }  # fmt: skip
    order = rng.permutation(len(rows))
    columns = {name: np.array(column)[order] for name, column in presentation.items()}
    return write(path, people(rng, len(rows), 60)[order], columns, neuroid)


# Words of the sentences below: articles recur, most other words occur once, as in the published file.
_NOUNS = (
    "BAKER", "CANDLE", "DONKEY", "ENGINE", "FARMER", "GARDEN", "HAMMER", "ISLAND", "JACKET", "KETTLE", "LADDER",
    "MARKET", "NEEDLE", "ORCHARD", "PARROT", "QUARRY", "RIVER", "SADDLE", "TEACHER", "UNCLE", "VALLEY", "WINDOW",
    "YARD", "ZOO",
)  # fmt: skip
ELECTRODES = {1: 47, 2: 8, 3: 9, 4: 15, 5: 18}


def fedorenko(path: Path, n_sentences: int = 12, seed: int = 0, shuffled: bool = True) -> Path:
    """Write sentences of 8 words and the electrodes of 5 participants, as Brain-Score's data_packaging does.

    Ids of words and electrodes are integers from 0, subjects integers from 1; `stimulus` and `word` are the same.
    """
    rng = np.random.default_rng(seed)
    words = [
        word
        for k in range(n_sentences)
        for word in f"THE {_NOUNS[2 * k % 24]} OF ANN{k} SAW{k} A {_NOUNS[(2 * k + 1) % 24]} AGAIN{k}".split()
    ]
    presentation = {
        "stimulus_id": np.arange(len(words)), "stimulus": words, "word": words,
        "word_num": np.tile(np.arange(8), n_sentences), "sentence_id": np.repeat(np.arange(n_sentences), 8),
    }  # fmt: skip
    n = sum(ELECTRODES.values())
    subjects = np.repeat(list(ELECTRODES), list(ELECTRODES.values()))
    neuroid = {"electrode": np.arange(n), "neuroid_id": np.arange(n), "subject_UID": subjects}
    order = rng.permutation(len(words)) if shuffled else np.arange(len(words))
    columns = {name: np.asarray(column)[order] for name, column in presentation.items()}
    return write(path, people(rng, len(words), n)[order], columns, neuroid)


def futrell(path: Path, stimuli, values, first_word: str = "") -> Path:
    """Write reading times (word, reader) as Brain-Score's data_packaging does; readers are not sorted by name."""
    stories, places = (np.array(part, dtype=int) for part in zip(*(i.split(".") for i in stimuli.ids), strict=True))
    words, sentences = list(stimuli.texts), np.array(stimuli.sentences, dtype=int)
    words[0] = first_word or words[0]
    n_words, n_readers = values.shape
    presentation = {
        "word": words, "word_core": [word.strip(".,?!'") for word in words], "story_id": stories, "word_id": places,
        "word_within_sentence_id": np.arange(n_words) - np.searchsorted(sentences, sentences) + 1,
        "sentence_id": sentences, "stimulus_id": np.arange(n_words) + 1,
    }  # fmt: skip
    # In the order of columns +30, -30, ...: readers A1, A0, A3, A2, so that sorted ids are in another order.
    readers = [f"A{k ^ 1}" for k in range(n_readers)]
    about = {"subject_id": readers, "correct": [6] * n_readers, "WorkTimeInSeconds": np.arange(n_readers) * 10}
    return write(path, values, presentation, about, dimension="subject")


PARTICIPANTS = (797, 841, 848, 853, 865, 875, 876, 880, 837, 856)
TRAIN = (848, 853, 865, 875, 876)
LANGUAGE_ROIS = ("lang_LH_IFGorb", "lang_LH_IFG", "lang_LH_MFG", "lang_LH_AntTemp", "lang_LH_PostTemp", "lang_LH_netw")


def tuckute_archive(path: Path, n_items: int = 120, changed=lambda rows: rows, table: str = "") -> list[dict]:
    """Write the authors' archive: a folder data with a table of one row per participant, region and sentence.

    Columns as the authors' code reads them (and an index column), rows in random order; three of the participants also
    have sentences that drive (D) or suppress (S) responses. Returns the rows before `changed`.
    """
    rng = np.random.default_rng(0)
    rows, items = [], [("B", f"B.{k + 1}") for k in range(n_items)]
    data = people(rng, n_items, len(PARTICIPANTS) * len(LANGUAGE_ROIS))
    for k, (uid, roi) in enumerate((uid, roi) for uid in PARTICIPANTS for roi in LANGUAGE_ROIS):
        others = [("D", "D.1"), ("S", "S.1")] if uid in (797, 841, 880) else []
        for row, (cond, item) in enumerate(items + others):
            value = data[row, k] if cond == "B" else 9.0
            rows.append({
                "item_id": item, "sentence": f"Sentence {item} has six, words.", "cond": cond, "cond_approach": cond,
                "target_UID": uid, "roi": roi, "response_target": repr(float(value)),
                "response_target_non_norm": repr(float(value) * 3), "rating_arousal_mean": "3.5",
            })  # fmt: skip
    rows = [rows[k] for k in rng.permutation(len(rows))]
    text = io.StringIO()
    written = changed([dict(row) for row in rows])
    writer = csv.DictWriter(text, ["", *written[0]])
    writer.writeheader()
    writer.writerows({"": number, **row} for number, row in enumerate(written))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("data/._brain-lang-data_participant_20230728.csv", b"made by macOS"),
            ("data/NC-allroi-data.csv", b"roi,nc\n"),
            (f"data/{table or 'brain-lang-data_participant_20230728.csv'}", text.getvalue().encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return rows


def tuckute_assembly(path: Path, n_items: int = 120) -> Path:
    """Write the network's mean over the training participants, items sorted as text, as data_packaging does."""
    items = sorted(f"B.{k + 1}" for k in range(n_items))
    presentation = {
        "stimulus_id": items, "stimulus": [f"Sentence {item} has six, words." for item in items],
        "cond": ["B"] * n_items, "cond_approach": ["B"] * n_items,
    }  # fmt: skip
    neuroid = {"neuroid_id": [1], "subject_UID": ["-".join(map(str, TRAIN))], "roi": ["lang_LH_netw"]}
    return write(path, people(np.random.default_rng(1), n_items, 1), presentation, neuroid)

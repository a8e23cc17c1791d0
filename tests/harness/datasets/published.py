"""Writers of small files in exactly the published forms: names, dimensions, coordinates, types, absent values.

The numbers are made up: a few latent time courses per recording, mixed into every neuroid, and a little noise, so that
people can be predicted from people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray

N_LATENT = 5
TOPICS = ("beekeeping", "dreams", "gambling", "hurricane", "ice", "lawn", "opera", "pyramid", "skiing", "taste")
REGIONS = ("PostTemp", "AntTemp", "IFG", "IFGorb", "MFG", "AngG")
STORIES = ("Aqua", "Boar", "Elvis", "HighSchool", "KingOfBirds", "MatchstickSeller", "MrSticky", "Tulips")


def people(rng, n_rows: int, n_neuroids: int, noise: float = 0.1):
    """(row, neuroid) float64 mixtures of a few shared courses."""
    latent = rng.standard_normal((n_rows, N_LATENT)) @ rng.standard_normal((N_LATENT, n_neuroids))
    return latent / np.sqrt(N_LATENT) + noise * rng.standard_normal((n_rows, n_neuroids))


def write(path: Path, values, presentation: dict, neuroid: dict) -> Path:
    """A netCDF file as Brain-Score's writer makes them: no MultiIndex, gzip, strings of variable length."""
    coordinates = {name: ("presentation", np.asarray(column)) for name, column in presentation.items()}
    coordinates |= {name: ("neuroid", np.asarray(column)) for name, column in neuroid.items()}
    assembly = xarray.Dataset({"data": (("presentation", "neuroid"), values)}, coords=coordinates)
    path.parent.mkdir(parents=True, exist_ok=True)
    assembly.to_netcdf(path, engine="h5netcdf", encoding={"data": {"compression": "gzip", "_FillValue": np.nan}})
    return path


def pereira(path: Path, n_voxels: int = 6, n_passages: int = 3, seed: int = 0, shuffled: bool = True) -> Path:
    """Two experiments of `n_passages` passages in each of ten topics; subjects 018 and 288 took part in both."""
    rng = np.random.default_rng(seed)
    takes_part = {"018": "both", "288": "both", "199": "384", "407": "384", "215": "243", "366": "243"}
    rows = [
        (experiment, topic, place * n_passages + passage + 1, sentence)
        for experiment, n_sentences in (("243sentences", 3), ("384sentences", 4))
        for place, topic in enumerate(TOPICS)
        for passage in range(n_passages)
        for sentence in range(n_sentences)
    ]
    numbers = {"243sentences": iter(range(len(rows))), "384sentences": iter(range(len(rows)))}
    presentation: dict = {name: [] for name in (
        "experiment", "stimulus_num", "sentence", "stimulus", "passage_index", "passage_label", "passage_category",
        "stimulus_id", "story")}  # fmt: skip
    for experiment, topic, passage, sentence in rows:
        number = next(numbers[experiment])
        text = f"Sentence {sentence + 1} of passage {passage} tells of the {topic}."
        values = (experiment, number, text, text, passage, topic, topic, f"{experiment}.{number}",
                  f"{experiment}.{topic}")  # fmt: skip
        for column, value in zip(presentation.values(), values, strict=True):
            column.append(value)
    subjects = np.repeat(list(takes_part), n_voxels)
    data = people(rng, len(rows), len(subjects))
    for k, subject in enumerate(subjects):
        absent = {"384": "243sentences", "243": "384sentences"}.get(takes_part[subject])
        data[np.array(presentation["experiment"]) == absent, k] = np.nan
    voxel = rng.permutation(900)[: len(subjects)]
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


def blank(path: Path, n_scans: int = 16, seed: int = 0) -> Path:
    """Eight stories of `n_scans` scans, 5 subjects x 12 regions; sentences of four scans."""
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

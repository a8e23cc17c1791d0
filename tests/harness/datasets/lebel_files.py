"""Writes small files of LeBel2023's published form: HDF5 responses, TextGrids of words and phonemes, respdict.json.

The form is that which the authors' code reads (github.com/HuthLab/deep-fMRI-dataset). Numbers are synthetic.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from tests.harness.datasets.published import people

STORIES = tuple(f"story{k:02d}" for k in range(12))
N_SCANS, N_NOT_KEPT, N_VOXELS = 30, 20, 6
SUBJECTS = ("UTS01", "UTS02", "UTS03")
MISSING = ("UTS02", "story03")


def words_of(story: int) -> list[tuple[float, float, str]]:
    """Words of 0.4 s every 0.5 s, silence between them, some noise; 90 s: longer than the scans kept."""
    nouns = ("bee", "hive", "garden", "frost", "lamp", "stair", "kettle")
    intervals = [(0.0, 0.5, "sp"), (0.5, 1.0, "{LG}")]
    for k in range(2, 180):
        word = nouns[(k * k + story) % 7] if k % 3 else f"Word{story}x{k}"
        intervals += [(k / 2, k / 2 + 0.4, word), (k / 2 + 0.4, k / 2 + 0.5, "")]
    return intervals


def textgrid(tiers: dict[str, list[tuple[float, float, str]]], is_long: bool) -> str:
    """A TextGrid in Praat's long or short format."""
    end = max(interval[1] for intervals in tiers.values() for interval in intervals)
    quoted = {name: [(a, b, text.replace('"', '""')) for a, b, text in tier] for name, tier in tiers.items()}
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
    if not is_long:
        lines = [f"0\n{end}\n<exists>\n{len(tiers)}"]
        for name, tier in quoted.items():
            lines += [
                f'"IntervalTier"\n"{name}"\n0\n{end}\n{len(tier)}',
                *(f'{a}\n{b}\n"{text}"' for a, b, text in tier),
            ]
        return head + "\n".join(lines) + "\n"
    lines = [f"xmin = 0 \nxmax = {end} \ntiers? <exists> \nsize = {len(tiers)} \nitem []: "]
    for number, (name, tier) in enumerate(quoted.items(), start=1):
        lines.append(f'    item [{number}]:\n        class = "IntervalTier" \n        name = "{name}" ')
        lines.append(f"        xmin = 0 \n        xmax = {end} \n        intervals: size = {len(tier)} ")
        lines += [
            f'        intervals [{k}]:\n            xmin = {a} \n            xmax = {b} \n            text = "{text}" '
            for k, (a, b, text) in enumerate(tier, start=1)
        ]
    return head + "\n".join(lines) + "\n"


def write(root: Path, n_stories: int = 12) -> None:
    """Write stories and three subjects; UTS02 did not hear story03, and UTS03 has a voxel without values."""
    folder, rng = root / "ds003020" / "derivative", np.random.default_rng(0)
    for name in ("TextGrids", *(f"preprocessed_data/{subject}" for subject in SUBJECTS)):
        (folder / name).mkdir(parents=True)
    stories = STORIES[:n_stories]
    (folder / "respdict.json").write_text(json.dumps(dict.fromkeys((*stories, "unheard"), N_SCANS + N_NOT_KEPT)))
    data = people(rng, n_stories * N_SCANS, len(SUBJECTS) * N_VOXELS).reshape(
        n_stories, N_SCANS, len(SUBJECTS), N_VOXELS
    )
    data[:, :, 2, 4] = np.nan
    for k, story in enumerate(stories):
        tiers = {"phone": [(0.0, 90.0, "AH0")], "word": words_of(k)}
        (folder / "TextGrids" / f"{story}.TextGrid").write_text(textgrid(tiers, is_long=k % 2 == 0))
        for s, subject in enumerate(SUBJECTS):
            if (subject, story) != MISSING:
                with h5py.File(folder / "preprocessed_data" / subject / f"{story}.hf5", "w") as file:
                    file["data"] = data[k, :, s]

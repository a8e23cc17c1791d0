"""Writes small files of the published form of Narratives: GIfTI by nibabel, events and alignments as plain text.

Names, columns and fields are those of ds002345 and of the authors' code (github.com/snastase/narratives); stories are
shorter, and the surface has 12 vertices a hemisphere. Words are found in a transcript as the aligner Gentle does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
from nibabel.gifti import GiftiDataArray, GiftiImage

from tests.harness.datasets.published import people

N_VERTICES = 12
# Task -> rows of events: onset, duration, trial_type, stim_file.
EVENTS = {
    "tunnel": [("3.0", "150.0", "story", "tunnel_audio.wav")],
    "pieman": [("0.0", "13.0", "music", "pieman_audio.wav"), ("15.0", "120.0", "story", "pieman_audio.wav")],
    "slumlordreach": [
        ("4.5", "22.0", "music", "slumlordreach_audio.wav"), ("29.5", "120.0", "story", "slumlordreach_audio.wav"),
        ("161.5", "22.0", "music", "slumlordreach_audio.wav"), ("186.5", "135.0", "story", "slumlordreach_audio.wav"),
    ],
    "milkyway original": [
        ("0.0", "18.0", "music", "milkywayoriginal_audio.wav"), ("21.0", "90.0", "story", "milkywayoriginal_audio.wav"),
    ],
    "milkyway vodka": [
        ("0.0", "18.0", "music", "milkywayvodka_audio.wav"), ("21.0", "90.0", "story", "milkywayvodka_audio.wav"),
    ],
    "schema": [("5.0", "189.0", "movie", "n/a"), ("199.6", "163.0", "story", "friends_audio.wav")],
}  # fmt: skip
N_SCANS = {"tunnel": 110, "pieman": 100, "slumlordreach": 225, "milkyway": 80, "schema": 250}
# What each subject heard: task (and run, or version).
HEARD = {
    "sub-001": ("pieman run-1", "pieman run-2", "tunnel", "schema"),
    "sub-002": ("pieman",),
    "sub-003": ("tunnel", "slumlordreach", "milkyway original"),
    "sub-004": ("tunnel", "milkyway vodka"),
}
EXCLUDED = {"black": {}, "tunnel": {"sub-004": ["sub-004_task-tunnel"]},
            "pieman": {"sub-001": ["sub-001_task-pieman_run-1"]}}  # fmt: skip
# Stimulus -> stretches of speech in seconds of the audio file.
SPEECH = {
    "tunnel": [(0.0, 150.0)], "pieman": [(15.0, 135.0)], "slumlordreach": [(25.0, 145.0), (182.0, 317.0)],
    "milkywayoriginal": [(21.0, 111.0)], "milkywayvodka": [(21.0, 111.0)],
}  # fmt: skip
_SENTENCES = (
    "I began my career in journalism, in the Bronx. ",
    'He said, "Who\'s there?" and left -- alone.\n\n',
    "A hard-boiled reporter for the Ram, it's true. ",
)


def name_of(subject: str, heard: str) -> str:
    task, _, rest = heard.partition(" ")
    return f"{subject}_task-{task}{f'_{rest}' if rest.startswith('run-') else ''}"


def response_file(root: Path, subject: str, heard: str, side: str) -> Path:
    folder = root / f"narratives/derivatives/afni-nosmooth/{subject}/func"
    return folder / f"{name_of(subject, heard)}_space-fsaverage6_hemi-{side}_desc-clean.func.gii"


def events_file(root: Path, subject: str, heard: str) -> Path:
    return root / f"narratives/{subject}/func/{name_of(subject, heard)}_events.tsv"


def align_file(root: Path, stimulus: str) -> Path:
    return root / f"narratives/stimuli/gentle/{stimulus}/align.json"


def save_gifti(path: Path, courses: np.ndarray) -> None:
    """One array of all vertices per scan, as AFNI's 3dTproject writes a time series."""
    arrays = [GiftiDataArray(scan.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES") for scan in courses]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(GiftiImage(darrays=arrays), path)


def save_annotation(path: Path, labels: np.ndarray, names: list[str]) -> None:
    colours = np.array([[10 * k + 5, 20, 30, 0, 0] for k in range(len(names))])
    nibabel.freesurfer.write_annot(path, labels, colours, names, fill_ctab=True)


def write_events(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [("onset", "duration", "trial_type", "stim_file"), *rows]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def alignment(stimulus: str) -> dict:
    """About two words a second in each stretch of speech; word 7 is not found, word 9 unknown to the aligner."""
    transcript, records = "", []
    for begin, end in SPEECH[stimulus]:
        start_of, text = len(transcript), f"Now {stimulus} begins. "
        while len(re.findall(r"(?:\w|’\w|'\w)+", text)) < 2 * (end - begin) - 12:
            text += _SENTENCES[len(text) % 3]
        transcript += text
        found = list(re.finditer(r"(?:\w|’\w|'\w)+", text))
        for k, match in enumerate(found):
            start = begin + 0.3 + k * (end - begin - 1) / len(found)
            records.append({
                "alignedWord": match.group().lower(), "case": "success", "end": start + 0.3,
                "endOffset": start_of + match.end(), "phones": [{"duration": 0.3, "phone": "f_B"}], "start": start,
                "startOffset": start_of + match.start(), "word": match.group(),
            })  # fmt: skip
    for name in ("alignedWord", "end", "start", "phones"):
        del records[7][name]
    records[7]["case"] = "not-found-in-audio"
    records[9]["alignedWord"] = "<unk>"
    records.insert(11, {"alignedWord": "uh", "case": "not-found-in-transcript", "end": 99.0, "phones": [],
                        "start": 98.0, "word": "uh"})  # fmt: skip
    return {"transcript": transcript, "words": records}


def write_alignment(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def write(root: Path, who_heard: dict[str, tuple[str, ...]] = HEARD) -> dict[tuple[str, str, str], np.ndarray]:
    """Write everything; returns (subject, heard, hemisphere) -> (scan, vertex). Vertex 0 is constant everywhere."""
    rng, made = np.random.default_rng(0), {}
    (root / "narratives/code").mkdir(parents=True)
    (root / "narratives/code/scan_exclude.json").write_text(json.dumps(EXCLUDED, indent=2))
    for stimulus in SPEECH:
        write_alignment(align_file(root, stimulus), alignment(stimulus))
    for subject, tasks in who_heard.items():
        for heard in tasks:
            task = heard.partition(" ")[0]
            write_events(events_file(root, subject, heard), EVENTS[heard if heard in EVENTS else task])
            for side in "LR":
                courses = people(rng, N_SCANS[task], N_VERTICES) * 3 + 20
                courses[:, 0] = 0.0
                save_gifti(response_file(root, subject, heard, side), courses)
                made[subject, heard, side] = courses.astype(np.float32)
    return made

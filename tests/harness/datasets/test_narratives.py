"""Narratives from files of the published form; the clock and the scans of a story are those of the authors' code."""

from __future__ import annotations

import json
import shutil

import numpy as np
import psutil
import pytest

from harness import datasets
from harness.datasets import narratives
from harness.datasets.formats import gentle
from harness.features import hemodynamics
from harness.records import Features, Layer
from harness.scoring import folds
from harness.text import contexts

nibabel = pytest.importorskip("nibabel")
from tests.harness.datasets import narratives_files as files  # noqa: E402 - needs nibabel

STORIES = {  # passage -> number of scans: duration / 1.5 s without the first six
    "milkywayoriginal": 54, "milkywayvodka": 54, "pieman": 74, "slumlordreach-1": 74, "slumlordreach-2": 84,
    "tunnel": 94,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("narratives")


@pytest.fixture(scope="module")
def made(root):
    return files.write(root)


@pytest.fixture(scope="module")
def dataset(root, made):
    return datasets.load("narratives", root)


@pytest.fixture
def copy(root, dataset, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def load(root):
    return datasets.load("narratives", root)


def rows_of(responses, story):
    return np.array(responses.row_blocks) == story


def course_of(responses, neuroid):
    return responses.values[:, responses.neuroid_ids.index(neuroid)]


def test_a_story_has_its_scans_without_the_first_six(dataset):
    blocks = dataset.responses.row_blocks
    assert {story: blocks.count(story) for story in dict.fromkeys(blocks)} == STORIES
    assert list(dict.fromkeys(dataset.stimuli.passages)) == list(STORIES)


def test_responses_are_z_scored_by_story_and_nan_where_not_heard(dataset, made):
    responses = dataset.responses
    course = course_of(responses, "sub-003.R.5")
    for story, heard, first in (("tunnel", "tunnel", 2), ("slumlordreach-2", "slumlordreach", 124)):
        own = made["sub-003", heard, "R"][first + 6 : first + 6 + STORIES[story], 5]
        np.testing.assert_allclose(course[rows_of(responses, story)], (own - own.mean()) / own.std(), atol=1e-4)
    assert np.isnan(course[rows_of(responses, "pieman")]).all()
    measured = {
        subject: {story for story in STORIES
                  if np.isfinite(course_of(responses, f"{subject}.L.3")[rows_of(responses, story)]).all()}
        for subject in files.HEARD
    }  # fmt: skip
    assert measured == {
        "sub-001": {"pieman", "tunnel"}, "sub-002": {"pieman"}, "sub-004": {"milkywayvodka"},
        "sub-003": {"tunnel", "slumlordreach-1", "slumlordreach-2", "milkywayoriginal"},
    }  # fmt: skip


def test_the_first_hearing_that_is_not_excluded_is_read(dataset, made):
    own = made["sub-001", "pieman run-2", "L"][16:90, 4]
    course = course_of(dataset.responses, "sub-001.L.4")[rows_of(dataset.responses, "pieman")]
    np.testing.assert_allclose(course, (own - own.mean()) / own.std(), atol=1e-4)


def test_the_earlier_of_two_hearings_is_read_if_none_is_excluded(copy, made):
    (copy / "narratives/code/scan_exclude.json").write_text("{}")
    responses = load(copy).responses
    own = made["sub-001", "pieman run-1", "L"][16:90, 4]
    course = course_of(responses, "sub-001.L.4")[rows_of(responses, "pieman")]
    np.testing.assert_allclose(course, (own - own.mean()) / own.std(), atol=1e-4)
    assert np.isfinite(course_of(responses, "sub-004.L.4")[rows_of(responses, "tunnel")]).all()


def test_a_vertex_without_signal_is_left_out(dataset):
    assert not [name for name in dataset.responses.neuroid_ids if name.endswith((".L.0", ".R.0"))]
    assert len(dataset.responses.neuroid_ids) == 4 * 2 * (files.N_VERTICES - 1)


def test_scans_are_on_the_clock_of_the_audio_file(dataset):
    """Which begins with the first event of the recording: music at 4.5 s in slumlordreach, the story in tunnel."""
    responses = dataset.responses
    for story, first, sound_s in (("tunnel", 8, 3.0), ("pieman", 16, 0.0), ("slumlordreach-1", 26, 4.5),
                                  ("slumlordreach-2", 130, 4.5)):  # fmt: skip
        times = responses.times_s[rows_of(responses, story)]
        np.testing.assert_allclose(times, 1.5 * np.arange(first, first + STORIES[story]) - sound_s)


@pytest.mark.parametrize(("rows", "published"), [
    # events.tsv of ds002345 (1.1.4), onset and duration in s; event_meta.json of the authors' code, in scans
    ([("15.0", "422.0")], [(10, 281)]), ([("21.0", "676.0")], [(14, 451)]), ([("33.5", "886.0")], [(22, 591)]),
    ([("33.5", "1052.0")], [(22, 701)]), ([("29.5", "547.0")], [(20, 365)]), ([("49.5", "405.0")], [(33, 270)]),
    ([("49.5", "408.0")], [(33, 272)]), ([("21.0", "3338.0")], [(14, 2225)]), ([("12.0", "400.0")], [(8, 267)]),
    ([("12.0", "536.0")], [(8, 357)]), ([("12.0", "800.0")], [(8, 533)]), ([("12.0", "837.0")], [(8, 558)]),
    ([("3.0", "1534.0")], [(2, 1023)]), ([("21.0", "404.0")], [(14, 269)]),
    ([("29.5", "903.0"), ("969.5", "825.0")], [(20, 602), (646, 550)]),
])  # fmt: skip
def test_published_onsets_give_the_scans_that_the_authors_publish(rows, published, tmp_path):
    path = tmp_path / "sub-001_task-story_events.tsv"
    files.write_events(path, [(*row, "story", "story_audio.wav") for row in rows])
    sound = narratives._read_events(path)
    assert [(story.first - 6, story.stop - story.first + 6) for story in sound.stories] == published


def test_the_texts_of_a_story_give_its_transcript(dataset, root):
    content = json.loads(files.align_file(root, "tunnel").read_text())
    (made,) = [context for context in contexts.build(dataset.stimuli, "passage") if "tunnel begins" in context.text]
    assert made.text == " ".join(content["transcript"].split())
    texts = [
        text for text, story in zip(dataset.stimuli.texts, dataset.stimuli.passages, strict=True) if story == "tunnel"
    ]
    assert {"hard-", "boiled ", "\"Who's ", 'there?" ', "left -- ", "alone. ", "it's ", "Bronx. "} <= set(texts)
    assert not any(text.startswith("uh") for text in texts)


def test_the_words_of_two_stories_of_a_recording_are_divided(dataset):
    first, second = (
        [text for text, name in zip(dataset.stimuli.texts, dataset.stimuli.passages, strict=True) if name == story]
        for story in ("slumlordreach-1", "slumlordreach-2")
    )
    assert first[:3] == second[:3] == ["Now ", "slumlordreach ", "begins. "]
    onsets = dataset.stimuli.onsets_s[np.array(dataset.stimuli.passages) == "slumlordreach-2"]
    assert 182 < onsets.min() < onsets.max() < 317


def test_a_word_that_was_not_found_has_times_between_its_neighbours(dataset):
    onsets = dataset.stimuli.onsets_s[np.array(dataset.stimuli.passages) == "tunnel"]
    ends = dataset.stimuli.ends_s[np.array(dataset.stimuli.passages) == "tunnel"]
    assert onsets[7] == pytest.approx((onsets[6] + onsets[8]) / 2)
    assert ends[7] == pytest.approx((ends[6] + ends[8]) / 2)
    assert np.isfinite(onsets).all()


def test_a_word_aligned_to_the_music_has_the_time_of_the_first_word_of_the_story(copy, dataset):
    content = files.alignment("pieman")
    content["words"][0] |= {"start": 2.0, "end": 2.4}
    files.write_alignment(files.align_file(copy, "pieman"), content)
    changed = load(copy).stimuli
    words = np.flatnonzero(np.array(changed.passages) == "pieman")
    assert changed.onsets_s[words[0]] == changed.onsets_s[words[1]] == dataset.stimuli.onsets_s[words[1]]


def test_a_scan_has_the_words_of_three_to_nine_seconds_earlier(dataset, root):
    """The number of the word as feature, under STRICT, against a count by hand in slumlordreach-2."""
    numbers = np.array([[float(word.rpartition(".")[2])] for word in dataset.stimuli.ids])
    words = Features({Layer("made", 0): numbers}, dataset.stimuli.ids)
    scans = hemodynamics.at_scans(words, dataset.stimuli, dataset.responses, narratives.STRICT.sampling)
    (values,) = scans.values.values()
    row = scans.row_ids.index("slumlordreach-2.150")  # at 225 s of the scans, 220.5 s of the audio file
    content = json.loads(files.align_file(root, "slumlordreach").read_text())
    ends = np.array([word["end"] for word in content["words"] if word.get("start", 0) > 181])
    wanted = [np.flatnonzero((ends > end - 1.5) & (ends <= end)).mean() + 1 for end in (217.5, 216.0, 214.5, 213.0)]
    np.testing.assert_allclose(values[row], wanted)


def test_strict_holds_out_the_same_fifth_of_every_story_with_a_gap(dataset):
    drawn = folds.of_recording(narratives.STRICT.folds, dataset)
    responses = dataset.responses
    assert len(drawn) == 5
    for _, fold in drawn:
        for story, n in STORIES.items():
            rows = np.flatnonzero(rows_of(responses, story))
            tested = np.intersect1d(rows, fold.test)
            assert n // 5 <= len(tested) <= n // 5 + 1
            np.testing.assert_array_equal(tested, np.arange(tested[0], tested[-1] + 1))
            assert not set(fold.train) & set(range(tested[0] - 7, tested[-1] + 8))
            assert len(np.intersect1d(rows, fold.train)) >= n // 2


def _annotate(folder, sides="LR"):
    labels = np.array([0, 1, 1, 1, 2, 2, 2, -1, 0, 0, 1, 2])
    for side in sides:
        path = folder / f"narratives/{side.lower()}h.annot"
        files.save_annotation(path, labels, ["Medial_wall", "G_temp_sup-Lateral", "S_front_inf"])
    return labels


def test_an_annotation_makes_neuroids_of_its_parcels(copy, made):
    labels = _annotate(copy)
    responses = load(copy).responses
    names = [f"{side}.{name}" for side in "LR" for name in ("G_temp_sup-Lateral", "S_front_inf")]
    assert responses.neuroid_ids == tuple(f"{subject}.{name}" for subject in files.HEARD for name in names)
    own = made["sub-002", "pieman", "R"][16:90][:, labels == 2].mean(axis=1)
    course = course_of(responses, "sub-002.R.S_front_inf")[rows_of(responses, "pieman")]
    np.testing.assert_allclose(course, (own - own.mean()) / own.std(), atol=1e-4)


def test_one_hemisphere_alone_is_read(copy):
    for path in copy.rglob("*hemi-R*"):
        path.unlink()
    assert {name.split(".")[1] for name in load(copy).responses.neuroid_ids} == {"L"}


def test_a_scan_that_ends_a_little_early_is_nan_after_its_end(copy, made):
    for side in "LR":
        files.save_gifti(files.response_file(copy, "sub-002", "pieman", side), made["sub-002", "pieman", side][:88])
    responses = load(copy).responses
    course = course_of(responses, "sub-002.L.4")[rows_of(responses, "pieman")]
    np.testing.assert_array_equal(np.isnan(course), np.arange(74) >= 72)


def test_a_link_without_content_is_not_read(copy):
    for side in "LR":
        path = files.response_file(copy, "sub-002", "pieman", side)
        path.unlink()
        path.symlink_to("../../../../.git/annex/objects/absent")
    assert "sub-002" not in load(copy).responses.subjects


# --- other files ------------------------------------------------------------------------------------------------------


def _gifti(change):
    def damage(folder):
        change(files.response_file(folder, "sub-003", "tunnel", "L"))

    return damage


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _pointer(path):
    path.write_text("/annex/objects/MD5E-s102636088--edfb0a342b80650bef3802778b734730.func.gii\n")


def _short(path):
    files.save_gifti(path, np.ones((60, 12)))


def _both_short(folder):
    for side in "LR":
        _short(files.response_file(folder, "sub-003", "tunnel", side))


def _both_wide(folder):
    for side in "LR":
        files.save_gifti(files.response_file(folder, "sub-003", "tunnel", side), np.ones((110, 13)))


def _two_dimensions(path):
    from nibabel.gifti import GiftiDataArray, GiftiImage

    nibabel.save(GiftiImage(darrays=[GiftiDataArray(np.ones((12, 110), dtype=np.float32))]), path)


def _no_events(folder):
    files.events_file(folder, "sub-003", "tunnel").unlink()


def _events(rows):
    return lambda folder: files.write_events(files.events_file(folder, "sub-003", "tunnel"), rows)


def _no_columns(folder):
    files.events_file(folder, "sub-003", "tunnel").write_text("onset\tduration\n3.0\t150.0\n")


def _words(change):
    def damage(folder):
        content = files.alignment("tunnel")
        change(content)
        files.write_alignment(files.align_file(folder, "tunnel"), content)

    return damage


def _no_words(folder):
    files.align_file(folder, "tunnel").unlink()


def _half_of_words(folder):
    _cut(files.align_file(folder, "tunnel"))


def _wrong_offset(content):
    content["words"][5]["startOffset"] += 1


def _no_times(content):
    content["words"] = [word | {"case": "not-found-in-audio"} for word in content["words"] if "startOffset" in word]


def _late(content):
    for word in content["words"]:
        if "start" in word:
            word |= {"start": word["start"] + 1e4, "end": word["end"] + 1e4}


def _no_right(folder):
    files.response_file(folder, "sub-003", "tunnel", "R").unlink()


def _no_responses(folder):
    shutil.rmtree(folder / "narratives/derivatives")


def _bad_annotation(folder):
    _annotate(folder)
    _cut(folder / "narratives/rh.annot")


def _other_surface(folder):
    _annotate(folder)
    files.save_annotation(folder / "narratives/lh.annot", np.array([0, 1, 1]), ["Medial_wall", "IFG"])


def _only_wall(folder):
    _annotate(folder)
    files.save_annotation(folder / "narratives/lh.annot", np.zeros(12, dtype=int), ["Medial_wall", "IFG"])


@pytest.mark.parametrize(("damage", "message"), [
    (_gifti(_cut), r"sub-003_task-tunnel.*hemi-L_desc-clean\.func\.gii is damaged after volume \d"),
    (_gifti(_pointer), r"hemi-L_desc-clean\.func\.gii is damaged after volume \d"),
    (_gifti(_two_dimensions), r"hemi-L_.* has arrays of shape \(12, 110\); wanted \(vertex,\), one array per volume"),
    (_gifti(_short), r"sub-003_task-tunnel: hemispheres have \[60, 110\] scans"),
    (_both_short, r"sub-003_task-tunnel has 60 scans, but tunnel ends with scan 102"),
    (_both_wide, r"sub-003_task-tunnel has 26 vertices, sub-001_task-pieman_run-2 has 24"),
    (_no_right, r"sub-003_task-tunnel has no responses of hemi-R, others have"),
    (_no_responses, r"narratives has no responses derivatives/afni-nosmooth"),
    (_no_events, r"sub-003_task-tunnel_events\.tsv does not exist, but there are responses"),
    (_no_columns, r"sub-003_task-tunnel_events\.tsv has no valid onset, duration, trial_type or stim_file"),
    (_events([("3", "150", "music", "tunnel_audio.wav")]), r"wanted one audio file with a story, not tunnel"),
    (_events([("x", "150", "story", "tunnel_audio.wav")]), r"tunnel_events\.tsv has no valid onset"),
    (_events([("4.5", "150", "story", "tunnel_audio.wav")]),
     r"sub-001_task-tunnel_events\.tsv and sub-003_task-tunnel_events\.tsv have different onsets"),
    (_no_words, r"tunnel has responses but no .*gentle/tunnel/align\.json"),
    (_half_of_words, r"tunnel/align\.json cannot be read as Gentle's alignment"),
    (_words(_wrong_offset), r"align\.json cannot be read .* is not at character"),
    (_words(lambda content: content.pop("transcript")), r"align\.json cannot be read .*transcript"),
    (_words(_no_times), r"align\.json has no word with a time"),
    (_words(_late), r"no word falls into any scan in block 'tunnel'|do not match in block 'tunnel'"),
    (lambda folder: _annotate(folder, "L"), r"has lh\.annot but no rh\.annot"),
    (_bad_annotation, r"rh\.annot cannot be read as a FreeSurfer annotation"),
    (_other_surface, r"has 12 vertices, the annotation 3; wanted one of fsaverage6"),
    (_only_wall, r"lh\.annot has no parcel; its labels are Medial_wall, IFG"),
])  # fmt: skip
def test_the_error_for_other_files_names_the_fault(copy, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_responses_that_do_not_fit_into_memory_are_refused_with_a_remedy(copy, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(ValueError, match=r"434 scans x 96 neuroids .* 0 GB are free\. Keep fewer subjects .*lh\.annot"):
        load(copy)


def test_the_error_for_the_missing_list_of_exclusions_names_its_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"narratives/code/scan_exclude\.json"):
        load(tmp_path)


def test_punctuation_belongs_to_the_word_that_it_touches(tmp_path):
    path = tmp_path / "align.json"
    text = '  "So," he\nsaid - (twice).'
    spans = [(3, 5), (8, 10), (11, 15), (19, 24)]
    words = [
        {"case": "success", "start": float(k), "end": k + 1.0, "startOffset": a, "endOffset": b, "word": text[a:b]}
        for k, (a, b) in enumerate(spans)
    ]
    path.write_text(json.dumps({"transcript": text, "words": words}))
    assert [word.text for word in gentle.read(path)] == ['"So," ', "he ", "said - ", "(twice)."]

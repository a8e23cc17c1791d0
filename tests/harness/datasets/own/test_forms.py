"""local:FOLDER as written by other programs: encodings, notations, ids, reading times, clocks, languages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import datasets
from harness.cli import commands
from harness.features import controls
from harness.scoring import reading_times
from harness.text.frequencies import zipf_frequencies

N = 24
SENTENCES = [f"The {['dog', 'cat', 'tree', 'boy'][k % 4]} near river {k} was quiet." for k in range(N)]
VALUES = np.round(np.random.default_rng(0).standard_normal(N), 3)


def lab(folder, settings=None, **files):
    """Write sentences with one neuroid, or the given files instead; returns the name of the data set."""
    folder.mkdir(exist_ok=True)
    tables = {
        "stimuli.csv": "stimulus_id,text\n" + "".join(f"s{k},{text}\n" for k, text in enumerate(SENTENCES)),
        "responses.csv": "row_id,v1\n" + "".join(f"s{k},{value}\n" for k, value in enumerate(VALUES)),
    }
    tables |= {name.replace("_csv", ".csv").replace("_tsv", ".tsv"): content for name, content in files.items()}
    for name, content in tables.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if settings is not None:
        (folder / "dataset.json").write_text(json.dumps(settings))
    return f"local:{folder}"


def words(text, passages=None, times=None, reader="reading_ms"):
    """stimuli.csv of words, with reading times if given."""
    tokens = text.split()
    passages = passages or ["p"] * len(tokens)
    extra = f",{reader}" if times else ""
    rows = [f"w{k},{word},{passage}{f',{times[k]}' if times else ''}" for k, (word, passage) in
            enumerate(zip(tokens, passages, strict=True))]  # fmt: skip
    return f"stimulus_id,text,passage{extra}\n" + "\n".join(rows) + "\n"


def readers(*columns):
    rows = [",".join([f"w{k}", *map(str, row)]) for k, row in enumerate(zip(*columns, strict=True))]
    return "stimulus_id," + ",".join(f"r{k}" for k in range(len(columns))) + "\n" + "\n".join(rows) + "\n"


def values_of(name):
    return datasets.load(name, ".").responses.values[:, 0]


def responses(cells, separator=","):
    return f"row_id{separator}v1\n" + "".join(f"s{k}{separator}{cell}\n" for k, cell in enumerate(cells))


# --- notations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        responses(VALUES).encode("utf-16"),
        responses(VALUES).encode("utf-8-sig"),
        responses([str(value).replace(".", ",") for value in VALUES], ";"),
        responses([f'"{value}"'.replace(".", ",") for value in VALUES]),
        responses([str(value).replace("-", "−") for value in VALUES]),
        responses(VALUES).replace("\n", "\r"),
        responses(VALUES).replace(",", "\t"),
        responses(VALUES).replace("\n", ",\n"),
        '"row_id","v1"\n' + "".join(f'"{k + 1}","s{k}",{value}\n' for k, value in enumerate(VALUES)),
        responses(VALUES) + ",\n,\n",
    ],
)
def test_all_notations_give_the_same_responses(tmp_path, content):
    np.testing.assert_array_equal(values_of(lab(tmp_path / "x", responses_csv=content)), VALUES.astype(np.float32))


@pytest.mark.parametrize("code", ["n/a", "NA", "#NULL!", "NaN", "", "#N/A", "."])
def test_codes_for_missing_values_are_missing(tmp_path, code):
    values = values_of(lab(tmp_path / "x", responses_csv=responses([code, *VALUES[1:]])))
    assert np.isnan(values[0])
    np.testing.assert_array_equal(values[1:], VALUES[1:].astype(np.float32))


def test_a_spreadsheet_error_is_not_a_text(tmp_path):
    text = "stimulus_id,text\n" + "".join(f"s{k},{'#NAME?' if k == 4 else 'A bear sleeps.'}\n" for k in range(N))
    with pytest.raises(ValueError, match=r"stimuli\.csv: column 'text' is '#NAME\?' in .* a spreadsheet error"):
        datasets.find(lab(tmp_path / "x", stimuli_csv=text))


def test_an_ambiguous_number_is_rejected_with_its_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"responses\.csv: column 'v1' is '1,234' in row_id 's0' \(line 2\): its comma"
    ):
        datasets.find(lab(tmp_path / "x", responses_csv=responses(['"1,234"'] * N)))


def test_an_encoding_can_be_named_and_an_invalid_byte_is_reported(tmp_path):
    text = "stimulus_id,text\n" + "".join(f"s{k},Der Bär {k} schläft.\n" for k in range(N))
    name = lab(tmp_path / "x", stimuli_csv=text.encode("cp1252"))
    with pytest.raises(
        ValueError, match=r"line 2, column 'text': byte 0xE4 .*in Windows-1252 it would be 'ä'.*dataset\.json"
    ):
        datasets.find(name)
    named = lab(tmp_path / "x", {"encoding": "windows-1252"})
    assert datasets.load(lab(tmp_path / "x", None, stimuli_csv=text.encode("cp1252")), ".").stimuli.texts[0] == (
        "Der Bär 0 schläft."
    )
    assert named == name


def test_dataset_json_may_have_a_byte_order_mark(tmp_path):
    name = lab(tmp_path / "x")
    (tmp_path / "x" / "dataset.json").write_text('{"title": "Ours"}', encoding="utf-8-sig")
    assert datasets.find(name).title == "Ours"


@pytest.mark.parametrize("program", ["escaped", "doubled", "tsv"])
def test_quotes_within_a_sentence_are_kept(tmp_path, program):
    sentence = {"escaped": r'"He said \"yes, {}\" twice."', "doubled": '"He said ""yes, {}"" twice."',
            "tsv": 'He said "yes, {}" twice.'}[program]  # fmt: skip
    separator = "\t" if program == "tsv" else ","
    content = f"stimulus_id{separator}text\n" + "".join(f"s{k}{separator}{sentence.format(k)}\n" for k in range(N))
    name = lab(tmp_path / "x", stimuli_csv=None if program == "tsv" else content)
    if program == "tsv":
        (tmp_path / "x" / "stimuli.csv").unlink(missing_ok=True)
        (tmp_path / "x" / "stimuli.tsv").write_text(content)
    assert datasets.load(name, ".").stimuli.texts[3] == 'He said "yes, 3" twice.'


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "measured", "difference"),
    [
        ("{}", "{}.0", "leading zeros or a decimal point"),
        ("{:03d}", "{}", "leading zeros or a decimal point"),
        ("café{}", "cafe\u0301{}", "Unicode form"),
        ("s{}", " s{} ", "spaces around them"),
    ],
)
def test_ids_whose_form_has_changed_are_joined_with_a_note(tmp_path, capsys, caplog, shown, measured, difference):
    stimuli = "stimulus_id,text\n" + "".join(f"{shown.format(k)},{text}\n" for k, text in enumerate(SENTENCES))
    order = list(reversed(range(N)))
    content = "row_id,v1\n" + "".join(f"{measured.format(k)},{VALUES[k]}\n" for k in order)
    name = lab(tmp_path / "x", stimuli_csv=stimuli, responses_csv=content)
    with caplog.at_level("WARNING"):
        loaded = datasets.load(name, ".")
    assert "ids differ from those of stimuli.csv" in caplog.text
    assert loaded.responses.row_ids == loaded.stimuli.ids
    np.testing.assert_array_equal(values_of(name), VALUES.astype(np.float32))
    assert commands.main(["datasets", name]) == 0
    assert difference in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row_id", "message"),
    [("S3", "but 's3' is, which differs in capital letters"), ("s333", "the nearest is 's23'|the nearest is 's3'")],
)
def test_the_error_for_an_unknown_id_names_the_difference(tmp_path, row_id, message):
    content = responses(VALUES).replace("s3,", f"{row_id},")
    with pytest.raises(ValueError, match=f"responses.csv: row_id '{row_id}' is not in stimuli.csv.*({message})"):
        datasets.find(lab(tmp_path / "x", responses_csv=content))


def test_two_ids_that_become_equal_are_rejected(tmp_path):
    stimuli = "stimulus_id,text\n" + "".join(f"{k},{text}\n" for k, text in enumerate(SENTENCES)) + "07,Another one.\n"
    content = "row_id,v1\n" + "".join(f"{k}.0,{value}\n" for k, value in enumerate(VALUES))
    with pytest.raises(ValueError, match=r"stimuli\.csv: ids '7' and '07' differ only in leading zeros"):
        datasets.find(lab(tmp_path / "x", stimuli_csv=stimuli, responses_csv=content))


# --- reading times ----------------------------------------------------------------------------------------------------

TEXT = "Rain fell on Monday. We stayed at home. " * 8
TIMES = np.random.default_rng(1).integers(200, 400, len(TEXT.split())).tolist()


def changed(value, at=5):
    return [*TIMES[:at], value, *TIMES[at + 1 :]]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            changed(0),
            "column 'reading_ms' has 0 ms for word 'stayed', stimulus_id 'w5' .line 7.: this is not a reading time",
        ),
        (changed(-99), "has -99 ms for word 'stayed'.*a code for a missing value"),
        (changed(9999), "has 9999 ms for word 'stayed'.*a code for a missing value"),
        (changed(0.3), "has 0.3 ms for word 'stayed'"),
        (
            [time / 1000 for time in TIMES],
            r"'reading_ms' has a median of 0\.\d+, .* are these seconds\? Write milliseconds",
        ),
        ([time * 1000 for time in TIMES], "are these microseconds"),
    ],
)
def test_an_invalid_time_is_rejected_with_its_word(tmp_path, times, message):
    name = lab(tmp_path / "x", stimuli_csv=words(TEXT, times=times), responses_csv=None)
    (tmp_path / "x" / "responses.csv").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=message):
        datasets.find(name)


def test_an_invalid_time_is_rejected_with_its_reader_and_word(tmp_path):
    for column, message in ((changed(0), "reader 'r1' has 0 ms for word 'stayed'"),
                         ([time / 1000 for time in TIMES], "column 'r1' has a median of .* seconds")):  # fmt: skip
        name = lab(tmp_path / "x", stimuli_csv=words(TEXT), reading_times_csv=readers(TIMES, column))
        (tmp_path / "x" / "responses.csv").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=message):
            datasets.find(name)


def test_words_that_were_not_read_may_be_empty_or_a_missing_value_code(tmp_path):
    name = lab(tmp_path / "x", stimuli_csv=words(TEXT), reading_times_csv=readers(TIMES, changed("n/a"), changed("")))
    (tmp_path / "x" / "responses.csv").unlink()
    loaded = datasets.load(name, ".").reading
    assert np.isnan(loaded.by_subject_ms[5]).tolist() == [False, True, True]
    assert loaded.mean_ms[5] == TIMES[5]


# --- scans ------------------------------------------------------------------------------------------------------------


def scans(onset, time):
    """30 scans of 2 s and one word per second; onset and time are functions of seconds."""
    shown = "stimulus_id,text,onset_s,end_s\n" + "".join(f"w{k},rain,{onset(k)},{onset(k + 0.5)}\n" for k in range(60))
    when = "scan_id,time_s\n" + "".join(f"t{k},{time(2 * k)}\n" for k in range(30))
    return {"stimuli_csv": shown, "scans_csv": when,
            "responses_csv": "row_id,v1\n" + "".join(f"t{k},{np.sin(k)}\n" for k in range(30))}  # fmt: skip


@pytest.mark.parametrize(
    ("onset", "time", "message"),
    [
        (lambda s: 1000 * s + 100_000, lambda s: s, "are the onsets in milliseconds"),
        (lambda s: s, lambda s: 1000 * s + 100_000, "is time_s in milliseconds"),
        (lambda s: s + 500, lambda s: s, "both must be in seconds on one clock"),
    ],
)
def test_clocks_on_which_no_word_falls_into_a_scan_are_rejected(tmp_path, onset, time, message):
    with pytest.raises(ValueError, match=f"scans.csv: no word falls into any scan in block 'all': .*{message}"):
        datasets.find(lab(tmp_path / "x", **scans(onset, time)))


def test_clocks_that_match_are_read(tmp_path):
    assert datasets.load(lab(tmp_path / "x", **scans(lambda s: s, lambda s: s)), ".").responses.values.shape == (30, 1)


def test_partly_overlapping_milliseconds_are_rejected_too(tmp_path):
    for onset, time, message in ((lambda s: 1000 * s, lambda s: s, "are the onsets in milliseconds"),
                              (lambda s: s, lambda s: 1000 * s, "is time_s in milliseconds")):  # fmt: skip
        with pytest.raises(ValueError, match=f"the times of words and scans do not match in block .*{message}"):
            datasets.find(lab(tmp_path / "x", **scans(onset, time)))


# --- language ---------------------------------------------------------------------------------------------------------


def reading_lab(folder, text, settings=None):
    times = np.random.default_rng(1).integers(200, 400, len(text.split())).tolist()
    name = lab(folder, settings, stimuli_csv=words(text, times=times), responses_csv=None)
    (folder / "responses.csv").unlink(missing_ok=True)
    return name


def test_words_of_a_language_without_spaces_need_a_stated_joiner(tmp_path):
    chinese = "他 在 河 边 睡 觉 。 她 走 了 。 " * 6
    with pytest.raises(ValueError, match=r'stimuli\.csv: column .text. is in a script without spaces .*"joiner": ""'):
        datasets.find(reading_lab(tmp_path / "x", chinese))
    loaded = datasets.load(reading_lab(tmp_path / "x", chinese, {"language": "zh", "joiner": ""}), ".")
    assert (loaded.stimuli.separator, loaded.language) == ("", "zh")
    assert len(set(loaded.stimuli.sentences)) == 12
    spaced = datasets.load(reading_lab(tmp_path / "x", chinese, {"joiner": " "}), ".")
    assert spaced.version != loaded.version


def test_frequencies_are_those_of_the_stated_language_or_english(tmp_path):
    german = "Der Hund schlief am Fluss. Wir blieben zu Hause. " * 6
    plain = datasets.load(reading_lab(tmp_path / "x", german), ".")
    stated = datasets.load(reading_lab(tmp_path / "x", german, {"language": "de"}), ".")
    english = datasets.load(reading_lab(tmp_path / "x", german, {"language": "en-GB"}), ".")
    assert plain.version == english.version != stated.version
    in_german, in_english = (controls.reading_predictor("frequency", dataset, 0) for dataset in (stated, plain))
    np.testing.assert_array_equal(in_german, zipf_frequencies(plain.stimuli.texts, "de"))
    np.testing.assert_array_equal(in_english, zipf_frequencies(plain.stimuli.texts))
    assert in_german[0] > in_english[0] + 1
    assert not np.array_equal(reading_times.control_terms(stated)[2:, 3], reading_times.control_terms(plain)[2:, 3])


def test_the_listing_shows_the_language_or_the_assumed_one(tmp_path, capsys):
    german = "Der Hund schlief am Fluss. Wir blieben zu Hause. " * 6
    for settings, text in ((None, "language: en (English, assumed since none is stated)"),
                           ({"language": "de"}, "language: de\n")):  # fmt: skip
        assert commands.main(["datasets", reading_lab(tmp_path / "x", german, settings)]) == 0
        assert text in capsys.readouterr().out
    assert commands.main(["datasets", "tuckute2024"]) == 0
    assert "language: en\n" in capsys.readouterr().out


def test_an_invalid_language_or_one_without_frequencies_is_reported(tmp_path, capsys):
    text = "Etxea handia da. Bai. " * 12
    with pytest.raises(ValueError, match=r"dataset\.json: language 'basque' is not a BCP 47 language code"):
        datasets.find(reading_lab(tmp_path / "x", text, {"language": "basque"}))
    name = reading_lab(tmp_path / "x", text, {"language": "eu"})
    assert commands.main(["datasets", name]) == 0
    assert "STRICT regresses reading times on word frequency and cannot be computed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="wordfreq has no word frequencies of language 'eu'; it has ar, bg"):
        zipf_frequencies(["etxea"], "eu")


def test_responses_far_from_0_keep_their_digits(tmp_path):
    """float32 has steps of 0.06 at 1e6."""
    rows = "".join(f"s{k},{value},{1e6 + value}\n" for k, value in enumerate(VALUES))
    responses = datasets.load(lab(tmp_path, responses_csv=f"row_id,v1,v2\n{rows}"), tmp_path).responses
    np.testing.assert_allclose(responses.values[:, 1] - 1e6, VALUES, atol=1e-9)

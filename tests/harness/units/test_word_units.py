"""Surprisal per word of a user's own text, from Python and from the command line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from harness.cli import commands
from harness.models import tiny
from harness.protocol import surprisal_alone
from harness.records import Stimuli
from harness.text import contexts
from harness.units import corpora, word_units

HOW = surprisal_alone()
SENTENCE = "The old bee watched the hive."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: str(tiny.build(name, folder / name, ["the old bee watched"], seed=0)) for name in ("llama", "t5", "bert")
    }


@pytest.fixture
def words(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text(SENTENCE)
    return str(file)


def surprisals(sources, names, how=HOW, **options):
    return pd.concat(
        word_units.surprisals(sources, names, word_units.WordOptions(how, device="cpu", **options)), ignore_index=True
    )


def test_each_word_has_a_surprisal_and_the_precision_of_the_model(models, words):
    frame = surprisals([words], [models["llama"], models["t5"]])
    assert list(frame.model) == ["llama"] * 6 + ["t5"] * 6
    assert set(frame["dtype"]) == {"float32"}
    assert (frame.surprisal_bits > 0).all()
    assert np.isfinite(frame[["corrected_bits", "entropy_bits", "rank"]].to_numpy(float)).all()
    assert (frame.entropy_bits > 0).all()
    assert (frame["rank"] >= 1).all()


def test_both_uses_of_t5_are_distinguished_in_the_context_column(models, words):
    frame = surprisals([words], [models["t5"]], t5_reads="both")
    assert list(frame.context.unique()) == ["passage, by the decoder alone", "passage, in the encoder"]
    by_decoder, in_encoder = (rows.surprisal_bits.to_numpy() for _, rows in frame.groupby("context", sort=False))
    assert not np.allclose(by_decoder[1:], in_encoder[1:], atol=0.01)


@pytest.mark.parametrize("text", ["The old bee watched the hive.", "Unbelievable bees watched.", "The"])
@pytest.mark.parametrize("bos", ["window", "none"])
def test_surprisal_equals_a_forward_pass_and_without_bos_the_first_word_is_nan(text, bos, models, tmp_path):
    import torch

    from harness.checkpoints import checkpoints
    from harness.loading import loaded_model

    (tmp_path / "a.txt").write_text(text)
    frame = surprisals([str(tmp_path / "a.txt")], [models["llama"]], how=surprisal_alone(bos=bos))
    loaded = loaded_model.load(checkpoints.resolve(models["llama"]))
    words = tuple(text.split())
    (context,) = contexts.build(Stimuli(words, words, ("p",) * len(words)), "passage")
    tokens = loaded.encode(context)
    ids = [*(loaded.prefix if bos == "window" else ()), *map(int, tokens.ids)]
    with torch.no_grad():
        logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) / np.log(2)
    bits = np.array([-logs[k - 1, ids[k]].item() if k else np.nan for k in range(len(ids))])[-len(tokens.ids) :]
    expected = [bits[tokens.owners == word].sum() for word in range(len(words))]
    np.testing.assert_allclose(frame.surprisal_bits, expected, rtol=1e-4)
    assert np.isnan(frame.surprisal_bits).tolist() == [bos == "none"] + [False] * (len(expected) - 1)


def test_the_command_notes_settings_of_the_files_that_are_not_used(models, words, tmp_path, capsys):
    folder = tmp_path / "m"
    shutil.copytree(models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 50256}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert (
        commands.main(["surprisal", words, "--model", str(folder), "--out", str(tmp_path / "a.csv"), "--device", "cpu"])
        == 0
    )
    assert "note: m: bos_token_id 50256 of config.json is past the embeddings" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "a.csv").surprisal_bits.isna().tolist() == [True] + [False] * 5


def test_folders_with_the_same_name_get_different_model_names(models, words, tmp_path):
    for name, model in (("exp1", "llama"), ("exp2", "t5")):
        shutil.copytree(models[model], tmp_path / name / "final")
    frame = surprisals([words], [str(tmp_path / "exp1" / "final"), str(tmp_path / "exp2" / "final")])
    assert list(frame.model.unique()) == ["exp1-final", "exp2-final"]


def test_an_encoder_has_no_surprisal(models, words):
    with pytest.raises(ValueError, match="bert is an encoder, which gives no probabilities"):
        surprisals([words], [models["bert"]])


def test_a_long_text_is_cut_into_pieces_that_include_preceding_words(models, tmp_path, monkeypatch):
    """Pieces of 20 words after 8 preceding ones, shards of 30: as the contexts of the whole text, each word once."""
    monkeypatch.setattr(contexts, "PIECE", 20)
    monkeypatch.setattr(contexts, "LEAD", 8)
    monkeypatch.setattr(corpora, "SHARD_WORDS", 30)
    rng = np.random.default_rng(0)
    words = pd.DataFrame({"word": rng.choice(SENTENCE.split(), 90)})
    words["passage"] = ["one"] * 55 + ["two"] * 5 + ["three"] * 30
    file = tmp_path / "long.csv"
    words.to_csv(file, index=False)
    shards = list(corpora.shards_of(str(file), "passage"))
    assert [len(shard.own()) for shard in shards] == [40, 40, 10]
    pieces = [context for shard in shards for context in shard.contexts()]
    stimuli = Stimuli(tuple(map(str, range(1, len(words) + 1))), tuple(words.word), tuple(words.passage))
    for context, expected in zip(pieces, contexts.build(stimuli, "passage"), strict=True):
        assert (context.text, context.stimulus_ids) == (expected.text, expected.stimulus_ids)
        np.testing.assert_array_equal(context.spans, expected.spans)
    assert [len(context.text.split()) for context in pieces] == [20, 28, 23, 5, 20, 18]
    frame = surprisals([str(file)], [models["llama"]])
    assert list(frame.word_id) == [str(k + 1) for k in range(90)]
    assert np.isfinite(frame.surprisal_bits).all()


def test_columns_of_the_user_are_kept_and_sentences_end_at_punctuation(models, tmp_path):
    file = tmp_path / "own.tsv"
    pd.DataFrame({
        "word": ["He", "left.", "She", "stayed."], "passage": ["p"] * 4, "word_id": ["w9", "w7", "w5", "w3"],
    }).to_csv(file, sep="\t", index=False)  # fmt: skip
    frame = surprisals([str(file)], [models["llama"]], how=surprisal_alone("sentence"))
    assert list(frame.word_id) == ["w9", "w7", "w5", "w3"]
    assert list(frame.sentence) == ["1", "1", "2", "2"]
    isolated = surprisals([str(file)], [models["llama"]], how=surprisal_alone("none"))
    np.testing.assert_allclose(isolated.surprisal_bits[[0, 2]], frame.surprisal_bits[[0, 2]], atol=1e-4)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.csv", "word\nthe\n\"\"\nbee\n", "word 2 ('') has no text"),
    ("a.csv", "word\nthe\n\" bee\"\n", "word 2 (' bee') has spaces around it"),
    ("a.csv", "token\nthe\n", "one must be called `word`"),
    ("a.csv", "word\n", "has no words"),
    ("a.csv", "", "is empty"),
    ("a.txt", "  \n ", "has no words"),
    ("a.csv", "word,word_id\nthe,1\nbee,1\n", "the word_id of row 2 appears more than once"),
    ("a.csv", "word,passage\nthe,a\nbee,b\nran,a\n", "passage 'a' is not contiguous"),
    ("a.csv", b"word\nna\xefve\n", "is not UTF-8"),
    ("a.txt", b"na\xefve bee", "is not UTF-8"),
])  # fmt: skip
def test_a_malformed_text_is_reported_before_a_model_is_loaded(tmp_path, name, content, message, capsys):
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert commands.main(["surprisal", str(file), "--model", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err


def test_words_of_a_plain_text_are_separated_by_whitespace_also_across_blocks(tmp_path):
    file = tmp_path / "long.txt"
    text = "The  old\tbee\n\nwatched — the well-known hive's naïve 🐝 \u00a0 x " * 12_000
    file.write_text(text, encoding="utf-8")
    words = [row.word for shard in corpora.shards_of(str(file), "passage") for row in shard.own()]
    assert words == text.split()


def test_unusual_words_pass_through_the_command_unchanged(models, tmp_path, capsys):
    words = ["well-known", "don't", "—", "naïve", "日本語", "a  b", "x" * 700, "NA", "null", '"quoted"', "end."]
    file = tmp_path / "unusual.csv"
    pd.DataFrame({"word": words}).to_csv(file, index=False)
    assert commands.main(["surprisal", str(file), "--model", models["llama"], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["word"] for row in rows] == words
    assert all(row["surprisal_bits"] > 0 for row in rows)
    assert rows[6]["n_tokens"] > 256  # longer than the window


def test_the_output_file_is_written_completely_or_not_at_all(models, tmp_path, words, capsys):
    out = tmp_path / "bits.csv"
    assert commands.main(["surprisal", words, "--model", models["llama"], "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"6 rows in {out}\n"
    assert list(pd.read_csv(out).word) == SENTENCE.split()
    assert commands.main(["surprisal", words, "--model", models["llama"], "--model", "nothing", "--out", str(out)]) == 2
    assert len(pd.read_csv(out)) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.csv", "words.txt"]

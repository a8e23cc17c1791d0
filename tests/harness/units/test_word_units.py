"""Bits per word of a user's own text, in this process and as the command gives them."""

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


def read(sources, names, **more):
    return pd.concat(word_units.surprisals(sources, names, more.pop("how", HOW), **more), ignore_index=True)


def test_a_word_has_bits_and_the_precision_they_were_computed_in(models, words):
    found = read([words], [models["llama"], models["t5"]])
    assert list(found.model) == ["llama"] * 6 + ["t5"] * 6
    assert set(found["dtype"]) == {"float32"}
    assert (found.surprisal_bits > 0).all()
    assert np.isfinite(found[["corrected_bits", "entropy_bits", "rank"]].to_numpy(float)).all()
    assert (found.entropy_bits > 0).all()
    assert (found["rank"] >= 1).all()


def test_both_readings_of_t5_are_named(models, words):
    found = read([words], [models["t5"]], t5_reads="both")
    assert list(found.context.unique()) == ["passage, by the decoder alone", "passage, in the encoder"]
    alone, context = (part.surprisal_bits.to_numpy() for _, part in found.groupby("context", sort=False))
    assert not np.allclose(alone[1:], context[1:], atol=0.01)


@pytest.mark.parametrize("text", ["The old bee watched the hive.", "Unbelievable bees watched.", "The"])
@pytest.mark.parametrize("bos", ["window", "none"])
def test_without_bos_the_first_word_is_empty_and_the_rest_is_as_of_a_forward_of_the_text(text, bos, models, tmp_path):
    import torch

    from harness.checkpoints import checkpoints
    from harness.loading import loaded_model

    (tmp_path / "a.txt").write_text(text)
    found = read([str(tmp_path / "a.txt")], [models["llama"]], how=surprisal_alone(bos=bos))
    loaded = loaded_model.load(checkpoints.resolve(models["llama"]))
    shown = tuple(text.split())
    (context,) = contexts.build(Stimuli(shown, shown, ("p",) * len(shown)), "passage")
    tokens = loaded.encode(context)
    ids = [*(loaded.prefix if bos == "window" else ()), *map(int, tokens.ids)]
    with torch.no_grad():
        logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) / np.log(2)
    costs = np.array([-logs[at - 1, ids[at]].item() if at else np.nan for at in range(len(ids))])[-len(tokens.ids) :]
    wanted = [costs[tokens.owners == word].sum() for word in range(len(shown))]
    np.testing.assert_allclose(found.surprisal_bits, wanted, rtol=1e-4)
    assert np.isnan(found.surprisal_bits).tolist() == [bos == "none"] + [False] * (len(wanted) - 1)


def test_what_is_not_used_as_the_files_say_is_said(models, words, tmp_path, capsys):
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


def test_folders_of_one_name_have_two_names(models, words, tmp_path):
    for name, model in (("exp1", "llama"), ("exp2", "t5")):
        shutil.copytree(models[model], tmp_path / name / "final")
    found = read([words], [str(tmp_path / "exp1" / "final"), str(tmp_path / "exp2" / "final")])
    assert list(found.model.unique()) == ["exp1-final", "exp2-final"]


def test_an_encoder_has_no_surprisal(models, words):
    with pytest.raises(ValueError, match="bert is an encoder, which gives no probabilities"):
        read([words], [models["bert"]])


def test_a_long_text_is_read_in_pieces_that_know_what_came_before(models, tmp_path, monkeypatch):
    """Pieces of 20 words after 8, shards of 30: the same as the contexts of the whole text say, each word once."""
    monkeypatch.setattr(contexts, "PIECE", 20)
    monkeypatch.setattr(contexts, "LEAD", 8)
    monkeypatch.setattr(corpora, "SHARD_WORDS", 30)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"word": rng.choice(SENTENCE.split(), 90)})
    frame["passage"] = ["one"] * 55 + ["two"] * 5 + ["three"] * 30
    file = tmp_path / "long.csv"
    frame.to_csv(file, index=False)
    shards = list(corpora.shards_of(str(file), "passage"))
    assert [len(shard.own()) for shard in shards] == [40, 40, 10]
    ours = [context for shard in shards for context in shard.contexts()]
    stimuli = corpora_as_stimuli(frame)
    for one, other in zip(ours, contexts.build(stimuli, "passage"), strict=True):
        assert (one.text, one.stimulus_ids) == (other.text, other.stimulus_ids)
        np.testing.assert_array_equal(one.spans, other.spans)
    assert [len(context.text.split()) for context in ours] == [20, 28, 23, 5, 20, 18]
    found = read([str(file)], [models["llama"]])
    assert list(found.word_id) == [str(k + 1) for k in range(90)]
    assert np.isfinite(found.surprisal_bits).all()


def corpora_as_stimuli(frame):
    from harness.records import Stimuli

    return Stimuli(tuple(map(str, range(1, len(frame) + 1))), tuple(frame.word), tuple(frame.passage))


def test_columns_of_the_users_stay_and_sentences_are_found_by_punctuation(models, tmp_path):
    file = tmp_path / "own.tsv"
    pd.DataFrame({
        "word": ["He", "left.", "She", "stayed."], "passage": ["p"] * 4, "word_id": ["w9", "w7", "w5", "w3"],
    }).to_csv(file, sep="\t", index=False)  # fmt: skip
    found = read([str(file)], [models["llama"]], how=surprisal_alone("sentence"))
    assert list(found.word_id) == ["w9", "w7", "w5", "w3"]
    assert list(found.sentence) == ["1", "1", "2", "2"]
    alone = read([str(file)], [models["llama"]], how=surprisal_alone("none"))
    np.testing.assert_allclose(alone.surprisal_bits[[0, 2]], found.surprisal_bits[[0, 2]], atol=1e-4)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.csv", "word\nthe\n\"\"\nbee\n", "word 2 ('') has no text"),
    ("a.csv", "word\nthe\n\" bee\"\n", "word 2 (' bee') has spaces around it"),
    ("a.csv", "token\nthe\n", "one must be called `word`"),
    ("a.csv", "word\n", "has no words"),
    ("a.csv", "", "is empty"),
    ("a.txt", "  \n ", "has no words"),
    ("a.csv", "word,word_id\nthe,1\nbee,1\n", "the word_id of row 2 stands more than once"),
    ("a.csv", "word,passage\nthe,a\nbee,b\nran,a\n", "passage 'a' is not contiguous"),
    ("a.csv", b"word\nna\xefve\n", "is not UTF-8"),
    ("a.txt", b"na\xefve bee", "is not UTF-8"),
])  # fmt: skip
def test_what_is_wrong_with_a_text_is_said_before_a_model_is_loaded(tmp_path, name, content, said, capsys):
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert commands.main(["surprisal", str(file), "--model", str(tmp_path / "none")]) == 2
    assert said in capsys.readouterr().err


def test_a_plain_text_is_what_stands_between_spaces_however_it_is_cut_into_blocks(tmp_path):
    file = tmp_path / "long.txt"
    text = "The  old\tbee\n\nwatched — the well-known hive's naïve 🐝 \u00a0 x " * 12_000
    file.write_text(text, encoding="utf-8")
    found = [row.word for shard in corpora.shards_of(str(file), "passage") for row in shard.own()]
    assert found == text.split()


def test_nasty_words_through_the_command(models, tmp_path, capsys):
    words = ["well-known", "don't", "—", "naïve", "日本語", "a  b", "x" * 700, "NA", "null", '"quoted"', "end."]
    file = tmp_path / "nasty.csv"
    pd.DataFrame({"word": words}).to_csv(file, index=False)
    assert commands.main(["surprisal", str(file), "--model", models["llama"], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["word"] for row in rows] == words
    assert all(row["surprisal_bits"] > 0 for row in rows)
    assert rows[6]["n_tokens"] > 256  # more than the window


def test_a_file_is_written_whole_or_not_at_all(models, tmp_path, words, capsys):
    out = tmp_path / "bits.csv"
    assert commands.main(["surprisal", words, "--model", models["llama"], "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"6 rows in {out}\n"
    assert list(pd.read_csv(out).word) == SENTENCE.split()
    assert commands.main(["surprisal", words, "--model", models["llama"], "--model", "nothing", "--out", str(out)]) == 2
    assert len(pd.read_csv(out)) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.csv", "words.txt"]

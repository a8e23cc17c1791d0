"""Tokenizers in their published forms agree with the libraries that define those forms."""

import io
import json

import numpy as np
import pytest
import sentencepiece
from tokenizers import (
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import AddedToken, AutoTokenizer

from harness.checkpoints import tokenizers
from harness.checkpoints.tokenizers import PROBE
from harness.records import Stimuli
from harness.text import contexts, tokens

CORPUS = [*PROBE, "the cat sat on the mat and the owner's well known cat"] * 5
TEXTS = ("The cat's mat, near 12 naïve owls…", " two  spaces", "ﬁne ½ ＦＵＬＬ", "New line;\nnext")


def sentencepiece_model(file, **options):
    """Train a model with SentencePiece itself."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, hard_vocab_limit=False, minloglevel=2,
        **{"vocab_size": 150, **options},
    )  # fmt: skip
    file.write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def folder_of(path, model_type, tokenizer_class=None, **settings):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if tokenizer_class:
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **settings}))
    return path


def byte_level(path):
    """Write a tokenizer.json like DeepSeek's: byte-level BPE that first splits off punctuation and 3-digit groups."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split(Regex("[-',]"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    made.save(str(path / "tokenizer.json"))
    return made


@pytest.mark.parametrize(("model_type", "named"), [("llama", "LlamaTokenizerFast"), ("qwen2", None)])
def test_tokenizer_json_is_used_unchanged_if_transformers_would_build_another_tokenizer(model_type, named, tmp_path):
    folder = folder_of(tmp_path / "m", model_type, named, bos_token="<s>")
    published = byte_level(folder)
    loaded = tokenizers.load(folder)
    assert loaded.note.startswith("tokenizer.json is used as published")
    for text in (*PROBE, *TEXTS):
        made = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert made["input_ids"] == published.encode(text, add_special_tokens=False).ids
    assert loaded.tokenizer.decode(loaded.tokenizer(TEXTS[0])["input_ids"]).endswith(TEXTS[0])
    if named:
        assert loaded.tokenizer.bos_token_id == published.token_to_id("<s>")


def test_no_note_if_published_tokenizer_and_transformers_agree(tmp_path):
    folder = folder_of(tmp_path / "m", "llama", "PreTrainedTokenizerFast")
    byte_level(folder)
    assert tokenizers.load(folder).note == ""


BPE = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "vocab_size": 600}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}


@pytest.mark.parametrize(("model_type", "named", "file", "options"), [
    ("llama", "LlamaTokenizer", "tokenizer.model", BPE),
    ("mistral", None, "tokenizer.model", BPE),
    ("t5", None, "spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
    ("albert", None, "spiece.model", ALBERT),
    ("deberta-v2", None, "spm.model", {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "unk_piece": "[UNK]"}),
    ("xlm-roberta", None, "sentencepiece.bpe.model", {}),
])  # fmt: skip
def test_a_sentencepiece_model_alone_splits_a_text_as_sentencepiece_does(model_type, named, file, options, tmp_path):
    folder = folder_of(tmp_path / "m", model_type, named)
    model = sentencepiece_model(folder / file, **options)
    tokenizer = tokenizers.load(folder).tokenizer
    for text in PROBE if model_type != "albert" else [text.lower() for text in PROBE[:2]]:
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ours = [piece.replace("[UNK]", "<unk>") for piece in tokenizer.convert_ids_to_tokens(made["input_ids"])]
        theirs = [model.id_to_piece(piece).replace("[UNK]", "<unk>") for piece in model.encode(text)]
        assert ours == theirs
        ends = [end for _, end in made["offset_mapping"]]
        assert ends == sorted(ends)
        assert ends[-1] == len(text)


def test_sentencepiece_tokens_are_assigned_to_their_words(tmp_path):
    folder = folder_of(tmp_path / "m", "t5")
    sentencepiece_model(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = tokenizers.load(folder).tokenizer
    words = ("The", "naïve", "cat", "sat", "near", "you.")
    (context,) = contexts.build(Stimuli(tuple(map(str, range(6))), words, ("p",) * 6), "passage")
    read = tokens.encode(context, tokenizer)
    for word, text in enumerate(words):
        assert tokenizer.decode(read.ids[read.owners == word].tolist()).strip() == text


def test_added_and_control_tokens_beside_a_sentencepiece_model_are_split_off_as_in_transformers(tmp_path):
    folder = folder_of(tmp_path / "m", "llama", "LlamaTokenizer")
    of_llama = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "vocab_size": 500}
    model = sentencepiece_model(folder / "tokenizer.model", remove_extra_whitespaces=False, **of_llama)
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": model.get_piece_size()}))
    tokenizer, theirs = tokenizers.load(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    for text in ("The cat <|im_end|> sat.", "The cat</s> sat", "<|im_end|>The cat sat."):
        encoded = tokenizer(text, add_special_tokens=False)
        assert encoded["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]
        words = text.split()
        (context,) = contexts.build(
            Stimuli(tuple("123456"[: len(words)]), tuple(words), ("p",) * len(words)), "passage"
        )
        read = tokens.encode(context, tokenizer)
        for word, shown in enumerate(words):
            assert tokenizer.decode(read.ids[read.owners == word].tolist()).strip() == shown


def test_an_added_token_is_refused_if_transformers_splits_the_rest_differently(tmp_path):
    folder = folder_of(tmp_path / "m", "llama", "LlamaTokenizer")
    model = sentencepiece_model(folder / "tokenizer.model")  # a unigram model, which transformers treats as BPE
    (folder / "added_tokens.json").write_text(json.dumps({"dogzilla": model.get_piece_size()}))
    tokenizer = tokenizers.load(folder).tokenizer
    assert tokenizer("The cat sat.")["input_ids"]
    with pytest.raises(ValueError, match=r"'dogzilla', a token added beside tokenizer\.model"):
        tokenizer("The dogzilla sat near the internationalisation.")


@pytest.mark.parametrize(("text", "wanted"), [
    ("The cat <b> sat", ["The", " cat", " <b>", "sat"]), ("The cat <l> sat", ["The", " cat", "<l>", " sat"]),
])  # fmt: skip
def test_an_added_token_that_strips_spaces_leaves_other_words_unchanged(tmp_path, text, wanted):
    folder = folder_of(tmp_path / "m", "llama", "PreTrainedTokenizerFast")
    byte_level(folder)
    made = AutoTokenizer.from_pretrained(folder)
    made.add_tokens([AddedToken("<b>", rstrip=True), AddedToken("<l>", lstrip=True)])
    made.save_pretrained(folder)
    tokenizer = tokenizers.load(folder).tokenizer
    (context,) = contexts.build(Stimuli(tuple("1234"), tuple(text.split()), ("p",) * 4), "passage")
    read = tokens.encode(context, tokenizer)
    assert [tokenizer.decode(read.ids[read.owners == word].tolist()) for word in range(4)] == wanted


def test_bpe_dropout_is_switched_off(tmp_path):
    folder = folder_of(tmp_path / "m", "llama", "PreTrainedTokenizerFast")
    made = byte_level(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    loaded = tokenizers.load(folder)
    assert "leaves out 50% of the merges at random" in loaded.note
    for text in PROBE:
        wanted = made.encode(text, add_special_tokens=False).ids
        assert loaded.tokenizer(text, add_special_tokens=False)["input_ids"] == wanted


def test_tokens_of_a_pure_python_tokenizer_are_assigned_to_their_words(tmp_path):
    folder = folder_of(tmp_path / "m", "ctrl", "CTRLTokenizer")
    merges = ["T h", "Th e</w>", "c a", "ca t</w>", "s a"]
    letters = sorted(set("Thecatsnïv.,"))
    pieces = ["<unk>", *letters, *(f"{letter}@@" for letter in letters), "Th@@", "The", "ca@@", "cat", "sa@@"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer, theirs = tokenizers.load(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    words = ("The", "cat,", "naïve", "Theca", "sat.")
    (context,) = contexts.build(Stimuli(tuple("12345"), words, ("p",) * 5), "passage")
    read = tokens.encode(context, tokenizer)
    assert read.ids.tolist() == theirs(context.text, add_special_tokens=False)["input_ids"]
    for word, text in enumerate(words):
        assert tokenizer.decode(read.ids[read.owners == word].tolist()).replace(" ", "") == text


@pytest.mark.parametrize(("name", "content", "message"), [
    ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", r"tokenizer\.json is a Git LFS pointer"),
    ("tokenizer_config.json", "version https://git-lfs.github.com/", r"tokenizer_config\.json is a Git LFS pointer"),
    ("tokenizer.json", "", r"tokenizer\.json is empty"), ("tokenizer.json", "[]", "holds no JSON object"),
    ("tokenizer.json", "{}", "has no tokenizer model"), ("tokenizer.json", "{", "is not JSON"),
])  # fmt: skip
def test_error_for_a_damaged_tokenizer_names_the_file(tmp_path, name, content, message):
    folder = folder_of(tmp_path / "m", "llama", "PreTrainedTokenizerFast")
    byte_level(folder)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        tokenizers.load(folder)


def test_error_for_a_vocabulary_without_merges_names_the_missing_file(tmp_path):
    folder = folder_of(tmp_path / "m", "gpt2", "GPT2Tokenizer")
    (folder / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match=r"without merges\.txt"):
        tokenizers.load(folder)


def test_a_word_vocabulary_alone_tokenises_as_bert_does(tmp_path):
    folder = folder_of(tmp_path / "m", "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "mat", "na", "##ive", "'", "s", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer, theirs = tokenizers.load(folder).tokenizer, BertWordPieceTokenizer(str(folder / "vocab.txt"))
    for text in ("The cats.", "naïve cat's mat"):
        assert (
            tokenizer(text, add_special_tokens=False)["input_ids"] == theirs.encode(text, add_special_tokens=False).ids
        )


def test_vocabulary_and_merges_alone_tokenise_as_gpt2_does(tmp_path):
    folder = folder_of(tmp_path / "m", "gpt2")
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(CORPUS, vocab_size=400, special_tokens=["<|endoftext|>"])
    theirs.save_model(str(folder))
    tokenizer = tokenizers.load(folder).tokenizer
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "merges.txt", "vocab.json"]
    for text in (*PROBE, *TEXTS):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == theirs.encode(text).ids


def test_byt5_tokens_are_bytes_with_character_offsets(tmp_path):
    folder = folder_of(tmp_path / "m", "t5", "ByT5Tokenizer")
    tokenizer = tokenizers.load(folder).tokenizer
    made = tokenizer("naïve", add_special_tokens=False)
    assert made["input_ids"] == [byte + 3 for byte in "naïve".encode()]
    assert [start for start, _ in made["offset_mapping"]] == [0, 1, 2, 2, 3, 4]
    assert [*tokenizer("a", add_special_tokens=True)["input_ids"]] == [100, 1]


def test_tokens_of_a_pure_python_tokenizer_that_do_not_match_the_text_are_refused(tmp_path):
    folder = folder_of(tmp_path / "m", "prophetnet", "ProphetNetTokenizer")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[X_SEP]", "the", "cat", "##s", "naive", "."]
    (folder / "prophetnet.tokenizer").write_text("\n".join(pieces))
    tokenizer = tokenizers.load(folder).tokenizer
    assert tokenizer("The cats.")["offset_mapping"] == [(0, 3), (4, 7), (7, 8), (8, 9)]
    with pytest.raises(ValueError, match=r"ProphetNetTokenizer\) gives the token 'naive' where the text has 'naïve"):
        tokenizer("The naïve cat.")


# --- published tokenizers of the real models --------------------------------------------------------------------------

TRICKY = (
    "It's", "don't", "well-known", "naïve", "“quoted”", "U.S.A.", "12,345.67", "…", "river…", "ﬁsh", "Ångström",
    "York's", "(x)", "--", "e.g.", "😀", "你好", "STRASSE", "Straße", "end.",
)  # fmt: skip
FORMS = {
    "llama2": "llama", "llama3_1": "llama", "qwen3": "qwen3", "gemma3": "gemma3_text", "gpt2": "gpt2",
    "deepseek_v3": "llama", "mistral_v1": "mistral",
}  # fmt: skip


@pytest.mark.parametrize("form", [
    pytest.param(form, marks=pytest.mark.slow) if form in {"gemma3", "llama3_1"} else form for form in FORMS
])  # fmt: skip
def test_surprisals_of_twenty_difficult_words_equal_a_plain_transformers_forward_pass(form, shared, tmp_path):
    """A tiny model of the family with the published tokenizer; tokens come from the file's own library."""
    import shutil

    import torch
    import transformers

    from harness.checkpoints import checkpoints
    from harness.extraction import backends, surprisal
    from harness.protocol import surprisal_alone

    folder = tmp_path / form
    shutil.copytree(shared / "forms" / "tokenizers" / form, folder)
    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[FORMS[form]]
    size = {"gpt2": 50257, "gemma3": 262208, "deepseek_v3": 129280, "llama3_1": 128256, "qwen3": 151936}.get(
        form, 32000
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
             "intermediate_size": 32, "head_dim": 8, "max_position_embeddings": 512}  # fmt: skip
    small = {"n_embd": 16, "n_layer": 2, "n_head": 2} if form == "gpt2" else sizes
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(vocab_size=size, initializer_range=0.3, **small)).eval()
    model.save_pretrained(folder)
    (context,) = contexts.build(Stimuli(tuple(map(str, range(20))), TRICKY, ("p",) * 20), "passage")
    loaded = backends.load("transformers", checkpoints.resolve(str(folder)), "cpu")
    read, how = loaded.loaded.encode(context), surprisal_alone()
    extracted = loaded.extract([read], how, states=False, log_probabilities=True)
    words = surprisal.per_word([read], extracted.predictions, loaded.loaded.word_initial_tokens)
    ids = published_ids(folder, context.text)
    assert ids == read.ids.tolist()
    whole = [*loaded.loaded.prefix, *ids]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    first = len(whole) - len(ids)
    costs = np.array([-logs[at - 1, whole[at]].item() if at else np.nan for at in range(first, len(whole))])
    for word in np.flatnonzero(
        [word not in read.retokenised and word - 1 not in read.retokenised for word in range(20)]
    ):
        assert words.bits[word] * np.log(2) == pytest.approx(costs[read.owners == word].sum(), rel=1e-4, nan_ok=True)
    assert np.isfinite(words.bits[1:]).all()
    assert np.isfinite(words.bits[0]) == bool(first)


def published_ids(folder, text):
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    if (folder / "tokenizer.model").is_file():
        return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).encode(text).ids

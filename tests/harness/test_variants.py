"""Names of variants, conditions and numbers of units as they are written on the command line."""

import json

import pytest

from harness import variants
from harness.spec import EvaluationSpec
from harness.variants import Condition, UnitCount


@pytest.mark.parametrize(("name", "base"), [
    ("m:untrained", "m"), ("m:chat", "m"), ("m:condition-careful", "m"), ("m:localised-10pct", "m"),
    ("m:untrained-localised-0.5pct", "m"), ("m:random-units-512", "m"), ("m:random-units-512-2", "m"), ("m", "m"),
    ("m:later", "m:later"), ("m:condition-", "m:condition-"), ("m:condition-a b", "m:condition-a b"),
    ("m:localised-x", "m:localised-x"),
])  # fmt: skip
def test_the_model_of_a_variant(name, base):
    assert variants.base_name(name) == base


def test_conditions_are_prefixes_or_templates(tmp_path):
    (tmp_path / "c.yaml").write_text("careful: 'Read carefully: '\nquoted: 'Read \"{stimulus}\" twice.'\n")
    (tmp_path / "c.json").write_text(json.dumps({"plain": "Listen.\n"}))
    assert variants.conditions(["a=b=c "], str(tmp_path / "c.yaml")) == (
        Condition("careful", "Read carefully: "), Condition("quoted", 'Read "', '" twice.'), Condition("a", "b=c "),
    )  # fmt: skip
    assert variants.conditions([], str(tmp_path / "c.json")) == (Condition("plain", "Listen.\n"),)
    assert Condition.of("x", "a {stimulus} b").template == "a {stimulus} b"


@pytest.mark.parametrize(("given", "message"), [
    (["careful"], "is not of the form NAME="), (["=Read "], "is called ''"), (["a b=Read "], "is called 'a b'"),
    (["x=  "], "has no text"), (["x={stimulus}"], "has no text"), (["x={stimulus}{stimulus}"], "more than once"),
    (["x=a ", "x=b "], "two conditions are called 'x'"),
])  # fmt: skip
def test_a_faulty_condition_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        variants.conditions(given)


@pytest.mark.parametrize("content", ["[1]", "{", "{}", '{"a": 1}', "a"])
def test_a_file_that_is_no_mapping_is_refused(content, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=r"c\.json"):
        variants.conditions([], str(tmp_path / "c.json"))
    with pytest.raises(FileNotFoundError, match="--conditions"):
        variants.conditions([], str(tmp_path / "other.json"))


def test_numbers_of_units():
    assert [UnitCount(text).of(1000) for text in ("512", "10%", "0.5%", "0.01%")] == [512, 100, 5, 1]
    assert UnitCount("0.5%").label == "0.5pct"
    for text in ("0", "-1", "1.5", "101%", "0%", "%", "ten", "10 %"):
        with pytest.raises(ValueError, match="is not a number of units"):
            UnitCount(text)


def test_a_spec_without_these_options_is_called_what_it_was_called_before():
    spec = EvaluationSpec("x", ("m",), ("d",))
    assert not {"conditions", "localise", "localiser", "random_draws"} & set(spec.content)
    assert {"localise", "localiser", "random_draws"} <= set(EvaluationSpec("x", (), (), localise=("512",)).content)
    with pytest.raises(ValueError, match="no units are localised"):
        EvaluationSpec("x", (), (), localiser="f.csv")
    with pytest.raises(ValueError, match="has no prompts"):
        EvaluationSpec("x", (), (), ("brainscore2026",), conditions=(Condition("a", "b "),))

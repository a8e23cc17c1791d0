"""TextGrids in Praat's long and short format."""

from __future__ import annotations

import re

import pytest

from harness.datasets.formats import textgrid
from tests.harness.datasets.lebel_files import textgrid as written

TIERS = {
    "phones": [(0.0, 0.25, "AH0"), (0.25, 1.5, "")],
    "words": [(0.0, 0.5, 'the "old" 3 bees'), (0.5, 1e-05 + 0.5, "xmin = 4"), (0.6, 1.5, "zoë")],
}


@pytest.mark.parametrize("is_long", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_both_formats_give_the_same_tiers_in_every_encoding(is_long, encoding, tmp_path):
    path = tmp_path / "story.TextGrid"
    path.write_bytes(written(TIERS, is_long).encode(encoding))
    tiers = textgrid.read(path)
    assert [tier.name for tier in tiers] == ["phones", "words"]
    assert {tier.name: [tuple(interval) for interval in tier.intervals] for tier in tiers} == TIERS


def test_points_have_no_duration():
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n2\n<exists>\n1\n'
    text = head + '"TextTier"\n"clicks"\n0\n2\n1\n0.5\n"x"\n'
    assert textgrid.parse(text) == (textgrid.Tier("clicks", (textgrid.Interval(0.5, 0.5, "x"),)),)


def test_a_published_file_has_the_intervals_found_line_by_line(shared):
    path = shared / "data/alice_brennan2016/alice_stim_shared/DownTheRabbitHoleFinal_exp120_pad_1.TextGrid"
    (tier,) = textgrid.read(path)
    found = re.findall(r"intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = \"(.*)\"", path.read_text())
    assert [tuple(interval) for interval in tier.intervals] == [(float(a), float(b), c.strip()) for a, b, c in found]
    assert len(tier.intervals) > 2_127


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text[: len(text) // 2], "it ends before all of its intervals"),
    (lambda text: text.replace("ooTextFile", "other"), "it begins with"),
    (lambda text: text.replace("IntervalTier", "PitchTier"), "tier 'phones' has the class 'PitchTier'"),
    (lambda text: text.replace("xmax = 0.25", 'xmax = "x"'), "'x' where a number was expected"),
    (lambda text: text.replace('text = "AH0"', "text = 7"), "7 where a text in quotation marks"),
])  # fmt: skip
def test_the_error_for_another_file_names_it_and_the_fault(change, message, tmp_path):
    path = tmp_path / "story.TextGrid"
    path.write_text(change(written(TIERS, is_long=True)))
    with pytest.raises(ValueError, match=rf"story\.TextGrid cannot be read as a TextGrid \({message}"):
        textgrid.read(path)

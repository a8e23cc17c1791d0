"""Every sentence of the findings and the summary is read back and compared with the tables it is made from.

The reader below knows the sentences as patterns and computes each claim from the frames by itself; a sentence that it
does not know fails. Made-up runs cover noise, one model, ties, controls above models, missing values, intervals and
tests that contradict each other, and random combinations.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from harness.report import findings as report
from harness.report.figures import PROTOCOLS
from harness.statistics import analysis, evidence, scores
from harness.storage.schemas import SCHEMAS

NAN = math.nan
NUMBER = r"[+−]?\d+\.\d+|–"
# Claims about which score is larger or how two relate, which need a test: none of these words may stand in a sentence.
UNTESTED_WORDS = r"\bbest\b|as good as|closer|similar|falls to|better|outperform|worse"


def frame(table, rows):
    """Rows of a table; missing values become NaN, 0 or ""."""
    empty = {"string": "", "double": NAN, "int64": 0, "bool": False}
    columns = SCHEMAS.get(table) or dict.fromkeys(PAIRED, "")
    full = [{name: row.get(name, empty.get(str(kind), NAN)) for name, kind in columns.items()} for row in rows]
    return pd.DataFrame(full, columns=list(columns))


PAIRED = (
    "dataset", "protocol", "target", "metric", "model", "other", "relation", "difference", "low", "high", "p",
    "p_adjusted",
)  # fmt: skip


def brain(model, r, low=NAN, high=NAN, protocol="strict", dataset="made", target="all", **columns):
    kind = "untrained" if model.endswith(":untrained") else "control" if model in ("length", "oasm") else "model"
    return {
        "model": model, "kind": kind, "dataset": dataset, "protocol": protocol, "target": target, "r": r, "r_low": low,
        "r_high": high, "metric": "pearson_r", "stack": "decoder", "layer": 2, "ceiling": 0.5,
        "ratio": NAN if math.isnan(r) else r / 0.5, **columns,
    }  # fmt: skip


def reading(model, r, gain=NAN, protocol="strict", half=0.01, **columns):
    kind = "control" if model == "length" else "model"
    return {
        "model": model, "kind": kind, "dataset": "read", "protocol": protocol, "r": r, "abs_r": abs(r),
        "r_low": r - 0.1, "r_high": r + 0.1, "delta_ll": gain, "delta_ll_low": gain - half,
        "delta_ll_high": gain + half, "partial_r": r / 2, "metric": "pearson_r", **columns,
    }  # fmt: skip


def paired(model, other, difference, low, high, p, protocol="strict", dataset="made", target="all", metric="pearson_r"):
    return {
        "dataset": dataset, "protocol": protocol, "target": target, "metric": metric, "model": model, "other": other,
        "relation": "", "difference": difference, "low": low, "high": high, "p": p / 2, "p_adjusted": p,
    }  # fmt: skip


def run(brain_rows=(), reading_rows=(), tests=None, pairs=(), sizes=None):
    """Frames of a run, and the statistics of its scores."""
    frames = {
        "model_scores": frame("model_scores", brain_rows), "reading_scores": frame("reading_scores", reading_rows),
        "failures": frame("failures", []),
    }  # fmt: skip
    names = {row["model"] for row in (*brain_rows, *reading_rows) if row["kind"] == "model"}
    bases = dict(pairs)
    properties = [
        {"model": name, "kind": "model", "family": "f", "tuned_from": bases.get(name, ""), "pair_source": "made",
         "n_parameters": (sizes or {}).get(name, 1000)}
        for name in sorted(names)
    ]  # fmt: skip
    made = scores.of_run(
        "made", frames["model_scores"], frames["reading_scores"], frame("model_properties", properties)
    )
    results = analysis.analyse(made)
    frames |= {"comparisons": results.pairs, "tuning_tests": results.tuning, "correlations": results.correlations}
    if tests is not None:
        frames["paired_tests"] = frame("paired_tests", tests)
    return frames, results


# --- the reader -------------------------------------------------------------------------------------------------------


def shown(value, digits=3, sign=False):
    """A number as it should be printed."""
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def ends(low, high, digits=3):
    return "" if math.isnan(low + high) else f" ({shown(low, digits)} to {shown(high, digits)})"


class Reader:
    """Checks the sentences of one finding on brain scores, one protocol after the other."""

    def __init__(self, frames, dataset, target):
        scores_ = frames["model_scores"]
        self.rows = scores_[(scores_["dataset"] == dataset) & (scores_["target"] == target)]
        self.tests = frames.get("paired_tests")
        self.dataset, self.target, self.read = dataset, target, 0

    def start(self, protocol):
        self.protocol = protocol
        rows = self.rows[(self.rows["protocol"] == protocol) & self.rows["r"].notna()]
        models = rows[rows["kind"] == "model"].sort_values("r", ascending=False, kind="stable")
        self.models, self.best = models, None if models.empty else models.iloc[0]
        self.others = {}
        if self.best is not None:
            untrained = rows[rows["model"] == f"{self.best['model']}:untrained"]
            controls = rows[rows["kind"] == "control"]
            if len(untrained):
                self.others["its untrained control"] = untrained.iloc[0]
            if len(controls):
                top = controls.loc[controls["r"].idxmax()]
                self.others[f"the highest-scoring control ({top['model']})"] = top
            if len(models) > 1:
                self.others[f"the next model ({models.iloc[1]['model']})"] = models.iloc[1]

    def test_of(self, other):
        """(difference, low, high, p) of the leading model against another, or None."""
        if self.tests is None:
            return None
        for row in self.tests.to_dict("records"):
            same = (row["dataset"], row["protocol"], row["target"]) == (self.dataset, self.protocol, self.target)
            names = (row["model"], row["other"])
            if same and names == (self.best["model"], other):
                return row["difference"], row["low"], row["high"], row["p_adjusted"]
            if same and names == (other, self.best["model"]):
                return -row["difference"], -row["high"], -row["low"], row["p_adjusted"]
        return None

    def leader(self, text, protocol):
        self.start(protocol)
        if "can be scored" in text:
            assert self.best is None
            return
        best = self.best
        name = f"{best['model']} (layer decoder.{best['layer']})"
        equal = self.models[self.models["r"] == best["r"]]["model"].tolist()
        if len(equal) > 1:
            assert f"{name} and " in text
            assert "have the same, highest score" in text
            assert all(model in text for model in equal)
        elif len(self.models) > 1:
            assert f"{name} scores highest" in text
            assert (self.models["r"].iloc[1:] < best["r"]).all()
        else:
            assert f"{name} is the only model with a score" in text
        assert f"r = {shown(best['r'])}{ends(best['r_low'], best['r_high'])}" in text
        is_above = best["r_low"] > 0
        clause = "no interval" if math.isnan(best["r_low"]) else "" if is_above else (
            "its interval includes 0" if best["r_high"] >= 0 else "its interval lies below 0"
        )  # fmt: skip
        for words in ("no interval", "its interval includes 0", "its interval lies below 0"):
            assert (words in text) == (words == clause), text
        assert text.count("reaches") == len(self.others)
        for other, row in self.others.items():
            higher = " (higher)" if row["r"] > best["r"] else ""
            assert f"{other} reaches {shown(row['r'])}{higher}" in text
            assert higher or f"{other} reaches {shown(row['r'])} (higher)" not in text
        self.unstated = dict(self.others)

    def compared(self, claim, text):
        """One sentence of tested differences; each named source is taken off the list of those to be stated."""
        for other, row in list(self.unstated.items()):
            if other not in text:
                continue
            test = self.test_of(row["model"])
            if claim == "was not tested against":
                assert test is None
            else:
                assert test is not None
                value, low, high, p = test
                numbers = f"{other} ({shown(value, sign=True)}{ends(low, high)}, p"
                assert numbers in text, (numbers, text)
                excludes, rejects = low > 0 or high < 0, p < 0.05
                expected = {
                    (True, True): f"is reliably {'higher' if value > 0 else 'lower'} than",
                    (False, False): "does not differ reliably from",
                }.get((excludes, rejects), "may or may not differ from")  # fmt: skip
                assert claim == expected
                if excludes != rejects:
                    found = "excludes 0, but the test does not" if excludes else "includes 0, but the test rejects it"
                    assert found in text
            del self.unstated[other]

    def untested(self):
        assert len(self.unstated) > 1
        assert all(self.test_of(row["model"]) is None for row in self.unstated.values())
        self.unstated = {}

    def beyond(self, text):
        best = self.best
        low, joint = best["unique_low"], best["joint_r2"]
        explains = low > 0 and joint > 0 and best["unique_r2"] <= joint
        assert text.startswith("Beyond the controls it explains") == explains
        for name in ("unique_r2", "controls_r2") if explains and best["controls_r2"] > 0 else ("unique_r2",):
            assert shown(best[name]) in text
        if not explains:
            assert shown(joint) in text
            assert ("is not reliably above 0" in text) == (not math.isnan(low) and not low > 0)
            assert ("has no interval" in text) == math.isnan(low)
            assert ("partly harm" in text) == (low > 0)


def sentences_of(text):
    """Divide a text into sentences; names in these runs have no full stop before a space."""
    return [part if part.endswith(".") else f"{part}." for part in re.split(r"\.\s+(?=[A-Z])", text) if part]


CLAIMS = (
    "is reliably higher than", "is reliably lower than", "does not differ reliably from", "may or may not differ from",
    "was not tested against",
)  # fmt: skip


def check_brain(text, frames, dataset, target):
    reader, n_read = Reader(frames, dataset, target), 0
    for sentence in sentences_of(text):
        start = re.match(r"Under ([A-Z0-9]+), ", sentence)
        claim = next((claim for claim in CLAIMS if sentence.startswith(f"Its score {claim} that of ")), None)
        if start:
            assert not getattr(reader, "unstated", None), f"differences not stated: {reader.unstated}"
            reader.leader(sentence, start[1].lower())
        elif claim:
            reader.compared(claim, sentence)
        elif sentence == "These differences were not tested.":
            reader.untested()
        elif sentence.startswith(("Beyond the controls", "With the controls")):
            reader.beyond(sentence)
        else:
            pytest.fail(f"unknown sentence: {sentence}")
        n_read += 1
    assert not getattr(reader, "unstated", None), f"differences not stated: {reader.unstated}"
    return n_read


def check_reading(text, frames, dataset):
    rows = frames["reading_scores"]
    rows = rows[rows["dataset"] == dataset]
    for part in re.split(r"(?<=\.) (?=Under )", text):
        begins = re.match(r"Under (\w+), the surprisal of (\S+) has the highest (gain|\|r\|)", part)
        protocol, model, what = begins.groups()
        own = rows[(rows["protocol"] == protocol.lower()) & (rows["kind"] == "model")]
        measure = "delta_ll" if what == "gain" else "abs_r"
        best = own.loc[own[measure].idxmax()]
        assert best["model"] == model
        assert f"r = {shown(best['r'])}" in part
        if what == "gain":
            assert f"Δ log-likelihood {shown(best['delta_ll'], 4)} ({shown(best['delta_ll_low'], 4)}" in part
            low, high = best["delta_ll_low"], best["delta_ll_high"]
            assert ("its interval includes 0" in part) == (low <= 0 <= high)
            assert ("its interval lies below 0" in part) == (high < 0)
        else:
            assert own["delta_ll"].isna().all()
        claims = [claim for claim in CLAIMS if claim in part]
        assert len(claims) == (own[measure].notna().sum() > 1)


def check_tuning(text, frames):
    pairs = frames["comparisons"]
    tests = frames["tuning_tests"]
    pattern = rf"({NUMBER}) under (\w+) \(higher in (\d+) of (\d+) pairs?; ([^()]*(?:\([^()]*\))?)\)"
    body = text.partition(": ")[2]
    for phrase in body.rstrip(".").split("; made") if "; made" in body else [body.rstrip(".")]:
        dataset = "read" if phrase.startswith("read") else "average" if phrase.startswith("average") else "made"
        for value, protocol, n_higher, n_pairs, test in re.findall(pattern, phrase):
            own = pairs[(pairs["dataset"] == dataset) & (pairs["protocol"] == protocol.lower())]
            own = own[own["target"].isin(["all", "reading"]) & (own["metric"] != "delta_ll")]["difference"].dropna()
            assert (value, int(n_higher), int(n_pairs)) == (shown(own.mean(), sign=True), (own > 0).sum(), len(own))
            row = tests[(tests["dataset"] == dataset) & (tests["protocol"] == protocol.lower())]
            check_test(test, row[row["metric"] != "delta_ll"].iloc[0])


def check_test(text, row):
    """The clause on a test of tuned minus base."""
    excludes = row["low"] > 0 or row["high"] < 0
    if math.isnan(row["p_sign_flip"]):
        assert text.startswith("one base is too few")
        assert row["n_bases"] == 1
    elif row["p_min"] > 0.05:
        assert "too few for significance" in text
        assert ("the interval excludes 0, but" in text) == excludes
    else:
        rejects = row["p_sign_flip"] < 0.05
        disagree = not math.isnan(row["low"]) and excludes != rejects
        assert ("disagree" in text) == disagree
        if not disagree:
            assert ("not a significant" in text) == (not rejects)
        assert f"p = {shown(row['p_sign_flip'], 4)}" in text


def check_summary(lines, frames, results):
    assert len(lines) <= 3
    for line in lines:
        if line.startswith("Tuned models score"):
            value, n_bases = re.search(rf"score ({NUMBER}) relative.*mean over (\d+) base", line).groups()
            rows = results.tuning
            row = next(
                row for _, row in rows.iterrows()
                if shown(row["difference"], sign=True) == value and row["n_bases"] == int(n_bases)
            )  # fmt: skip
            check_test(line.rpartition("): ")[2] or line.rpartition(": ")[2], row)
            assert ("gain" in line) == (not math.isnan(row["gain_percent"]))
        elif line.startswith("The model property that correlates most"):
            over_bases = results.correlations[results.correlations["unit"] == "base"]
            assert (over_bases["n"] >= 6).any()
            assert (over_bases["n_values"] >= 4).any()
        elif "the highest score" in line:
            protocol = re.match(r"Under (\w+),", line)[1].lower()
            for value, dataset, model in re.findall(rf"({NUMBER}) on (\w+) \((\w+)", line):
                rows = frames["model_scores"].query("target == 'all'")
                rows = rows[(rows["dataset"] == dataset) & (rows["protocol"] == protocol) & (rows["kind"] == "model")]
                top = rows.loc[rows["r"].idxmax()]
                assert (top["model"], shown(top["r"], 2)) == (model, value)
                if len(set(frames["model_scores"]["dataset"])) == 1:
                    assert ("interval includes 0" in line) == (top["r_low"] <= 0 <= top["r_high"])
                    assert ("reliably above" in line) <= (frames.get("paired_tests") is not None)
        else:
            assert line.startswith(("A control that encodes only time", "Under ")), line


def check(frames, results):
    """Check every sentence of a run; returns the findings' headings."""
    found = report.findings(frames, {}, {})
    for finding in found:
        assert not re.search(UNTESTED_WORDS, finding.text), finding.text
        if finding.head.startswith("Highest score on "):
            target = "group" if "the mean over subjects" in finding.head else "all"
            check_brain(finding.text, frames, finding.head.rsplit(" ", 1)[1], target)
        elif finding.head.startswith("Reading times of "):
            check_reading(finding.text, frames, finding.head.rsplit(" ", 1)[1])
        elif finding.head == "Tuned minus base":
            check_tuning(finding.text, frames)
        elif finding.head.startswith("Time-only control"):
            assert re.search("reaches r = |cannot be scored", finding.text)
        else:
            assert finding.head == "Failures"
    lines = report.summary(frames, results)
    assert not re.search(UNTESTED_WORDS, " ".join(lines))
    check_summary(lines, frames, results)
    return [finding.head for finding in found]


# --- made-up runs -----------------------------------------------------------------------------------------------------

UNIQUE = {"unique_r2": 0.1, "unique_low": 0.05, "unique_high": 0.15, "controls_r2": 0.02, "joint_r2": 0.12}
HARM = {"unique_r2": 0.338, "unique_low": 0.2, "unique_high": 0.4, "controls_r2": -0.25, "joint_r2": 0.088}
RUNS = {
    "noise only": run([
        brain("a", 0.012, -0.03, 0.05, unique_r2=0.0, unique_low=-0.02, unique_high=0.02, controls_r2=-0.1,
              joint_r2=-0.1),
        brain("b", -0.02, -0.06, 0.02), brain("a:untrained", 0.02, -0.02, 0.06), brain("length", 0.03, -0.01, 0.07),
    ], tests=[paired("a", "length", -0.018, -0.05, 0.02, 0.4)]),
    "one model": run([brain("a", 0.3, 0.2, 0.4, **UNIQUE)]),
    "harmful controls": run([brain("a", 0.3, 0.2, 0.4, **HARM), brain("length", -0.1)]),
    "no interval": run([brain("a", 0.3, **(UNIQUE | {"unique_low": NAN, "unique_high": NAN})), brain("length", 0.1)]),
    "tie": run([brain("a", 0.3, 0.2, 0.4), brain("b", 0.3, 0.2, 0.4), brain("c", 0.1, 0.0, 0.2)]),
    "controls above the model": run(
        [brain("a", 0.2, 0.1, 0.3), brain("a:untrained", 0.25, 0.2, 0.3), brain("length", 0.4, 0.3, 0.5)],
        tests=[paired("a", "length", -0.2, -0.3, -0.1, 0.001), paired("a", "a:untrained", -0.05, -0.1, 0.02, 0.2)],
    ),
    "contradictory": run(
        [brain("a", 0.3, 0.2, 0.4), brain("b", 0.2, 0.1, 0.3), brain("length", 0.1, 0.0, 0.2)],
        tests=[paired("b", "a", -0.1, -0.19, -0.01, 0.08), paired("a", "length", 0.2, -0.01, 0.41, 0.03)],
    ),
    "all NaN": run([brain("a", NAN), brain("b", NAN), brain("length", NAN)], [reading("a", NAN)]),
    "reading times only": run(
        [], [reading("a", 0.3, 0.02), reading("b", 0.2, 0.01), reading("length", 0.25),
             reading("a", 0.3, protocol="paper"), reading("b", 0.35, protocol="paper")],
        tests=[paired("a", "b", 0.01, 0.002, 0.018, 0.02, dataset="read", target="reading", metric="delta_ll")],
    ),
    "surprisal without a gain": run([], [reading("a", 0.3, -0.02), reading("b", 0.2, -0.03, half=0.05)]),
    "one base": run([brain("a", 0.3, 0.2, 0.4), brain("t", 0.35, 0.2, 0.4)], pairs=[("t", "a")]),
    "two experiments and the mean over subjects": run([
        *(brain(name, r, r - 0.1, r + 0.1, protocol, target=target) for protocol in ("strict", "paper")
          for target, shift in (("all", 0), ("group", 0.1)) for name, r in (("a", 0.3 + shift), ("oasm", 0.4))),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_each_sentence_of_a_made_up_run_is_true(name):
    heads = check(*RUNS[name])
    assert len(heads) > 0


def test_a_run_where_nothing_can_be_measured_says_so():
    texts = [finding.text for finding in report.findings(RUNS["all NaN"][0], {}, {})]
    assert texts == ["Under STRICT, none of the 2 models can be scored."]
    assert report.summary(*RUNS["all NaN"]) == []


def tuned_run(differences, sizes=(1e8, 1e9)):
    """One pair per base, with the given differences of tuned minus base."""
    rows, pairs, of_size = [], [], {}
    for k, difference in enumerate(differences):
        rows += [brain(f"base{k}", 0.2 + 0.01 * k, 0.1, 0.3), brain(f"tuned{k}", 0.2 + 0.01 * k + difference, 0.1, 0.4)]
        pairs.append((f"tuned{k}", f"base{k}"))
        of_size |= {f"base{k}": sizes[k % len(sizes)], f"tuned{k}": sizes[k % len(sizes)]}
    return run(rows, pairs=pairs, sizes=of_size)


# Differences of eight bases with a mean of 0.011, an interval of 0.0006 to 0.021, and p = 0.078 by sign flips.
CONTRADICTORY = [0.022, 0.013, -0.004, 0.004, 0.003, 0.03, -0.003, 0.02]


def test_the_headline_says_both_where_the_interval_excludes_0_and_the_exact_test_does_not():
    frames, results = tuned_run(CONTRADICTORY)
    row = results.tuning.iloc[0]
    assert row["low"] > 0
    assert row["p_sign_flip"] >= 0.05
    check(frames, results)
    line = next(line for line in report.summary(frames, results) if line.startswith("Tuned models"))
    assert "interval and exact test disagree: the interval excludes 0, but the test does not reject it" in line


def test_five_bases_cannot_be_significant_and_the_sentence_says_so():
    frames, results = tuned_run([0.03, 0.031, 0.032, 0.033, 0.034])
    line = next(line for line in report.summary(frames, results) if line.startswith("Tuned models"))
    assert "the interval excludes 0, but with 5 bases p is at least 0.062" in line
    check(frames, results)


@pytest.mark.parametrize(
    ("n_bases", "sizes", "is_stated"),
    [(5, (1e8, 1e9), False), (8, (1e8, 1e9), False), (5, (1e7, 1e8, 1e9, 1e10, 1e11), False),
     (8, (1e7, 1e8, 1e9, 1e10), True)],
)  # fmt: skip
def test_a_correlation_is_stated_from_six_bases_of_four_sizes_on(n_bases, sizes, is_stated):
    frames, results = tuned_run([0.01 * k for k in range(n_bases)], sizes)
    lines = analysis.sentences(results)
    assert any("correlates most" in line for line in lines) == is_stated
    check(frames, results)


@pytest.mark.parametrize("seed", range(40))
def test_each_sentence_of_a_random_run_is_true(seed):
    random = np.random.default_rng(seed)

    def value(scale=0.3):
        return NAN if random.random() < 0.15 else float(np.round(random.normal(0.1, scale), 3))

    def interval_of(r):
        low, high = np.abs(random.normal(0, 0.2, 2))
        return (NAN, NAN) if random.random() < 0.15 else (r - low, r + high)

    rows, tests = [], []
    protocols = [name for name in PROTOCOLS if random.random() < 0.7] or ["strict"]
    names = ["a", "b", "c"][: random.integers(1, 4)]
    for protocol in protocols:
        for name in [*names, *(f"{name}:untrained" for name in names), "length", "oasm"]:
            if random.random() < 0.85:
                r = value()
                unique, controls, joint = value(), value(), value()
                low, high = interval_of(unique)
                rows.append(brain(
                    name, r, *interval_of(r), protocol, unique_r2=unique, unique_low=low, unique_high=high,
                    controls_r2=controls, joint_r2=joint, ratio=value(),
                ))  # fmt: skip
        for first in [*names, "length"]:
            for second in [*names, *(f"{name}:untrained" for name in names), "length", "oasm"]:
                known = {(row["model"], row["other"]) for row in tests if row["protocol"] == protocol}
                if first != second and (second, first) not in known and random.random() < 0.6:
                    difference = random.normal(0, 0.1)
                    low, high = difference - abs(random.normal(0, 0.1)), difference + abs(random.normal(0, 0.1))
                    tests.append(paired(first, second, difference, low, high, random.random() ** 3, protocol))
    if random.random() < 0.3:
        tests = None
    check(*run(rows, tests=tests))


def test_the_reader_notices_false_claims(monkeypatch):
    """The checks above can fail: each of these faults of the report is found in one of the made-up runs."""
    faults = {
        (evidence, "verdict"): lambda low, high, p: "reliable",
        (evidence, "between"): lambda *place: evidence.UNTESTED,
        (report, "_of_interval"): lambda low, high: [],
        (report, "_top"): lambda rows, by="r": None if rows[by].isna().all() else rows.loc[rows[by].idxmin()].to_dict(),
    }
    for (module, name), fault in faults.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fault)
            with pytest.raises(AssertionError):
                for run_ in RUNS.values():
                    check(*run_)


# --- two trainings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "p", "p_adjusted", "n_seeds", "said"), [
    (0.01, 0.05, 0.002, 0.01, 3,
     "over stimuli and 3 seeds: +0.030 (0.010 to 0.050), p = 0.002: a reliable difference."),
    (0.01, 0.05, 0.04, 0.20, 3, "p = 0.040: the interval excludes 0, but the test does not reject it."),
    (-0.01, 0.07, 0.2, 0.3, 3, "p = 0.200: not a reliable difference."),
    (0.01, 0.05, 0.0004, 0.0004, 1, "one seed each: +0.030 (0.010 to 0.050), p < 0.001: a reliable difference."),
    (NAN, NAN, NAN, NAN, 1, "one seed each: +0.030: not tested."),
])  # fmt: skip
def test_two_trainings_differ_only_if_interval_and_tests_say_so(low, high, p, p_adjusted, n_seeds, said):
    frames, _ = run([brain("a", 0.2)])
    row = {
        "dataset": "made", "protocol": "strict", "metric": "pearson_r", "training": "m with instructions",
        "other": "m without instructions", "statistic": "mean", "difference": 0.03, "low_both": low, "high_both": high,
        "p_both": p, "n_seeds": n_seeds, "p_adjusted": p_adjusted,
    }  # fmt: skip
    frames["trajectory_tests"] = frame("trajectory_tests", [row, {**row, "protocol": "paper", "difference": 9.0}])
    (finding,) = [f for f in report.findings(frames, {}, {}) if f.head == "Two trainings"]
    assert finding.text.startswith("m with instructions minus m without instructions on made under STRICT")
    assert finding.text.endswith(said)
    assert "9.0" not in finding.text


def test_of_many_trainings_no_pair_has_a_sentence():
    frames, _ = run([brain("a", 0.2)])
    row = {"dataset": "made", "protocol": "strict", "metric": "pearson_r", "statistic": "mean", "difference": 0.03}
    rows = [{**row, "training": f"t{k}", "other": "u"} for k in range(4)]
    frames["trajectory_tests"] = frame("trajectory_tests", rows)
    assert not [f for f in report.findings(frames, {}, {}) if f.head == "Two trainings"]

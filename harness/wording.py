"""A protocol as a phrase, for those who will not read its fields."""

from __future__ import annotations

from harness.protocol import FoldRule, Protocol, Regression, Sampling


def in_words(protocol: Protocol) -> str:
    """How a protocol scores, as a phrase."""
    said = [f"context: {_context(protocol)}"]
    if protocol.reading:
        return "; ".join([*said, f"{protocol.reading} of reading time and surprisal"])
    if protocol.pooling == "mean":
        said.append("mean over the tokens of a stimulus")
    if protocol.components:
        of = "words" if protocol.sampling else "rows"
        said.append(f"{protocol.components} principal components of the training {of}")
    if protocol.sampling:
        said.append(_sampling(protocol.sampling))
    layer = {"max": "best layer of the scores shown", "nested": "layer chosen in training rows"}
    metric = {"pearson_r": [], "brainscore_r": ["Brain-Score’s r: 0 for a constant neuroid"]}[protocol.metric]
    method, rows = _regression(protocol.regression), folds_in_words(protocol.folds)
    return "; ".join([*said, *method, rows, layer[protocol.layer_choice], *metric])


def folds_in_words(rule: FoldRule) -> str:
    """How rows are divided, as a phrase."""
    gap = f", {rule.gap} rows dropped at their sides" if rule.gap else ""
    held_out = rule.test_fraction if rule.test_fraction is not None else 1 - (rule.train_fraction or 0)
    return {
        "shuffled": f"{rule.n} random splits, {held_out:.0%} of the rows held out",
        "kfold": f"{rule.n} random folds",
        "stratified shuffled": f"{rule.n} random splits, {held_out:.0%} of the rows of each class held out",
        "stratified kfold": f"{rule.n} random folds with equal shares of each class",
        "grouped": f"{rule.n} folds of whole groups{gap}",
        "leave one group out": f"one group left out at a time{gap}",
        "contiguous": f"{rule.n} contiguous folds{gap}",
        "trimmed": f"{rule.n} contiguous folds, {rule.gap} rows cut between training and test rows",
    }[rule.kind]


def _context(protocol: Protocol) -> str:
    if protocol.context == "window":
        return f"the {protocol.context_words} words before each"
    return protocol.context


def _sampling(sampling: Sampling) -> str:
    """How words become scans."""
    pooled = {"mean": "mean of the words", "sum": "sum of the words", "last": "last word"}[sampling.pool]
    late = f", {sampling.shift_s:g} s late" if sampling.shift_s else ""
    since = " by their onset" if sampling.clock == "onset" else ""
    delays = "" if sampling.delays == (0,) else f", delays of {', '.join(map(str, sampling.delays))} scans"
    scale = ", z-scored by run" if sampling.zscore else ""
    skipped = f", without the first {sampling.skip_words}" if sampling.skip_words else ""
    return f"{pooled} in a scan{since}{skipped}{late}{delays}{scale}"


def _regression(regression: Regression) -> list[str]:
    """How features are mapped to responses."""
    if regression.kind == "ols":
        return ["least squares"]
    shared = "" if regression.per_neuroid else " for all neuroids"
    within = f" by {regression.inner_folds} blocks" if regression.inner == "kfold" else ""
    ridge = f"ridge, one of {len(regression.alphas)} alphas{shared} chosen in training rows{within}"
    sides = regression.scale == "zscore sides"
    return [ridge, *(["z-scored separately in training and test rows"] if sides else [])]

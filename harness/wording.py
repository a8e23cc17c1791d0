"""A protocol described in one phrase, for tables and the report."""

from __future__ import annotations

from harness.protocol import FoldRule, Protocol, Regression, Sampling


def in_words(protocol: Protocol) -> str:
    """Describe context, features, regression, folds and layer choice in one phrase."""
    phrases = [f"context: {_context(protocol)}"]
    if protocol.reading:
        return "; ".join([*phrases, f"{protocol.reading} of reading time and surprisal"])
    if protocol.pooling == "mean":
        phrases.append("mean over the tokens of a stimulus")
    if protocol.components:
        units = "words" if protocol.sampling else "rows"
        phrases.append(f"{protocol.components} principal components of the training {units}")
    if protocol.sampling:
        phrases.append(_sampling(protocol.sampling))
    layer = {"max": "best layer of the scores shown", "nested": "layer chosen in training rows"}
    metrics = {"pearson_r": [], "brainscore_r": ["Brain-Score’s r: 0 for a constant neuroid"]}
    metric = metrics.get(protocol.metric, [f"score: {protocol.metric}"])
    method, rows = _regression(protocol.regression), folds_in_words(protocol.folds)
    return "; ".join([*phrases, *method, rows, layer[protocol.layer_choice], *metric])


def folds_in_words(rule: FoldRule) -> str:
    """Describe how rows are divided into training and test rows."""
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
    as_brainscore = ", encoded as by Brain-Score" if protocol.encoding == "brainscore" else ""
    return protocol.context + as_brainscore


def _sampling(sampling: Sampling) -> str:
    """Describe how words are assigned to scans."""
    pooled = {
        "mean": "mean of the words", "sum": "sum of the words", "last": "last word",
        "lanczos": "Lanczos-filtered words", "hrf": "words under the canonical hemodynamic response",
    }[sampling.pool]  # fmt: skip
    shift = f", {sampling.shift_s:g} s late" if sampling.shift_s else ""
    clock = " by their onset" if sampling.clock == "onset" else ""
    delays = "" if sampling.delays == (0,) else f", delays of {', '.join(map(str, sampling.delays))} scans"
    scale = ", z-scored by run" if sampling.zscore else ""
    skipped = f", without the first {sampling.skip_words}" if sampling.skip_words else ""
    return f"{pooled} in a scan{clock}{skipped}{shift}{delays}{scale}"


def _regression(regression: Regression) -> list[str]:
    """Describe the regression, in one or two phrases."""
    if regression.kind == "ols":
        return ["least squares"]
    shared = "" if regression.per_neuroid else " for all neuroids"
    blocks = f" by {regression.inner_folds} blocks" if regression.inner == "kfold" else ""
    ridge = f"ridge, one of {len(regression.alphas)} alphas{shared} chosen in training rows{blocks}"
    standardised_apart = regression.scale == "zscore sides"
    return [ridge, *(["z-scored separately in training and test rows"] if standardised_apart else [])]

"""Schemas of all tables: column names and types, and what one row stands for."""

from __future__ import annotations

import pyarrow as pa

_TEXT, _REAL, _WHOLE, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

# Columns needed to reproduce a row: model and revision, data set and version, protocol, code version.
_SOURCE: dict[str, pa.DataType] = {
    "run": _TEXT, "model": _TEXT, "kind": _TEXT, "revision": _TEXT, "code_version": _TEXT, "created": _TEXT,
}  # fmt: skip
_ORIGIN: dict[str, pa.DataType] = {
    **_SOURCE, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "protocol_hash": _TEXT,
    "context": _TEXT, "backend": _TEXT, "dtype": _TEXT, "seed": _WHOLE, "metric": _TEXT,
}  # fmt: skip
_SCORE: dict[str, pa.DataType] = {"r": _REAL, "ceiling": _REAL, "ceiling_kind": _TEXT, "ratio": _REAL}
# joint_r2: R2 of model and controls together; controls_r2: of the controls alone; unique_r2: their difference. For the
# layer chosen for the target "all".
_UNIQUE: dict[str, pa.DataType] = {
    "unique_r2": _REAL, "unique_low": _REAL, "unique_high": _REAL, "controls_r2": _REAL, "joint_r2": _REAL,
    "unique_over": _TEXT,
}  # fmt: skip
_SIZE: dict[str, pa.DataType] = {"n_rows": _WHOLE, "n_features": _WHOLE, "n_folds": _WHOLE}

SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    # One row per neuroid and layer: r is the mean over folds, alpha the median over folds.
    "neuroid_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "neuroid_id": _TEXT, "subject": _TEXT, "roi": _TEXT,
        **_SCORE, "alpha": _REAL, "n_folds_nan": _WHOLE, **_SIZE,
    },
    # One row per layer and target. target: "all" is the median over the neuroids of all subjects; "group ..." are means
    # over subjects, which "all" does not include beside subjects; any other word is one roi (median over its neuroids).
    "layer_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "target": _TEXT, **_SCORE, "r_std_folds": _REAL, "inner": _REAL,
        "alpha_at_low": _REAL, "alpha_at_high": _REAL, "rank": _REAL, "n_neuroids": _WHOLE, "n_nan": _WHOLE, **_SIZE,
    },
    # One row per target, for the layer chosen by the protocol; where folds differ, the most frequent (layer_folds).
    "model_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "layer_folds": _WHOLE, "layer_choice": _TEXT, "target": _TEXT,
        **_SCORE, "r_low": _REAL, "r_high": _REAL, "interval_kind": _TEXT, "n_neuroids": _WHOLE, "n_nan": _WHOLE,
        **_UNIQUE, **_SIZE,
    },
    # One row per word. corrected_bits: surprisal with the leading-space correction. entropy_bits: entropy of the
    # next-token distribution before the word. rank: rank of the word's first token in it. scored: whether the word
    # enters r (not the first of a sentence).
    "word_surprisals": {
        **_ORIGIN, "story": _TEXT, "sentence": _TEXT, "word_id": _TEXT, "word": _TEXT, "surprisal_bits": _REAL,
        "corrected_bits": _REAL, "n_tokens": _WHOLE, "entropy_bits": _REAL, "rank": _REAL, "reading_ms": _REAL,
        "scored": _FLAG,
    },
    # One row per source. predictor: "surprisal" for a model, or the values of a control. r is signed.
    "reading_scores": {
        **_ORIGIN, "predictor": _TEXT, **_SCORE, "abs_r": _REAL, "r_low": _REAL, "r_high": _REAL, "partial_r": _REAL,
        "partial_low": _REAL, "partial_high": _REAL, "delta_ll": _REAL, "delta_ll_low": _REAL, "delta_ll_high": _REAL,
        "interval_kind": _TEXT, "n_words": _WHOLE, "n_missing": _WHOLE, "n_regression": _WHOLE,
    },
    # One row per source, term and reader, for data sets with individual readers (scoring/reader_slopes.py); slopes in
    # log milliseconds per bit.
    "reader_slopes": {
        **_ORIGIN, "predictor": _TEXT, "term": _TEXT, "subject": _TEXT, "slope": _REAL, "se": _REAL, "low": _REAL,
        "high": _REAL, "p": _REAL, "mixed_slope": _REAL, "mixed_se": _REAL, "mixed_p": _REAL, "sd_subjects": _REAL,
        "n_subjects": _WHOLE,
        "n_readings": _WHOLE, "converged": _FLAG,
    },
    # Next-token prediction: one row per source and text.
    "next_word_scores": {
        **_ORIGIN, "loss_nats": _REAL, "perplexity": _REAL, "accuracy": _REAL, "bits_per_byte": _REAL,
        "word_perplexity": _REAL, "n_tokens": _WHOLE, "n_words": _WHOLE, "n_bytes": _WHOLE, "n_missing": _WHOLE,
    },
    # One row per model. next_word_*: from next_word_scores, if the run includes a text (next_word_text).
    "model_properties": {
        **_SOURCE, "next_word_text": _TEXT, "next_word_loss": _REAL, "next_word_perplexity": _REAL,
        "next_word_accuracy": _REAL, "family": _TEXT, "tuned_from": _TEXT, "pair_source": _TEXT, "n_parameters": _WHOLE,
        "n_layers": _WHOLE, "hidden_size": _WHOLE, "context_size": _WHOLE, "vocabulary": _WHOLE,
    },
    # One row per pair, data set, protocol and target.
    "comparisons": {
        "run": _TEXT, "base": _TEXT, "tuned": _TEXT, "pair_source": _TEXT, "dataset": _TEXT, "protocol": _TEXT,
        "target": _TEXT, "metric": _TEXT, "base_score": _REAL, "tuned_score": _REAL, "difference": _REAL,
        "gain_percent": _REAL,
    },
    # Tests of tuned minus base = 0, with the base as unit (statistics/tuning.py). gain_percent: mean over pairs.
    # difference and its interval: over bases, and over subjects if interval_over says so. p_adjusted: p_sign_flip
    # adjusted over the run.
    "tuning_tests": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "n_pairs": _WHOLE, "n_bases": _WHOLE,
        "n_people": _WHOLE, "gain_percent": _REAL, "gain_percent_bases": _REAL, "gain_low": _REAL, "gain_high": _REAL,
        "difference": _REAL, "low": _REAL, "high": _REAL, "interval_over": _TEXT, "p_interval": _REAL, "d_z": _REAL,
        "p_sign_flip": _REAL, "p_adjusted": _REAL, "p_least": _REAL, "p_wilcoxon": _REAL, "rank_biserial": _REAL,
        "mixed_difference": _REAL, "mixed_low": _REAL, "mixed_high": _REAL, "mixed_df": _REAL, "p_mixed": _REAL,
        "icc": _REAL, "p_t_pairs": _REAL,
    },
    # One row per property and data set (statistics/correlations.py). population: "all" models or "tuned" ones. unit:
    # "model", or "base" for the mean over the models of a base. given: the variable held constant, "" for none.
    "correlations": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "population": _TEXT, "unit": _TEXT,
        "property": _TEXT, "given": _TEXT, "n": _WHOLE, "r": _REAL, "r_low": _REAL, "r_high": _REAL, "p": _REAL,
        "p_adjusted": _REAL, "n_tests": _WHOLE,
    },
    # Knowledge benchmarks (knowledge/); not tied to a run. category, task: "" for the whole benchmark. n: number of
    # questions. cut: whether prompts were truncated at the start to fit the model's window.
    "benchmark_scores": {
        "model": _TEXT, "revision": _TEXT, "benchmark": _TEXT, "category": _TEXT, "task": _TEXT, "metric": _TEXT,
        "n_shots": _WHOLE, "value": _REAL, "low": _REAL, "high": _REAL, "chance": _REAL, "n": _WHOLE,
        "cut": _FLAG, "source": _TEXT, "created": _TEXT,
    },
    # One row per fold and row of a recording (or scored word). side: "train" or "test"; rows dropped at a gap are
    # missing.
    "folds": {
        "run": _TEXT, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "protocol_hash": _TEXT,
        "part": _TEXT, "fold": _WHOLE, "row_id": _TEXT, "side": _TEXT,
    },
    # One row per unit of the store used by the run's tables.
    "units": {
        "run": _TEXT, "kind": _TEXT, "key": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT,
    },
    # One row per model and text. reused: features came from an earlier run or another driver; node and gpus are null
    # then. recoveries: restarts after an actor or a node was lost. parity_*: largest difference from a plain forward
    # pass of a few stimuli: parity_states of hidden states, relative to their layer; parity_nats of log-probabilities.
    "extractions": {
        **_SOURCE, "dataset": _TEXT, "key": _TEXT, "context": _TEXT, "backend": _TEXT, "dtype": _TEXT,
        "device": _TEXT, "host": _TEXT, "node": _TEXT, "gpus": _TEXT, "n_stimuli": _WHOLE, "n_tokens": _WHOLE,
        "n_windows": _WHOLE, "n_reencoded": _WHOLE, "n_oom": _WHOLE, "batch_tokens": _WHOLE, "seconds": _REAL,
        "parity_states": _REAL, "parity_nats": _REAL, "reused": _FLAG, "recoveries": _WHOLE, "notes": _TEXT,
        "libraries": _TEXT,
    },
    # One row per attempt at a checkpoint of a watched source (watching/watch.py); not tied to a run. stamp: fingerprint
    # of the files, or a commit. state: "evaluated", "failed" (to be retried) or "parked". evaluated_in: a run with it.
    "watched": {
        "created": _TEXT, "source": _TEXT, "asked": _TEXT, "model": _TEXT, "revision": _TEXT, "where": _TEXT,
        "stamp": _TEXT, "folder": _TEXT, "attempt": _WHOLE, "state": _TEXT, "reason": _TEXT, "evaluated_in": _TEXT,
    },
    "failures": {
        "run": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "station": _TEXT, "exception": _TEXT,
        "message": _TEXT, "created": _TEXT,
    },
    "runs": {
        "run": _TEXT, "spec": _TEXT, "status": _TEXT, "started": _TEXT, "seconds": _REAL, "n_units": _WHOLE,
        "n_computed": _WHOLE, "n_reused": _WHOLE, "n_failed": _WHOLE, "command": _TEXT, "code_version": _TEXT,
        "versions": _TEXT, "machine": _TEXT, "backends": _TEXT, "dtypes": _TEXT, "parity_states": _REAL,
        "parity_nats": _REAL, "n_recoveries": _WHOLE, "n_nodes": _WHOLE, "n_gpus": _WHOLE, "predicted_s": _REAL,
        "read_s": _REAL, "gpu_hours": _REAL, "usd": _REAL, "content": _TEXT,
    },
}  # fmt: skip

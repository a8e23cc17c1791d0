"""Schemas of all tables: column names and types. dictionary.py says what a row and a column are."""

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
_SCORE: dict[str, pa.DataType] = {
    "r": _REAL, "ceiling": _REAL, "ceiling_low": _REAL, "ceiling_high": _REAL, "ceiling_kind": _TEXT,
    "n_ceiling_subjects": _WHOLE, "n_pool_sizes": _WHOLE, "ratio": _REAL,
}  # fmt: skip
_UNIQUE: dict[str, pa.DataType] = {
    "unique_r2": _REAL, "unique_low": _REAL, "unique_high": _REAL, "controls_r2": _REAL, "joint_r2": _REAL,
    "unique_over": _TEXT,
}  # fmt: skip
_SIZE: dict[str, pa.DataType] = {"n_rows": _WHOLE, "n_features": _WHOLE, "n_folds": _WHOLE}

SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    "neuroid_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "neuroid_id": _TEXT, "subject": _TEXT, "roi": _TEXT,
        **_SCORE, "alpha": _REAL, "n_folds_nan": _WHOLE, "n_missing": _WHOLE, "chosen": _FLAG, "p": _REAL,
        "p_min": _REAL, "q": _REAL, **_SIZE,
    },
    "split_scores": {
        **_ORIGIN, "target": _TEXT, "neuroid_id": _TEXT, "subject": _TEXT, "roi": _TEXT, "part": _TEXT, "fold": _WHOLE,
        "stack": _TEXT, "layer": _WHOLE, "r": _REAL,
    },
    "fold_scores": {
        **_ORIGIN, "target": _TEXT, "part": _TEXT, "fold": _WHOLE, "held_out": _TEXT, "subject": _TEXT, "score": _REAL,
        "n_averaged": _WHOLE, "fold_correlation": _REAL,
    },
    "layer_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "target": _TEXT, **_SCORE, "r_std_folds": _REAL, "inner": _REAL,
        "alpha_at_low": _REAL, "alpha_at_high": _REAL, "rank": _REAL, "n_neuroids": _WHOLE, "n_nan": _WHOLE,
        "n_missing": _WHOLE, **_SIZE,
    },
    "model_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "layer_folds": _WHOLE, "layer_choice": _TEXT, "target": _TEXT,
        **_SCORE, "r_low": _REAL, "r_high": _REAL, "r_mad": _REAL, "interval_kind": _TEXT, "n_neuroids": _WHOLE,
        "n_nan": _WHOLE, "n_missing": _WHOLE, **_UNIQUE, **_SIZE,
    },
    "similarity_scores": {
        **_ORIGIN, "target": _TEXT, "subject": _TEXT, "stack": _TEXT, "layer": _WHOLE, "layer_folds": _WHOLE,
        "layer_choice": _TEXT, "value": _REAL, "value_low": _REAL, "value_high": _REAL, "value_mad": _REAL,
        "interval_kind": _TEXT, "ceiling": _REAL, "ceiling_low": _REAL, "ceiling_high": _REAL, "ceiling_kind": _TEXT,
        "ratio": _REAL, "n_subjects": _WHOLE, "n_neuroids": _WHOLE, **_SIZE, "note": _TEXT,
    },
    "similarity_layers": {
        **_ORIGIN, "target": _TEXT, "subject": _TEXT, "stack": _TEXT, "layer": _WHOLE, "value": _REAL, "inner": _REAL,
        "chosen": _FLAG, "n_neuroids": _WHOLE, **_SIZE, "note": _TEXT,
    },
    "word_surprisals": {
        **_ORIGIN, "passage": _TEXT, "sentence": _TEXT, "word_id": _TEXT, "word": _TEXT, "surprisal_bits": _REAL,
        "corrected_bits": _REAL, "n_tokens": _WHOLE, "entropy_bits": _REAL, "rank": _REAL, "reading_ms": _REAL,
        "scored": _FLAG,
    },
    "reading_scores": {
        **_ORIGIN, "predictor": _TEXT, **_SCORE, "abs_r": _REAL, "r_low": _REAL, "r_high": _REAL, "partial_r": _REAL,
        "partial_low": _REAL, "partial_high": _REAL, "delta_ll": _REAL, "delta_ll_low": _REAL, "delta_ll_high": _REAL,
        "interval_kind": _TEXT, "r_low_stories": _REAL, "r_high_stories": _REAL, "delta_ll_low_stories": _REAL,
        "delta_ll_high_stories": _REAL, "delta_ll_p_stories": _REAL, "n_stories": _WHOLE, "n_words": _WHOLE,
        "n_missing": _WHOLE, "n_regression": _WHOLE,
    },
    "reader_slopes": {
        **_ORIGIN, "predictor": _TEXT, "term": _TEXT, "subject": _TEXT, "slope": _REAL, "se": _REAL, "low": _REAL,
        "high": _REAL, "p": _REAL, "mixed_slope": _REAL, "mixed_se": _REAL, "mixed_p": _REAL, "sd_subjects": _REAL,
        "n_subjects": _WHOLE,
        "n_readings": _WHOLE, "converged": _FLAG,
    },
    "next_word_scores": {
        **_ORIGIN, "loss_nats": _REAL, "perplexity": _REAL, "accuracy": _REAL, "bits_per_byte": _REAL,
        "word_perplexity": _REAL, "n_tokens": _WHOLE, "n_words": _WHOLE, "n_bytes": _WHOLE, "n_missing": _WHOLE,
    },
    "model_properties": {
        **_SOURCE, "next_word_text": _TEXT, "next_word_loss": _REAL, "next_word_perplexity": _REAL,
        "next_word_accuracy": _REAL, "family": _TEXT, "tuned_from": _TEXT,
        "trained_from": _TEXT, "stage": _TEXT, "pair_source": _TEXT, "n_parameters": _WHOLE,
        "n_layers": _WHOLE, "hidden_size": _WHOLE, "context_size": _WHOLE, "vocabulary": _WHOLE,
        "arm": _TEXT, "tuning_seed": _WHOLE, "tuning_step": _WHOLE, "tuning_tokens": _WHOLE,
    },
    "comparisons": {
        "run": _TEXT, "base": _TEXT, "tuned": _TEXT, "relation": _TEXT, "root": _TEXT, "pair_source": _TEXT,
        "dataset": _TEXT, "protocol": _TEXT,
        "target": _TEXT, "metric": _TEXT, "base_score": _REAL, "tuned_score": _REAL, "difference": _REAL,
        "gain_percent": _REAL,
    },
    "paired_tests": {
        "run": _TEXT, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "target": _TEXT, "metric": _TEXT,
        "model": _TEXT, "other": _TEXT, "relation": _TEXT, "difference": _REAL, "low": _REAL, "high": _REAL, "p": _REAL,
        "p_adjusted": _REAL, "n_folds": _WHOLE, "n_subjects": _WHOLE, "n_others": _WHOLE, "method": _TEXT,
    },
    "tuning_tests": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "relation": _TEXT, "n_pairs": _WHOLE,
        "n_bases": _WHOLE, "n_subjects": _WHOLE, "gain_percent": _REAL, "gain_percent_bases": _REAL, "gain_low": _REAL,
        "gain_high": _REAL,
        "difference": _REAL, "low": _REAL, "high": _REAL, "interval_over": _TEXT, "p_interval": _REAL, "d_z": _REAL,
        "p_sign_flip": _REAL, "p_adjusted": _REAL, "p_min": _REAL, "p_wilcoxon": _REAL, "rank_biserial": _REAL,
        "mixed_difference": _REAL, "mixed_low": _REAL, "mixed_high": _REAL, "mixed_df": _REAL, "p_mixed": _REAL,
        "icc": _REAL, "p_t_pairs": _REAL,
    },
    "correlations": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "population": _TEXT, "unit": _TEXT,
        "property": _TEXT, "covariate": _TEXT, "n": _WHOLE, "n_values": _WHOLE, "r": _REAL, "r_low": _REAL,
        "r_high": _REAL, "p": _REAL, "p_adjusted": _REAL, "n_tests": _WHOLE,
    },
    "trajectories": {
        "run": _TEXT, "training": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "n_seeds": _WHOLE,
        "n_checkpoints": _WHOLE, "first_step": _WHOLE, "last_step": _WHOLE, "first_tokens": _REAL, "last_tokens": _REAL,
        "first_score": _REAL, "last_score": _REAL, "rho": _REAL, "p": _REAL, "peak_step": _WHOLE, "peak_tokens": _REAL,
        "peak_score": _REAL, "peak_low": _REAL, "peak_high": _REAL, "decline": _REAL, "decline_low": _REAL,
        "decline_high": _REAL, "decline_p": _REAL,
    },
    "trajectory_tests": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "training": _TEXT, "other": _TEXT,
        "statistic": _TEXT, "difference": _REAL, "low": _REAL, "high": _REAL, "p": _REAL, "n_seeds": _WHOLE,
        "low_seeds": _REAL, "high_seeds": _REAL, "p_seeds": _REAL, "low_both": _REAL,
        "high_both": _REAL, "p_both": _REAL, "p_adjusted": _REAL,
        "x": _TEXT, "first_x": _REAL, "last_x": _REAL, "n_points": _WHOLE, "method": _TEXT,
    },
    "benchmark_scores": {
        "model": _TEXT, "revision": _TEXT, "benchmark": _TEXT, "category": _TEXT, "task": _TEXT, "metric": _TEXT,
        "n_shots": _WHOLE, "value": _REAL, "low": _REAL, "high": _REAL, "chance": _REAL, "n": _WHOLE,
        "truncated": _FLAG, "source": _TEXT, "created": _TEXT,
    },
    "folds": {
        "run": _TEXT, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "protocol_hash": _TEXT,
        "part": _TEXT, "fold": _WHOLE, "row_id": _TEXT, "subset": _TEXT, "n_repetitions": _WHOLE,
    },
    "units": {
        "run": _TEXT, "kind": _TEXT, "key": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT,
    },
    "extractions": {
        **_SOURCE, "dataset": _TEXT, "key": _TEXT, "context": _TEXT, "backend": _TEXT, "dtype": _TEXT,
        "device": _TEXT, "host": _TEXT, "node": _TEXT, "gpus": _TEXT, "n_stimuli": _WHOLE, "n_tokens": _WHOLE,
        "n_windows": _WHOLE, "n_reencoded": _WHOLE, "n_oom": _WHOLE, "batch_tokens": _WHOLE, "seconds": _REAL,
        "parity_states": _REAL, "parity_nats": _REAL, "reused": _FLAG, "recoveries": _WHOLE, "notes": _TEXT,
        "libraries": _TEXT,
    },
    "localised_units": {
        **_SOURCE, "key": _TEXT, "contrast": _TEXT, "contrast_hash": _TEXT, "n_sentences": _WHOLE,
        "n_non_words": _WHOLE, "seed": _WHOLE, "stack": _TEXT, "layer": _WHOLE, "n_layer_units": _WHOLE,
        "n_chosen": _WHOLE, "t_low": _REAL, "t_high": _REAL, "n_unmeasurable": _WHOLE,
    },
    "watched": {
        "created": _TEXT, "source": _TEXT, "spec_hash": _TEXT, "model": _TEXT, "revision": _TEXT,
        "where": _TEXT, "fingerprint": _TEXT, "folder": _TEXT, "attempt": _WHOLE, "state": _TEXT, "reason": _TEXT,
        "evaluated_in": _TEXT,
    },
    "failures": {
        "run": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "stage": _TEXT, "exception": _TEXT,
        "message": _TEXT, "created": _TEXT,
    },
    "runs": {
        "run": _TEXT, "spec": _TEXT, "status": _TEXT, "started": _TEXT, "seconds": _REAL, "n_units": _WHOLE,
        "n_computed": _WHOLE, "n_reused": _WHOLE, "n_failed": _WHOLE, "command": _TEXT, "code_version": _TEXT,
        "versions": _TEXT, "machine": _TEXT, "backends": _TEXT, "dtypes": _TEXT, "parity_states": _REAL,
        "parity_nats": _REAL, "n_recoveries": _WHOLE, "n_nodes": _WHOLE, "n_gpus": _WHOLE, "forecast_s": _REAL,
        "extraction_s": _REAL, "gpu_hours": _REAL, "usd": _REAL, "content": _TEXT,
    },
}  # fmt: skip

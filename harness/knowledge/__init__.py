"""MMLU and BBH: measured with lm-evaluation-harness, or imported from published results."""

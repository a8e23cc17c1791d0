"""Entry points for `ray job submit`, importable as `harness.jobs`."""

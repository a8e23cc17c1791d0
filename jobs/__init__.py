"""Entry points for `ray job submit`; installed as `harness.jobs`."""

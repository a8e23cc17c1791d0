"""Machines and jobs: which model fits where, how long it takes, and how a run is sent to a Ray cluster."""

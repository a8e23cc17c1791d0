"""Machines and jobs: placement of models on nodes, time forecasts, and submission of runs to a Ray cluster."""

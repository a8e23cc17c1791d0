"""New checkpoints of a training, each evaluated once."""

"""A checkpoint -> a model in memory, whole and checked."""

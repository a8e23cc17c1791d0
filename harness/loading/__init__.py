"""Load a checkpoint into memory and check that it is complete."""

"""Watch a training run and evaluate each new checkpoint once."""

"""Model table and user-defined models, precision of weights, model sizes in words, and tiny models for tests."""

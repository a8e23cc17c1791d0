"""A spec from beginning to end, on Ray."""

"""The store of finished results: units addressed by content, claims on them, result tables, and provenance."""

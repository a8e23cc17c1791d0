"""Download of published data files: checked and resumable."""

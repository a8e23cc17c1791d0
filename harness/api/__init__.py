"""The functions of `import harness`: evaluate models, compute surprisal, read scores and forecast runs from Python."""

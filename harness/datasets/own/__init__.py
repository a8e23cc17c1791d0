"""A user's own recording, named `local:FOLDER`."""

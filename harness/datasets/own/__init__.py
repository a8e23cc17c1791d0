"""A laboratory's own recording, as `local:FOLDER`."""

"""An argument parser whose errors name what was probably meant."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from harness import names

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from ([^)]*)\)")
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)")


class SuggestingParser(argparse.ArgumentParser):
    """As argparse's, with the nearest names for a mistyped command, choice or option."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse the arguments; an unknown option is an error of the command that it was given to."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(found, "parser", self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Print usage and message, with what was probably meant, and exit with status 2."""
        super().error(self._with_nearest(message))

    def _with_nearest(self, message: str) -> str:
        if wrong := _CHOICE.search(message):
            choices = [choice.strip().strip("'") for choice in wrong[2].split(",")]
            near = ", ".join(names.nearest(wrong[1], choices))
            return message.replace(wrong[0], f"{wrong[1]!r} is unknown; the nearest are {near}") if near else message
        if unknown := _UNKNOWN.search(message):
            options = [option for action in self._actions for option in action.option_strings]
            given = next((word for word in unknown[1].split() if word.startswith("-")), "")
            near = ", ".join(names.nearest(given.partition("=")[0], options)) if given else ""
            return f"{message}; the nearest are {near}" if near else message
        return message

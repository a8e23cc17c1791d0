"""Word to somebody when a watched training has a new result, a drop, or a checkpoint that was given up.

A hook is a command, which gets one JSON document on its standard input, or a URL, to which the document is posted. It
runs after the result is stored; where it fails that is logged, and the watch goes on.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0


def call(hook: str, event: dict[str, Any]) -> bool:
    """Give an event to a hook; whether it took it. What a URL holds beside its host may be secret and is not logged."""
    is_url = hook.startswith(("http://", "https://"))
    where = urlsplit(hook).hostname if is_url else shlex.split(hook)[0]
    try:
        if is_url:
            import requests

            requests.post(hook, json=event, timeout=TIMEOUT_S, allow_redirects=False).raise_for_status()
        else:
            subprocess.run(
                shlex.split(hook), input=json.dumps(event, default=str), text=True, check=True, timeout=TIMEOUT_S
            )
    except Exception as error:  # noqa: BLE001 - whatever a hook does, the watch goes on
        logger.warning("hook=%s event=%s failed (%s)", where, event["event"], type(error).__name__)
        return False
    return True

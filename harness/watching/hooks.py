"""Hooks: notifications about new results, drops in score, and parked checkpoints of a watched training.

A hook is a command, which gets one JSON document on its standard input, or a URL, to which the document is posted, with
up to four attempts if the server is unreachable or busy. Hooks run after the result is stored; a failing hook is
logged and does not stop the watch.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
PAUSE_S = 1.0  # before the third attempt at a URL; twice as long before the fourth
_BUSY = (429, 500, 502, 503, 504)


def require_usable(hook: str, option: str) -> None:
    """Raise ValueError if a hook is neither a URL with a host nor an existing command.

    URLs are left out of the message, since they may contain secrets.

    Args:
        hook: command or URL.
        option: name of the command-line option, for the message.
    """
    if hook.startswith(("http://", "https://")):
        try:
            has_host = bool(urlsplit(hook).hostname)
        except ValueError:
            has_host = False
        if not has_host:
            raise ValueError(f"{option}: the URL has no host; expected the form https://HOST/PATH.")
        return
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise ValueError(f"{option} {hook!r} cannot be parsed as a command ({error}).") from error
    if not words or shutil.which(words[0]) is None:
        command = words[0] if words else ""
        raise ValueError(f"{option} {hook!r}: command {command!r} not found; give its full path.")


def call(hook: str, event: dict[str, Any]) -> bool:
    """Call a hook with an event; return whether it succeeded.

    Only the host of a URL is logged, since the rest may be secret.

    Args:
        hook: command or URL.
        event: the JSON document to send, with the key `event`.
    """
    target, is_url = "", hook.startswith(("http://", "https://"))
    try:
        target = (urlsplit(hook).hostname or "") if is_url else shlex.split(hook)[0]
        if is_url:
            _post(hook, event)
        else:
            subprocess.run(
                shlex.split(hook), input=json.dumps(event, default=str), text=True, check=True, timeout=TIMEOUT_S
            )
    except Exception as error:  # noqa: BLE001 - the watch goes on whatever a hook raises
        logger.warning("hook=%s event=%s failed (%s)", target, event["event"], type(error).__name__)
        return False
    return True


def _post(url: str, event: dict[str, Any]) -> None:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retries = Retry(3, backoff_factor=PAUSE_S / 2, status_forcelist=_BUSY, allowed_methods=None)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings contain the URL, which may be secret
    with requests.Session() as session:
        session.mount(url, HTTPAdapter(max_retries=retries))
        session.post(url, json=event, timeout=TIMEOUT_S, allow_redirects=False).raise_for_status()

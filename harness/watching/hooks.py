"""Word to somebody when a watched training has a new result, a drop, or a checkpoint that was given up.

A hook is a command, which gets one JSON document on its standard input, or a URL, to which the document is posted, up
to four times where the server is away or busy. It runs after the result is stored; where it fails that is logged, and
the watch goes on.
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
PAUSE_S = 1.0  # before a URL is tried a third time; twice as long before the fourth
_BUSY = (429, 500, 502, 503, 504)


def require_usable(hook: str, option: str) -> None:
    """Raise ValueError where a hook is neither a URL nor a command that is there; what a URL holds is not shown."""
    if hook.startswith(("http://", "https://")):
        try:
            is_whole = bool(urlsplit(hook).hostname)
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError(f"{option}: the URL names no host; give such as https://HOST/PATH.")
        return
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise ValueError(f"{option} {hook!r} is no command ({error}).") from error
    if not words or shutil.which(words[0]) is None:
        raise ValueError(f"{option} {hook!r}: there is no command {words[0] if words else ''!r}; give its whole path.")


def call(hook: str, event: dict[str, Any]) -> bool:
    """Give an event to a hook; whether it took it. What a URL holds beside its host may be secret and is not logged."""
    where, is_url = "", hook.startswith(("http://", "https://"))
    try:
        where = (urlsplit(hook).hostname or "") if is_url else shlex.split(hook)[0]
        if is_url:
            _post(hook, event)
        else:
            subprocess.run(
                shlex.split(hook), input=json.dumps(event, default=str), text=True, check=True, timeout=TIMEOUT_S
            )
    except Exception as error:  # noqa: BLE001 - whatever a hook does, the watch goes on
        logger.warning("hook=%s event=%s failed (%s)", where, event["event"], type(error).__name__)
        return False
    return True


def _post(url: str, event: dict[str, Any]) -> None:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    tries = Retry(3, backoff_factor=PAUSE_S / 2, status_forcelist=_BUSY, allowed_methods=None)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings tell the address, which may be a secret
    with requests.Session() as session:
        session.mount(url, HTTPAdapter(max_retries=tries))
        session.post(url, json=event, timeout=TIMEOUT_S, allow_redirects=False).raise_for_status()

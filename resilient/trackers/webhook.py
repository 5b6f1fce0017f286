"""A POST of JSON to a URL. What that is and what it answers is told to nobody: either may hold a secret."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from resilient.trackers.details import Details
from resilient.trackers.tracker import Context, Tracker

OLDEST_SECONDS = 3600.0
"""Nobody needs to be told of what is longer ago: the tracker was turned on, or could not work, since then."""


class NotAccepted(Exception):  # noqa: N818  named by condition, as all our errors
    """The other side has answered with an error."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and a token would go to somebody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook(Tracker):
    """The body has the details, and their words as ``text``, which is what chat services show."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._settings = context.settings.webhook
        self._url = os.environ.get(self._settings.url_variable, "") or self._settings.url
        self._opener = urllib.request.build_opener(_NoRedirects)

    def told(self, details: Details) -> None:
        if details.kind.value not in self._settings.on or time.time() - details.time > OLDEST_SECONDS:
            return
        body = {**details.to_json(), "text": f"{details.run}: {details.words}"}
        headers = {"Content-Type": "application/json", "User-Agent": "resilient"}
        if self._settings.token_variable:
            headers["Authorization"] = f"Bearer {os.environ.get(self._settings.token_variable, '')}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._settings.timeout_seconds) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            raise NotAccepted from error

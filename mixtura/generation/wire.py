"""One HTTP request to a server that may be slow, wrong or gone: bounded in time and size, repeated where that helps."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mixtura.errors import GenerationError, InputError

T = TypeVar("T")

MOST_BYTES = 64 << 20  # of an answer; more is no answer
LONGEST_PAUSE = 60.0  # seconds, whatever a server asks for
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSED = {401: "the key", 403: "the key", 404: "the URL or the model's name", 405: "the URL", 407: "the proxy"}


class GivenUp(GenerationError):
    """Not asked, since another request has failed for good."""


class Declined(Exception):
    """The server will not take this one request; `str()` says why."""


@dataclass
class Line:
    """A server's address, and how patient one is with it.

    url: its base, such as `http://127.0.0.1:8000/v1`.
    key_variable: environment variable that holds the key, read for each request and never kept.
    timeout_seconds: for a whole answer, not only for its first byte.
    retries: further tries of one request.
    pause_seconds: before the first of them; doubled each time.
    """

    url: str
    key_variable: str
    timeout_seconds: float
    retries: int
    pause_seconds: float = 0.5
    given_up: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            InputError: it is no http(s) URL, or carries a password or a query, which would be written into recipes.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("server", "must be a URL such as http://127.0.0.1:8000/v1", got=self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            step = "Put the key into an environment variable and name it as key_variable"
            raise InputError("server", "must be a URL without a password or a query", next_step=step)
        handlers: list[Any] = [_NoRedirect()]
        if parts.hostname in ("localhost", "127.0.0.1", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))  # this machine is not behind a proxy
        self._opener = urllib.request.build_opener(*handlers)

    def post(self, path: str, body: dict[str, Any], understand: Callable[[dict[str, Any]], T]) -> T:
        """What the server answers.

        Args:
            path: after the base.
            body: JSON.
            understand: from the JSON object of the answer; raises `Again` where that is none of the protocol's.

        Raises:
            Declined: it does not take this request (400, 413, 422).
            InputError: it refuses to be asked at all (key, address, model's name).
            GenerationError: it gave no good answer, however often it was asked; `GivenUp` where it was not asked.
        """
        problem = ""
        for at in range(self.retries + 1):
            if self.given_up.is_set():
                raise GivenUp("another request has failed for good")
            try:
                return understand(self._once(path, body))
            except Again as e:
                problem = str(e)
                if at < self.retries:
                    self.given_up.wait(min(e.after or self.pause_seconds * 2**at, LONGEST_PAUSE))
        step = "See that the server runs, then run again: what it answered before is kept"
        raise GenerationError(f"server {self.url!r} gave no answer in {self.retries + 1} tries; {problem}. {step}.")

    def _once(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        key = os.environ.get(self.key_variable, "")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(self.url.rstrip("/") + path, json.dumps(body).encode(), headers, method="POST")
        deadline = time.monotonic() + self.timeout_seconds
        try:
            with self._opener.open(request, timeout=self.timeout_seconds) as response:
                return _object(_read(response, deadline))
        except urllib.error.HTTPError as e:
            with e:
                self._refusal(e, key, deadline)
            raise AssertionError from e
        except (OSError, http.client.HTTPException) as e:
            reason = getattr(e, "reason", None) or e
            raise Again(f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__) from None

    def _refusal(self, error: urllib.error.HTTPError, key: str, deadline: float) -> None:
        """Raise what an HTTP status means."""
        try:
            said = _read(error, deadline).decode(errors="replace")
        except (OSError, http.client.HTTPException, Again):
            said = ""
        said = (said.replace(key, "[key]") if key else said).strip()[:500] or str(error.reason)
        if error.code in AGAIN:
            raise Again(f"status {error.code}: {said}", after=_seconds(error.headers.get("Retry-After"))) from None
        if error.code in REFUSED or error.code < 400:
            step = f"Check {REFUSED.get(error.code, 'the URL')} (its key is read from ${self.key_variable})"
            raise InputError(
                f"server {self.url!r}", f"must take requests; status {error.code}", got=said, next_step=step
            )
        raise Declined(f"status {error.code}: {said}") from None


class Again(Exception):
    """An answer that is none, or none yet: worth another try, `after` seconds where the server says so."""

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is not carried to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None: the status itself is the answer."""


def _read(response: Any, deadline: float) -> bytes:
    """A body, within its time and size: a server that drips a byte now and then is too slow as well."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise Again(f"an answer of more than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise Again("an answer that takes too long")
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Again(f"no JSON but {body[:80]!r}") from None
    if not isinstance(value, dict):
        raise Again(f"no JSON object but {body[:80]!r}")
    return value


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None  # a date: rare, and our own pause does

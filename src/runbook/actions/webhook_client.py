"""Sends one POST request, in an interpreter of its own: a program that needs nothing but Python's own library.

The request comes as JSON on standard input: `url`, `headers`, `body` and `timeout`. A failure is one line on standard
output, and status 1. No redirection is followed, and no proxy is used: neither could receive what the request holds.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import sys
import urllib.parse
from typing import Any

MAX_ANSWER = 1000  # bytes of a bad answer that are read; of a good one, nothing is
MAX_FAILURE = 160  # characters of it that are shown


def post(url: str, headers: dict[str, str], body: str, timeout: float) -> str:
    """Send the request. Return why it failed; empty if the server answered with a status from 200 to 299."""
    parts = urllib.parse.urlsplit(url)
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    path = urllib.parse.quote(parts.path or "/", "/%:=&@~+!$,;'()*[]")
    query = f"?{urllib.parse.quote(parts.query, '/%:=&?@~+!$,;()*[]')}" if parts.query else ""
    sent: dict[str, Any] = {"User-Agent": "runbook", "Connection": "close"}
    if parts.username:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        sent["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    # In HTTP's own encoding, Latin-1, most names of people and places do not fit.
    sent |= {name: value.encode() for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request("POST", path + query, body.encode(), sent)
        response = connection.getresponse()
        if response.status in range(200, 300):
            return ""
        failure = f"answered {response.status}"
        if 300 <= response.status < 400:  # noqa: PLR2004 - the redirections of HTTP
            return f"{failure}; a redirection is not followed"
        text = response.read1(MAX_ANSWER).decode(errors="replace").strip()
        first = "".join(c if c.isprintable() else " " for c in text.partition("\n")[0])[:MAX_FAILURE].strip()
        return f"{failure}: {first}" if first else failure


def _expire(*_: object) -> None:
    raise TimeoutError


def run() -> int:
    """Send the request on standard input. Return the exit status."""
    request = json.load(sys.stdin)
    # The limit of a socket is that of one read, and a server may send one byte at a time.
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, request["timeout"])
    try:
        failure = post(**request)
    except TimeoutError:
        failure = f"no answer within {request['timeout']:g}s"
    except http.client.RemoteDisconnected:
        failure = "it closed the connection without an answer"
    except http.client.BadStatusLine:
        failure = "its answer is not HTTP"
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        failure = why.partition("\n")[0][:MAX_FAILURE].lower()
    if failure:
        sys.stdout.write(f"{failure}\n")
    return 1 if failure else 0


if __name__ == "__main__":
    raise SystemExit(run())

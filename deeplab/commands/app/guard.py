"""What `deeplab.app` refuses before Gradio sees it: foreign hosts, large requests, addresses in place of pictures."""

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_EVERYWHERE = {"0.0.0.0", "::"}
_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}
_HOST = re.compile(r"\[?([^\[\]@/]+?)\]?(:\d+)?")
_UPLOAD = "/upload"
_OTHER_BYTES = 2**20
"""Largest request that brings no file; also what an upload may have beside its file."""


class Hosts:
    """The hosts under which the page may be opened: those that a browser may name in the header `Host`.

    A foreign site can have its own name lead to this machine (DNS rebinding), and would then read what the page shows.
    It cannot do so with an address, so that any address is served with 0.0.0.0.

    Args:
        host: the address to serve on.
        name: of this machine, served as well with 0.0.0.0.
    """

    def __init__(self, host: str, name: str) -> None:
        address = host.strip("[]").lower()
        self._all_addresses = address in _EVERYWHERE
        self._names = {*_THIS_MACHINE, name.lower() if self._all_addresses else address}

    def serve(self, header: str) -> bool:
        """Whether a request with this header `Host` is answered. Any port will do: a tunnel may change it."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = match[1].lower()
        return name in self._names or (self._all_addresses and _is_address(name))


class Guard:
    """An ASGI application in front of another, which gets only the requests that are not refused.

    Refused with a line of text: another host (403), an upload of more than `max_upload` bytes, or anything else of more
    than 1 MiB (413), a body of unknown length (411), and the address of a picture (400), which Gradio would fetch.
    """

    def __init__(self, app: Application, hosts: Hosts, max_upload: int) -> None:
        self._app = app
        self._hosts = hosts
        self._max_upload = max_upload

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reason = self._refusal(scope)
        if reason is None and not _is_upload(scope):
            body = await _read(receive)
            receive = _again(body, receive)
            if body and _names_an_address(body):
                reason = 400, "addresses are not fetched: upload the picture; other requests are JSON"
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, *reason)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason to refuse a request by its first lines, if any."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        largest = _OTHER_BYTES + (self._max_upload if _is_upload(scope) else 0)
        if not self._hosts.serve(host):
            return 403, f"the host {host!r} is not served here; see --host and --host_name"
        if "://" in scope["path"]:
            return 400, "addresses are not fetched: upload the picture"
        if b"transfer-encoding" in headers:
            return 411, "the length of the body must be given"
        if int(headers.get(b"content-length", "0")) > largest:
            return 413, f"more than {largest:,} bytes"
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_upload(scope: Message) -> bool:
    return scope["path"].rstrip("/").endswith(_UPLOAD)


async def _read(receive: Receive) -> bytes:
    """The body of a request, whose length has been checked."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """As `receive`, but starts with a body that was read from it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _names_an_address(body: bytes) -> bool:
    """Whether a body is not JSON, or has an object whose `path` is an address; Gradio fetches no other entry."""
    found = False

    def look(entry: dict[str, Any]) -> None:
        nonlocal found
        found = found or "://" in str(entry.get("path", ""))

    try:
        json.loads(body, object_hook=look)
    except (ValueError, RecursionError):
        return True
    return found


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

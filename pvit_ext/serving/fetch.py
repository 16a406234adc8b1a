"""Images by address (``--allow-url``) from the open internet alone: the server lends nobody its place in a network."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pvit_ext.serving.api_error import ApiError, wrong

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_CHUNK = 2**16
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that IANA has given out for IPv6's open internet; the rest is local, translated or not yet given out."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses behind the network's NAT64 (RFC 6052)."""


def is_public(address: Address) -> bool:
    """Whether an address is of the open internet, and does not stand for another one that is not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _TRANSLATED:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.sixtofour or (address.teredo or (None, None))[1]
        if address not in _UNICAST or (inner is not None and not is_public(inner)):
            return False
    return address.is_global and not address.is_multicast


def fetch(url: str, most: int, seconds: float, param: str, allowed: Callable[[Address], bool] = is_public) -> bytes:
    """The bytes at an address.

    The name is resolved once, all its addresses are checked, and the connection goes to the first of them: a name that
    answers differently the second time is not asked one. Redirects are not followed.

    Args:
        url: http or https.
        most: bytes that are read.
        seconds: for all of it.
        param: the field that holds the address.
        allowed: which addresses may be asked.

    Raises:
        ApiError: 400 naming the field.
    """
    parts, until = _parts(url, param), time.monotonic() + seconds
    connection = _connect(parts, _resolve(parts, param, allowed), seconds, param)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "pvit-ext"})
        response = connection.getresponse()
        if 300 <= response.status < 400:
            raise wrong(param, f"{parts.hostname} redirects it, which is not followed; give the final address")
        if response.status != 200:
            raise wrong(param, f"{parts.hostname} answered {response.status} {response.reason}")
        return _read(response, most, until, param)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() > until:
            raise _slow(param) from error
        raise wrong(param, f"{parts.hostname} cannot be read: {error}") from error
    finally:
        connection.end()


def _parts(url: str, param: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise wrong(param, f"it is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong(param, "an address is http://... or https://...")
    if parts.username is not None or parts.password is not None:
        raise wrong(param, "an address with a user or a password is not asked")
    if any(character <= " " or character > "~" for character in url):
        raise wrong(param, "an address holds printable ASCII without spaces; write others as %XX")
    return parts


def _resolve(parts: SplitResult, param: str, allowed: Callable[[Address], bool]) -> str:
    """The address to connect to; all that the name has must be allowed."""
    try:
        found = socket.getaddrinfo(parts.hostname, _port(parts), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise wrong(param, f"{parts.hostname} has no address: {error}") from error
    addresses = [str(one[4][0]).partition("%")[0] for one in found]
    if not addresses or not all(allowed(ipaddress.ip_address(one)) for one in addresses):
        raise wrong(param, f"{parts.hostname} is not on the open internet; send the image itself as a data: URL")
    return addresses[0]


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


class _To(http.client.HTTPConnection):
    """A connection to an address that was resolved before, which is hung up once its time is over.

    A timeout of the socket is that of one read: a host that sends a byte now and then would hold it for hours.
    """

    def __init__(self, host: str, port: int, address: str, seconds: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=min(seconds, 10.0))
        self._address, self._context = address, context
        self._open: socket.socket | None = None
        self._watch = threading.Timer(seconds, self._hang_up)
        self._watch.daemon = True

    def connect(self) -> None:
        """Connect to the address; certificates are those of the name."""
        self.sock: Any = socket.create_connection((self._address, self.port), self.timeout)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._open = self.sock  # http.client forgets its own before the body is read
        self._watch.start()
        if self._context is not None:
            self.sock.do_handshake()

    def end(self) -> None:
        """Close it, and watch it no longer."""
        self._watch.cancel()
        self.close()

    def _hang_up(self) -> None:
        if self._open is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)  # not TLS's, whose object a reader holds


def _connect(parts: SplitResult, address: str, seconds: float, param: str) -> _To:
    context = ssl.create_default_context() if parts.scheme == "https" else None
    connection = _To(str(parts.hostname), _port(parts), address, seconds, context)
    try:
        connection.connect()
    except OSError as error:
        connection.end()
        raise wrong(param, f"{parts.hostname} cannot be reached: {error}") from error
    return connection


def _read(response: http.client.HTTPResponse, most: int, until: float, param: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise ApiError(400, f"{param}: the file has more than {most:,} bytes", param, "too_large")
        if time.monotonic() > until:
            break
    if time.monotonic() > until:
        raise _slow(param)
    return b"".join(parts)


def _slow(param: str) -> ApiError:
    return ApiError(400, f"{param}: the file takes too long to come", param, "timeout")

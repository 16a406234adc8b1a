"""Names of hosts, as options and the ``Host`` of requests give them."""

from __future__ import annotations

import ipaddress
import re

_HOST = re.compile(r"(\[[\da-fA-F:.]+\]|[^\s:/\[\]@]+)(?::\d*)?")


def is_loopback(name: str) -> bool:
    """Whether a name is this machine's for itself, which nobody else can give to another address.

    Args:
        name: of a host, or its address.
    """
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def name_of(host: str) -> str | None:
    """The name or address in a ``Host``, without its port; None for what is no host.

    Args:
        host: the header.
    """
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else None

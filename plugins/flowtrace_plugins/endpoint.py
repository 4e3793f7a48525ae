"""Where the http sink posts to: a URL taken apart, and what must not be sent there."""

from __future__ import annotations

import ipaddress
import re
import socket
import zlib
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from flowtrace.config import OptionError, shown

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Endpoint(NamedTuple):
    """A URL in parts.

    Attributes:
        scheme: ``http`` or ``https``.
        host: The host's name or address, without brackets.
        url: What is requested, without user and password.
        user_info: ``user:password`` of the URL, or an empty text.
        shown: The URL as messages may show it: without user, password and query.
    """

    scheme: str
    host: str
    url: str
    user_info: str
    shown: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Take a URL apart.

        Raises:
            OptionError: it is no http or https URL with a host. The message leaves out what may be secret.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises where it is no number
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
            public = url.rpartition("@")[2].partition("?")[0]
            raise OptionError("url", f"{shown(public)} is no URL to post to; write one such as http://127.0.0.1:5080/")
        user_info, _, location = parts.netloc.rpartition("@")
        public = f"{parts.scheme}://{location}{parts.path or '/'}"
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.scheme, parts.hostname, public + query, user_info, public)

    @property
    def place(self) -> str:
        """A file name that stands for this server and path, whatever the user, the password and the query."""
        return f"{re.sub(r'[^a-z0-9.-]', '_', self.host)}-{zlib.crc32(self.shown.encode()):08x}"

    @property
    def loopback(self) -> bool:
        """True where the host is this machine."""
        address = _address(self.host)
        return address.is_loopback if address else self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def link_local(self) -> bool:
        """True where the host is an address of this link only, such as a cloud's metadata service."""
        address = _address(self.host)
        return bool(address and address.is_link_local)

    @property
    def exposes_secrets(self) -> bool:
        """True where others can read what is sent."""
        return self.scheme == "http" and not self.loopback


def _address(host: str) -> _Address | None:
    """The address that a connection to this host would use, for any spelling that needs no name look-up."""
    try:
        address: _Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.ip_address(socket.inet_aton(host))  # 2852039166 and 0xa9fea9fe are addresses as well
        except OSError:
            return None
    return getattr(address, "ipv4_mapped", None) or address

"""Which requests may be meant for a server of this user: by their Host, their Origin, and what the
browser says about the page that sends them.

A page of another site can send requests to localhost, a name of its own can lead there (DNS
rebinding), and to a browser all ports of localhost are one site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

Headers = Iterable[tuple[bytes, bytes]]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Authority:
    """A host and a port, as addresses name them; None: the scheme's usual one."""

    host: str
    port: int | None

    def with_scheme(self, scheme: str) -> tuple[str, int | None]:
        """The same with the port that a scheme implies."""
        return self.host, self.port or _DEFAULT_PORTS.get(scheme)


def read_authority(text: str) -> Authority | None:
    """`HOST` or `HOST:PORT` in small letters; None for anything else, a user or a final dot too."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    host, port = match[1], int(match[3]) if match[3] else None
    if port is not None and not 0 < port < 65536:
        return None
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    return Authority(host, port)


@dataclass(frozen=True)
class AllowedHosts:
    """The names that a server answers to: those of the loopback interface, and those listed."""

    listed: Collection[str] = ()
    """`NAME` or `NAME:PORT`. As a Host, a name is taken with any port; as an Origin, which may be
    another page's, with exactly the one listed."""

    def refusal(self, headers: Headers, *, scheme: str, navigates_to_page: bool) -> str | None:
        """Why a request is not answered, in a sentence; None when it is.

        Args:
            headers: with names in small letters.
            scheme: `http` or `https`, of the connection.
            navigates_to_page: whether a browser may be led to this path by a link of anybody's.
        """
        values: dict[bytes, list[str]] = {}
        for name, value in headers:
            values.setdefault(name, []).append(value.decode("latin-1"))
        hosts, origins = values.get(b"host", []), values.get(b"origin", [])
        host = read_authority(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self._is_known(host):
            return "the Host of this request is none of this server's names"
        if len(origins) > 1 or (origins and not self._is_own(origins[0], host, scheme)):
            return "the Origin of this request is another page"
        sites = values.get(b"sec-fetch-site", ["none"])
        follows_link = navigates_to_page and (
            values.get(b"sec-fetch-mode") == ["navigate"]
            and values.get(b"sec-fetch-dest") == ["document"]
        )
        if sites not in (["none"], ["same-origin"]) and not follows_link:
            return "another page sends this request"
        return None

    def _is_known(self, host: Authority) -> bool:
        return host.host in LOOPBACK or any(
            known.host == host.host and known.port in (None, host.port) for known in self._listed()
        )

    def _is_own(self, origin: str, host: Authority, scheme: str) -> bool:
        kind, _, place = origin.lower().partition("://")
        authority = read_authority(place)
        if authority is None or kind not in _DEFAULT_PORTS:
            return False
        given = authority.with_scheme(kind)
        if any(given == known.with_scheme(kind) for known in self._listed()):
            return True
        # TLS may end before this server, at a name that is listed; a loopback name has none.
        schemes = (scheme,) if host.host in LOOPBACK else tuple(_DEFAULT_PORTS)
        return kind in schemes and given == host.with_scheme(kind)

    def _listed(self) -> list[Authority]:
        return [found for name in self.listed if (found := read_authority(name)) is not None]

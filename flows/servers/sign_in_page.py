"""The pages of a server that are ours: the one that signs a browser in, and the first one, which
leads to the forms; and the cookie by which a browser is known afterwards."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from pathlib import Path
from urllib.parse import quote

from tasks.servers.login import Login

PATH = "/sign-in"
START = f"{PATH}/start"
"""The first page. It asks for its content with the browser's login."""
SERVERS = f"{PATH}/servers"
"""Where that page learns the addresses of both servers."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
_FILES = Path(__file__).with_name("sign_in")
_KINDS = {"html": b"text/html; charset=utf-8", "css": b"text/css", "js": b"text/javascript"}
_SECONDS = 30 * 24 * 3600
_COOKIE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")


def link(server: str, login: Login) -> str:
    """The address that signs a browser in. What follows `#` stays in the browser.

    Args:
        server: `http://127.0.0.1:PORT`.
    """
    return f"{server}{PATH}#{quote(login.text, safe='')}"


def page_file(path: str) -> tuple[bytes, bytes] | None:
    """Content and type of one of the page's files, by its path on the server."""
    whole = {PATH: "page.html", START: "start.html"}
    name = whole.get(path) or path.removeprefix(f"{PATH}/")
    if path not in whole and name not in ("page.css", "page.js", "start.js"):
        return None
    return (_FILES / name).read_bytes(), _KINDS[name.rpartition(".")[2]]


def password_in(body: bytes) -> str | None:
    """The password that the page sent; None for any other content."""
    try:
        given = json.loads(body)["password"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return given if isinstance(given, str) else None


class Session:
    """The cookie of a browser that has signed in. It holds a moment and a proof, no password.

    To a browser all ports of a host share their cookies: the name is the login's own.
    """

    def __init__(self, login: Login) -> None:
        self._key = hashlib.sha256(b"mergeflow session\0" + login.text.encode()).digest()
        self._name = f"mergeflow-{self._proof('name')[:16]}"

    def cookie(self, *, secure: bool) -> bytes:
        """Value of the header `Set-Cookie`."""
        until = str(int(time.time()) + _SECONDS)
        attributes = f"Path=/; Max-Age={_SECONDS}; HttpOnly; SameSite=Strict"
        value = f"{self._name}={until}.{self._proof(until)}; {attributes}"
        return f"{value}; Secure".encode() if secure else value.encode()

    def is_in(self, cookies: list[str]) -> bool:
        """Whether one of the headers `Cookie` holds a valid one."""
        for each in ";".join(cookies).split(";"):  # whatever cookies other ports have set beside it
            name, _, value = each.strip().partition("=")
            match = _COOKIE.fullmatch(value) if name == self._name else None
            if match and hmac.compare_digest(match[2], self._proof(match[1])):
                return int(match[1]) > time.time()
        return False

    def _proof(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

"""The login of a home's servers, `NAME:PASSWORD`: made once, in a file that only its owner reads.

Prefect calls such a text an auth string. It reaches servers and clients in their environment or
from the file, and appears in no argument, stored address, log or record.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from merge_core.errors import MergeflowError
from merge_core.files.locks import held
from merge_core.files.private import make_private_directory, write_private
from merge_core.homes.home import Home

SERVER_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's name for the login that its server asks for. A user's own value is taken as it is."""
CLIENT_VARIABLE = "PREFECT_API_AUTH_STRING"
"""Prefect's name for the login that its clients send."""

_USER = "mergeflow"
_BYTES = 32


@dataclass(frozen=True)
class Login:
    """A name and a password, as both servers take them."""

    text: str = field(repr=False)
    """`NAME:PASSWORD`; a text without a colon is a password."""

    @property
    def user(self) -> str:
        """The name."""
        return self.text.partition(":")[0] if ":" in self.text else _USER

    @property
    def password(self) -> str:
        """What follows the name."""
        return self.text.partition(":")[2] if ":" in self.text else self.text

    @property
    def header(self) -> str:
        """Value of the header `Authorization` for MLflow, which takes a name and a password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def admits(self, given: str) -> bool:
        """Whether a text is this login, with its name or without; takes the same time for any."""
        taken = (self.text, self.password, f"{self.user}:{self.password}")
        text = given.encode(errors="surrogatepass")  # JSON may hold half a character
        same = [hmac.compare_digest(text, each.encode()) for each in taken]
        return bool(given) and any(same)


def home_login(home: Home) -> Login:
    """The login of this home, made by whichever command needs it first.

    Raises:
        MergeflowError: the file cannot be read or made.
    """
    path = password_file(home)
    try:
        found = _read(path)
        if found is None:
            with _alone(home):
                found = _read(path)
                if found is None:
                    found = Login(f"{_USER}:{secrets.token_urlsafe(_BYTES)}")
                    write_private(path, found.text + "\n")
    except OSError as error:
        raise MergeflowError(
            f"the password of the servers cannot be kept here: {error.strerror}",
            where=str(path),
            mend="see that you may read and write there, or name another home (MERGEFLOW_HOME)",
        ) from None
    return found


def login_for_servers(home: Home) -> Login:
    """The login that servers started now ask for: the user's own, else the home's.

    A password that other users of the machine could read is replaced by a new one.

    Raises:
        MergeflowError: the user's own cannot be sent as a header.
    """
    own = os.environ.get(SERVER_VARIABLE)
    if own:
        return _checked(own, SERVER_VARIABLE)
    path = password_file(home)
    with contextlib.suppress(OSError):
        if stat.S_IMODE(path.lstat().st_mode) & 0o077:
            path.unlink()
    return home_login(home)


def keep_login(home: Home, login: Login) -> None:
    """Tell other commands of this home which login the stack's servers ask for."""
    path = _own_file(home)
    path.unlink(missing_ok=True)
    if login != home_login(home):
        write_private(path, login.text + "\n")


def forget_login(home: Home) -> None:
    """The stack's servers are gone."""
    _own_file(home).unlink(missing_ok=True)


def stack_login(home: Home) -> Login:
    """The login that the servers of the home's running stack ask for."""
    return _read(_own_file(home)) or home_login(home)


def stack_login_file(home: Home) -> Path:
    """The file that holds `stack_login`."""
    own = _own_file(home)
    return own if own.exists() else password_file(home)


def password_file(home: Home) -> Path:
    """Where the home's login is kept."""
    return home.path / "password"


def _own_file(home: Home) -> Path:
    """There as long as a stack runs whose user chose another login than the home's."""
    return home.stack / "password"


def _read(path: Path) -> Login | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        text = file.read(4096).strip()
    return _checked(text, str(path)) if text else None


def _checked(text: str, where: str) -> Login:
    login = Login(text)
    if not (text.isascii() and text.isprintable() and login.user and login.password):
        raise MergeflowError(
            "a login is NAME:PASSWORD, in printable ASCII on one line, neither of them empty",
            where=where,
            mend="write another; a file may also be removed, and gets a new password",
        )
    return login


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One command at a time makes the password; the others find it."""
    make_private_directory(home.path)
    directory = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with held(directory):
        yield

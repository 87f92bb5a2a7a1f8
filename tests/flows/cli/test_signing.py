"""`mergeflow keys` and `mergeflow sign`, as a user types them."""

from __future__ import annotations

import io
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.program import BAD_INPUT, PROMOTED, run
from merge_core.homes.home import Home
from tasks.registry.client import open_registry
from tasks.signing.keys import make_key_pair
from tests.support.audited import Audited
from tests.support.merge_store import clear_away

DOES_NOT_HOLD = 4


@pytest.fixture
def signing(audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audited]:
    """A home with merges that nobody has signed, and the one that commands use."""
    copy = audited.copied(tmp_path / "copy")
    monkeypatch.setenv("MERGEFLOW_HOME", str(copy.home.path))
    with open_registry(copy.registry):
        pass
    yield copy
    clear_away(Home(tmp_path))


def test_a_key_is_made_listed_and_handed_out(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "new", "release", "--json"]) == PROMOTED
    made = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE((home.keys / "release.pem").stat().st_mode) == 0o600
    assert run(["keys", "new", "release"]) == BAD_INPUT
    assert "choose another name" in capsys.readouterr().err
    theirs = make_key_pair(Home(tmp_path / "theirs"), "partner")
    public = tmp_path / "theirs" / "keys" / "partner.pub"
    assert run(["keys", "trust", str(public)]) == PROMOTED
    assert run(["keys", "list", "--json"]) == PROMOTED
    listed = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert listed["keys"] == [
        {"name": "partner", "key_id": theirs.key_id, "signs": False},
        {"name": "release", "key_id": made["key_id"], "signs": True},
    ]


def test_a_passphrase_is_not_asked_for_without_a_terminal(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("open sesame\nopen sesame\n"))
    assert run(["keys", "new", "release", "--passphrase"]) == BAD_INPUT
    assert "set MERGEFLOW_KEY_PASSPHRASE" in capsys.readouterr().err
    assert not home.keys.exists()
    monkeypatch.setenv("MERGEFLOW_KEY_PASSPHRASE", "open sesame")
    assert run(["keys", "new", "release", "--passphrase"]) == PROMOTED
    assert b"ENCRYPTED" in (home.keys / "release.pem").read_bytes()
    monkeypatch.delenv("MERGEFLOW_KEY_PASSPHRASE")
    assert run(["keys", "new", "other"]) == PROMOTED


def test_no_command_prints_a_private_key(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run(["keys", "new", "release"])
    private = home.keys / "release.pem"
    private.chmod(0o644)
    run(["keys", "list"])
    run(["keys", "trust", str(private), "--name", "other"])
    printed = "".join(capsys.readouterr())
    secret = [line for line in private.read_text().splitlines() if "-----" not in line]
    assert not any(line in printed for line in secret)


@pytest.mark.slow
def test_a_version_is_signed_and_checked_by_commands(
    signing: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign = ["sign", "models:/model/2"]
    assert run(sign) == BAD_INPUT
    assert "make one with `mergeflow keys new NAME`" in capsys.readouterr().err
    run(["keys", "new", "a"])
    run(["keys", "new", "b"])
    assert run(sign) == BAD_INPUT
    assert "name one with --key: a, b" in capsys.readouterr().err
    assert run([*sign, "--key", "b", "--json"]) == PROMOTED
    signed = json.loads(capsys.readouterr().out)
    assert signed["key"] == "b"
    assert run([*sign, "--key", "b"]) == PROMOTED
    assert "was signed before by b" in capsys.readouterr().out
    public = shutil.copy(signing.home.keys / "b.pub", tmp_path)
    audit = ["audit", "models:/model/2"]
    assert run(audit) == PROMOTED
    assert "signed by b" in capsys.readouterr().out
    assert run([*audit, "--key", str(public)]) == PROMOTED
    assert run([*audit, "--key", str(signing.home.keys / "a.pub")]) == DOES_NOT_HOLD
    assert "it is not signed by a" in capsys.readouterr().out
    assert run([*audit, "--key", str(signing.home.keys / "a.pem")]) == BAD_INPUT
    assert run(["history", "model"]) == PROMOTED
    assert "by key b" in capsys.readouterr().out


@pytest.mark.slow
def test_without_the_extra_signing_says_what_to_install_and_checking_goes_on(
    signing: Audited, tmp_path: Path
) -> None:
    """The packages are out of reach, as where they were never installed."""
    run(["keys", "new", "release"])
    run(["sign", "models:/model/2"])
    hide = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "found = PathFinder.find_spec\n"
        "gone = {'model_signing', 'OpenSSL', 'sigstore', 'in_toto_attestation'}\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None:"
        " None if name.partition('.')[0] in gone else found(name, path, target))\n"
        "from flows.cli.program import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", hide, *words]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    refused = command("sign", "models:/model/3")
    assert refused.returncode == BAD_INPUT, refused.stderr
    assert "pip install 'mergeflow[signing]'" in refused.stderr
    assert command("keys", "new", "other").returncode == PROMOTED
    checked = command("audit", "models:/model/2")
    assert checked.returncode == PROMOTED, checked.stdout
    assert "signed by release" in checked.stdout

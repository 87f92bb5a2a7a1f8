"""Commands around signatures: `mergeflow sign`, and `mergeflow keys` for its keys."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, TrackingUri, home_and_registry, terminal_for
from merge_core.errors import MergeflowError

if TYPE_CHECKING:
    from flows.terminal.console import Terminal

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called here.")]

keys_app = typer.Typer(
    help="Keys to sign with, and public keys that are trusted.", no_args_is_help=True
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow sign models:/zoo-good@champion --key release`")(sign)
    app.add_typer(keys_app, name="keys")


def sign(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")
    ],
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="KEY",
            help="A name of `mergeflow keys list`, or the path of a key file. Default: the only"
            " key that there is.",
        ),
    ] = "",
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Sign a version: its files, and how they were made. What `audit` refutes is not signed."""
    from merge_core.files.written_path import written_path
    from tasks.audit.signing import sign_version
    from tasks.signing.keys import private_keys

    terminal = terminal_for(as_json)
    home, address = home_and_registry(tracking_uri, make=False)
    known = private_keys(home)
    if not key and len(known) != 1:
        raise MergeflowError(
            "there are several keys" if known else "there is no key to sign with",
            where=str(home.keys),
            mend=f"name one with --key: {', '.join(known)}"
            if known
            else "make one with `mergeflow keys new NAME`",
        )
    named = key or known[0]
    if "/" in named:
        named = str(written_path(named).absolute())
    _ask_for_passphrase(terminal, named, home.keys)
    with terminal.progress() as progress:
        done = sign_version(home, model, address, named, progress)
    if as_json:
        terminal.give(done.model_dump(mode="json"))
        return
    before = "was signed before" if done.already else "is signed"
    terminal.say(f"{done.model_uri} {before} by {done.key} ({done.key_id[:12]})")
    terminal.say(f"  files      {done.signature}")
    terminal.say(f"  statement  {done.statement}")
    terminal.say("  both are with the run in MLflow, too; `mergeflow audit` checks them")


@keys_app.command(epilog="Example: `mergeflow keys new release --passphrase`")
def new(
    name: KeyName,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help="Encrypt it. The passphrase is asked for, or is in $MERGEFLOW_KEY_PASSPHRASE.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key: the private half for you alone, the public half to hand out."""
    from merge_core.homes.home import Home
    from tasks.signing.keys import PASSPHRASE, free_places, make_key_pair

    terminal, home = terminal_for(as_json), Home.discover()
    _, public = free_places(home, name)
    secret = None
    if passphrase:
        secret = os.environ.get(PASSPHRASE) or _asked(confirm=True)
    made = make_key_pair(home, name, secret)
    if as_json:
        terminal.give({"name": name, "key_id": made.key_id, "public": str(public)})
        return
    terminal.say(f"key {name}, id {made.key_id}")
    terminal.say(f"  hand out   {public}")
    terminal.say(f"  keep       {home.keys / name}.pem: whoever has it can sign as you")


@keys_app.command("list", epilog="Example: `mergeflow keys list --json`")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys of this home: whose signatures count, and which can sign."""
    from merge_core.homes.home import Home
    from tasks.signing.keys import private_keys
    from tasks.signing.trust import Trust

    terminal, home = terminal_for(as_json), Home.discover(make=False)
    trust, own = Trust.of_home(home), private_keys(home)
    if as_json:
        terminal.give(
            {
                "keys": [
                    {"name": key.name, "key_id": key.key_id, "signs": key.name in own}
                    for key in trust.keys
                ],
                "problems": list(trust.problems),
            }
        )
        return
    for key in trust.keys:
        use = "signs" if key.name in own else "trusted"
        terminal.say(f"{use:<8} {key.name:<20} {key.key_id}")
    for problem in trust.problems:
        terminal.warn(problem)
    if not trust.keys:
        terminal.say(f"no keys in {home.keys}", style="dim")


@keys_app.command(epilog="Example: `mergeflow keys trust release.pub`")
def trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Somebody's public key, in PEM.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Default: as the file is called.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Let `audit` believe what a key signed. Compare its id with its owner's first."""
    from merge_core.homes.home import Home
    from tasks.signing.trust import trust_key

    terminal = terminal_for(as_json)
    key = trust_key(Home.discover(), file, name or None)
    if as_json:
        terminal.give({"name": key.name, "key_id": key.key_id})
    else:
        terminal.say(f"{key.name} is trusted, id {key.key_id}")


def _ask_for_passphrase(terminal: Terminal, named: str, keys: Path) -> None:
    """Ask a person for the passphrase of a key that has one; programs set the variable."""
    from merge_core.files.named_file import read_named
    from tasks.signing.keys import PASSPHRASE, PRIVATE

    path = Path(named) if "/" in named else keys / f"{named}{PRIVATE}"
    if PASSPHRASE in os.environ or terminal.machine or not sys.stdin.isatty():
        return
    try:
        encrypted = b"ENCRYPTED" in read_named(path, 4096)
    except OSError:
        return
    if encrypted:
        os.environ[PASSPHRASE] = _asked(confirm=False)


def _asked(*, confirm: bool) -> str:
    from tasks.signing.keys import PASSPHRASE

    if not sys.stdin.isatty():
        raise MergeflowError(
            "there is no terminal to ask for the passphrase",
            where="mergeflow keys new",
            mend=f"set {PASSPHRASE}, or take --passphrase out",
        )
    return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))

"""What somebody who may write to MLflow's artifacts can do to the description of a checkpoint.

Each is given the description's directory, and a directory with an edited copy of the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.edited_objects import flip, sha256


def lead_elsewhere(described: Path, evil: Path) -> None:
    record = json.loads((described / "checkpoint.json").read_text())
    (described / "checkpoint.json").write_text(json.dumps(record | {"path": str(evil)}))


def list_other_digests(described: Path, evil: Path) -> None:
    record = json.loads((described / "checkpoint.json").read_text())
    for file in record["files"]:
        file["sha256"] = sha256(evil / file["name"])
    (described / "checkpoint.json").write_text(json.dumps(record | {"path": str(evil)}))


def load_from_elsewhere(described: Path, evil: Path) -> None:
    text = (described / "MLmodel").read_text()
    (described / "MLmodel").write_text(text.replace(str(evil.parent / "object"), str(evil)))


def verify_nothing(described: Path, evil: Path) -> None:
    text = (described / "MLmodel").read_text()
    (described / "MLmodel").write_text(text.replace("verify: sizes", "verify: none"))


def other_tokenizer(described: Path, evil: Path) -> None:
    flip(described / "components" / "tokenizer" / "tokenizer.json")


def other_loader(described: Path, evil: Path) -> None:
    [loader] = (described / "code").glob("*.py")
    loader.write_text("raise SystemExit\n")


def other_requirements(described: Path, evil: Path) -> None:
    (described / "requirements.txt").write_text("evil==1.0\n")


def not_json(described: Path, evil: Path) -> None:
    (described / "checkpoint.json").write_bytes(b"\xff")
    (described / "MLmodel").write_text("[")


def no_description(described: Path, evil: Path) -> None:
    shutil.rmtree(described)


ATTACKS = (
    *(lead_elsewhere, list_other_digests, load_from_elsewhere, verify_nothing),
    *(other_tokenizer, other_loader, other_requirements, not_json, no_description),
)

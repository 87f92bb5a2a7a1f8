"""Making a local MLflow database, so that a killed first run leaves no half one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merge_core.files.durable import sync


def create_database(database: Path, artifacts: str) -> None:
    """Build the schema beside its place and rename: a killed first run leaves no half database.

    MLflow replays every migration of its history, hundreds of small commits; until the file is
    complete and in its place nobody needs them to reach the disk one by one.

    Args:
        artifacts: where its first experiment keeps files.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    fresh = database.with_name(f".{database.name}.new")
    for leftover in (fresh, fresh.with_name(fresh.name + "-journal")):
        leftover.unlink(missing_ok=True)

    place = str(fresh.parent.resolve() / fresh.name)

    def hurry(connection: Any, _record: object) -> None:
        if any(row[2] == place for row in connection.execute("PRAGMA database_list")):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    try:
        store = SqlAlchemyStore(f"sqlite:///{fresh}", artifacts)
        store.engine.dispose()
    finally:
        event.remove(Engine, "connect", hurry)
    sync(fresh)
    fresh.rename(database)

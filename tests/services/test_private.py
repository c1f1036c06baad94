"""What the service writes on a shared machine is for its own user."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services import db
from services.blobs.storage import Storage


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_a_new_database_and_its_folder_are_for_one_user(tmp_path: Path) -> None:
    engine = db.engine(f"sqlite:///{tmp_path}/a/b/loopline.db")
    db.migrate(engine)
    engine.dispose()
    assert {mode(tmp_path / "a"), mode(tmp_path / "a" / "b")} == {"0o700"}
    assert mode(tmp_path / "a" / "b" / "loopline.db") == "0o600"


def test_a_database_that_others_could_read_is_tightened(tmp_path: Path) -> None:
    names = ("loopline.db", "loopline.db-wal", "loopline.db-shm", "loopline.db-journal")
    db.engine(url := f"sqlite:///{tmp_path}/loopline.db").dispose()
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    engine = db.engine(url)
    with engine.connect() as connection:
        assert {mode(tmp_path / name) for name in names if (tmp_path / name).exists()} == {"0o600"}
        connection.exec_driver_sql("SELECT 1")
    engine.dispose()
    assert mode(tmp_path) == "0o755"  # it was there: whoever made it knows why


def test_folders_of_data_and_models_are_for_one_user(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    path = storage.dataset_place("a" * 64)
    for folder in (path.parent, path.parent.parent, storage.root, storage.job_dir("job_" + "0" * 26)):
        assert mode(folder) == "0o700"


@pytest.mark.parametrize("name", ["loopline.db"])
def test_a_database_that_cannot_be_made_is_said_by_sqlite(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    engine = db.engine(f"sqlite:///{tmp_path / name}")
    with pytest.raises(Exception, match="unable to open database file"), engine.connect():
        pass
    engine.dispose()


def test_a_new_connection_takes_no_lock_from_one_that_writes(tmp_path: Path) -> None:
    """A process that closes a file loses its locks on it, whichever of its connections holds them."""
    engine = db.engine(f"sqlite:///{tmp_path}/loopline.db")
    db.migrate(engine)
    another = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with db.session_scope(engine) as writing:
        writing.connection()
        with db.read_scope(engine) as reading:  # a second connection, made now
            reading.connection()
        line = [sys.executable, "-c", another, str(tmp_path / "loopline.db")]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    engine.dispose()
    assert done.returncode == 1
    assert "database is locked" in done.stderr

"""What the embedded store says where its file, directory or disk is not as it should be."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from accede.errors import StaleWrite, StoreError, UsageError
from accede.store.labels import (
    ARM,
    TOMBSTONES,
    Kept,
    Label,
    LabelCounts,
    Prediction,
    encode_prediction,
    request_key,
)
from accede.store.open import open_store, store_path
from accede.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from tests.store.conftest import Records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accede.db"


@contextmanager
def refused(path: Path, pattern: str) -> Iterator[None]:
    """One line that names the path, what was found and a way out."""
    with pytest.raises(StoreError, match=pattern) as caught:
        yield
    assert not isinstance(caught.value, StaleWrite)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ": " in message


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system over `folder`; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    if subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def held(path: Path, *statements: str) -> Iterator[None]:
    """Another process that runs `statements` on the database and then holds what they took."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]: connection.execute(statement).fetchall()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(path), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.kill()


# The file and its directory


def test_a_missing_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "accede.db"
    SqliteStore(path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "data" / "accede.db"
    with refused(path, "cannot be made"):
        SqliteStore(path)


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "is a directory"):
        SqliteStore(tmp_path)


@pytest.mark.parametrize("content", [b"no database, but long enough to have had a header" * 40, b"short"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with refused(path, "is no SQLite database"):
        SqliteStore(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_becomes_a_store(path: Path, records: Records) -> None:
    path.touch()
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    before = path.read_bytes()
    with refused(path, "another program's"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_tables_of_a_newer_version_are_refused(path: Path) -> None:
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 4")
    with refused(path, r"newer version of accede \(tables 4, this one reads 3\)"):
        SqliteStore(path)


def test_a_store_of_version_1_gets_the_tables_of_labels_and_keeps_the_rest(
    path: Path, records: Records
) -> None:
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())
    with closing(sqlite3.connect(path)) as connection:
        for table in ("predictions", "labels", "folds", "label_totals"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")
    with closing(SqliteStore(path)) as store:
        assert store.rollout("fraud") == records.commit().record
        assert store.labels.held("fraud").predictions == 0


def test_a_store_of_version_2_counts_the_bytes_that_it_holds(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        store.labels.publish_predictions("s", [prediction("a"), prediction("b")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM label_totals WHERE name = 'bytes'")
        connection.execute("PRAGMA user_version = 2")
    with closing(SqliteStore(path)) as store:
        store.labels._most_bytes = 2 * len(encode_prediction(prediction("a")))
        assert store.labels.publish_predictions("s", [prediction("c")]) == Kept(0, 1)


@pytest.mark.parametrize("kept", [0.5, 0.02])
def test_a_truncated_database_is_refused(path: Path, records: Records, kept: float) -> None:
    with closing(SqliteStore(path)) as store:
        for version in range(1, 30):
            store.commit(records.commit(version=version))
    size = path.stat().st_size
    os.truncate(path, int(size * kept))
    with refused(path, "is damaged|is no SQLite database"):
        closing(SqliteStore(path)).__enter__().decisions("r1")


def test_a_file_that_was_replaced_while_in_use_is_noticed(path: Path, records: Records) -> None:
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())
        path.rename(path.with_suffix(".old"))
        with refused(path, "moved, removed or replaced"):
            store.commit(records.commit(version=2))
        closing(SqliteStore(path)).__enter__().close()
        with refused(path, "moved, removed or replaced"):
            store.revision()


def test_a_read_only_directory_is_refused(tmp_path: Path, records: Records) -> None:
    folder = tmp_path / "data"
    path = folder / "accede.db"
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            with refused(path, "may not write"):
                SqliteStore(folder / "other.db")
        finally:
            folder.chmod(0o700)
        return
    with mounted(folder, "--bind", "-o", "ro", str(folder)):
        if os.access(folder, os.W_OK):  # older kernels need a second step
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        for name in ("accede.db", "other.db"):
            with refused(folder / name, "may not write"):
                SqliteStore(folder / name)
        assert list(folder.iterdir()) == [path]


def test_a_write_that_is_not_allowed_fails_and_reads_go_on(path: Path, records: Records) -> None:
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())
        store._writer.execute("PRAGMA query_only = ON")
        with refused(path, "is read-only"):
            store.commit(records.commit(version=2))
        assert store.routes().revision == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_users_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "accede.db"
    SqliteStore(path).close()
    for folder in [path.parent.parent, *path.parent.parent.parents[:-1]]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            with refused(path, "may not write"):
                SqliteStore(path)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# A full disk


def fill(store: SqliteStore, records: Records, first: int) -> int:
    """Commit until the store refuses; the version that was refused."""
    for version in range(first, 100_000):
        try:
            store.commit(records.commit(version=version))
        except StoreError:
            return version
    raise AssertionError("the disk never filled")


def fill_disk(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # no space left on device
        while True:
            file.write(bytes(4096))


def test_a_full_file_refuses_a_commit_whole_and_works_again_with_room(path: Path, records: Records) -> None:
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit())
        pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
        store._writer.execute(f"PRAGMA max_page_count = {pages + 3}")
        version = fill(store, records, 2)
        with refused(path, "disk is full"):
            store.commit(records.commit(version=version))
        record = store.rollout("fraud")
        assert record is not None
        assert record.version == store.routes().routes[0].generation == version - 1
        assert len(store.decisions("r1")) == version - 1
        store._writer.execute("PRAGMA max_page_count = 100000")
        store.commit(records.commit(version=version))


def test_a_full_disk_refuses_a_commit_whole_and_works_again_with_room(
    tmp_path: Path, records: Records
) -> None:
    folder = tmp_path / "small"
    with mounted(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        path = folder / "accede.db"
        with closing(SqliteStore(path)) as store:
            store.commit(records.commit())
            ballast = folder / "ballast"
            fill_disk(ballast)
            version = fill(store, records, 2)
            with refused(path, "disk is full"):
                store.publish_evidence(records.evidence())
            with refused(path, "disk is full"):
                store.commit(records.commit(version=version))
            assert len(store.decisions("r1")) == version - 1
            assert store.routes().routes[0].generation == version - 1
            with refused(folder / "second.db", "disk is full|could not be read or written|cannot be opened"):
                SqliteStore(folder / "second.db")
            ballast.unlink()
            store.commit(records.commit(version=version))
        with closing(SqliteStore(path)) as store:
            assert len(store.decisions("r1")) == version


# Locks


@pytest.mark.timeout(30)
def test_a_held_write_lock_ends_in_an_error_and_never_stops_readers(path: Path, records: Records) -> None:
    with closing(SqliteStore(path, wait=0.2)) as store:
        store.commit(records.commit())
        with held(path, "BEGIN IMMEDIATE"):
            with refused(path, "locked by another process"):
                store.commit(records.commit(version=2))
            with refused(path, "locked by another process"):
                store.publish_evidence(records.evidence())
            assert store.routes().revision == 1
            with closing(SqliteStore(path, wait=0.2)) as second:  # nor opening
                assert second.revision() == 1
        store.commit(records.commit(version=2))


@pytest.mark.timeout(30)
def test_a_file_held_exclusively_ends_in_an_error(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        store.close()
    with held(path, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"), refused(path, "locked by another"):
        SqliteStore(path, wait=0.2)


@pytest.mark.timeout(30)
def test_a_thread_that_holds_the_store_ends_in_an_error(path: Path, records: Records) -> None:
    with closing(SqliteStore(path, wait=0.2)) as store, ThreadPoolExecutor(1) as pool:
        with store._writing("NORMAL"), refused(path, "another thread"):
            pool.submit(store.publish_report, records.report()).result()
        store.publish_report(records.report())


def test_many_may_make_the_same_store_at_once(tmp_path: Path, records: Records) -> None:
    for attempt in range(10):
        path = tmp_path / str(attempt) / "accede.db"
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(SqliteStore, [path] * 4))
        stores[0].commit(records.commit())
        assert [store.revision() for store in stores] == [1] * 4
        for store in stores:
            store.close()


def test_commits_are_flushed_and_evidence_is_not(path: Path, records: Records) -> None:
    seen: list[str] = []
    with closing(SqliteStore(path)) as store:
        store._writer.set_trace_callback(seen.append)
        store.commit(records.commit())
        store.publish_evidence(records.evidence())
        store._writer.set_trace_callback(None)
    assert [line for line in seen if "synchronous" in line or line == "COMMIT"] == [
        "PRAGMA synchronous = FULL", "COMMIT", "PRAGMA synchronous = NORMAL", "COMMIT",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_store_is_not_used_across_a_fork(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with refused(path, "forked"):
                    store.revision()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.revision() == 0


def test_routes_that_did_not_change_are_not_decoded_again(path: Path, records: Records) -> None:
    with closing(SqliteStore(path)) as store:
        store.commit(records.commit("fraud"))
        store.commit(records.commit("credit", rollout="r2"))
        before = {route.service: route for route in store.routes().routes}
        store.commit(records.commit("credit", 2, rollout="r2"))
        after = {route.service: route for route in store.routes().routes}
    assert after["fraud"] is before["fraud"]
    assert after["credit"].generation == 2


# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("sqlite:///var/lib/accede", "/var/lib/accede/accede.db"),
        ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:///var/a%20b/x.sqlite3", "/var/a b/x.sqlite3"),
        ("/var/lib/accede", "/var/lib/accede/accede.db"),
        ("data", "data/accede.db"),
        ("data/my.db", "data/my.db"),
    ],
)
def test_an_address_names_a_file(address: str, expected: str) -> None:
    assert store_path(address) == Path(expected)


def test_a_directory_may_be_named_like_a_file_and_a_file_like_a_directory(tmp_path: Path) -> None:
    (tmp_path / "odd.db").mkdir()
    (tmp_path / "plain").touch()
    assert store_path(str(tmp_path / "odd.db")) == tmp_path / "odd.db" / "accede.db"
    assert store_path(str(tmp_path / "plain")) == tmp_path / "plain"


@pytest.mark.parametrize(
    "address", ["", "sqlite://", "sqlite:///", "sqlite://data", "sqlite:///x?mode=ro", "http://h/x"]
)
def test_an_address_that_means_nothing_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="sqlite:///path"):
        open_store(address)


# Bounds of what labels are joined to


def prediction(request: str) -> Prediction:
    return Prediction(request_key("s", request), ARM, "r1", 1, 10.0, 1000.0, 1, 0, 0, ((0.5,),))


def label(request: str, *groups: str) -> Label:
    return Label(request_key("s", request), (1.0,), groups)


def test_labels_without_room_are_refused_and_counted(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        labels = store.labels
        labels._most_labels = 2
        given = [label(name) for name in "abc"]
        got = labels.add_labels("s", given, 1000.0)
        assert (got.new, got.no_room) == (2, 1)
        again = labels.add_labels("s", [*given[:2], label("b", "sex=female")], 1000.0)
        assert (again.new, again.duplicates, again.no_room) == (0, 2, 0)  # what is there is told apart
        assert labels.add_labels("other", given[:1], 1000.0).no_room == 0  # each service has its own
        assert labels.expire(1001.0, 10) == 3
        assert labels.add_labels("s", given, 2000.0) == LabelCounts(new=2, unknown=2, no_room=1)
        assert labels.held("s").labels.no_room == 2


def test_predictions_without_room_are_dropped_and_counted(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        labels = store.labels
        labels._most_predictions = 2
        assert labels.publish_predictions("s", [prediction(name) for name in "abc"]) == Kept(2, 1)
        held = labels.held("s")
        assert (held.predictions, held.dropped) == (2, 1)
        assert len(labels.due("s", "r1", 100.0, 10).rows) == 2
        labels.publish_predictions("other", [prediction("c")])
        assert labels.held("other").dropped == 0
        # What is forgotten gives its room back when it is no longer told apart either.
        labels.expire(1001.0, 10)
        labels.publish_predictions("s", [prediction("d")])
        assert labels.held("s").dropped == 2
        labels.expire(1001.0 + TOMBSTONES, 10)
        labels.publish_predictions("s", [prediction("d")])
        assert labels.held("s").predictions == 3

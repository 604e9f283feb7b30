"""The durable store: what was written is there, in any process, and nothing else is."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.llm import cache as store
from pipeline.llm import former
from pipeline.llm.cache import DATABASE, Cache
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import ShardError, WorkspaceError
from tests.former_answers import frame, segment

ROOT = Path(__file__).resolve().parents[2]


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def answer(number: int, text: str | None = None) -> Answer:
    return Answer(key(number), text or f"Grüße {number} \U0001f600", "stop", number, None, "tiny", "http://h/v1", 1)


def failure(number: int) -> Failure:
    return Failure(key(number), "timeout", "no answer", 8)


def stored(folder: Path, count: int = 9) -> list[Answer]:
    """Store so many answers."""
    records = [answer(number) for number in range(count)]
    with Cache(folder) as cache:
        cache.write(records)
    return records


def test_what_is_written_is_there_after_opening_again(tmp_path):
    records = [answer(1), failure(2), answer(3, "")]
    with Cache(tmp_path / "a" / "b") as cache:
        assert key(1) not in cache
        cache.write(records[:2])
        cache.write(records[2:])
        cache.write([])
        assert [cache.get(record.key) for record in records] == records
    with Cache(tmp_path / "a" / "b") as cache:
        assert [cache.get(record.key) for record in records] == records
        assert list(cache.records()) == records
        assert cache.get(key(4)) is None
        assert len(cache) == 3
        assert cache.damage == []
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["_lock.json", DATABASE]


def test_the_newest_record_of_a_key_counts(tmp_path):
    for records in ([failure(1)], [answer(1)], [failure(1), answer(1, "later")]):
        with Cache(tmp_path) as cache:
            cache.write(records)
            assert cache.get(key(1)) == records[-1]
    with Cache(tmp_path) as cache:
        assert list(cache.records()) == [answer(1, "later")]


def test_a_record_that_is_no_longer_what_was_written_is_asked_again(tmp_path, caplog):
    records = stored(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE answers SET result = replace(result, 'stop', 'pots') WHERE id = 5")
    with Cache(tmp_path) as cache:
        assert [number for number in range(9) if key(number) not in cache] == [4]
        assert key(4).hex() in caplog.text
        assert cache.damage == [f"answers in {tmp_path}: that of request {key(4).hex()} is damaged; it is asked again"]
        assert list(cache.records()) == records[:4] + records[5:]
        cache.write([failure(4)])
        assert cache.get(key(4)) == failure(4)


def test_a_store_that_is_only_read_stays_as_it_is(tmp_path):
    records = stored(tmp_path)
    before = (tmp_path / DATABASE).stat()
    with Cache(tmp_path) as cache:
        assert list(cache.records()) == records
    assert (tmp_path / DATABASE).stat() == before


def pages_of(path: Path, kind: int) -> list[int]:
    """Return where the pages of a kind begin: 5 and 13 the inner ones and the leaves of rows, 2 and 10 of an index."""
    data = path.read_bytes()
    return [at for at in range(4096, len(data), 4096) if data[at] == kind]


def damaged(path: Path, at: int, length: int) -> bytes:
    """Change every byte there; return all bytes of the file."""
    data = bytearray(path.read_bytes())
    data[at : at + length] = bytes(byte ^ 0x5A for byte in data[at : at + length])
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "which", "most_lost"), [(None, 0, 0), (5, 0, 0), (5, -1, 0), (13, 7, 60), (2, 0, 0), (10, 3, 0)]
)
@pytest.mark.parametrize(("after", "length"), [(0, 1), (8, 4), (0, 600), (0, 4096)])
def test_a_damaged_database_is_set_aside_and_what_is_whole_in_it_is_kept(
    tmp_path, kind, which, most_lost, after, length
):
    records = stored(tmp_path, 1500)
    path = tmp_path / DATABASE
    at = 0 if kind is None else pages_of(path, kind)[which] + after
    if kind is None and length == 4:
        at = 101  # the schema
    bytes_then = damaged(path, at, length)
    with Cache(tmp_path) as cache:
        found = [cache.get(key(number)) for number in range(1500)]
        assert all(one in (None, record) for one, record in zip(found, records, strict=True))
        assert found.count(None) <= most_lost
        assert cache.damage == [
            f"{path} is damaged; it is kept as damaged-1.sqlite.kept, and what of it is whole is here"
        ]
        assert (tmp_path / "damaged-1.sqlite.kept").read_bytes() == bytes_then
        cache.write(records)
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in range(1500)] == records
        assert (len(cache), cache.damage) == (1500, [])


def test_damage_in_an_index_alone_is_seen_and_no_answer_is_there_twice(tmp_path):
    records = stored(tmp_path, 1500)
    path = tmp_path / DATABASE
    leaf = pages_of(path, 10)[3]
    data = path.read_bytes()
    hit = next(number for number in range(1500) if key(number) in data[leaf : leaf + 4096])
    damaged(path, data.index(key(hit), leaf) + 15, 1)
    with Cache(tmp_path) as cache:
        assert cache.get(key(hit)) == records[hit]
        cache.write([records[hit]])
        assert (len(cache), len(cache.damage)) == (1500, 1)


def test_answers_of_many_pages_are_found_in_a_damaged_database(tmp_path):
    lengths = [*range(3800, 4200, 7), *range(8000, 8400, 13), 20_000, 100_000, 1_000_000]
    records = [answer(number, "\U0001f600"[: number % 2] + "x" * length) for number, length in enumerate(lengths)]
    with Cache(tmp_path) as cache:
        cache.write(records)
    damaged(tmp_path / DATABASE, 0, 4096)
    with Cache(tmp_path) as cache:
        assert {record.key: record for record in cache.records()} == {record.key: record for record in records}
        assert len(cache.damage) == 1


KILLED = """
import os, signal, sys
from pipeline.llm.cache import Cache
from tests.unit.test_llm_cache import answer
cache = Cache(sys.argv[1])
for number in range(0, int(sys.argv[2]), 10):
    cache.write([answer(number + more) for more in range(10)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, count: int) -> list[Answer]:
    """Store so many answers in a process that is killed then: they are in the log."""
    assert subprocess.run([sys.executable, "-c", KILLED, folder, str(count)], cwd=ROOT).returncode == -signal.SIGKILL
    assert folder.joinpath(f"{DATABASE}-wal").stat().st_size > count * 100
    return [answer(number) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "at", "length", "is_told"),
    [
        (DATABASE, 0, None, True),  # cut to nothing
        (DATABASE, 0, 100, False),  # the log has a copy
        (DATABASE, 0, 4096, False),
        (f"{DATABASE}-wal", 0, 32, True),
        (f"{DATABASE}-wal", 32, 24, True),
        (f"{DATABASE}-wal", 0, 60, True),
        (f"{DATABASE}-wal", 32 + 20 * (24 + 4096), 24, True),
        (f"{DATABASE}-wal", 0, 0, False),
    ],
)
def test_what_a_killed_run_left_in_the_log_is_there_whatever_is_damaged(tmp_path, name, at, length, is_told):
    records = killed(tmp_path, 200)
    if length is None:
        (tmp_path / name).write_bytes(b"")
    else:
        damaged(tmp_path / name, at, length)
    with Cache(tmp_path) as cache:
        assert [cache.get(record.key) for record in records] == records
        assert bool(cache.damage) == is_told
        assert bool(list(tmp_path.glob("damaged-1.sqlite.kept-wal"))) == is_told


@pytest.mark.parametrize("moved", ["", "-wal"])
def test_setting_aside_that_is_killed_half_way_goes_on(tmp_path, moved):
    records = killed(tmp_path, 200)
    if not moved:
        (tmp_path / DATABASE).write_bytes(b"")
    os.rename(tmp_path / f"{DATABASE}{moved}", tmp_path / f"damaged-1.sqlite{moved}")
    with Cache(tmp_path) as cache:
        assert [cache.get(record.key) for record in records] == records
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"_lock.json", DATABASE, "damaged-1.sqlite.kept", "damaged-1.sqlite.kept-wal"}


def test_who_reads_the_store_beside_a_run_takes_nothing_away(tmp_path):
    look = (
        "import sqlite3; d = sqlite3.connect({path!r}); d.execute('SELECT count(*) FROM answers').fetchone(); d.close()"
    )
    code = KILLED.replace(
        "for number",
        "cache.write([answer(-1)])\ncache.get(answer(-1).key)\n"
        f"import subprocess\nsubprocess.run([sys.executable, '-c', {look.format(path=str(tmp_path / DATABASE))!r}])\n"
        "for number",
        1,
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path, "50"], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (-signal.SIGKILL, "")
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in range(-1, 50)] == [answer(number) for number in range(-1, 50)]
        assert cache.damage == []


def test_damage_that_comes_while_it_is_open_is_an_error_not_another_text(tmp_path):
    stored(tmp_path)
    with Cache(tmp_path) as cache:
        assert cache.get(key(1)) == answer(1)
        with sqlite3.connect(tmp_path / DATABASE) as connection:
            connection.execute("UPDATE answers SET result = replace(result, 'stop', 'pots') WHERE id = 3")
        with pytest.raises(ShardError, match=f"{key(2).hex()} is damaged; run again"):
            cache.get(key(2))
        assert [record.key for record in cache.records()] == [key(number) for number in range(9) if number != 2]


@pytest.mark.parametrize("read", [lambda cache: cache.get(key(1)), len, lambda cache: list(cache.records())])
def test_a_database_that_is_gone_is_one_clear_line(tmp_path, read):
    stored(tmp_path)
    with Cache(tmp_path) as cache:
        pass
    (tmp_path / DATABASE).unlink()
    with pytest.raises(ShardError, match="run again") as caught:
        read(cache)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / DATABASE).exists()


def test_a_database_that_lost_its_index_loses_no_answer(tmp_path):
    records = stored(tmp_path, 3000)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'index'").fetchone()
    with (tmp_path / DATABASE).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    with Cache(tmp_path) as cache:
        assert [cache.get(record.key) for record in records] == records
        assert len(cache.damage) == 1


def test_what_a_former_version_stored_is_taken_over_once(tmp_path):
    tmp_path.joinpath("answers-000000.seg").write_bytes(segment([failure(1), answer(2), answer(1)]))
    tmp_path.joinpath("answers-000001.seg").write_bytes(segment([answer(3)]))
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in (1, 2, 3)] == [answer(1), answer(2), answer(3)]
        assert cache.damage == []
        assert not list(tmp_path.glob("*.seg*"))
    with Cache(tmp_path) as cache:
        assert len(cache) == 3


def test_a_former_failure_replaces_no_answer(tmp_path):
    """Somebody went back to a former version for one run."""
    stored(tmp_path)
    tmp_path.joinpath("answers-000000.seg").write_bytes(segment([failure(1), failure(20), failure(21), answer(21)]))
    tmp_path.joinpath("answers-000001.seg").write_bytes(segment([answer(22), failure(22), answer(20)]))
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in (1, 20, 21, 22)] == [answer(n) for n in (1, 20, 21, 22)]


def test_taking_over_holds_few_bytes_at_a_time(tmp_path, monkeypatch):
    tmp_path.joinpath("answers-000000.seg").write_bytes(segment([answer(n, "x" * 3000) for n in range(50)]))
    monkeypatch.setattr(store, "_BYTES_AT_ONCE", 10_000)
    write, sizes = Cache._write, []

    def measured(self, rows):
        sizes.append(sum(len(result) for _, result in rows))
        write(self, rows)

    monkeypatch.setattr(Cache, "_write", measured)
    with Cache(tmp_path) as cache:
        assert len(cache) == 50
    assert max(sizes) < 14_000


def test_a_segment_that_is_cut_short_while_it_is_read_kills_nobody(tmp_path):
    path, damage = tmp_path / "answers-000000.seg", []
    path.write_bytes(segment([answer(number) for number in range(2000)]))
    rows = former.segment_rows(path, damage)
    next(rows)
    os.truncate(path, 4096)
    assert 1 < sum(1 for _ in rows) < 100
    assert len(damage) == 1


def test_what_was_kept_of_a_damaged_segment_stays(tmp_path):
    for number in range(2):
        tmp_path.joinpath("answers-000000.seg").write_bytes(segment([answer(number)]) + b"?")
        with Cache(tmp_path) as cache:
            assert (len(cache), len(cache.damage)) == (number + 1, 1)
    assert tmp_path.joinpath("answers-000000.seg.kept").read_bytes() == segment([answer(0)]) + b"?"
    assert tmp_path.joinpath("answers-000000.seg.kept1").read_bytes() == segment([answer(1)]) + b"?"


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_a_segment_that_was_hardly_begun_holds_nothing(tmp_path, length):
    tmp_path.joinpath("answers-000000.seg").write_bytes(segment([answer(1)])[:length])
    with Cache(tmp_path) as cache:
        assert len(cache) == 0
        assert len(cache.damage) == (length > 16)


def test_damage_in_a_segment_costs_what_is_damaged_and_is_told(tmp_path, caplog):
    data = bytearray(segment([answer(number) for number in range(9)]) + frame(answer(9))[:-1])
    at = data.index(b"Gr\\u00fc\\u00dfe 4")
    data[at : at + 3] = b"XYZ"
    tmp_path.joinpath("answers-000000.seg").write_bytes(data)
    with Cache(tmp_path) as cache:
        assert [number for number in range(10) if key(number) not in cache] == [4, 9]
        assert len(cache.damage) == 2
    assert "are damaged or half written; what they held is asked again" in caplog.text
    assert (tmp_path / "answers-000000.seg.kept").read_bytes() == data
    with Cache(tmp_path) as cache:
        assert (len(cache), cache.damage) == (8, [])


def test_taking_over_that_is_killed_anywhere_goes_on(tmp_path, monkeypatch):
    records = [answer(number) for number in range(50)]
    monkeypatch.setattr(store, "_AT_ONCE", 8)
    tmp_path.joinpath("answers-000000.seg").write_bytes(segment(records[:30]))
    tmp_path.joinpath("answers-000001.seg").write_bytes(segment(records[30:]))
    write, writes = Cache._write, 0

    def dying(self, rows):
        nonlocal writes
        writes += 1
        if writes % 3 == 0:
            raise KeyboardInterrupt
        write(self, rows)

    monkeypatch.setattr(Cache, "_write", dying)
    deaths = 0
    while deaths < 9:
        try:
            with Cache(tmp_path) as cache:
                assert list(cache.records()) == records
                break
        except KeyboardInterrupt:
            deaths += 1
            monkeypatch.setattr(store, "_AT_ONCE", 8 << deaths)
    assert 0 < deaths < 9


def test_what_is_none_of_ours_is_left_alone(tmp_path):
    path = tmp_path / "answers-000000.seg"
    path.write_bytes(b"gristmill-llm-2\nfrom the future")
    with pytest.raises(WorkspaceError, match="newer version"):
        Cache(tmp_path)
    assert path.read_bytes() == b"gristmill-llm-2\nfrom the future"
    path.unlink()
    stored(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(WorkspaceError, match="newer version"):
        Cache(tmp_path)


def test_one_process_writes_at_a_time(tmp_path):
    code = "import sys; from pipeline.llm.cache import Cache; Cache(sys.argv[1])"
    with Cache(tmp_path):
        ran = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "is in use by `asking a language model`" in ran.stderr
    assert subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT).returncode == 0


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError) as caught:
        Cache(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_full_disk_stops_the_store_and_loses_nothing_that_counted(tmp_path):
    with Cache(tmp_path) as cache:
        cache.write([answer(1)])
        cache._writer.execute("PRAGMA max_page_count = 4")
        with pytest.raises(WorkspaceError, match="is full; make room and run again, it resumes"):
            cache.write([answer(number) for number in range(2, 99)])
        cache._writer.execute("PRAGMA max_page_count = 10000")
        with pytest.raises(WorkspaceError, match="run again, it resumes"):
            cache.write([answer(3)])
        assert key(2) not in cache
    with Cache(tmp_path) as cache:
        assert [record.key for record in cache.records()] == [key(1)]


def test_on_a_network_file_system_no_memory_is_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_NETWORK", "")  # every name begins so
    with Cache(tmp_path) as cache:
        cache.write([answer(1)])
        assert cache.get(key(1)) == answer(1)
        assert not list(tmp_path.glob("*-shm"))
    with Cache(tmp_path) as cache:
        assert list(cache.records()) == [answer(1)]


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (b"a / ext4 rw 0 0\nb /srv nfs4 rw 0 0\n", True),
        (b"a / ext4 rw 0 0\nb /srv nfs4 rw 0 0\nc /srv/me ext4 rw 0 0\n", False),
        (b"a / ext4 rw 0 0\nb /srv/me/a\\040b nfs4 rw 0 0\n", True),
        (b"a / nfs4 rw 0 0\nb /srv/me/a\\040b ext4 rw 0 0\n", False),
        (b"a / ext4 rw 0 0\nb /m\xfcll nfs4 rw 0 0\n", False),
        (b"a / nfs4 rw 0 0\nb /m\xfcll ext4 rw 0 0\n", True),
        (b"\nodd\n a\na / cifs rw 0 0\n", True),
        (b"", False),
    ],
)
def test_a_network_file_system_is_found_by_its_mount(monkeypatch, mounts, expected):
    monkeypatch.setattr(Path, "read_bytes", lambda path: mounts)
    assert store._is_on_network(Path("/srv/me/a b/answers")) == expected

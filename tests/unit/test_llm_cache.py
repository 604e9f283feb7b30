"""The durable store: what was written is there, in any process, and nothing else is."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.llm import cache as store
from pipeline.llm.cache import DATABASE, Cache
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import WorkspaceError
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
        assert list(cache.records()) == records[:4] + records[5:]
        cache.write([failure(4)])
        assert cache.get(key(4)) == failure(4)


def test_a_store_that_is_only_read_stays_as_it_is(tmp_path):
    records = stored(tmp_path)
    before = (tmp_path / DATABASE).stat()
    with Cache(tmp_path) as cache:
        assert list(cache.records()) == records
    assert (tmp_path / DATABASE).stat() == before


@pytest.mark.parametrize("at", [0, 100, 5000, -30_000, -5000])
def test_a_damaged_database_is_set_aside_and_what_is_whole_in_it_is_kept(tmp_path, at):
    records = stored(tmp_path, 3000)
    path = tmp_path / DATABASE
    data = bytearray(path.read_bytes())
    at = at % len(data)
    data[at : at + 600] = os.urandom(600)
    path.write_bytes(data)
    with Cache(tmp_path) as cache:
        kept = [number for number in range(3000) if cache.get(key(number)) == records[number]]
        assert all(cache.get(key(number)) in (None, records[number]) for number in range(3000))
        if cache.damage:
            assert "is damaged; it is kept as damaged-1.sqlite.kept" in cache.damage[0]
            assert (tmp_path / "damaged-1.sqlite.kept").read_bytes()[at : at + 600] == data[at : at + 600]
        assert len(kept) >= (2700 if at > 100 else 0)
        cache.write(records)
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in range(3000)] == records
        assert cache.damage == []


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

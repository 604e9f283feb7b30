"""The durable store: what was written is there, in any process, and nothing else is."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.llm import segments
from pipeline.llm.cache import Cache
from pipeline.llm.key_index import KeyIndex
from pipeline.llm.segments import ANSWER, FAILURE
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import ShardError, WorkspaceError

ROOT = Path(__file__).resolve().parents[2]


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def answer(number: int, text: str | None = None) -> Answer:
    return Answer(key(number), text or f"Grüße {number} \U0001f600", "stop", number, None, "tiny", "http://h/v1", 1)


def failure(number: int) -> Failure:
    return Failure(key(number), "timeout", "no answer", 8)


def the_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.seg")
    return path


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
        assert [cache.kind(key(number)) for number in (1, 2, 3, 4)] == [ANSWER, FAILURE, ANSWER, None]
        assert cache.get(key(4)) is None
        assert len(cache) == 3
        assert cache.damage == ()


def test_the_newest_record_of_a_key_counts(tmp_path):
    for records in ([failure(1)], [answer(1)], [failure(1), answer(1, "later")]):
        with Cache(tmp_path) as cache:
            cache.write(records)
            assert cache.get(key(1)) == records[-1]
    with Cache(tmp_path) as cache:
        assert cache.get(key(1)) == answer(1, "later")
        assert len(list(cache.records())) == 4


def test_segments_are_begun_when_one_is_full(tmp_path):
    with Cache(tmp_path, segment_bytes=300) as cache:
        for number in range(20):
            cache.write([answer(number)])
    assert len(list(tmp_path.glob("*.seg"))) > 3
    with Cache(tmp_path, segment_bytes=300) as cache:
        assert [cache.get(key(number)) for number in range(20)] == [answer(number) for number in range(20)]


def test_a_torn_end_is_cut_off_and_the_rest_kept(tmp_path):
    with Cache(tmp_path) as cache:
        cache.write([answer(1), answer(2)])
    path = the_segment(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + segments.frame(ANSWER, key(3), b"x" * 50)[:-1])
    with Cache(tmp_path) as cache:
        (torn,) = cache.damage
        assert torn.is_tail
        assert (torn.offset, torn.length) == (len(whole), 32 + 49)
        assert key(3) not in cache
        cache.write([answer(3)])
    with Cache(tmp_path) as cache:
        assert cache.damage == ()
        assert [cache.get(key(number)) for number in (1, 2, 3)] == [answer(number) for number in (1, 2, 3)]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_a_segment_that_was_hardly_begun_is_used_on(tmp_path, length):
    with Cache(tmp_path) as cache:
        cache.write([answer(1)])
    path = the_segment(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    for _ in range(2):
        with Cache(tmp_path) as cache:
            assert key(1) not in cache or _ == 1
            cache.write([answer(1)])
            assert cache.get(key(1)) == answer(1)


def test_damage_in_the_middle_is_reported_and_nothing_cut_off(tmp_path, caplog):
    with Cache(tmp_path) as cache:
        cache.write([answer(number) for number in range(9)])
    path = the_segment(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"Gr\\u00fc\\u00dfe 4")
    data[at : at + 3] = b"XYZ"
    path.write_bytes(data)
    with Cache(tmp_path) as cache:
        (damage,) = cache.damage
        assert not damage.is_tail
        assert damage.offset < at < damage.offset + damage.length
        assert [number for number in range(9) if key(number) not in cache] == [4]
        assert path.stat().st_size == len(data)
        cache.write([answer(4)])
    assert "are damaged" in caplog.text
    with Cache(tmp_path) as cache:
        assert [cache.get(key(number)) for number in range(9)] == [answer(number) for number in range(9)]


def test_damage_that_comes_while_it_is_open_is_an_error_not_another_text(tmp_path):
    with Cache(tmp_path) as cache:
        cache.write([answer(1)])
        path = the_segment(tmp_path)
        path.write_bytes(path.read_bytes().replace(b"stop", b"pots"))
        with pytest.raises(ShardError, match="damaged; run again"):
            cache.get(key(1))


def test_a_file_that_is_none_of_ours_is_left_alone(tmp_path):
    path = tmp_path / "answers-000000.seg"
    path.write_bytes(b"gristmill-llm-2\nfrom the future")
    with pytest.raises(WorkspaceError, match="newer version"):
        Cache(tmp_path)
    assert path.read_bytes() == b"gristmill-llm-2\nfrom the future"


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_store_and_loses_nothing_that_counted(tmp_path):
    with Cache(tmp_path) as cache:
        cache.write([answer(1)])
        (number,) = cache._handles
        full = os.open("/dev/full", os.O_WRONLY)
        kept = os.dup(cache._handles[number])
        os.dup2(full, cache._handles[number])
        with pytest.raises(WorkspaceError, match="No space left"):
            cache.write([answer(2)])
        os.dup2(kept, cache._handles[number])
        with pytest.raises(WorkspaceError, match="run again, it resumes"):
            cache.write([answer(3)])
        assert key(2) not in cache
        os.close(full)
        os.close(kept)
    with Cache(tmp_path) as cache:
        assert [record.key for record in cache.records()] == [key(1)]


def test_the_index_finds_every_key_and_is_small():
    index, rng = KeyIndex(), np.random.default_rng(0)
    keys = [bytes(row) for row in rng.integers(0, 256, (60_000, 16), dtype=np.uint8)]
    keys += [keys[3], keys[3], keys[7][:8] + bytes(8)]  # the same key again, and another one that begins alike
    for place, item in enumerate(keys):
        index.add(item, place)
    assert all(place in index.places(item) for place, item in enumerate(keys))
    assert list(index.places(keys[3])) == [60_001, 60_000, 3]
    assert list(index.places(keys[7])) == [60_002, 7]
    assert list(index.places(bytes(16))) == []
    assert list(index) == list(range(60_003))
    assert index._prefixes.nbytes + index._places.nbytes == 16 * 60_003

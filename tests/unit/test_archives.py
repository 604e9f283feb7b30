"""The files of tars and zips: what is read, what is refused, and what a hostile archive costs."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time
import tracemalloc
import zipfile

import pytest
import zstandard

from pipeline.extract.archives import read_files

LIMIT = 1 << 20
FILES = [
    ("a/b.txt", b"hello"),
    ("./c.txt", b"x" * 5000),
    ("l" * 150 + "/long.txt", b"long"),
    ("é.txt", b"e"),
    ("empty", b""),
]


def files(data, name="in", start=0, limit=LIMIT):
    return list(read_files(io.BytesIO(data), name, start, limit))


def told(data, **more):
    return [
        (file.number, file.path, len(file.data), file.problem and file.problem[0], file.is_damage)
        for file in files(data, **more)
    ]


def tar_of(members, form=tarfile.PAX_FORMAT):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                header.size, header.mtime = len(data), 1_000_000_000
                tar.addfile(header, io.BytesIO(data))
            else:
                header.type, header.linkname = data.encode(), "/etc/passwd"
                tar.addfile(header)
    return packed.getvalue()


def zip_of(members, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_each_file_of_a_tar_comes_once(form, pack):
    found = files(pack(tar_of(FILES, form)))
    assert [file.path for file in found] == [name.removeprefix("./") for name, _ in FILES]
    assert [file.data for file in found] == [data for _, data in FILES]
    assert {file.modified.isoformat() for file in found} == {"2001-09-09T01:46:40+00:00"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_each_file_of_a_zip_comes_once(method):
    found = files(zip_of([*FILES, ("folder/", b"")], method))
    assert [file.data for file in found] == [data for _, data in FILES]


def test_what_leads_out_of_an_archive_is_refused():
    evil = [
        ("../up", b"1"),
        ("/absolute", b"2"),
        ("a/../../b", b"3"),
        *(("special", kind) for kind in "12346"),  # links, devices, a pipe
        ("last", b"4"),
    ]
    found = files(tar_of(evil))
    assert [file.problem and file.problem[0] for file in found] == ["unsupported"] * 8 + [None]
    assert not any(file.data for file in found[:-1])
    zipped = files(zip_of([("../up", b"1"), ("/absolute", b"2"), ("C:\\x", b"3"), ("fine", b"4")]))
    assert [file.problem and file.problem[0] for file in zipped] == ["unsupported"] * 3 + [None]


def test_one_file_is_its_own():
    assert told(b"hello", name="a.txt") == [(0, "a.txt", 5, None, False)]
    assert told(gzip.compress(b"hello"), name="a.txt.gz") == [(0, "a.txt", 5, None, False)]
    assert told(gzip.compress(b"hello" * 99)[:-9], name="a.txt.gz") == [(0, "a.txt", 0, "truncated_input", False)]
    assert told(bytes(10240)) == [(0, "", 0, "empty", False)]


def test_a_cut_archive_gives_what_is_whole_and_then_one_damage():
    found = told(tar_of(FILES)[:5000])
    assert found == [(0, "a/b.txt", 5, None, False), (1, "", 0, "truncated_input", True)]
    whole = zip_of([("a", b"1" * 999), ("b", b"2" * 999)])
    assert told(whole[:-60]) == [
        (0, "a", 999, None, False),
        (1, "b", 999, None, False),
        (2, "", 0, "truncated_input", True),
    ]


def test_a_broken_header_costs_itself():
    broken = bytearray(tar_of(FILES[:2]))
    broken[0:20] = b"\xff" * 20
    assert told(bytes(broken)) == [(0, "", 0, "damaged", True), (1, "c.txt", 5000, None, False)]


def test_encrypted_and_oversize_files_are_told():
    packed = bytearray(zip_of([("a", b"hello")]))
    for place in (packed.find(b"PK\x03\x04") + 6, packed.find(b"PK\x01\x02") + 8):
        packed[place] |= 1
    assert told(bytes(packed))[0][3] == "encrypted"
    assert told(tar_of([("big", b"x" * 100), ("small", b"y")]), limit=50) == [
        (0, "big", 0, "oversize", False),
        (1, "small", 1, None, False),
    ]
    assert told(zip_of([("big", b"x" * 100)]), limit=50)[0][3] == "oversize"


def test_reading_begins_again_at_any_number():
    rng = random.Random(0)
    sound = [tar_of(FILES), gzip.compress(tar_of(FILES)), zip_of(FILES)]
    for round_ in range(150):
        data = bytearray(sound[round_ % 3])
        for _ in range(rng.randrange(8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        found = told(data)
        assert [each[0] for each in found] == list(range(len(found)))
        start = rng.randrange(len(found) + 1)
        assert told(data, start=start) == found[start:]


def bombs():
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    yield gzip.compress(pax.tobuf(tarfile.USTAR_FORMAT) + bytes(64 << 20))
    yield gzip.compress(tar_of([("zeros", bytes(32 << 20))] * 2))
    yield zip_of([("zeros", bytes(64 << 20))])
    one = zip_of([("zeros", bytes(1 << 20))])
    directory = one.find(b"PK\x01\x02")
    entry = one[directory : one.find(b"PK\x05\x06")]
    yield one[:directory] + entry * 2000 + b"PK\x05\x06" + bytes(12) + directory.to_bytes(4, "little") + bytes(2)


@pytest.mark.parametrize("bomb", list(bombs()), ids=["header", "tar", "zip", "overlap"])
def test_bombs_cost_no_memory(bomb):
    tracemalloc.start()
    began = time.process_time()
    found = sum(len(file.data) for file in read_files(io.BytesIO(bomb), "in", 0, LIMIT))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20
    assert found <= 101 << 20
    assert time.process_time() - began < 20

"""Real archives and known edge cases: nothing that warcio or FastWARC can read is lost, and nothing raises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.exceptions import ArchiveLoadFailed

from pipeline.extract.config import ExtractLimits
from pipeline.extract.units import UNIT_TYPES, Entry, Page, Reject
from pipeline.extract.warc.archive import read_warc

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "web"
FIXTURES = sorted((DATA / "warc-fixtures").glob("*")) if DATA.is_dir() else []
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FIXTURES, reason=f"{DATA} is absent"),
]
LIMITS = ExtractLimits()

# What is broken in them: reasons in file order. All other fixtures are sound.
BROKEN = {
    "double-single-inflate-error.gz": ["damaged"],
    "resiliparse-clipped.warc.gz": ["truncated_input"],
    "warcio-bad.arc": ["damaged", "damaged"],
    "warcio-example-space-in-url.arc": ["truncated_input"],  # its length counts 12 bytes more than there are
    "warcio-example-trunc.warc": ["damaged"],  # two bytes more than its length
}


def read(path: Path, start: int = 0, earlier: Iterable[tuple[str, int]] = ()) -> list[Entry]:
    with path.open("rb") as stream:
        return list(read_warc(stream, path.name, start, LIMITS, earlier))


def read_with_fastwarc(path: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        for record in ArchiveIterator(str(path), parse_http=False):
            found[str(record.record_type)] += 1
    except OSError:
        pass
    return found


def read_with_warcio(path: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        with path.open("rb") as stream:
            for record in WarcioIterator(stream):
                found[record.rec_type] += 1
    except ArchiveLoadFailed:
        pass
    return found


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_nothing_that_others_can_read_is_lost(path: Path) -> None:
    counts: Counter[str] = Counter()
    for item in read(path):
        counts[{"arc": "response", "filedesc": "arc_header"}.get(item.record_type, item.record_type)] += 1
    for others in (read_with_fastwarc(path), read_with_warcio(path)):
        assert others - counts == Counter()


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_each_broken_part_is_a_reject(path: Path) -> None:
    reasons = [item.result.reason for item in read(path) if isinstance(item.result, Reject)]
    broken = [reason for reason in reasons if reason in ("damaged", "truncated_input", "oversize")]
    assert broken == BROKEN.get(path.name, [])


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_reading_from_any_item_gives_the_same_rest(path: Path) -> None:
    items = read(path)
    for index in range(0, len(items), 7):
        if items[index].resumable:
            origins = [item.result.origin for item in items[:index] if item.result is not None]
            earlier = [(origin.record_id, origin.offset) for origin in origins if origin.record_id]
            assert read(path, items[index].offset, earlier) == items[index:]


def test_the_units_of_web_dev_are_those_of_warcio() -> None:
    path = DATA / "web-dev.warc.gz"
    expected = read_with_warcio(path)
    items = read(path)
    assert Counter(item.record_type for item in items) == expected
    units = [item for item in items if item.is_unit]
    assert len(units) == sum(expected[record_type] for record_type in UNIT_TYPES)
    assert all(item.resumable for item in items)
    pages = [item.result for item in units if isinstance(item.result, Page)]
    assert sum(page.truncated == "length" for page in pages) == 12
    assert len({item.result.origin for item in units if item.result is not None}) == len(units)


def test_the_payloads_of_web_dev_are_those_of_warcio() -> None:
    path = DATA / "web-dev.warc.gz"
    pages = {item.offset: item.result.payload for item in read(path) if isinstance(item.result, Page)}
    with path.open("rb") as stream:
        records = WarcioIterator(stream)
        for record in records:
            body = record.content_stream().read()
            offset = records.get_record_offset()
            assert pages.pop(offset, body) == body
    assert pages == {}

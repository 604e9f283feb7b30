"""Real corpora in JSONL and CSV: as many documents as there are lines, with the texts that plain Python reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
import zstandard

from pipeline.extract.config import ExtractLimits
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_csv, read_jsonl
from pipeline.extract.units import Document

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent")]
LIMITS = ExtractLimits()


def decompress(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return data


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("dedup/se-revisions.jsonl.gz", "text"),
        ("sources/web.jsonl.zst", "text"),
        ("sources/wikipedia.jsonl.zst", "text"),
        ("eval/mbpp.jsonl", "text"),
    ],
)
def test_every_line_is_a_document(name: str, column: str) -> None:
    lines = [json.loads(line) for line in decompress(DATA / name).split(b"\n") if line]
    column = column if column in lines[0] else next(key for key, value in lines[0].items() if isinstance(value, str))
    with (DATA / name).open("rb") as stream:
        items = list(read_jsonl(stream, 0, CorpusFile(name, {"text": column}, LIMITS)))
    assert [item.result.text for item in items if isinstance(item.result, Document)] == [line[column] for line in lines]


def test_every_row_of_a_csv_is_a_document() -> None:
    path = DATA / "mix" / "regmix" / "train_mixture_1m.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    column = next(iter(rows[0]))
    with path.open("rb") as stream:
        items = list(read_csv(stream, 0, CorpusFile(path.name, {"text": column}, LIMITS)))
    assert [item.result.text for item in items if isinstance(item.result, Document)] == [row[column] for row in rows]

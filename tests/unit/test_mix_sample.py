"""Shards in three formats, read back by readers written from the formats' own descriptions; order, epochs, mistakes."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards import write as sample_shards
from pipeline.mix.shards.plan import borders
from pipeline.mix.shards.sample import SampleReport, sample
from pipeline.mix.types import SliceTokens
from pipeline.table.errors import ConfigError, ConservationError, GristmillError, InputError, ShardError
from tests.mix_sample_stores import EOS, contents, documents_of, make_slice, shard_tokens, trace

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("npy", "megatron", "parquet")


@pytest.fixture
def stores(tmp_path: Path) -> list[SliceTokens]:
    rng = np.random.default_rng(5)
    sizes = {"web": (400, 3, 80), "wiki": (60, 1, 300), "code": (30, 2, 700)}
    return [make_slice(tmp_path / "in", name, rng.integers(a, b, n).tolist()) for name, (n, a, b) in sizes.items()]


def run(stores: list[SliceTokens], out: Path, weights: Any = (0.5, 0.3, 0.2), **changes: Any) -> SampleReport:
    config = {"format": "npy", "shard_tokens": 2_000, "seed": 3}
    options: dict[str, Any] = {"max_epochs": [4.0] * len(stores), "vocabulary": 1000, "eos": EOS, "key": "k"}
    budget = changes.pop("budget", 12_345)
    config |= {name: changes.pop(name) for name in list(changes) if name in config}
    return sample(stores, np.array(weights), budget, out, SampleConfig.model_validate(config), **{**options, **changes})


def index_of(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "index.json").read_text())
    return value


# Formats --------------------------------------------------------------------------------------------------------------


def read_megatron(prefix: Path) -> list[np.ndarray[Any, Any]]:
    """Read an indexed dataset: 9 bytes of magic, version, type, counts, then lengths, pointers and documents."""
    raw = prefix.with_suffix(".idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", raw)
    assert (magic, version) == (b"MMIDIDX\x00\x00", 1)
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}[code]
    place = 34
    lengths = np.frombuffer(raw, "<i4", sequences, place)
    pointers = np.frombuffer(raw, "<i8", sequences, place := place + 4 * sequences)
    ends = np.frombuffer(raw, "<i8", documents, place := place + 8 * sequences)
    assert len(raw) == place + 8 * documents
    assert ends[0] == 0
    assert ends[-1] == sequences
    assert (np.diff(ends) == 1).all()
    data = prefix.with_suffix(".bin").read_bytes()
    return [np.frombuffer(data, dtype, n, p) for n, p in zip(lengths, pointers, strict=True)]


def read_olmo(path: Path, dtype: Any) -> list[np.ndarray[Any, Any]]:
    """Read a headerless array and the `start,end` lines beside it."""
    tokens = np.memmap(path, dtype, mode="r")
    lines = gzip.decompress(path.with_suffix(".csv.gz").read_bytes()).decode().splitlines()
    bounds = [tuple(map(int, line.split(","))) for line in lines]
    assert [b for _, b in bounds] == [*(a for a, _ in bounds[1:]), tokens.size]
    return [np.array(tokens[a:b]) for a, b in bounds]


def read_parquet(path: Path, dtype: Any) -> list[np.ndarray[Any, Any]]:
    table = pq.read_table(path)
    assert table.column_names == ["doc_id", "slice", "epoch", "tokens"]
    assert table.schema.field("tokens").type == pa.list_(pa.from_numpy_dtype(dtype))
    return [np.array(tokens, dtype) for tokens in table["tokens"].to_pylist()]


def read_documents(folder: Path, number: int, form: str, dtype: Any) -> list[np.ndarray[Any, Any]]:
    stem = folder / f"part-{number:05d}"
    if form == "megatron":
        return read_megatron(stem)
    if form == "npy":
        return read_olmo(stem.with_suffix(".npy"), dtype)
    return read_parquet(stem.with_suffix(".parquet"), dtype)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("vocabulary", [1000, 100_000])
def test_every_format_holds_whole_documents_with_their_ends(tmp_path: Path, form: str, vocabulary: int) -> None:
    wide = np.uint32 if vocabulary > 1 << 16 else np.uint16
    stores = [make_slice(tmp_path / "in", name, [7, 40, 1, 300, 90] * 9, vocabulary, wide) for name in ("web", "wiki")]
    report = run(stores, tmp_path / "out", (0.7, 0.3), format=form, vocabulary=vocabulary, budget=9_000)
    dtype = {"megatron": "<u2" if wide is np.uint16 else "<i4"}.get(form, np.dtype(wide).str)
    assert index_of(tmp_path / "out")["dtype"] == np.dtype(dtype).name
    originals = documents_of(stores)
    seen = 0
    for number in range(report.shards):
        pieces = read_documents(Path(report.folder), number, form, dtype)
        rows = [row for row in trace(Path(report.folder), number) if row["document_start"] == 0 or not row["cut"]]
        assert len(rows) == len(pieces)
        for row, piece in zip(rows, pieces, strict=True):
            original = originals[row["doc_id"]]
            assert piece[-1] == EOS
            assert np.array_equal(piece[:-1], original[: piece.size - 1])
            assert row["cut"] == (piece.size < original.size)
            seen += piece.size
    assert seen == report.tokens == 9_000


def test_parquet_rows_name_their_documents(stores: list[SliceTokens], tmp_path: Path) -> None:
    report = run(stores, tmp_path / "out", format="parquet")
    originals = documents_of(stores)
    rows = pq.read_table(sorted(Path(report.folder).glob("part-*.parquet"))).to_pylist()
    whole = [row for row in rows if len(row["tokens"]) == len(originals[row["doc_id"]])]
    assert len(whole) >= len(rows) - 3  # the last document of each slice is cut
    assert all(row["tokens"] == originals[row["doc_id"]].tolist() for row in whole)
    assert all(row["doc_id"].startswith(row["slice"]) for row in rows)


def test_parquet_shards_are_read_by_others(stores: list[SliceTokens], tmp_path: Path) -> None:
    report = run(stores, tmp_path / "out", format="parquet")
    query = "SELECT slice, sum(len(tokens)), count(*) FILTER (tokens[-1] <> 0) FROM read_parquet(?) GROUP BY 1"
    found = duckdb.execute(query, [str(Path(report.folder) / "part-*.parquet")]).fetchall()
    assert sorted(found) == sorted((s.name, s.tokens, 0) for s in report.slices)


def test_a_vocabulary_of_sixteen_bits_is_the_largest_that_uint16_holds(tmp_path: Path) -> None:
    stores = [make_slice(tmp_path / "in", "web", [500] * 4, 65_537, np.uint32)]
    for vocabulary, form, name in ((65_537, "npy", "uint32"), (65_500, "megatron", "int32")):
        stores = [make_slice(tmp_path / "in", "web", [500] * 4, vocabulary, np.uint32)]
        run(stores, tmp_path / name, [1.0], format=form, vocabulary=vocabulary, budget=1000)
        assert index_of(tmp_path / name)["dtype"] == name
    for vocabulary, form in ((65_536, "npy"), (65_499, "megatron")):
        stores = [make_slice(tmp_path / "in", "web", [500] * 4, vocabulary, np.uint32)]
        run(stores, tmp_path / form, [1.0], format=form, vocabulary=vocabulary, budget=1000)
        assert index_of(tmp_path / form)["dtype"] == "uint16"


@pytest.mark.parametrize("form", FORMATS)
def test_a_document_longer_than_a_shard_goes_on_in_the_next(tmp_path: Path, form: str) -> None:
    stores = [make_slice(tmp_path / "in", "books", [30, 5_300, 400, 2_000])]
    report = run(stores, tmp_path / "out", [1.0], format=form, shard_tokens=1_000, budget=7_730)
    rows = [(number, row) for number in range(report.shards) for row in trace(Path(report.folder), number)]
    book = [(n, r["document_start"], r["end"] - r["start"], r["continues"]) for n, r in rows if r["doc_id"][-1] == "1"]
    first = book[0][0]
    assert [(n - first, *rest) for n, *rest in book] == [
        *((i, 1_000 * i, 1_000, True) for i in range(5)),
        (5, 5_000, 300, False),
    ]
    original = documents_of(stores)["books-000001"]
    parts = [read_documents(Path(report.folder), first + i, form, "<u2")[0] for i in range(6)]
    assert np.array_equal(np.concatenate(parts), original)


def test_blocks_smaller_than_documents_change_nothing(
    stores: list[SliceTokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in FORMATS:
        whole = run(stores, tmp_path / f"{form}-a", format=form)
        monkeypatch.setattr(sample_shards._blocks, "__defaults__", (64,))
        blocks = run(stores, tmp_path / f"{form}-b", format=form)
        monkeypatch.undo()
        for number in range(whole.shards):
            assert np.array_equal(
                shard_tokens(Path(whole.folder), number, form, "<u2"),
                shard_tokens(Path(blocks.folder), number, form, "<u2"),
            )


# What is drawn --------------------------------------------------------------------------------------------------------


def test_proportions_are_those_asked_to_the_token(stores: list[SliceTokens], tmp_path: Path) -> None:
    weights = [0.61803398, 0.28196602, 0.1]
    report = run(stores, tmp_path / "out", weights, budget=10_001, max_epochs=[9.0] * 3)
    counted = dict.fromkeys(("web", "wiki", "code"), 0)
    for number in range(report.shards):
        for row in trace(Path(report.folder), number):
            counted[row["slice"]] += row["end"] - row["start"]
    assert sum(counted.values()) == 10_001
    for found, weight in zip(report.slices, weights, strict=True):
        assert found.tokens == found.asked_tokens == counted[found.name]
        assert found.proportion == pytest.approx(weight, abs=1 / 10_001)
        assert abs(found.tokens - weight * 10_001) < 1


def test_an_epoch_is_used_up_before_a_document_comes_again(tmp_path: Path) -> None:
    stores = [make_slice(tmp_path / "in", "wiki", [10] * 50), make_slice(tmp_path / "in", "web", [20] * 900)]
    report = run(stores, tmp_path / "out", (0.12, 0.88), budget=10_000)
    drawn = [r for n in range(report.shards) for r in trace(Path(report.folder), n) if r["slice"] == "wiki"]
    ids = [row["doc_id"] for row in drawn]
    assert [row["epoch"] for row in drawn] == [0] * 50 + [1] * 50 + [2] * 20
    assert len(set(ids[:50])) == len(set(ids[50:100])) == 50
    assert len(set(ids[100:])) == 20
    assert ids[:50] != ids[50:100]
    assert report.slices[0].epochs == pytest.approx(2.4)


def test_slices_are_shuffled_together(tmp_path: Path) -> None:
    stores = [make_slice(tmp_path / "in", name, [10] * 1_000) for name in ("web", "wiki")]
    report = run(stores, tmp_path / "out", (0.5, 0.5), budget=20_000, shard_tokens=5_000)
    for number in range(report.shards):
        share = np.mean([row["slice"] == "web" for row in trace(Path(report.folder), number)])
        assert 0.4 < share < 0.6
    ids = [
        row["doc_id"] for n in range(report.shards) for row in trace(Path(report.folder), n) if row["slice"] == "web"
    ]
    rank = np.array([int(doc_id[-6:]) for doc_id in ids])
    assert abs(np.corrcoef(rank, np.arange(rank.size))[0, 1]) < 0.1


def test_excluded_documents_are_never_drawn(stores: list[SliceTokens], tmp_path: Path) -> None:
    dirty = {f"web-{number:06d}" for number in range(0, 400, 3)}
    report = run(stores, tmp_path / "out", exclude=[dirty, None, set()])
    ids = {row["doc_id"] for n in range(report.shards) for row in trace(Path(report.folder), n)}
    assert len(ids) > 100
    assert not ids & dirty
    lengths = [t.size for doc_id, t in documents_of(stores[:1]).items() if doc_id not in dirty]
    assert report.slices[0].available_tokens == sum(lengths)


def test_only_the_seed_decides_the_order(stores: list[SliceTokens], tmp_path: Path) -> None:
    first = run(stores, tmp_path / "a")
    second = run(stores, tmp_path / "b", workers=3)
    other = run(stores, tmp_path / "c", seed=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.key == second.key != other.key
    one, two = (shard_tokens(Path(report.folder), 0, "npy", "<u2") for report in (first, other))
    assert not np.array_equal(one, two)


def test_a_cap_that_rounding_passed_is_kept_and_the_rest_goes_to_another(tmp_path: Path) -> None:
    stores = [make_slice(tmp_path / "in", "wiki", [10] * 33), make_slice(tmp_path / "in", "web", [10] * 900)]
    report = run(stores, tmp_path / "out", (0.33, 0.67), budget=1_002, max_epochs=[1.0, 1.0])
    assert [found.tokens for found in report.slices] == [330, 672]


# Traces ---------------------------------------------------------------------------------------------------------------


def test_every_token_is_its_documents(stores: list[SliceTokens], tmp_path: Path) -> None:
    report = run(stores, tmp_path / "out")
    originals = documents_of(stores)
    for number in range(report.shards):
        tokens, reached = shard_tokens(Path(report.folder), number, "npy", "<u2"), 0
        for row in trace(Path(report.folder), number):
            assert (row["start"], row["doc_id"].rpartition("-")[0]) == (reached, row["slice"])
            reached = row["end"]
            first = row["document_start"]
            wanted = originals[row["doc_id"]][first : first + row["end"] - row["start"]]
            assert tokens[row["start"] : row["end"]].tolist() == wanted.tolist()
        assert reached == tokens.size


# Done, and done again -------------------------------------------------------------------------------------------------


def test_what_is_done_is_left_alone_and_what_is_lost_made_again(stores: list[SliceTokens], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(stores, out)
    before = contents(out)
    assert first.complete
    assert first.written_shards == first.shards == len(index_of(out)["shards"]) > 5
    again = run(stores, out)
    assert (again.written_shards, again.slices) == (0, first.slices)
    (Path(first.folder) / "part-00002.npy").unlink()
    (Path(first.folder) / "trace-00003.parquet").write_bytes(b"PAR1")
    (Path(first.folder) / "shard-00004.json").write_text("{")
    (out / "index.json").unlink()
    mended = run(stores, out)
    assert mended.written_shards == 3
    assert contents(out) == before


def test_another_sample_replaces_the_earlier_one_at_once(stores: list[SliceTokens], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(stores, out)
    (out / "notes").mkdir()
    (out / "0123abcd").mkdir()
    (out / "0123abcd" / "mine.txt").write_text("not ours")
    halted = run(stores, out, seed=9, stop=lambda: True)
    assert not halted.complete
    assert index_of(out)["folder"] == Path(first.folder).name
    assert run(stores, out).complete
    assert not Path(halted.folder).exists()
    second = run(stores, out, seed=9)
    assert index_of(out)["key"] == second.key
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["index.json", "notes", "0123abcd", Path(second.folder).name]
    )


def test_a_sample_that_is_stopped_goes_on_to_the_same_bytes(stores: list[SliceTokens], tmp_path: Path) -> None:
    run(stores, tmp_path / "whole")
    seen: list[int] = []
    halted = run(stores, tmp_path / "out", on_progress=seen.append, stop=lambda: sum(seen) > 5_000)
    assert not halted.complete
    assert 0 < halted.shards < 7
    assert not (tmp_path / "out" / "index.json").exists()
    seen.clear()
    assert run(stores, tmp_path / "out", on_progress=seen.append).complete
    assert seen[0] == halted.tokens
    assert sum(seen) == 12_345
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ((0.5, 0.3, 0.2), {"max_epochs": [4, 0.2, 4]}, r"slice wiki: 370[34] tokens asked, \d+ available"),
        ((0.5, 0.3, 0.3), {}, r"weights add up to 1\.1"),
        ((1.5, -0.3, -0.2), {}, r"weights add up to 1 \(least -0\.3\)"),
        ((float("nan"), 0.5, 0.5), {}, "weights add up to nan"),
        ((0.5, 0.5), {}, "2 weights and 3 max_epochs for 3 slices"),
        ((0.5, 0.3, 0.2), {"max_epochs": [4, float("nan"), 4]}, "max_epochs"),
        ((0.5, 0.3, 0.2), {"budget": 0}, "budget_tokens 0"),
        ((0.5, 0.3, 0.2), {"budget": 10**12, "max_epochs": [6e4] * 3}, "slice web: 500000000000 tokens asked"),
        ((0.5, 0.3, 0.2), {"eos": 1000}, "eos 1000 is no token of a vocabulary of 1000"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    stores: list[SliceTokens], tmp_path: Path, weights: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(stores, tmp_path / "out", weights, **changes)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_too_many_shards_are_refused(tmp_path: Path) -> None:
    stores = [make_slice(tmp_path / "in", "web", [60_000] * 2)]
    with pytest.raises(ConfigError, match=r"sample\.shard_tokens 1000: 50000001 tokens would be more than 50000"):
        run(stores, tmp_path / "out", [1.0], budget=50_000_001, shard_tokens=1_000, max_epochs=[1000.0])


def test_a_damaged_store_is_named(stores: list[SliceTokens], tmp_path: Path) -> None:
    tokens = np.load(stores[1].tokens_path)
    damaged: list[tuple[Any, type[GristmillError], str]] = [
        (tokens + np.uint16(1), ConservationError, "documents that do not end with 0"),
        (
            np.where(tokens == 5, 1000, tokens).astype(np.uint16),
            ShardError,
            "holds token 1000, the vocabulary has 1000",
        ),
        (tokens[:-5], ShardError, "slice wiki: .* not \\d+ tokens"),
        (tokens.astype(np.int64), ShardError, "slice wiki: .* holds int64"),
    ]
    for content, error, message in damaged:
        np.save(stores[1].tokens_path, content)
        with pytest.raises(error, match=message):
            run(stores, tmp_path / "out", vocabulary=1000 + (error is ConservationError))
    stores[1].tokens_path.write_bytes(stores[1].tokens_path.read_bytes()[:1000])
    with pytest.raises(ShardError, match="slice wiki"):
        run(stores, tmp_path / "out")


def test_a_folder_that_cannot_be_is_named(stores: list[SliceTokens], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="shards need a folder"):
        run(stores, tmp_path / "out")


REFUSED = """
import sys
from pathlib import Path
import numpy as np
from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.sample import sample
from pipeline.mix.types import SliceTokens
from pipeline.table.errors import ShardError
folder, tokens = Path(sys.argv[1]), int(sys.argv[2])
store = SliceTokens("web", folder / "web.npy", folder / "web.parquet", 1, tokens, 1)
try:
    sample([store], np.ones(1), tokens, folder / "out", SampleConfig(),
           max_epochs=np.ones(1), vocabulary=1000, eos=0, key="k")
except ShardError as error:
    print(error)
"""


def test_a_disk_that_refuses_is_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    make_slice(tmp_path, "web", [1_000] * 300)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-c", REFUSED, str(tmp_path), "300000"]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=small_files, capture_output=True, text=True, check=True)
    assert "part-00000.npy: File too large; run the same command again, what is finished is kept" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("starts", "limit", "expected"),
    [
        ([0, 5, 9, 20], 10, [0, 9, 19, 20]),
        ([0, 5, 10, 20], 10, [0, 10, 20]),
        ([0, 3, 40], 10, [0, 3, 13, 23, 33, 40]),
        ([0, 1], 10, [0, 1]),
        ([0, 25, 26, 27], 10, [0, 10, 20, 27]),
    ],
)
def test_borders_divide_only_what_is_longer_than_a_part(starts: list[int], limit: int, expected: list[int]) -> None:
    assert borders(np.array(starts), limit).tolist() == expected

"""The select stage on small workspaces: outcomes, keepers, constants, curated shards, what is done again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.progress import Reporter, StageProgress
from pipeline.select.decide import KeptBefore, SourceSelection, scratch_tables
from pipeline.select.policy import judge
from pipeline.select.rules import load_rules
from pipeline.select.stage import select_stage
from pipeline.select.wide_table import CHUNK_ROWS, Held, planned_columns, read_wide, wide_table
from pipeline.table.errors import ConservationError, RuleError, SchemaError, ShardError, WorkspaceError
from pipeline.table.interrupts import InterruptedRunError
from pipeline.table.query import column_types
from pipeline.table.schema import DOCUMENTS, DUPLICATES, SCORES
from pipeline.table.shards import Group, Part, PartWriter, Tally
from pipeline.table.storage import Storage
from tests.select_workspace import (
    FOLDERS,
    STATS,
    component,
    doc_id,
    index,
    is_done,
    ledger,
    read,
    request,
    row,
    select,
    selecting,
    write,
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "ws"))


def test_every_failed_rule_is_recorded_with_the_values_that_it_read(storage: Storage) -> None:
    when = datetime(2024, 2, 29, 12, 30, 0, 250_000, UTC)
    write(
        storage,
        "web",
        {
            "a": [
                row(1, word_count=100),
                row(2, word_count=3, language="de", date=when, score=0.1),
                row(3, word_count=None, language_score=float("inf"), url='quote " and \u2028 \\'),
            ]
        },
    )
    rules = {
        "words": "word_count between 50 and 1000",
        "english": "language = 'en' and language_score < 2",
        "dated": "date is null and url is not null",
        "url": "url not like '%quote%'",
        "score": "quality_score >= 0.5",
    }
    report = select(request(storage, rules))
    found = ledger(storage)
    assert found[doc_id(1)]["outcome"] == "kept"
    assert found[doc_id(1)]["failed_rules"] == []
    two, three = found[doc_id(2)], found[doc_id(3)]
    assert (two["outcome"], three["outcome"]) == ("dropped", "dropped")
    assert two["failed"] == {
        "words": {"word_count": 3},
        "english": {"language": "de", "language_score": pytest.approx(0.9)},
        "dated": {"date": "2024-02-29T12:30:00.250000Z", "url": "https://example.org/2"},
        "score": {"quality_score": pytest.approx(0.1)},
    }
    assert three["failed"] == {
        "words": {"word_count": None},
        "english": {"language": "en", "language_score": "inf"},
        "url": {"url": 'quote " and \u2028 \\'},
    }
    assert [failure["rule"] for failure in two["failed_rules"]] == ["words", "english", "dated", "score"]
    assert (report.rows_in, report.rows_out) == (3, 1)
    assert index(storage).counts == {"documents": 3, "kept": 1, "dropped": 2}
    assert index(storage).details["rules"][0]["failed"] == 2


def test_not_a_number_is_no_value(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1, score=float("nan")), row(2, score=0.9)]})
    select(request(storage, {"score": "quality_score >= 0.5", "best": "top_share(quality_score, 0.5)"}))
    found = ledger(storage)
    assert found[doc_id(1)]["failed"] == {"score": {"quality_score": "nan"}, "best": {"quality_score": "nan"}}
    assert found[doc_id(2)]["outcome"] == "kept"


def test_outcomes_hold_every_wide_column_and_curated_the_documents(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1, text="kept text", title="T"), row(2, word_count=0)]})
    select(request(storage, {"words": "word_count > 0"}))
    columns = list(ledger(storage)[doc_id(1)])
    assert columns[:3] == ["doc_id", "url", "source"]
    expected = {"title", "date", "licence", "parent_id", "text_length", "language", "component_id", "component_size"}
    expected |= {"text_hash", "quality_score", "quality_probability", "quality_rank", "outcome", "duplicate_of"}
    assert expected <= set(columns)
    assert "text" not in columns
    (kept,) = read(storage, "web", "curated")
    (original, _) = read(storage, "web", "documents")
    assert kept == original
    assert list(kept) == DOCUMENTS.names


def test_one_keeper_among_the_members_that_pass(storage: Storage) -> None:
    rows = [
        *component(
            row(1, word_count=1, text_length=900, text_hash=7),  # the longest, but fails a rule
            row(2, word_count=9, text_length=50, text_hash=7),
            row(3, word_count=9, text_length=80, text_hash=8),
            row(4, word_count=9, text_length=80, text_hash=8, url="https://example.org/0"),
        ),
        row(5, word_count=9),
        *component(row(6, word_count=1), row(7, word_count=1)),  # nobody passes
    ]
    write(storage, "web", {"a": rows[:3], "b": rows[3:]})
    select(request(storage, {"words": "word_count > 5"}))
    found = ledger(storage)
    kept = {name for name, item in found.items() if item["outcome"] == "kept"}
    assert kept == {doc_id(4), doc_id(5)}
    assert {name: item["duplicate_of"] for name, item in found.items()} == {
        **{doc_id(number): doc_id(4) for number in (1, 2, 3)},
        **{doc_id(number): None for number in (4, 5, 6, 7)},
    }
    near = {"component_id": doc_id(1), "component_size": 4, "duplicate_of": doc_id(4)}
    assert found[doc_id(1)]["failed"] == {"words": {"word_count": 1}, "near_duplicate": near}
    assert found[doc_id(2)]["failed"] == {"near_duplicate": near}
    assert found[doc_id(3)]["failed"] == {"exact_duplicate": near}
    assert found[doc_id(6)]["failed"] == {"words": {"word_count": 1}}


@pytest.mark.parametrize(
    ("keep", "winner"),
    [
        ("quality_score desc", 2),
        ("quality_score asc", 1),
        ("language, quality_score desc", 2),
        ("word_count desc", 1),  # all equal: the smallest doc_id
        ("length(url) desc, quality_score desc", 3),
    ],
)
def test_the_order_of_election_with_nulls_last(storage: Storage, keep: str, winner: int) -> None:
    members = component(
        row(1, score=0.2),
        row(2, score=0.7),
        row(3, score=None, language="fr", url="https://example.org/a/long/one"),
        row(4, score=float("nan"), language=None),
    )
    write(storage, "web", {"a": members})
    select(request(storage, {}, keep))
    assert [item["doc_id"] for item in read(storage, "web", "curated")] == [doc_id(winner)]


def test_sources_that_share_components_have_one_keeper_by_priority(storage: Storage) -> None:
    members = component(row(1, text_length=10), row(2, text_length=99))
    write(storage, "books", {"a": [members[0]]})
    write(storage, "web", {"a": [members[1], row(3)]})
    select(request(storage, {}, sources=("books", "web")))
    assert [item["doc_id"] for item in read(storage, "books", "curated")] == [doc_id(1)]
    assert [item["doc_id"] for item in read(storage, "web", "curated")] == [doc_id(3)]
    select(request(storage, {}, sources=("web", "books")))
    assert read(storage, "books", "curated") == []
    assert ledger(storage, "books")[doc_id(1)]["duplicate_of"] == doc_id(2)


def test_sources_that_share_components_need_one_order(storage: Storage) -> None:
    write(storage, "books", {"a": [row(1)]})
    write(storage, "web", {"a": [row(2)]})
    sources = tuple(
        SourceSelection(name, load_rules({}, "select.rules", keep), FOLDERS)
        for name, keep in (("books", "url asc"), ("web", "url desc"))
    )
    with pytest.raises(RuleError, match="url asc / url desc"):
        select(selecting(storage, *sources))


def test_top_share_is_taken_among_documents_that_pass_and_keeps_ties(storage: Storage) -> None:
    scores = [0.9, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    rows = [row(number, score=score) for number, score in enumerate(scores)]
    rows += [row(100 + number, score=1.0, word_count=0) for number in range(10)]  # fail the other rule
    write(storage, "web", {"a": rows[:7], "b": rows[7:]})
    select(request(storage, {"words": "word_count > 0", "best": "top_share(quality_score, 0.2)"}))
    kept = {name for name, item in ledger(storage).items() if item["outcome"] == "kept"}
    assert kept == {doc_id(number) for number in range(4)}
    found = index(storage)
    (constant,) = found.details["constants"]
    assert constant["value"] == "0.8"
    assert constant["call"] == "top_share(quality_score, 0.2)"
    rule = next(rule for rule in found.details["rules"] if rule["name"] == "best")
    assert rule["sql"] == "top_share(quality_score, 0.2)"
    assert rule["resolved"] == "(quality_score >= CAST('0.8' AS FLOAT))"
    assert rule["failed"] == 6
    manifest = Group(storage, "web/outcomes").manifest(found.parts[0].name)
    assert manifest is not None
    assert manifest.config["constants"] == [constant]


def test_top_token_share_weighs_by_tokens(storage: Storage) -> None:
    rows = [row(1, score=0.9, estimated_tokens=10.0), row(2, score=0.8, estimated_tokens=80.0)]
    rows += [row(3, score=0.7, estimated_tokens=10.25), row(4, score=None, estimated_tokens=1.0)]
    write(storage, "web", {"a": rows})
    select(request(storage, {"best": "top_token_share(quality_score, 0.5)"}))
    assert {item["doc_id"] for item in read(storage, "web", "curated")} == {doc_id(1), doc_id(2)}


def test_quantile_looks_at_all_documents(storage: Storage) -> None:
    rows = [row(number, word_count=number, language="en" if number > 5 else "de") for number in range(1, 11)]
    write(storage, "web", {"a": [*rows, row(99, word_count=None)]})
    report = select(
        request(storage, {"english": "language = 'en'", "middle": "word_count >= quantile(word_count, 0.7)"})
    )
    assert index(storage).details["constants"][0]["value"] == "7"
    assert report.rows_out == 4


def test_a_share_of_nothing_keeps_nothing(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1), row(2)]})
    select(request(storage, {"never": "word_count > 1000", "best": "top_share(quality_score, 1)"}))
    details = index(storage).details
    assert details["constants"][0]["value"] is None
    failed = {rule["name"]: rule["failed"] for rule in details["rules"]}
    assert failed == {"never": 2, "best": 2, "near_duplicate": 0, "exact_duplicate": 0}
    assert read(storage, "web", "curated") == []


def test_documents_without_text_stats_rows_or_parts(storage: Storage) -> None:
    write(storage, "web", {"a": [], "b": [row(1)]})
    write(storage, "empty", {})
    report = select(request(storage, {"words": "word_count > 0"}, sources=("empty", "web")))
    assert (report.source, report.rows_in, report.rows_out) == ("empty+web", 1, 1)
    assert [index(storage, name).counts["documents"] for name in ("empty", "web")] == [0, 1]
    assert len(Group(storage, "web/outcomes").parts()) == 2
    assert Group(storage, "empty/outcomes").parts() == []


def test_columns_are_known_before_there_is_a_workspace(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1)]})
    planned = planned_columns({"signals/stats": STATS, "duplicates": DUPLICATES, "scores/quality": SCORES})
    assert planned == column_types(wide_table(storage, "web", FOLDERS).schema)
    assert planned["quality_rank"] == "TINYINT"
    with pytest.raises(SchemaError, match="both documents and signals/licence have a column 'licence'"):
        planned_columns({"signals/licence": pa.schema([("doc_id", pa.string()), ("licence", pa.string())])})


def test_a_stop_keeps_the_parts_that_are_done(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1)], "b": [row(2)]})

    class Counted(StageProgress):
        stops = True

        def rows(self, count: int) -> None:
            seen.append(count)
            if self.stops:
                wanted.context.stop.set()

    seen: list[int] = []
    wanted = request(storage, {})
    progress = Counted(Reporter(), "web", "select", None, 2, "rows")
    with pytest.raises(InterruptedRunError):
        select_stage(*wanted).complete((), Group.complete, progress)
    assert seen == [1]
    assert Group(storage, "web/outcomes").index() is None
    progress.stops = False
    wanted.context.stop.clear()
    select_stage(*wanted).complete((), Group.complete, progress)
    assert seen == [1, 1]  # nothing but what the stop left undone
    assert len(Group(storage, "web/outcomes").parts()) == 2


def test_without_duplicates_and_scores(storage: Storage) -> None:
    write(storage, "web", {"a": component(row(1), row(2))})
    selection = SourceSelection("web", load_rules({"words": "word_count > 0"}, "select.rules"), ("signals/stats",))
    select(selecting(storage, selection))
    found = ledger(storage)
    assert {item["outcome"] for item in found.values()} == {"kept"}
    assert {item["component_id"] for item in found.values()} == {None}


def test_a_second_run_finds_nothing_to_do_and_changes_are_noticed(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1), row(2, word_count=0)]})
    first = request(storage, {"words": "word_count > 0"})
    assert not is_done(first)
    report = select(first)
    assert (report.shards, report.shards_done_before) == (1, 0)
    assert is_done(first)
    again = select(first)
    assert (again.shards, again.shards_done_before) == (0, 1)
    assert (again.rows_in, again.rows_out) == (report.rows_in, report.rows_out) == (2, 1)
    assert not is_done(request(storage, {"words": "word_count > 1"}))
    assert not is_done(request(storage, {"words": "word_count > 0"}, "url desc"))
    assert not is_done(request(storage, {"words": "word_count > 0"}, part_bytes=1 << 20))
    group = Group(storage, "web/curated")
    storage.delete(group.path(group.parts()[0].name))
    assert not is_done(first)
    select(first)
    assert is_done(first)
    write(storage, "web", {"b": [row(3)]})
    select(first)
    assert list(ledger(storage)) == [doc_id(3)]


def test_a_bad_rule_is_refused_before_anything_is_written(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1)]})
    with pytest.raises(RuleError, match="nearest: 'word_count'"):
        select(request(storage, {"words": "word_cuont > 0"}))
    assert storage.names("web") == {"documents", "signals", "duplicates", "scores", "_manifests"}


def test_a_rule_that_fails_on_a_value_is_named(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1, url="5"), row(2, url="x")]})
    with pytest.raises(ShardError, match=r"web/a: rule 'number' cannot be computed"):
        select(request(storage, {"fine": "word_count > 0", "number": "cast(url as int) > 1"}))
    assert Group(storage, "web/outcomes").index() is None


def test_groups_that_do_not_fit_the_documents(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1), row(2)]})
    write(storage, "other", {"a": [row(3), row(4)], "b": [row(5)]})
    stats, foreign = Group(storage, "web/signals/stats"), Group(storage, "other/signals/stats")
    wrong = foreign.parts()[0]
    storage.write_bytes(stats.path(wrong.name), storage.read_bytes(foreign.path(wrong.name)))
    index = stats.index()
    assert index is not None
    stats.complete([wrong], index)
    with pytest.raises(ConservationError, match="doc_ids differ"):
        select(request(storage, {}))
    stats.complete([], index)
    with pytest.raises(WorkspaceError, match="web/signals/stats has no part for a"):
        select(request(storage, {}))


def test_curated_parts_are_cut_at_the_target_and_keep_the_order(storage: Storage) -> None:
    texts = ["x" * size for size in (60, 50, 10, 200, 1, 1, 1)]
    rows = [row(number, text=text) for number, text in enumerate(texts)]
    write(storage, "web", {"b": rows[3:], "a": rows[:3]})
    select(request(storage, {}, part_bytes=100))
    group = Group(storage, "web/curated")
    assert [part.stem for part in group.parts()] == ["part-00000", "part-00001", "part-00002"]
    assert [part.rows for part in group.parts()] == [2, 2, 3]
    assert [item["text"] for item in read(storage, "web", "curated")] == texts


def test_failed_rules_are_readable_by_any_parquet_reader(storage: Storage) -> None:
    write(storage, "web", {"a": [row(1, word_count=0)]})
    select(request(storage, {"words": "word_count > 0"}))
    group = Group(storage, "web/outcomes")
    table = pq.read_table(storage.open(group.path(group.parts()[0].name)), partitioning=None)
    assert table["failed_rules"].to_pylist() == [
        [{"rule": "words", "value": json.dumps({"word_count": 0}, separators=(",", ":"))}]
    ]


def test_parts_that_one_statement_judges_are_decided_as_one_by_one(storage: Storage, tmp_path: Path) -> None:
    """Many small parts, an empty one, members of a component far apart, and a part that is done already."""
    rows = [
        row(n, word_count=n % 7, score=n % 5 / 4, date=None if n % 3 else datetime(2024, 1, 1, tzinfo=UTC))
        for n in range(70)
    ]
    rows[1::34] = component(*rows[1::34])
    rules = {"words": "word_count > 1", "best": "top_share(quality_score, 0.5)", "dated": "date is null or true"}
    write(storage, "web", {f"p{n:02d}": [item] for n, item in enumerate(rows)} | {"p30-empty": []})
    select(request(storage, rules, workers=2))
    found = read(storage, "web", "outcomes")
    whole = Storage.at(str(tmp_path / "whole"))
    write(whole, "web", {"a": rows})
    select(request(whole, rules))
    assert found == read(whole, "web", "outcomes")
    assert {item["duplicate_of"] for item in found} == {None, doc_id(69)}
    group = Group(storage, "web/outcomes")
    part = group.parts()[40]
    before = storage.read_bytes(group.manifest_path(part.name))
    storage.delete(group.manifest_path(part.name))
    select(request(storage, rules))
    assert storage.read_bytes(group.manifest_path(part.name)) == before
    assert read(storage, "web", "outcomes") == found


def test_a_job_that_is_tried_again_counts_once(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.Table]:
        yield from rows * 2
        raise ShardError("a read that failed for a moment")

    rows = [pa.table({"x": [1] * CHUNK_ROWS})]
    with scratch_tables(str(tmp_path), 1, 64, map) as scratch:
        with pytest.raises(ShardError, match="moment"):
            scratch.append("t", failing())
        scratch.append("t", iter(rows))
        assert scratch.run("SELECT count(*) AS n FROM t")["n"].to_pylist() == [CHUNK_ROWS]


def test_a_batch_that_is_tried_again_goes_on(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job had written before a passing error is neither written nor told again."""
    write(storage, "web", {f"p{n:02d}": [row(n)] for n in range(60)})
    finish, finished, told = PartWriter.finish, Counter[str](), []

    def failing(writer: PartWriter, tally: Tally) -> Part:
        finished[writer.work.stem] += 1
        if finished.total() == 50:
            raise ConnectionResetError("a store that hangs up for a moment")
        return finish(writer, tally)

    class Told:
        def rows(self, count: int) -> None:
            told.append(count)

        def read(self, count: int) -> None: ...
        def shard(self, made: object, elapsed_s: float) -> None: ...

    stage = select_stage(*request(storage, {"words": "word_count > 0"}))
    monkeypatch.setattr(PartWriter, "finish", failing)
    monkeypatch.setattr("flows.engine.RETRY_DELAYS_S", (0.0,))
    stage.complete((), lambda group, parts, index: group.complete(parts, index), Told())
    outcomes = {stem: count for stem, count in finished.items() if len(stem) == 3}
    assert sorted(outcomes.values()) == [1] * 59 + [2]
    assert told == [1] * 60


def test_little_is_held_of_a_scope(storage: Storage) -> None:
    """What is held from pass to pass is bounded in bytes over all sources, whatever their rows hold."""
    sources = ("web", "books", "code")
    for number, source in enumerate(sources):
        write(storage, source, {f"p{n}": [row(100 * number + n, url="u" * 50_000)] for n in range(20)})
    held = Held(most_bytes=300_000)
    tables = [wide_table(storage, source, FOLDERS, held) for source in sources]
    for table in tables:
        rows = [rows for part in table.parts for rows in read_wide(table, part)]
        assert sum(each.num_rows for each in rows) == 20
    kept = [held.get(table.source, part["documents"].stem) for table in tables for part in table.parts]
    assert 0 < sum(each[0].nbytes for each in kept if each) <= 300_000
    held.drop("web", "p0")
    assert held.get("web", "p0") is None
    assert not held.is_full


def test_what_was_kept_before_wins_also_where_there_is_nothing_to_decide(storage: Storage) -> None:
    rows = component(row(1, text_length=1), row(2, text_length=99), row(3, text_length=5))
    write(storage, "web", {"a": [rows[0], row(7)]})
    write(storage, "books", {"a": rows[1:]})
    before = (KeptBefore("web", "web/duplicates"),)
    select(request(storage, {}))
    asked = request(storage, {}, sources=("books",), kept_before=before)
    ((told,),) = judge(storage, asked.selection)
    assert told.fails("near_duplicate").tolist() == [True, True]
    select(asked)
    assert {item["duplicate_of"] for item in ledger(storage, "books").values()} == {doc_id(1)}
    write(storage, "books", {})
    select(request(storage, {}, sources=("books",), kept_before=before))
    assert ledger(storage, "books") == {}


@pytest.mark.acceptance
def test_many_small_parts_cost_what_their_files_cost(storage: Storage) -> None:
    write(storage, "web", {f"p{n:03d}": [row(n)] for n in range(800)})
    started = time.process_time()
    select(request(storage, {"words": "word_count > 0", "best": "top_share(quality_score, 0.5)"}, workers=2))
    assert time.process_time() - started < 12

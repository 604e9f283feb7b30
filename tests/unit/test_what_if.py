"""What-if, sweep, diff and sample: counted by hand on a few documents, and what is wrong in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from flows.launch import diff
from pipeline.select.decide import Selection, SourceSelection
from pipeline.select.policy import judge, present
from pipeline.select.rules import load_rules
from pipeline.select.sample import sample, sample_page
from pipeline.select.what_if import Diff, _compare, diff_config, diff_workspaces, sweep, sweep_page, what_if
from pipeline.table.catalog import Catalog
from pipeline.table.errors import RuleError, UsageError, WorkspaceError
from pipeline.table.shards import Group, Index
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl
from tests.select_workspace import FOLDERS, component, doc_id, request, row, select, write

RULES = {"words": "word_count > 5", "english": "language = 'en'", "score": "quality_score >= 0.4"}


def documents() -> list[dict[str, Any]]:
    """Documents 0 to 9 with so many words and ten times the tokens; 2, 6: German, 7: no score, 9: a copy of 8."""
    rows = [
        row(n, word_count=n, estimated_tokens=10 * n, language="de" if n in (2, 6) else "en", text=f"<b>{n}</b>\nü\x1b")
        for n in range(8)
    ]
    rows[7]["score"] = float("nan")
    copies = [row(n, word_count=n, estimated_tokens=10 * n, text_hash=8, text_length=5) for n in (8, 9)]
    return [*rows, *component(*copies)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    made = Storage.at(str(tmp_path / "ws"))
    write(made, "web", {"a": documents()[:4], "a-b": documents()[4:]})
    return made


def numbers(rows: Sequence[Mapping[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(each[name] for name in names) for each in rows]


def test_what_rules_would_do_where_select_never_ran(storage: Storage) -> None:
    found = what_if(storage, RULES, examples=2)
    assert numbers(found.funnel, "rule", "documents_in", "documents_out", "tokens_out", "fails", "alone") == [
        ("words", 10, 4, 300, 6, 5),
        ("english", 4, 3, 240, 2, 1),
        ("score", 3, 2, 170, 1, 1),
        ("exact_duplicate", 2, 1, 80, 1, 1),
        ("near_duplicate", 1, 1, 80, 0, 0),
    ]
    assert numbers(found.overlap, "rule", "other", "documents", "share") == [("words", "english", 1, 0.5)]
    examples = {each["rule"]: each for each in found.examples if each["rule"] != "words"}
    assert {rule: each["doc_id"] for rule, each in examples.items()} == {
        "english": doc_id(6),
        "score": doc_id(7),
        "exact_duplicate": doc_id(9),
    }
    assert examples["score"]["comparisons"][0]["value"] is None
    assert len([each for each in found.examples if each["rule"] == "words"]) == 2
    json.dumps(asdict(found), allow_nan=False)


def test_what_comes_back(storage: Storage) -> None:
    select(request(storage, RULES))
    found = what_if(storage, {"words": "word_count > 4"}, ["web"], examples=9)
    back = [each for each in found.examples if each["change"] == "brought back"]
    assert {(each["rule"], each["doc_id"]) for each in back} == {
        ("words", doc_id(5)),
        ("english", doc_id(6)),
        ("score", doc_id(7)),
    }
    (comparison,) = next(each["comparisons"] for each in back if each["rule"] == "words")
    assert (comparison["value"], comparison["bound"], comparison["holds"]) == (5, 5, False)


def test_a_sweep_equals_the_runs_that_it_foretells(storage: Storage, tmp_path: Path) -> None:
    rules = RULES | {
        "best": "top_share(text_length - word_count, 0.4)",
        "median": "word_count >= quantile(word_count, 0.2)",
    }
    select(request(storage, rules))
    rows = sweep(storage, "words", "1:9:2")
    assert numbers(rows, "value", "is_now") == [(1, False), (3, False), (5, True), (7, False), (9, False)]
    for each in rows:
        again = Storage.at(str(tmp_path / f"{each['value']}"))
        write(again, "web", {"a": documents()})
        select(request(again, rules | {"words": f"word_count > {each['value']:.0f}"}))
        index = Group(again, "web/outcomes").index()
        assert index is not None
        assert (each["documents"], each["kept"]) == (10, index.counts["kept"])
        assert each["fails"] == next(rule["failed"] for rule in index.details["rules"] if rule["name"] == "words")
    shares = sweep(storage, "best", [0.1, 1])
    assert numbers(shares, "value", "is_now") == [(0.1, False), (0.4, True), (1, False)]
    assert shares[1]["kept"] == next(each["kept"] for each in rows if each["is_now"])
    assert "<script" not in sweep_page("words", rows)


@pytest.mark.parametrize(
    ("rule", "values", "column", "said"),
    [
        ("wrods", "1,2", None, "no rule 'wrods' decided web (nearest: 'words')"),
        ("english", "1,2", None, "it compares with no number"),
        ("both", "1,2", None, "name one of its numbers with --column: 'word_count >=' (2), 'word_count <=' (9)"),
        ("both", "1,2", "url", "name one of its numbers"),
        ("words", "1:2", None, "write FIRST:LAST:STEP"),
        ("words", "1:2:0", None, "give between 1 and 200 numbers"),
        ("words", "1:nan:1", None, "'1:nan:1'"),
        ("words", "0.9:0.6:0.5", None, "give between 1 and 200 numbers"),
        ("words", "1e400", None, "finite ones"),
        ("words", "0:1:0.0001", None, "give between 1 and 200 numbers"),
    ],
)
def test_what_cannot_be_swept(storage: Storage, rule: str, values: str, column: str | None, said: str) -> None:
    select(request(storage, RULES | {"both": "word_count between 2 and 9"}))
    with pytest.raises(UsageError) as caught:
        sweep(storage, rule, values, column=column)
    assert said in str(caught.value)
    assert len(sweep(storage, "both", "1,2", column="word_count >=")) == 2
    assert numbers(sweep(storage, "words", "1e308,1e39"), "fails") == [(6,), (10,), (10,)]


def test_what_another_policy_gains_and_loses(storage: Storage, tmp_path: Path) -> None:
    select(request(storage, RULES))  # keeps 8
    changed = load_rules({"words": "word_count > 6", "score": "quality_score >= 0.4"}, "x", "word_count desc")
    found = diff_config(storage, [Selection((SourceSelection("web", changed, FOLDERS),))], examples=3)
    names = ("before", "after", "both", "gained", "lost", "gained_tokens", "lost_tokens")
    assert numbers(found.sources, *names) == [(1, 1, 0, 1, 1, 90, 80)]
    assert numbers(found.rules, "change", "rule", "documents", "tokens") == [
        ("lost", "exact_duplicate", 1, 80),
        ("gained", "exact_duplicate", 1, 90),
    ]
    assert numbers(found.examples, "change", "doc_id") == [("lost", doc_id(8)), ("gained", doc_id(9))]

    other = Storage.at(str(tmp_path / "other"))
    write(other, "web", {"b": documents()[7:]})
    write(other, "notes", {"n": [row(1)]})
    select(request(other, {"words": "word_count > 6"}, sources=["web"]))
    select(request(other, RULES, sources=["notes"]))
    both = diff_workspaces(storage, other, examples=1)
    assert numbers(both.sources, *names) == [(1, 2, 1, 1, 0, 70, 0)]
    assert numbers(both.rules, "change", "rule", "documents") == [("gained", "score", 1)]
    assert both.notes == [f"notes is decided in {other.url} alone"]
    back = diff_workspaces(other, storage)
    assert numbers(back.sources, "lost", "lost_tokens") == [(1, 70)]
    assert numbers(back.rules, "change", "rule") == [("lost", "score")]
    write(storage, "web", {"b": documents()[:7]})
    select(request(storage, {"all": "true"}))
    gone = diff_workspaces(other, storage, examples=1)
    assert numbers(gone.rules, "change", "rule", "documents", "tokens") == [
        ("lost", "absent", 2, 150),
        ("gained", "absent", 7, 210),
    ]
    assert {each["change"] for each in gone.examples} == {"lost", "gained"}


def test_tokens_that_are_counted_differently_are_not_compared(storage: Storage, tmp_path: Path) -> None:
    select(request(storage, RULES))
    found = present(storage, Catalog.read(storage).sources[0])
    assert found is not None
    made = Diff()
    _compare(found, replace(found, counted="token_count"), 0, made)
    assert numbers(made.sources, "before", "before_tokens", "after_tokens", "lost_tokens") == [(1, None, None, None)]
    assert "count differently" in made.notes[0]


@pytest.mark.parametrize("examples", [-1, 1_001])
def test_so_many_examples_are_not_shown(storage: Storage, examples: int) -> None:
    with pytest.raises(UsageError, match=f"--examples {examples}: give between 0 and 1000"):
        what_if(storage, RULES, examples=examples)
    with pytest.raises(UsageError, match=f"--examples {examples}: give between 0 and 1000"):
        diff_workspaces(storage, storage, examples)


def test_a_configuration_is_held_against_its_workspace(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(5))
    source = {"format": "jsonl", "inputs": [str(tmp_path / "a.jsonl")], "select": {"rules": {"long": "word_count > 9"}}}
    config = {"workspace": str(tmp_path / "ws"), "sources": {"web": source}, "engine": {"workers": 1}}
    run_all(config)
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    path = str(tmp_path / "run.yaml")
    same, changed = diff(path), diff(path, ["sources.web.select.rules.long=word_count > 99"], examples=2)
    assert same.value is not None
    assert numbers(same.value["sources"], "before", "both", "gained", "lost") == [(5, 5, 0, 0)]
    assert numbers(changed.rows, "change", "rule", "documents") == [("lost", "long", 5)]
    assert "must be above 99" in changed.text
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    with pytest.raises(WorkspaceError, match="dedup of web has work to do first"):
        diff(path, ["dedup={}"])


def test_a_sample_depends_on_ids_and_seed_alone(storage: Storage, tmp_path: Path) -> None:
    select(request(storage, RULES))
    other = Storage.at(str(tmp_path / "other"))
    write(other, "web", {"z": documents()[::-1]})
    select(request(other, RULES))
    asked = ("web", "words", False, 3)
    assert sample(storage, *asked) == sample(other, *asked) != sample(other, *asked, seed=2)
    alone = sample(storage, "web", "words", True)
    assert {each["doc_id"] for each in alone} == {doc_id(n) for n in (0, 1, 3, 4, 5)}
    assert alone[0]["comparisons"][0]["bound"] == 5
    (kept,) = sample(storage, "web")
    assert (kept["doc_id"], kept["url"], kept["tokens"], kept["rule"]) == (doc_id(8), "https://example.org/8", 80, None)
    page = sample_page("web <script>", alone)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"source": "wbe"}, "has no source 'wbe' (nearest: 'web')"),
        ({"dropped_by": "word"}, "no rule 'word' decided web (nearest: 'words')"),
        ({"alone": True}, "--alone says of --dropped-by"),
        ({"documents": 0}, "-n 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_what_cannot_be_sampled(storage: Storage, named: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkspaceError, match="nothing is decided of web yet"):
        sample(storage, "web")
    select(request(storage, RULES))
    with pytest.raises(UsageError) as caught:
        sample(storage, **{"source": "web"} | named)
    assert said in str(caught.value)


def test_sources_that_share_components_are_judged_together(tmp_path: Path) -> None:
    """Document 1 of `books` and 11 of `web` are one; `books` comes first, and keeps by the rules that it has."""
    storage = Storage.at(str(tmp_path / "ws"))
    one, other = component(row(1, word_count=3), row(11, word_count=9))
    write(storage, "books", {"a": [one]})
    write(storage, "web", {"a": [other, row(12, word_count=9)]})
    for source in ("books", "web"):
        group = Group(storage, f"{source}/duplicates")
        group.complete(group.parts(), Index(stage="dedup", details={"scope": ["books", "web"]}))
    for rules, copies in (({"words": "word_count > 2"}, 1), ({"words": "word_count > 5"}, 0)):
        select(request(storage, rules, sources=["books", "web"]))
        found = what_if(storage, {"long": "word_count > 8"}, ["web"])
        assert {each["source"] for each in found.funnel} == {"web"}
        assert numbers(found.funnel, "rule", "fails") == [
            ("long", 0),
            ("exact_duplicate", 0),
            ("near_duplicate", copies),
        ]
    rows = sweep(storage, "words", "2,5", ["web"])
    assert numbers(rows, "source", "value", "kept") == [("web", 2, 2), ("web", 5, 2)]


def test_reading_survives_a_run_beside_it(storage: Storage) -> None:
    select(request(storage, RULES))
    selection = request(storage, RULES).selection
    with ThreadPoolExecutor(1) as pool:
        runs = [pool.submit(select, request(storage, RULES | {"more": f"word_count > {n}"})) for n in range(8)]
        while not runs[-1].done():
            assert what_if(storage, RULES, examples=1).funnel[0]["fails"] == 6
            assert diff_config(storage, [selection], examples=1).sources[0]["after"] == 1
            assert len(sample(storage, "web", "words", documents=3)) == 3
            assert {each["documents"] for each in sweep(storage, "words", "1,2")} == {10}
        assert {run.result().rows_in for run in runs} == {10}


def test_what_is_wrong_is_one_line(storage: Storage) -> None:
    write(storage, "empty", {})
    assert {each["documents_in"] for each in what_if(storage, RULES, ["empty"]).funnel} == {0}
    with pytest.raises(RuleError) as unknown:
        what_if(storage, {"a": "wordcount > 1"}, ["web"])
    assert "on source web: rule 'a': unknown column 'wordcount' (nearest: 'word_count')" in str(unknown.value)
    with pytest.raises(WorkspaceError, match="nothing is decided yet"):
        sweep(storage, "words", "1,2")
    with pytest.raises(WorkspaceError, match="nothing is decided yet"):
        diff_config(storage, [])
    group = Group(storage, "web/signals/stats")
    Path(storage.path(group.path(group.parts()[0].name))).write_bytes(b"PAR1 no more")
    with pytest.raises(WorkspaceError, match="is damaged") as damaged:
        what_if(storage, RULES)
    assert "\n" not in str(damaged.value)


def test_more_rules_than_a_word_has_bits(storage: Storage) -> None:
    rules = {f"r{number}": f"word_count <> {number % 12}" for number in range(150)}
    asked = request(storage, rules)
    ((told,),) = judge(storage, asked.selection)
    select(asked)
    (source,) = Catalog.read(storage).sources
    written = present(storage, source)
    assert written is not None
    assert (told.first() == written.first()).all()
    assert all((told.fails(rule) == written.fails(rule)).all() for rule in told.rules)
    assert told.kept.sum() == 0
    assert not told.fails("r3", alone=True).any()

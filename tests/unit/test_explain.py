"""`gristmill explain`: everything that any stage recorded of a document or reject."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import workspace_builder as wb

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import sign_table
from pipeline.select.explain import Explanation, explain
from pipeline.select.margins import compared
from pipeline.table import schema
from pipeline.table.errors import WorkspaceError
from pipeline.table.format import encode
from pipeline.table.sql import connect
from pipeline.table.storage import Storage


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return wb.build(str(tmp_path_factory.mktemp("explain")))


JUDGED = ("rule", "sql", "resolved", "comparisons", "value")


def only(explanation: Explanation) -> dict[str, Any]:
    (document,) = json.loads(encode(explanation.documents))
    return dict(document)


def test_a_dropped_document_tells_every_failed_rule_with_its_value(workspace: Storage) -> None:
    explanation = explain(workspace, wb.doc_id(3))
    document = only(explanation)
    assert (document["source"], document["outcome"], document["duplicate_of"]) == ("web", "dropped", None)
    compared = {"expression": "word_count", "wants": "at least", "value": 1.0, "bound": 3.0}
    compared |= {"margin": -2.0, "relative": pytest.approx(-2 / 3), "holds": False}
    assert document["failed_rules"] == [
        dict(zip(JUDGED, ["language", "language = 'en'", "language = 'en'", [], {"language": "fr"}], strict=True)),
        dict(zip(JUDGED, ["words", "word_count >= 3", "word_count >= 3", [compared], {"word_count": 1}], strict=True)),
    ]
    assert document["signals"]["text_stats"] == {"word_count": 1, "estimated_tokens": 30}
    assert document["scores"]["quality"]["rank"] == 3
    assert document["scores"]["quality"]["score"] == pytest.approx(0.3)
    assert document["origin"] == {"file": "a.warc.gz", "offset": 300, "record_id": "<urn:3>"}
    assert document["input"] == {"name": "a.warc.gz", "url": "/crawl/a.warc.gz"}
    assert (document["text_length"], document["snippet"]) == (13, "one two three")
    text = explanation.as_text()
    assert text.splitlines()[1].startswith("  failed language")
    assert "word_count is 1, must be at least 3: 2 (66.7 %) too little" in text
    for said in ("dropped", "failed language", "language = 'en'", "/crawl/a.warc.gz", "word_count=1", "one two three"):
        assert said in text


def test_a_kept_document_tells_the_rules_that_it_passed_by_little(workspace: Storage) -> None:
    explanation = explain(workspace, wb.doc_id(6))
    (near,) = only(explanation)["near_misses"]
    assert (near["rule"], near["comparisons"][0]["margin"]) == ("words", 0.0)
    line = "  passed by little words: word_count is 3, must be at least 3: 0 (0.0 %) to spare"
    assert explanation.as_text().splitlines()[1] == line


COMPARISONS = [
    ("word_count >= 101", True, ["word_count is 100, must be at least 101: 1 (1.0 %) too little"]),
    ("word_count > 100", True, ["word_count is 100, must be above 100: 0 (0.0 %) too little"]),
    ("101 <= word_count", True, ["word_count is 100, must be at least 101: 1 (1.0 %) too little"]),
    ("not word_count <= 100", True, ["word_count is 100, must be above 100: 0 (0.0 %) too little"]),
    ("word_count between 1 and 50", True, ["word_count is 100, must be at most 50: 50 (50.0 %) too much"]),
    ("word_count between 99 and 500", False, ["word_count is 100, must be at least 99: 1 (1.0 %) to spare"]),
    ("not (word_count between 200 and 300)", False, ["word_count is 100, must be below 200: 100 (50.0 %) to spare"]),
    (
        "language = 'en' and word_count < 5 and url is not null and estimated_tokens / 10 > 9",
        True,
        [
            "word_count is 100, must be below 5: 95 (95.0 %) too much",
            "(estimated_tokens / 10) is 4, must be above 9: 5 (55.6 %) too little",
        ],
    ),
    ("word_count >= 90 or word_count >= 99", False, ["word_count is 100, must be at least 90: 10 (10.0 %) to spare"]),
    ("language = 'en' or word_count >= 99", False, []),
    ("url > 'a'", False, []),
    ("word_count < estimated_tokens", True, ["word_count is 100, must be below 40: 60 (60.0 %) too much"]),
    ("shares >= 5", True, ["shares or what it is compared with is null, and a null fails"]),
    ("not a predicate", True, []),
    ("read_text('/etc/passwd') > 5", True, []),
]


@pytest.mark.parametrize(("predicate", "fails", "told"), COMPARISONS, ids=[case[0] for case in COMPARISONS])
def test_margins_of_a_rule(tmp_path: Path, predicate: str, fails: bool, told: list[str]) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    wb.write_group(storage, "web/documents", [[wb.document(1)]], schema.DOCUMENTS)
    outcomes = wb.OUTCOMES.append(pa.field("shares", pa.float32()))
    row = wb.outcome(1, word_count=100, estimated_tokens=40)
    wb.write_group(storage, "web/outcomes", [[row]], outcomes)
    with connect(storage) as session:
        comparisons = compared({"r": predicate})
        (row,) = session.execute(f"SELECT {comparisons.asked or 1} FROM web.outcomes")
    found = comparisons.told(list(row.values()), ["r"] if fails else [])
    assert [str(each) for each in found.get("r", [])] == told


def test_a_rule_that_read_a_column_of_then_has_no_comparisons(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    wb.write_group(storage, "web/documents", [[wb.document(1)]], schema.DOCUMENTS)
    rule = {"name": "r", "sql": "component_number >= 5", "resolved": "(component_number >= 5)"}
    wb.write_group(storage, "web/outcomes", [[wb.outcome(1, [("r", {})])]], wb.OUTCOMES, {"rules": [rule]})
    assert only(explain(storage, wb.doc_id(1)))["failed_rules"][0]["comparisons"] == []


def test_a_copy_names_its_keeper_and_the_keeper_its_copies(workspace: Storage) -> None:
    copy, keeper = only(explain(workspace, wb.doc_id(5))), only(explain(workspace, wb.doc_id(4)))
    assert copy["duplicate_of"] == wb.doc_id(4)
    assert copy["component"]["keeper"] == keeper["component"]["keeper"] == wb.doc_id(4)
    assert copy["component"]["component_size"] == 2
    url = "https://example.org/page/"
    assert copy["component"]["members"] == [
        {"doc_id": wb.doc_id(4), "source": "web", "url": f"{url}4", "outcome": "kept"}
    ]
    assert [member["outcome"] for member in keeper["component"]["members"]] == ["dropped"]
    assert "keeper: this document" in explain(workspace, wb.doc_id(4)).as_text()


WORDS = [f"w{i}" for i in range(60)]
COMPARED = [
    (" ".join(WORDS), {}),
    (
        " ".join(WORDS).upper() + "!",
        {"similarity": 1.0, "estimate": 1.0, "shared_bands": 14, "joined_by": "equal words"},
    ),
    (" ".join(WORDS[1:]), {"similarity": 0.9821, "joined_by": "estimate"}),
    (" ".join(WORDS[:50]), {"similarity": 0.8214, "joined_by": "shingles"}),
    (" ".join(WORDS[30:]), {"similarity": 0.4643, "joined_by": "others"}),
]


def test_members_tell_what_they_share(tmp_path: Path) -> None:
    """Exact similarities of 5-word shingles: 55 of 56, 46 of 56 and 26 of 56."""
    storage = Storage.at(str(tmp_path))
    documents = [wb.document(n, text=text) for n, (text, _) in enumerate(COMPARED)]
    wb.write_group(storage, "web/documents", [documents], schema.DOCUMENTS)
    config = DedupConfig(num_bands=14, rows_per_band=8)
    signed = sign_table(pa.Table.from_pylist(documents, schema=schema.DOCUMENTS), 14, 8, 5)
    wb.write_group(storage, "web/signatures", [signed.to_pylist()], signed.schema)
    one = {"component_id": wb.doc_id(0), "component_size": len(COMPARED), "method": "minhash"}
    rows = [one | {"doc_id": row["doc_id"], "text_hash": row["text_hash"]} for row in signed.to_pylist()]
    details = {"config": config.model_dump(mode="json")}
    wb.write_group(storage, "web/duplicates", [rows], schema.DUPLICATES, details)
    explanation = explain(storage, wb.doc_id(0))
    members = only(explanation)["component"]["members"]
    for member, (_, expected) in zip(members, COMPARED[1:], strict=True):
        assert member.items() >= expected.items()
    assert "similarity 0.8214, estimated" in explanation.as_text()
    assert "joined by shingles" in explanation.as_text()
    details["config"]["verify"] = None
    wb.write_group(storage, "web/duplicates", [rows], schema.DUPLICATES, details)
    members = only(explain(storage, wb.doc_id(0)))["component"]["members"]
    assert [member["joined_by"] for member in members][:2] == ["equal words", "band"]


def test_a_single_has_no_members(workspace: Storage) -> None:
    assert only(explain(workspace, wb.doc_id(6)))["component"]["members"] == []


def test_a_url_finds_documents_and_rejects(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    twice = [wb.document(1, url="https://a.org/x"), wb.document(2, url="https://a.org/x")]
    wb.write_group(storage, "web/documents", [twice], schema.DOCUMENTS)
    wb.write_group(storage, "web/rejects", [[wb.reject(3, "charset") | {"url": "https://a.org/x"}]], schema.REJECTS)
    wb.write_group(storage, "code/documents", [[wb.document(9, "code", url="https://a.org/x")]], schema.DOCUMENTS)
    found = asdict(explain(storage, "https://a.org/x"))
    assert found["query"] == "https://a.org/x"
    assert [document["doc_id"] for document in found["documents"]] == [wb.doc_id(9), wb.doc_id(1), wb.doc_id(2)]
    (reject,) = found["rejects"]
    assert (reject["reason"], reject["detail"], reject["origin"]["offset"]) == ("charset", "detail 3", 300)
    assert "reject of source web: charset" in explain(storage, "https://a.org/x").as_text()


def test_what_has_no_url_is_found_by_its_file(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    named = {"origin": {"file": "a/locked.pdf", "offset": 0, "record_id": None}, "url": None}
    wb.write_group(storage, "pdfs/rejects", [[wb.reject(3, "encrypted", source="pdfs") | named]], schema.REJECTS)
    (reject,) = asdict(explain(storage, "a/locked.pdf"))["rejects"]
    assert (reject["reason"], reject["origin"]["file"]) == ("encrypted", "a/locked.pdf")


@pytest.mark.parametrize("until", ["extract", "annotate", "dedup", "classify", "select"])
def test_every_stage_of_completeness(tmp_path: Path, until: str) -> None:
    storage = wb.build(str(tmp_path / "ws"), until=until)
    document = only(explain(storage, wb.doc_id(5)))
    stages = ["extract", "annotate", "dedup", "classify", "select"]
    done = stages[: stages.index(until) + 1]
    assert bool(document["signals"]) == ("annotate" in done)
    assert (document["component"] is not None) == ("dedup" in done)
    assert bool(document["scores"]) == ("classify" in done)
    assert document["outcome"] == ("dropped" if "select" in done else None)
    assert explain(storage, "https://example.org/bad/7").as_text()
    assert explain(storage, wb.doc_id(5)).as_text()


def test_a_large_component_is_cut_and_says_so(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    documents = [wb.document(n) for n in range(1, 31)]
    component = {"component_id": wb.doc_id(1), "component_size": 30, "method": "exact", "text_hash": 1}
    wb.write_group(storage, "web/documents", [documents], schema.DOCUMENTS)
    rows = [{"doc_id": document["doc_id"]} | component for document in documents]
    wb.write_group(storage, "web/duplicates", [rows], schema.DUPLICATES)
    explanation = explain(storage, wb.doc_id(7))
    assert len(only(explanation)["component"]["members"]) == 20
    assert "and 9 more" in explanation.as_text()


def test_hostile_text_cannot_drive_a_terminal(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    evil = "\x1b]0;owned\x07\u202e" + "x" * 5000
    wb.write_group(storage, "web/documents", [[wb.document(1, text=evil, title=evil, metadata="{")]], schema.DOCUMENTS)
    explanation = explain(storage, wb.doc_id(1))
    assert not {"\x1b", "\x07", "\u202e"} & set(explanation.as_text())
    document = only(explanation)
    assert (document["title"], document["metadata"], len(document["snippet"])) == (evil, "{", 500)


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("https://example.org/page/", "near: https://example.org/page/"),
        ("http://www.example.org/bad/7", "near: https://example.org/bad/7"),
        ("0000000000000000000", "near: 00000000000000000000000000000001"),
        (wb.doc_id(99), "32 hex digits"),
        ("https://nowhere.org/", "32 hex digits"),
        ("' OR 1 = 1", "32 hex digits"),
    ],
)
def test_an_unknown_document_is_one_line_with_a_hint(workspace: Storage, query: str, hint: str) -> None:
    with pytest.raises(WorkspaceError) as caught:
        explain(workspace, query)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2

"""`gristmill explain`: everything that any stage recorded of a document or reject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import workspace_builder as wb

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import sign_table
from pipeline.select.explain import Explanation, explain
from pipeline.table import schema
from pipeline.table.errors import WorkspaceError
from pipeline.table.storage import Storage


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return wb.build(str(tmp_path_factory.mktemp("explain")))


def only(explanation: Explanation) -> dict[str, Any]:
    (document,) = json.loads(explanation.as_json())["documents"]
    return dict(document)


def test_a_dropped_document_tells_every_failed_rule_with_its_value(workspace: Storage) -> None:
    explanation = explain(workspace, wb.doc_id(3))
    document = only(explanation)
    assert (document["source"], document["outcome"], document["duplicate_of"]) == ("web", "dropped", None)
    assert document["failed_rules"] == [
        {"rule": "language", "sql": "language = 'en'", "resolved": "language = 'en'", "value": {"language": "fr"}},
        {"rule": "words", "sql": "word_count >= 3", "resolved": "word_count >= 3", "value": {"word_count": 1}},
    ]
    assert document["signals"]["text_stats"] == {"word_count": 1, "estimated_tokens": 30}
    assert document["scores"]["quality"]["rank"] == 3
    assert document["scores"]["quality"]["score"] == pytest.approx(0.3)
    assert document["origin"] == {"file": "a.warc.gz", "offset": 300, "record_id": "<urn:3>"}
    assert document["input"] == {"name": "a.warc.gz", "url": "/crawl/a.warc.gz"}
    assert (document["text_length"], document["snippet"]) == (13, "one two three")
    text = explanation.as_text()
    for said in ("dropped", "failed language", "language = 'en'", "/crawl/a.warc.gz", "word_count=1", "one two three"):
        assert said in text


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
    found = json.loads(explain(storage, "https://a.org/x").as_json())
    assert found["query"] == "https://a.org/x"
    assert [document["doc_id"] for document in found["documents"]] == [wb.doc_id(9), wb.doc_id(1), wb.doc_id(2)]
    (reject,) = found["rejects"]
    assert (reject["reason"], reject["detail"], reject["origin"]["offset"]) == ("charset", "detail 3", 300)
    assert "reject of source web: charset" in explain(storage, "https://a.org/x").as_text()


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

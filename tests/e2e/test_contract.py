"""The contract on a small crawl and two corpora, through the real command: every view, command and exit code."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.cli_runs import Ran, gristmill, made, select, snapshot, write_config

SOURCES = ("manuals", "notes", "web")
STRUCT = 'STRUCT(file VARCHAR, "offset" BIGINT, record_id VARCHAR)'
DOCUMENTS = {
    "doc_id": "VARCHAR",
    "source": "VARCHAR",
    "url": "VARCHAR",
    "text": "VARCHAR",
    "title": "VARCHAR",
    "date": "TIMESTAMP WITH TIME ZONE",
    "licence": "VARCHAR",
    "parent_id": "VARCHAR",
    "origin": STRUCT,
    "metadata": "VARCHAR",
}
DECIDED = {
    "doc_id": "VARCHAR",
    "url": "VARCHAR",
    "source": "VARCHAR",
    "outcome": "VARCHAR",
    "failed_rules": 'STRUCT("rule" VARCHAR, "value" VARCHAR)[]',
    "component_id": "VARCHAR",
    "duplicate_of": "VARCHAR",
    "text_length": None,
    "text_bytes": None,
    "estimated_tokens": None,
    "language": "VARCHAR",
    "word_count": None,
}
FROM_DOCUMENTS = {name: DOCUMENTS[name] for name in ("text", "title", "date", "licence", "origin")}
REJECTS = {"source": "VARCHAR", "url": "VARCHAR", "reason": "VARCHAR", "detail": "VARCHAR", "origin": STRUCT}
VIEWS: dict[str, dict[str, Any]] = {
    "documents": DOCUMENTS,
    "rejects": REJECTS,
    "outcomes": DECIDED,
    "curated": DOCUMENTS,
    "everything": DECIDED | FROM_DOCUMENTS,
    "duplicates": {"doc_id": "VARCHAR", "component_id": "VARCHAR", "component_size": None, "method": "VARCHAR"},
    "signals_language": {"doc_id": "VARCHAR", "language": "VARCHAR", "language_score": None},
    "signals_text_stats": {"doc_id": "VARCHAR", "word_count": None, "text_length": None},
}


Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ask(finished: Path) -> Iterator[Ask]:
    """A statement's rows over the finished workspace."""
    with connect(Storage.at(str(finished / "ws"))) as session:
        yield session.execute


def manifests(workspace: Path, group: str) -> list[dict[str, Any]]:
    source, _, folder = group.partition("/")
    place = workspace / source / "_manifests" / folder
    index = json.loads((place / "_index.json").read_text())
    return [json.loads((place / f"{part['name']}.json").read_text()) for part in index["parts"]]


def test_the_run_says_what_it_did_on_stderr_alone(first_run: Ran) -> None:
    assert first_run.out == ""
    assert "done in" in first_run.err
    assert "Traceback" not in first_run.err


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_vanishes(finished: Path, ask: Ask, source: str) -> None:
    parts = manifests(finished / "ws", f"{source}/documents")
    units = sum(part["counts"]["units"] + part["counts"]["damage"] for part in parts)
    (documents,) = ask(f"SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM {source}.documents")
    (rejects,) = ask(f"SELECT count(*) AS n FROM {source}.rejects")
    assert units == documents["n"] + rejects["n"]
    assert documents["d"] == documents["n"] > 0
    outcomes = {
        row["outcome"]: row["n"] for row in ask(f"SELECT outcome, count(*) n FROM {source}.outcomes GROUP BY 1")
    }
    assert outcomes.keys() <= {"kept", "dropped"}
    assert sum(outcomes.values()) == documents["n"]
    assert ask(f"SELECT count(*) AS n FROM {source}.curated") == [{"n": outcomes.get("kept", 0)}]


def test_every_planted_oddity_is_a_reject_with_its_reason(corpus: Path, ask: Ask) -> None:
    planted = Counter(item["kind"] for item in json.loads((corpus / "planted.json").read_text()))
    web = {row["reason"]: row["n"] for row in ask("SELECT reason, count(*) AS n FROM web.rejects GROUP BY ALL")}
    kinds = {"not_html": "not_html", "http_status": "missing", "redirect": "redirect"}
    assert web == {reason: planted[kind] for reason, kind in kinds.items()}
    notes = ask("SELECT reason FROM notes.rejects ORDER BY ALL")
    assert [row["reason"] for row in notes] == ["damaged", "empty"]


@pytest.mark.parametrize("owner", ["main", *SOURCES])
@pytest.mark.parametrize(("view", "promised"), VIEWS.items(), ids=VIEWS)
def test_a_view_has_the_columns_of_the_contract(
    ask: Ask, owner: str, view: str, promised: dict[str, str | None]
) -> None:
    found = {row["column_name"]: row["column_type"] for row in ask(f"DESCRIBE {owner}.{view}")}
    assert promised.keys() <= found.keys()
    typed = {name: kind for name, kind in promised.items() if kind}
    assert {name: found[name] for name in typed} == typed


def test_values_are_as_the_contract_says(ask: Ask) -> None:
    for row in ask("SELECT doc_id, source, origin FROM documents"):
        assert len(row["doc_id"]) == 32
        assert set(row["doc_id"]) <= set("0123456789abcdef")
        assert "/" not in row["origin"]["file"]
    rows = ask("SELECT outcome, failed_rules, component_id, duplicate_of, doc_id FROM outcomes")
    documents = {row["doc_id"]: row for row in rows}
    failed: Counter[str] = Counter()
    for row in rows:
        assert (row["outcome"] == "kept") == (row["failed_rules"] == [])
        for rule in row["failed_rules"]:
            assert isinstance(json.loads(rule["value"]), dict)
            failed[rule["rule"]] += 1
        if row["duplicate_of"]:
            keeper = documents[row["duplicate_of"]]
            assert (keeper["component_id"], keeper["outcome"]) == (row["component_id"], "kept")
            assert row["outcome"] == "dropped"
    assert {"words", "long", "near_duplicate", "exact_duplicate"} <= failed.keys()


@pytest.mark.parametrize("owner", ["main", *SOURCES])
def test_everything_has_a_row_a_document_with_its_text(ask: Ask, owner: str) -> None:
    rows = f"SELECT doc_id, text, title, date, licence, origin FROM {owner}.{{}} ORDER BY doc_id"
    assert ask(rows.format("everything")) == ask(rows.format("documents"))


def test_planted_copies_are_found(corpus: Path, ask: Ask) -> None:
    planted = json.loads((corpus / "planted.json").read_text())
    copies = {item["url"] for item in planted if item["kind"] in ("mirror", "edited")}
    found = ask(
        "SELECT url, component_size FROM web.duplicates JOIN web.documents USING (doc_id) WHERE component_size > 1"
    )
    assert copies <= {row["url"] for row in found}


# Reading commands -----------------------------------------------------------------------------------------------------

QUERY = "SELECT source, count(*) AS n, max(url) AS last FROM documents GROUP BY ALL ORDER BY ALL"


def test_sql_prints_a_table_csv_and_json(finished: Path) -> None:
    as_json = gristmill("sql", "ws", QUERY, "--format", "json", cwd=finished)
    rows = as_json.rows()
    assert [row["source"] for row in rows] == list(SOURCES)
    assert as_json.err == ""
    as_csv = gristmill("sql", "ws", QUERY, "--format", "csv", cwd=finished)
    parsed = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert parsed == [{name: str(value) for name, value in row.items()} for row in rows]
    as_table = gristmill("sql", "ws", QUERY, cwd=finished)
    lines = as_table.out.splitlines()
    assert lines[0].split() == ["source", "n", "last"]
    assert len(lines) == 2 + len(rows)
    assert as_table.err == "3 rows\n"
    assert (as_json.code, as_csv.code, as_table.code) == (0, 0, 0)


def test_explain_knows_a_document_by_id_and_url(finished: Path) -> None:
    (dropped,) = select(
        finished / "ws", "SELECT doc_id, url FROM web.outcomes WHERE duplicate_of IS NOT NULL ORDER BY url LIMIT 1"
    )
    by_id = gristmill("explain", "ws", dropped["doc_id"], "--json", cwd=finished)
    document = by_id.rows()["documents"][0]
    assert isinstance(by_id.rows(), dict)
    assert document["doc_id"] == dropped["doc_id"]
    assert document["outcome"] == "dropped"
    assert document["failed_rules"][-1]["rule"] in ("near_duplicate", "exact_duplicate")
    by_url = gristmill("explain", "ws", dropped["url"], cwd=finished)
    assert dropped["doc_id"] in by_url.out
    assert "dropped" in by_url.out
    assert (by_id.code, by_url.code, by_id.err, by_url.err) == (0, 0, "", "")


def test_explain_knows_a_rejected_url(finished: Path) -> None:
    rejected = select(finished / "ws", "SELECT url FROM web.rejects WHERE reason = 'redirect'")
    found = gristmill("explain", "ws", rejected[0]["url"], "--json", cwd=finished).rows()
    assert found["documents"] == []
    assert [reject["reason"] for reject in found["rejects"]] == ["redirect"]


def test_funnel_is_one_array_with_the_contract_s_keys(finished: Path) -> None:
    ran = gristmill("funnel", "ws", "--json", cwd=finished)
    keys = {"source", "stage", "rule", "documents_in", "documents_out", "tokens_in", "tokens_out"}
    assert ran.code == 0
    assert {frozenset(row) for row in ran.rows()} == {frozenset(keys)}
    for source in SOURCES:
        rows = [row for row in ran.rows() if row["source"] == source]
        for before, after in pairwise(rows):
            assert after["documents_in"] == before["documents_out"]
        kept = select(finished / "ws", f"SELECT count(*) AS n FROM {source}.curated")[0]["n"]
        assert rows[-1]["documents_out"] == kept
    text = gristmill("funnel", "ws", cwd=finished)
    assert all(source in text.out for source in SOURCES)


def test_gc_deletes_what_no_index_lists_and_nothing_else(copied: Path) -> None:
    changed = gristmill("run", "curate.yaml", "--set", "dedup.num_bands=20", cwd=copied)
    assert changed.code == 0, changed.err
    before = snapshot(copied / "ws")
    rows = select(copied / "ws", "SELECT * FROM everything ORDER BY doc_id")
    tried = gristmill("gc", "ws", "--dry-run", cwd=copied)
    assert snapshot(copied / "ws") == before
    done = gristmill("gc", "ws", cwd=copied)
    assert done.out == tried.out
    assert set(done.out.split()) == before.keys() - snapshot(copied / "ws").keys() != set()
    assert select(copied / "ws", "SELECT * FROM everything ORDER BY doc_id") == rows
    assert gristmill("gc", "ws", cwd=copied).out == ""


# The configuration and its switches -----------------------------------------------------------------------------------


def test_every_starting_configuration_can_be_printed() -> None:
    from pipeline.inputs.shipped import TEMPLATES, preset_names

    files = {path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")}
    assert files - {"quickstart"} == set(TEMPLATES) - set(preset_names("corpora"))


@pytest.mark.parametrize("template", ["web", "corpus", "pdf"])
def test_init_prints_a_configuration_that_loads(template: str, tmp_path: Path) -> None:
    from flows.config import load

    ran = gristmill("init", template, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    (tmp_path / "curate.yaml").write_text(ran.out)
    config = load(str(tmp_path / "curate.yaml"))
    assert ran.out.count("#") > 10
    assert config.sources.keys() == yaml.safe_load(ran.out)["sources"].keys()


def test_only_and_until_bound_the_work(config: dict[str, Any], tmp_path: Path) -> None:
    write_config(tmp_path / "curate.yaml", config)
    command = ("run", "curate.yaml", "--only", "notes")
    first = gristmill(*command, "--until", "annotate", cwd=tmp_path)
    assert first.code == 0, first.err
    assert {group.split("/", 1)[1] for group in made({}, tmp_path / "ws")} == {
        "documents",
        "rejects",
        "signals/language",
        "signals/text_stats",
    }
    assert {path.name for path in (tmp_path / "ws").iterdir()} == {"_lock.json", "_runs", "_tmp", "_verified", "notes"}
    before = snapshot(tmp_path / "ws")
    rest = gristmill(*command, cwd=tmp_path)
    assert rest.code == 0, rest.err
    assert {group.split("/", 1)[1] for group in made(before, tmp_path / "ws")} == {
        "signatures",
        "duplicates",
        "outcomes",
        "curated",
    }


def test_a_dry_run_changes_nothing(copied: Path, config: dict[str, Any]) -> None:
    before = snapshot(copied)
    idle = gristmill("run", "curate.yaml", "--dry-run", cwd=copied)
    changed = gristmill("run", "curate.yaml", "--set", "dedup.num_bands=20", "--dry-run", cwd=copied)
    assert (idle.code, changed.code) == (0, 0)
    lines = {tuple(line.split()[:2]): line.split()[2:] for line in changed.out.splitlines()}
    assert lines["web", "extract"] == ["0", "3"]
    assert lines["web", "dedup"][0] != "0"
    assert snapshot(copied) == before
    fresh = gristmill("run", "curate.yaml", "--set", "workspace=other", "--dry-run", cwd=copied)
    assert "web: 3 inputs of" in fresh.out
    assert not (copied / "other").exists()
    assert snapshot(copied) == before


def test_set_overrides_a_key(copied: Path) -> None:
    ran = gristmill("run", "curate.yaml", "--set", "sources.manuals.select.rules={none: 1 = 2}", cwd=copied)
    assert ran.code == 0, ran.err
    assert select(copied / "ws", "SELECT count(*) AS n FROM manuals.curated") == [{"n": 0}]
    values = select(copied / "ws", "SELECT DISTINCT failed_rules[1].rule AS rule FROM manuals.outcomes")
    assert values == [{"rule": "none"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "curate.yaml", "--set", "select.rules={a: word_cout > 3}"), "word_count"),
        (("sql", "ws", "SELECT * FROM web.outcome"), "outcomes"),
        (("explain", "ws", "0" * 32), "0" * 32),
        ((), "COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(finished: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = gristmill(*arguments, cwd=finished)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("gristmill: ")
    assert said in ran.err


def test_a_failed_run_is_one_line_and_code_1(copied: Path, prefect_api: str) -> None:
    change = ("--only", "notes", "--set", "dedup.max_removed=0.001")
    ran = gristmill("run", "curate.yaml", *change, cwd=copied, PREFECT_API_URL=prefect_api)
    assert ran.code == 1
    assert "dedup.max_removed" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


# Real archives with real damage ---------------------------------------------------------------------------------------

FIXTURES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "web" / "warc-fixtures"


def warcio_units(path: Path) -> int:
    """Return how many units warcio can read before it gives up."""
    units = 0
    try:
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream):
                units += record.rec_type in ("response", "resource", "conversion", "revisit")
    except ArchiveLoadFailed:
        pass
    return units


@pytest.mark.realdata
@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"{FIXTURES} is absent")
def test_damaged_archives_together_are_one_source(tmp_path: Path) -> None:
    web = {"format": "warc", "inputs": [str(FIXTURES)]}
    select_all = {"rules": {"any": "text_length > 0"}, "keep": "url asc"}
    write_config(
        tmp_path / "curate.yaml",
        {"workspace": "ws", "sources": {"web": web}, "dedup": {}, "select": select_all, "engine": {"workers": 2}},
    )
    ran = gristmill("run", "curate.yaml", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.err
    units: Counter[str] = Counter()
    with connect(Storage.at(str(tmp_path / "ws"))) as session:
        for view in ("documents", "rejects"):
            for row in session.execute(f"SELECT origin.file AS file, count(*) AS n FROM web.{view} GROUP BY ALL"):
                units[row["file"]] += row["n"]
        (damage,) = session.execute("SELECT count(*) AS n FROM web.rejects WHERE reason = 'damaged'")
        decided = session.execute("SELECT count(*) AS n FROM web.outcomes")
        assert decided == session.execute("SELECT count(*) AS n FROM web.documents")
    assert damage["n"] >= 4
    for path in FIXTURES.iterdir():
        assert units[path.name] >= warcio_units(path), path.name
    counted = Counter(part["details"]["file"] for part in manifests(tmp_path / "ws", "web/documents"))
    assert counted == Counter(path.name for path in FIXTURES.iterdir())

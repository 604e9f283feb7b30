"""Rephrasing from curated documents to curated documents of the new source, with real servers of a language model.

The first part asks `transformers serve`, started here for a tiny Llama that has learnt its answers by heart, so that
exact answers must come back. The second part looks at what is asked when, and asks a server that answers everything.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from pipeline.llm.types import REASONS
from pipeline.rephrase.verify import SCHEMA
from pipeline.table.errors import UsageError
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.cli_runs import Ran, gristmill, made, once, select, snapshot, table, write_config
from tests.faults.llm_server import Server, answer_to
from tests.llm_servers import MODEL, serve_transformers
from tests.local_run import rows, run_all, write_jsonl
from tests.rephrase_documents import ROUTES, TOLD, Told, corpus, listed, pairs

NOWHERE = "http://127.0.0.1:9/v1"
"""An endpoint that nobody serves: whoever asks it fails."""
CHILD = "web_rephrased"
DOCUMENTS = f"SELECT * FROM {CHILD}.documents ORDER BY doc_id"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Run a command in this process; return what it wrote to standard output and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out, err


# A model that knows its answers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def told(shared: Path, prefect_api: str) -> Path:
    """A folder with `curate.yaml`, its workspace `ws` after `gristmill run`, and how that went: for reading only.

    `before.json` is what the workspace held when its source had been selected and nothing been rephrased.
    """
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    url = serve_transformers(shared / "tiny-llama", pairs())
    folder = shared / "told"
    with once(folder) as to_do:
        if to_do:
            folder.mkdir()
            write_jsonl(folder / "in.jsonl", corpus())
            config = told_config(folder, url)
            write_config(folder / "curate.yaml", config)
            run_all({**config, "workspace": str(folder / "ws")})
            (folder / "before.json").write_text(json.dumps(snapshot(folder / "ws")))
            ran = gristmill("run", "curate.yaml", cwd=folder, PREFECT_API_URL=prefect_api)
            (folder / "run.json").write_text(json.dumps(vars(ran)))
    assert json.loads((folder / "run.json").read_text())["code"] == 0, (folder / "run.json").read_text()
    return folder


def told_config(folder: Path, url: str) -> dict[str, Any]:
    """Return the contract's configuration over the documents whose answers a model knows."""
    return {
        "workspace": "ws",
        "sources": sources(folder),
        "dedup": {"num_bands": 14, "rows_per_band": 8, "shingle_words": 5},
        "engine": {"kind": "local", "workers": 2},
        "rephrase": {
            "source": "web",
            "endpoint": {"base_url": url, "model": MODEL, "licence": "Apache-2.0", "revision": "trained-here"},
            "routes": ROUTES,
            "sampling": {"temperature": 0},
            "budget": {"requests": 10_000, "tokens": 50_000_000},
        },
    }


def sources(folder: Path) -> dict[str, Any]:
    return {
        "web": {
            "format": "jsonl",
            "inputs": [str(folder / "in.jsonl")],
            "select": {"rules": {"words": "word_count > 10"}},
        }
    }


@pytest.fixture(scope="session")
def ran(told: Path) -> Ran:
    """How `gristmill run` went."""
    return Ran(**json.loads((told / "run.json").read_text()))


@pytest.fixture
def again(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, as working directory, whose endpoint is gone."""
    shutil.copytree(told, tmp_path / "copy")
    write_config(tmp_path / "copy" / "curate.yaml", told_config(told, NOWHERE))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def said(told: Told, style: str) -> str:
    """Return the text that an answer must become: without its marker, and behind its document in style qa."""
    body = told.answers[style].split(":", 1)[1].strip()
    return f"{told.text}\n\n{body}" if style == "qa" else body


def test_exact_answers_come_back_through_the_whole_stage(told: Path) -> None:
    expected = sorted((document.text, style, said(document, style)) for document in TOLD for style in document.answers)
    found = select(
        told / "ws",
        f"""SELECT p.text AS parent, m.style, d.text FROM {CHILD}.documents d
            JOIN {CHILD}.signals_rephrase m USING (doc_id) JOIN web.curated p ON p.doc_id = d.parent_id""",
    )
    assert sorted((row["parent"], row["style"], row["text"]) for row in found) == expected
    assert select(told / "ws", f"SELECT * FROM {CHILD}.rejects") == []


def test_the_faithful_ones_reach_curated_shards(told: Path) -> None:
    kept = select(
        told / "ws", f"SELECT c.title, style, c.text FROM {CHILD}.curated c JOIN {CHILD}.outcomes USING (doc_id)"
    )
    by_name = {document.name: document for document in TOLD}
    expected = {
        ("lighthouse", "qa"),
        ("lighthouse", "distill"),
        ("mill", "qa"),
        ("bees", "qa"),
        ("paper", "wikipedia"),
        ("tides", "wikipedia"),
    }
    assert {(row["title"].removeprefix("The "), row["style"]) for row in kept} == expected
    for row in kept:
        assert row["text"] == said(by_name[row["title"].removeprefix("The ")], row["style"])


def test_every_dropped_one_has_its_reason(told: Path) -> None:
    dropped = select(
        told / "ws",
        f"""SELECT d.title, o.style, o.failed_rules, o.duplicate_of, o.faithful, p.doc_id AS parent
            FROM {CHILD}.outcomes o JOIN {CHILD}.documents d USING (doc_id)
            JOIN web.documents p ON p.doc_id = d.parent_id WHERE o.outcome = 'dropped' ORDER BY d.title""",
    )
    failed = {(row["title"], row["style"]): [rule["rule"] for rule in row["failed_rules"]] for row in dropped}
    assert failed == {
        ("The bees", "distill"): ["numbers"],
        ("The clock", "wikipedia"): ["length", "refusal", "overlap"],
        ("The mill", "distill"): ["near_duplicate"],
    }
    bees, clock, mill = dropped
    assert (bees["faithful"], clock["faithful"], mill["faithful"]) == (False, False, True)
    assert (bees["duplicate_of"], clock["duplicate_of"]) == (None, None)
    assert mill["duplicate_of"] == mill["parent"]


def test_a_child_says_where_it_comes_from(told: Path) -> None:
    row, *none = select(
        told / "ws",
        f"""SELECT d.*, o.style, o.prompt_tokens, o.completion_tokens, p.doc_id AS parent, p.text AS parent_text
            FROM {CHILD}.documents d JOIN {CHILD}.outcomes o USING (doc_id)
            JOIN web.documents p ON p.doc_id = d.parent_id
            WHERE d.title = 'The mill' AND o.style = 'qa'""",
    )
    assert none == []
    assert (row["source"], row["url"], row["parent_id"]) == (CHILD, None, row["parent"])
    assert row["origin"]["record_id"] == f"{row['parent']}:0:qa:0"
    metadata = json.loads(row["metadata"])
    hashed = metadata.pop("prompt_hash")
    assert len(hashed) == 32
    assert metadata == {
        "segment": 0,
        "segment_start": 0,
        "segment_end": len(row["parent_text"]),
        "style": "qa",
        "style_version": 1,
        "sample": 0,
        "body_start": row["text"].index("Question:"),
        "model": MODEL,
        "revision": "trained-here",
        "parameters": {"max_tokens": 600, "seed": 1, "temperature": 0.0, "top_p": 0.9},
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "finish_reason": "stop",
        "parent_licence": "CC0-1.0",
        "model_licence": "Apache-2.0",
        "licence_conflict": None,
    }
    assert row["completion_tokens"] > 50


def test_a_child_inherits_the_stricter_licence(told: Path) -> None:
    found = select(told / "ws", f"SELECT DISTINCT title, licence FROM {CHILD}.documents")
    assert {row["title"].removeprefix("The "): row["licence"] for row in found} == {
        "lighthouse": "CC-BY-SA-4.0",
        "mill": "Apache-2.0",  # the document is in the public domain, the model is not
        "bees": None,
        "paper": "CC-BY-4.0",
        "tides": "MIT",
        "clock": None,
    }


def test_verdicts_are_columns_beside_the_documents_and_in_the_ledger(told: Path) -> None:
    with connect(Storage.at(str(told / "ws"))) as session:
        signals = {row[0] for row in session.query(f"DESCRIBE FROM {CHILD}.signals_rephrase").rows}
        outcomes = {row[0] for row in session.query(f"DESCRIBE FROM {CHILD}.outcomes").rows}
        (row,) = session.execute(
            f"SELECT count(*) AS n FROM {CHILD}.signals_rephrase s JOIN {CHILD}.outcomes o USING (doc_id)"
            " WHERE s.faithful = o.faithful AND s.length_ratio = o.length_ratio"
        )
    assert {"doc_id", "style", *SCHEMA.names} <= signals
    assert {"doc_id", "style", "outcome", "duplicate_of", *set(SCHEMA.names) - {"unsupported"}} <= outcomes
    assert row["n"] == 9


def test_parents_stay_as_they_were(told: Path) -> None:
    before = {name: tuple(value) for name, value in json.loads((told / "before.json").read_text()).items()}
    after = snapshot(told / "ws")
    assert {name: after.get(name) for name in before if name.startswith("web/")} == {
        name: value for name, value in before.items() if name.startswith("web/")
    }
    assert any(name.startswith("web/curated/") for name in before)


def test_the_run_takes_the_new_source_through_every_stage(ran: Ran) -> None:
    stages = {stage for source, stage in table(ran.err) if source == CHILD}
    assert stages == {"annotate", "dedup", "select"}
    assert "9 of 9 requests done" in ran.err
    assert ran.out == ""


def test_the_funnel_shows_the_stage_and_how_alike_its_texts_are(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "funnel", str(told / "ws"))
    assert f"{CHILD}: how alike the rephrasings are" in out
    assert "qa: 3 texts (3 sampled), self-similarity 0.0" in out
    steps = json.loads(printed(capsys, "funnel", str(told / "ws"), "--json")[0])
    (asked,) = [step for step in steps if step["stage"] == "rephrase"]
    assert (asked["source"], asked["documents_in"], asked["documents_out"]) == (CHILD, 9, 9)
    last = steps[-1]
    assert (last["source"], last["rule"], last["documents_in"], last["documents_out"]) == (
        CHILD,
        "near_duplicate",
        7,
        6,
    )


def test_a_second_run_does_nothing_and_asks_nobody(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(again / "ws")
    _, err = printed(capsys, "run", "curate.yaml")
    assert "nothing to do" in err
    _, err = printed(capsys, "rephrase", "curate.yaml")
    assert "nothing to do" in err
    assert snapshot(again / "ws") == before


def test_answers_outlive_the_rows(again: Path, told: Path) -> None:
    """All rows are made again from stored answers, without an endpoint, and have the same bytes."""
    before = listed(again / "ws", CHILD)
    assert {"documents", "signals/rephrase", "outcomes", "curated"} <= before.keys()
    shutil.rmtree(again / "ws" / CHILD)
    run_all(told_config(told, NOWHERE), "rephrase")
    assert listed(again / "ws", CHILD) == before


def test_a_sample_shows_sources_and_rephrasings_side_by_side(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(again / "ws")
    out, _ = printed(capsys, "rephrase", "curate.yaml", "--sample", "2")
    assert snapshot(again / "ws") == before
    first = select(again / "ws", "SELECT doc_id, title FROM web.curated ORDER BY doc_id LIMIT 2")
    heads = [line for line in out.splitlines() if ":0:" in line]
    documents = {document.name: document for document in TOLD}
    expected = [
        f"{row['doc_id']}:0:{style}:0  {row['title']}"
        for row in first
        for style in sorted(documents[row["title"].removeprefix("The ")].answers)
    ]
    assert heads == expected
    assert any("lighthouse" in line and " | " in line for line in out.splitlines()) or "bees" in out


def test_a_dry_run_counts_and_costs(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(again / "ws")
    out, err = printed(capsys, "rephrase", "curate.yaml", "--dry-run")
    told = dict(line.split(None, 1) for line in out.splitlines())
    assert (told["documents"], told["requests"], told["admitted_requests"]) == ("6", "9", "9")
    assert int(told["input_tokens"].replace(",", "")) > 1000
    assert "price_input" in told["money"]
    prices = ["--set", "rephrase.endpoint.price_input=1000", "--set", "rephrase.endpoint.price_output=2000"]
    out, _ = printed(capsys, "rephrase", "curate.yaml", "--dry-run", *prices)
    priced = dict(line.split(None, 1) for line in out.splitlines())
    tokens = [int(told[name].replace(",", "")) for name in ("input_tokens", "output_tokens")]
    assert float(priced["money"].replace(",", "")) == pytest.approx(
        (1000 * tokens[0] + 2000 * tokens[1]) / 1e6, abs=0.01
    )
    assert float(priced["max_money"].replace(",", "")) > float(priced["money"].replace(",", "")) > 0
    assert err == ""
    assert snapshot(again / "ws") == before


# What is asked when ---------------------------------------------------------------------------------------------------

STYLES = {
    "plain": {"user": "Say it plainly: {text}", "input_tokens": 200, "output_tokens": 100},
    "other": {"user": "Say it otherwise: {text}", "input_tokens": 200, "output_tokens": 100},
}
QUICK = {"backoff_s": 0.001, "backoff_cap_s": 0.02, "retry_after_cap_s": 0.05}
PARENTS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def selected(shared: Path) -> Path:
    """A folder with input, styles and the workspace `ws` of a source that was selected: for copying only."""
    folder = shared / "selected"
    with once(folder) as to_do:
        if to_do:
            write_jsonl(folder / "in.jsonl", rows(PARENTS))
            write_styles(folder, STYLES)
            config = asking(NOWHERE)
            run_all({**config, "workspace": str(folder / "ws"), "sources": sources(folder), "rephrase": None})
    return folder


@pytest.fixture
def here(selected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `selected`, as working directory."""
    shutil.copytree(selected, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write_styles(folder: Path, styles: Mapping[str, Mapping[str, Any]]) -> None:
    (folder / "prompts").mkdir(exist_ok=True)
    for name, content in styles.items():
        (folder / "prompts" / f"{name}.yaml").write_text(json.dumps({"name": name, **content}))


def asking(url: str, **rephrase: Any) -> dict[str, Any]:
    """Return a configuration that asks a server for two rephrasings of every document."""
    endpoint = {"base_url": url, "model": "tiny", **rephrase.pop("endpoint", {})}
    common = {"client": QUICK, "prompts": "prompts", "select": {"rules": {"all": "text_length > 0"}}}
    routes = [{"styles": ["plain", "other"]}]
    return {
        "workspace": "ws",
        "sources": sources(Path()),
        "dedup": {},
        "engine": {"kind": "local", "workers": 2},
        "rephrase": {"source": "web", "endpoint": endpoint, "routes": routes, **common, **rephrase},
    }


def rephrased(config: Mapping[str, Any]) -> dict[str, int]:
    """Run everything in this process and return what the stage's index counts."""
    run_all(config, "rephrase")
    counts = json.loads(Path("ws", CHILD, "_manifests/documents/_index.json").read_text())["counts"]
    return {name: counts[name] for name in ("planned", "documents", "rejects")}


def test_nothing_is_asked_twice(here: Path, server: Server) -> None:
    before = server.stats()["calls"]
    assert rephrased(asking(server.url)) == {"planned": 48, "documents": 48, "rejects": 0}
    assert server.stats()["calls"] - before == 48
    first = snapshot(here / "ws")
    rephrased(asking(server.url))
    assert made(first, here / "ws") == {}
    assert server.stats()["calls"] - before == 48


def test_a_changed_style_asks_that_style_again_and_no_other(here: Path, server: Server) -> None:
    rephrased(asking(server.url))
    kept = select(
        here / "ws", f"SELECT doc_id, text FROM {CHILD}.documents d WHERE metadata ->> 'style' = 'other' ORDER BY 1"
    )
    before = server.stats()["calls"]
    write_styles(here, {"plain": {**STYLES["plain"], "user": "Say it simply: {text}"}})
    rephrased(asking(server.url))
    assert server.stats()["calls"] - before == PARENTS
    found = select(
        here / "ws", f"SELECT doc_id, text FROM {CHILD}.documents d WHERE metadata ->> 'style' = 'other' ORDER BY 1"
    )
    assert found == kept
    texts = select(here / "ws", f"SELECT text FROM {CHILD}.documents WHERE metadata ->> 'style' = 'plain'")
    assert len(texts) == PARENTS
    assert all("Say it simply" in row["text"] for row in texts)


def test_a_new_document_asks_for_itself_alone(here: Path, server: Server) -> None:
    rephrased(asking(server.url))
    before = server.stats()["calls"]
    write_jsonl(here / "in.jsonl", rows(PARENTS + 1))
    assert rephrased(asking(server.url))["documents"] == 50
    assert server.stats()["calls"] - before == 2


def test_rows_depend_neither_on_workers_nor_on_the_order_of_answers(here: Path, server: Server, tmp_path: Path) -> None:
    rephrased(asking(server.url))
    shutil.copytree(here / "ws", tmp_path / "first")
    for name in (CHILD, "_answers"):
        shutil.rmtree(here / "ws" / name)
    with Server(slots=3, service_s=0.003, faults=0.2, kinds="429,500,reset", seed=5) as other:
        config = asking(other.url, endpoint={"max_concurrency": 7}, part_requests=8192)
        rephrased({**config, "engine": {"kind": "local", "workers": 5}})
    assert listed(here / "ws", CHILD) == listed(tmp_path / "first", CHILD)


def test_every_document_has_its_own_answer(here: Path, server: Server) -> None:
    rephrased(asking(server.url))
    found = select(
        here / "ws",
        f"SELECT d.text, p.text AS parent, d.metadata ->> 'style' AS style FROM {CHILD}.documents d"
        " JOIN web.documents p ON p.doc_id = d.parent_id",
    )
    asked = {"plain": "Say it plainly: ", "other": "Say it otherwise: "}
    assert len(found) == 48
    for row in found:
        assert row["text"] == answer_to(asked[row["style"]] + row["parent"]).strip()


def test_thirty_percent_of_faults_lose_nothing(here: Path) -> None:
    """Every planned request ends as one document or one reject with a name; what is poisoned is named."""
    poisoned, refused = rows(2, 500)
    poisoned["text"] += " POISON"
    refused["text"] += " REFUSED"
    write_jsonl(here / "in.jsonl", [*rows(PARENTS), poisoned, refused])
    with Server(faults=0.3, seed=11) as faulty:
        counts = rephrased(asking(faulty.url, endpoint={"timeout_s": 1.0}, client={**QUICK, "max_attempts": 24}))
        seen = faulty.stats()
    assert counts["planned"] == counts["documents"] + counts["rejects"] == 52
    found = select(
        here / "ws",
        f"SELECT origin.record_id AS id, NULL AS reason, NULL AS detail, text FROM {CHILD}.documents UNION ALL"
        f" SELECT origin.record_id, reason, detail, NULL FROM {CHILD}.rejects ORDER BY id",
    )
    assert len({row["id"] for row in found}) == len(found) == 52
    lost = {row["id"].split(":")[0] for row in found if row["reason"]}
    named = select(here / "ws", "SELECT doc_id FROM web.documents WHERE regexp_matches(text, 'POISON|REFUSED')")
    assert lost == {row["doc_id"] for row in named}
    assert counts["rejects"] == 4
    assert all(row["detail"].split(":")[0] in REASONS for row in found if row["reason"])
    assert len(seen["faults"]) >= 8
    assert all(row["text"].startswith("Rephrased ") for row in found if row["text"])


def test_a_budget_of_requests_ends_cleanly_and_a_larger_one_goes_on(here: Path, server: Server) -> None:
    before = server.stats()["calls"]
    assert rephrased(asking(server.url, budget={"requests": 11})) == {"planned": 11, "documents": 11, "rejects": 0}
    assert server.stats()["calls"] - before == 11
    ids = f"SELECT origin.record_id AS id FROM {CHILD}.documents ORDER BY id"
    parents = [row["doc_id"] for row in select(here / "ws", "SELECT doc_id FROM web.curated ORDER BY doc_id")]
    planned = [f"{parent}:0:{style}:0" for parent in parents for style in ("other", "plain")]
    assert [row["id"] for row in select(here / "ws", ids)] == planned[:11]
    rephrased(asking(server.url, budget={"requests": 11}))
    assert server.stats()["calls"] - before == 11
    rephrased(asking(server.url, budget={"requests": 20}))
    assert server.stats()["calls"] - before == 20
    assert [row["id"] for row in select(here / "ws", ids)] == planned[:20]
    assert rephrased(asking(server.url)) == {"planned": 48, "documents": 48, "rejects": 0}
    assert server.stats()["calls"] - before == 48


def test_a_budget_of_tokens_ends_at_the_same_rows_in_any_order(here: Path, server: Server, tmp_path: Path) -> None:
    budget = {"tokens": 6000}
    counts = rephrased(asking(server.url, budget=budget))
    assert 3 < counts["planned"] < 45
    shutil.copytree(here / "ws", tmp_path / "first")
    for name in (CHILD, "_answers"):
        shutil.rmtree(here / "ws" / name)
    with Server(slots=1, service_s=0.001) as slow:
        assert rephrased(asking(slow.url, budget=budget, endpoint={"max_concurrency": 3})) == counts
    assert listed(here / "ws", CHILD) == listed(tmp_path / "first", CHILD)


def test_a_sample_within_a_budget_shows_what_the_budget_admits(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(here / "run.yaml", asking(server.url, budget={"requests": 3}))
    out, err = printed(capsys, "rephrase", "run.yaml", "--sample", "5")
    assert len([line for line in out.splitlines() if ":0:" in line]) == 3
    assert "budget" in err


def test_rephrase_does_this_stage_alone(here: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(here / "run.yaml", asking(server.url))
    before = snapshot(here / "ws")
    out, err = printed(capsys, "rephrase", "run.yaml")
    assert out == ""
    assert "48 of 48 requests done" in err
    assert "next: gristmill run run.yaml" in err
    groups = {f"{CHILD}/{name}": 1 for name in ("documents", "rejects", "signals/rephrase")}
    assert made(before, here / "ws") == groups


def test_garbage_collection_leaves_answers_alone(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    rephrased(asking(server.url))
    calls, before = server.stats()["calls"], snapshot(here / "ws" / "_answers")
    printed(capsys, "gc", "ws")
    assert snapshot(here / "ws" / "_answers") == before
    shutil.rmtree(here / "ws" / CHILD)
    rephrased(asking(server.url))
    assert server.stats()["calls"] == calls


def test_parents_of_a_scope_are_compared_too(here: Path, server: Server) -> None:
    """A rephrasing that is a copy of another source's document in the scope of its parent is dropped beside that."""
    text = answer_to(f"Say it plainly: {rows(1)[0]['text']}").strip()
    write_jsonl(here / "notes.jsonl", [{"text": text, "url": "note:copy"}])
    config = asking(server.url)
    notes = {"format": "jsonl", "inputs": ["notes.jsonl"], "select": {"rules": {"all": "text_length > 0"}}}
    config["sources"] = {**config["sources"], "notes": notes}
    config["dedup"] = {"scope": ["web", "notes"]}
    rephrased(config)
    (note,) = select(here / "ws", "SELECT doc_id FROM notes.curated")
    found = select(
        here / "ws",
        f"SELECT o.outcome, o.failed_rules[1].rule AS rule, d.text FROM {CHILD}.outcomes o"
        f" JOIN {CHILD}.documents d USING (doc_id) WHERE duplicate_of = '{note['doc_id']}'",
    )
    assert found == [{"outcome": "dropped", "rule": "exact_duplicate", "text": text}]


def test_pairs_behind_a_long_source_are_no_copy_of_it(here: Path, server: Server) -> None:
    """Their text together is nearly that of the source, so what is compared is what the model wrote."""
    texts = [" ".join(f"{number}word{word}" for word in range(300)) for number in range(4)]
    write_jsonl(here / "in.jsonl", [{"text": text, "url": f"page:{number}"} for number, text in enumerate(texts)])
    style = {"user": "Ask about {text}", "post": ["append_to_source"], "input_tokens": 2000, "output_tokens": 99}
    write_styles(here, {"pairs": style})
    rephrased(asking(server.url, routes=[{"styles": ["pairs"]}]))
    assert select(here / "ws", f"SELECT outcome, count(*) AS n FROM {CHILD}.outcomes GROUP BY ALL") == [
        {"outcome": "kept", "n": 4}
    ]


def test_without_an_endpoint_everything_before_is_done_and_kept(here: Path) -> None:
    shutil.rmtree(here / "ws")
    with pytest.raises(UsageError, match="no endpoint is reachable"):
        run_all(asking(NOWHERE, client={**QUICK, "start_timeout_s": 0.2}), "rephrase")
    assert select(here / "ws", "SELECT count(*) AS n FROM web.curated") == [{"n": PARENTS}]
    assert not (here / "ws" / CHILD).exists()

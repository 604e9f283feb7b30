"""Slices: chosen as the SQL says, nothing twice, nothing lost, the same bytes however they are made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.mix.config import MixConfig, ResolvedSlice, TokenizerConfig, TokenizerTraining
from pipeline.mix.material import build as slice_build
from pipeline.mix.material import tokenizer as sampling
from pipeline.mix.material.build import (
    BuiltSlice,
    SliceRequest,
    build_slices,
    shared_text,
)
from pipeline.mix.material.slices import chosen_documents, resolve_slices
from pipeline.mix.material.suites import task_key
from pipeline.mix.material.texts import _sortable, held_out, id_keys, id_strings
from pipeline.mix.material.tokenizer import MixTokenizer, slices_tokenizer, tokenizer_sample, train_tokenizer
from pipeline.mix.types import Item, Task
from pipeline.table import schema
from pipeline.table.errors import ConfigError, InputError, QueryError, SchemaError, WorkspaceError
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.unit.workspace_builder import OUTCOMES, document, outcome, write_group

LEDGER = OUTCOMES.append(pa.field("rank", pa.int8()))
Row = Mapping[str, Any]
WORDS = ["mill", "grain", "water", "wheel", "stone", "flour", "bread", "oven", "fire", "salt"]
RUN = "these thirteen words in a row are what the item and document share"


def rows(count: int, first: int = 0, **columns: Any) -> list[dict[str, Any]]:
    """Rows of documents whose texts differ; `rank` runs from 0 to 4."""
    return [
        {
            "number": number,
            "text": f"Document {number}: " + " ".join(WORDS[(number * k) % 10] for k in range(1, 30 + number % 7)),
            "rank": number % 5,
        }
        | columns
        for number in range(first, first + count)
    ]


def workspace(folder: Path, sources: Mapping[str, Sequence[Row]], parts: int = 2) -> Storage:
    """Write documents, ledger and curated parts; a row with `outcome: dropped` is not curated."""
    storage = Storage.at(str(folder))
    for source, given in sources.items():
        documents = [document(r["number"], source, r["text"]) for r in given]
        ledger = [
            outcome(r["number"], source=source, outcome=r.get("outcome", "kept"), rank=r["rank"], language="en")
            for r in given
        ]
        kept = [d for d, row in zip(documents, ledger, strict=True) if row["outcome"] == "kept"]
        write_group(storage, f"{source}/documents", [documents], schema.DOCUMENTS)
        write_group(storage, f"{source}/outcomes", [ledger], LEDGER)
        write_group(storage, f"{source}/curated", [kept[i::parts] for i in range(parts)], schema.DOCUMENTS)
    return storage


def mix(slices: Mapping[str, Any], **more: Any) -> MixConfig:
    return MixConfig.model_validate(
        {"workspace": "ws", "slices": slices, "suite": "s", "budget_tokens": 10_000, **more}
    )


SOURCES = {"web": rows(60), "wiki": rows(40, 1000), "gone": [*rows(2, 2000, outcome="dropped"), *rows(1, 2002)]}
TWO = {"web": {"where": "source = 'web'"}, "wiki": {"where": "source = 'wiki'", "max_epochs": 2}}


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return workspace(tmp_path_factory.mktemp("slices") / "ws", SOURCES)


@pytest.fixture(scope="module")
def tokenizer() -> MixTokenizer:
    return train_tokenizer([row["text"] for row in SOURCES["web"]], 300)


def resolved(storage: Storage, slices: Mapping[str, Any]) -> dict[str, int]:
    with connect(storage) as session:
        return {each.name: each.documents for each in resolve_slices(session, mix(slices))}


# Resolving ------------------------------------------------------------------------------------------------------------


def test_slices_are_over_kept_rows(storage):
    slices = {**TWO, "gone": {"where": "source = 'gone'"}}
    assert resolved(storage, slices) == {"web": 60, "wiki": 40, "gone": 1}


def test_columns_of_documents_can_be_asked_for(storage):
    assert resolved(storage, {"some": {"where": "text LIKE 'Document 1:%' AND title IS NULL"}}) == {"some": 1}


def test_a_null_is_not_chosen(storage):
    slices = {"some": {"where": "CASE WHEN rank = 0 THEN NULL ELSE source = 'web' END"}}
    assert resolved(storage, slices) == {"some": 48}


def test_by_makes_a_slice_of_each_combination(storage):
    found = resolved(storage, {"all": {"where": "source <> 'gone'", "by": ["source", "rank >= 3"]}})
    assert found == {"all_web_false": 36, "all_web_true": 24, "all_wiki_false": 24, "all_wiki_true": 16}


def test_values_of_by_become_identifiers_and_nulls_are_left_out(storage):
    by = ["CASE rank WHEN 0 THEN NULL WHEN 1 THEN 'C++ & It''s' WHEN 2 THEN '' ELSE '-' || rank END"]
    found = resolved(storage, {"web": {"where": "source = 'web'", "by": by}})
    assert found == {"web_c_it_s": 12, "web_none": 12, "web_3": 12, "web_4": 12}


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ({"a": {"where": "sauce = 'web'"}}, r"slices.a.where: unknown column 'sauce' \(nearest: 'source'\)"),
        ({"a": {"where": "rank"}}, r"slices.a.where: gives TINYINT, not true or false"),
        ({"a": {"where": "source ="}}, r"slices.a.where: .*syntax error"),
        ({"a": {"where": "true) FROM main.web WHERE (true"}}, "expected one expression|syntax error"),
        ({"a": {"where": "true); DROP TABLE x; SELECT (true"}}, "Only SELECT statements|syntax error"),
        ({"a": {"where": "rank > (SELECT 1)"}}, "subqueries are not allowed"),
        ({"a": {"where": "row_number() OVER () > 1"}}, "window functions are not allowed"),
        ({"a": {"where": "random() > 0.5"}}, r"random\(\) depends on more than the document"),
        ({"a": {"where": "date < now()"}}, r"now\(\) depends on more than the document"),
        ({"a": {"where": "sum(rank) > 1"}}, "slices"),
        ({"a": {"where": "source > rank"}}, "slices.a.where: .*VARCHAR"),
        ({"b": {"where": "rank = 1"}, "a": {"where": "source = 5"}}, "compares text with a number: .source. and 5"),
        ({"a": {"where": "rank = 1", "by": ["nosuch"]}}, "slices.a.by.0: unknown column 'nosuch'"),
        ({"a": {"where": "rank < 2", "by": ["rank"], "weight": 0.1}}, "does not go with `by`"),
        ({"a": {"where": "rank < 2", "by": ["['x-y', 'x+y'][rank + 1]"]}}, "two would be named 'a_x_y'"),
        ({"a": {"where": "rank < 2", "by": ["rank"]}, "a_1": {"where": "rank = 3"}}, "two would be named 'a_1'"),
        ({"a": {"where": "source <> 'gone'", "by": ["doc_id", "rank"]}}, None),
        (
            {"a": {"where": "rank <= 1"}, "b": {"where": "rank = 4"}, "c": {"where": "rank = 1"}},
            f"20 documents are both in 'a' and in 'c', {1:032x} among them",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_work(storage, slices, message):
    if message is None:  # a hundred slices are fine
        assert len(resolved(storage, slices)) == 100
        return
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(storage, slices)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_empty_slice_says_how_many_there_are(storage):
    with pytest.raises(InputError, match=r"slices.b: chooses none of 101 kept documents \(\"source = 'nosuch'\"\)"):
        resolved(storage, {**TWO, "b": {"where": "source = 'nosuch'"}})


def test_too_many_values_of_by(tmp_path):
    storage = workspace(tmp_path, {"web": rows(520)})
    with pytest.raises(ConfigError, match="more than 512 combinations"):
        resolved(storage, {"a": {"where": "true", "by": ["doc_id"]}})


def test_a_workspace_that_was_not_selected(tmp_path):
    storage = Storage.at(str(tmp_path))
    write_group(storage, "web/documents", [[document(1)]], schema.DOCUMENTS)
    with pytest.raises(QueryError, match="`select` has not run"):
        resolved(storage, TWO)


# Ids ------------------------------------------------------------------------------------------------------------------


def test_ids_to_numbers_and_back():
    ids = pa.array([hashlib.md5(bytes([i])).hexdigest() for i in range(100)])
    assert id_strings(id_keys(ids)).equals(ids)
    assert id_keys(pa.array(["0" * 15 + "1" + "0" * 14 + "ff"])).tolist() == [[1, 255]]
    assert id_keys(ids.slice(3, 2)).tolist() == id_keys(ids).tolist()[3:5]
    for bad in ("x" * 32, "0" * 31, "A" * 32, ""):
        with pytest.raises(SchemaError, match="is not 32 hex digits"):
            id_keys(pa.array([bad]))


def test_keys_sort_as_texts_as_they_do_as_numbers():
    keys = np.array([[0, 1], [1, 0], [1, 1], [1, 2], [1, 256], [2, 1], [2**63, 0]], np.uint64)
    assert np.argsort(_sortable(keys[::-1])).tolist() == list(range(len(keys)))[::-1]
    assert np.unique(_sortable(keys)).size == len(keys)


def test_held_out_shares():
    keys = id_keys(pa.array([hashlib.md5(f"{i}".encode()).hexdigest() for i in range(20_000)]))
    chosen = held_out(keys, 0.01)
    assert 150 < chosen.sum() < 250
    assert np.array_equal(held_out(keys[::-1], 0.01)[::-1], chosen)
    assert not (chosen & ~held_out(keys, 0.02)).any()
    assert held_out(keys[chosen], 0.01).sum() == chosen.sum() - 1  # one is always left to train on
    assert [held_out(keys[:n], 0.001).sum() for n in (0, 1, 2, 3)] == [0, 0, 1, 1]
    assert not held_out(keys, 0.0).any()


# Building -------------------------------------------------------------------------------------------------------------


def request(
    session: Any, folder: Path, tokenizer: MixTokenizer, slices: Mapping[str, Any], **more: Any
) -> SliceRequest:
    found = resolve_slices(session, mix(slices))
    given = {"held_out": 0.1, "contamination_words": 13, "tasks": ()} | more
    return SliceRequest(folder, tuple(found), chosen_documents(session, found), tokenizer, **given)


def build(
    storage: Storage, folder: Path, tokenizer: MixTokenizer, slices: Mapping[str, Any] = TWO, **more: Any
) -> list[BuiltSlice]:
    with connect(storage) as session:
        return build_slices(session, request(session, folder, tokenizer, slices, **more))


def task(name: str, *texts: str) -> Task:
    items = tuple(Item(str(i), text, "") for i, text in enumerate(texts))
    return Task(name, task_key(items), items)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_stores_hold_every_document_once(storage, tokenizer, tmp_path):
    for built, source in zip(build(storage, tmp_path, tokenizer), ("web", "wiki"), strict=True):
        texts = {row["number"]: row["text"] for row in SOURCES[source]}
        tokens, table = built.tokens.tokens(), pq.read_table(built.tokens.documents_path)
        assert tokens.dtype == np.uint16
        assert table["start"].to_pylist() == np.cumsum([0, *table["tokens"].to_pylist()])[:-1].tolist()
        assert len(tokens) == built.tokens.n_tokens == sum(table["tokens"].to_pylist())
        held = pq.read_table(built.held_out_path)
        seen = {int(i, 16): text for i, text in zip(held["doc_id"].to_pylist(), held["text"].to_pylist(), strict=True)}
        assert len(seen) == built.held_out > 0
        for row in table.to_pylist():
            own = tokens[row["start"] : row["start"] + row["tokens"]]
            assert own[-1] == tokenizer.eos
            assert tokenizer.eos not in own[:-1]
            seen[int(row["doc_id"], 16)] = tokenizer.decode(own[:-1])
            assert row["bytes"] == len(seen[int(row["doc_id"], 16)].encode())
            assert row["source"] == source
        assert seen == texts
        assert built.documents_in == len(texts) == built.tokens.n_documents + built.held_out
        assert built.tokens.n_bytes == sum(table["bytes"].to_pylist())
        assert table["doc_id"].to_pylist() != sorted(table["doc_id"].to_pylist())


def test_bytes_do_not_depend_on_parts_passes_or_other_slices(storage, tokenizer, tmp_path, monkeypatch):
    by = {"all": {"where": "source <> 'gone'", "by": ["source", "rank"]}}
    build(storage, tmp_path / "a", tokenizer, by)
    other = workspace(tmp_path / "ws", dict(reversed(SOURCES.items())), parts=5)
    monkeypatch.setattr(slice_build, "MAX_SCANS", 0.2)  # many slices a pass
    monkeypatch.setattr(slice_build, "_BLOCK_TOKENS", 100)
    build(other, tmp_path / "b", tokenizer, by)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert len(first) == 40
    same = [name for name in first if not name.endswith(("manifest.json", "held_out.parquet"))]
    assert [first[name] for name in same] == [second[name] for name in same]
    assert len(same) == 20


def test_a_matching_manifest_means_done(storage, tokenizer, tmp_path):
    told: list[str] = []

    def again(slices: Mapping[str, Any] = TWO, **more: Any) -> list[str]:
        told.clear()
        with connect(storage) as session:
            asked = request(session, tmp_path, tokenizer, slices, **more)
            build_slices(session, asked, lambda made: told.append(made.name))
        return sorted(told)

    assert again() == ["web", "wiki"]
    assert again() == []
    renamed = {"web": {"where": "source = 'web' AND rank < 9"}, "wiki": TWO["wiki"]}
    assert again(renamed) == []  # the same documents
    assert again({**TWO, "gone": {"where": "source = 'gone'"}}) == ["gone"]
    assert again({**TWO, "web": {"where": "source = 'web' AND rank < 4"}}) == ["web"]
    assert again() == ["web"]
    (tmp_path / "wiki" / "tokens.npy").unlink()
    assert again() == ["wiki"]
    assert again(held_out=0.2) == ["web", "wiki"]
    assert again(held_out=0.2, tasks=(task("t", RUN),), contamination_words=12) == []  # what was trained stays valid


def test_contaminated_documents_are_dropped_and_counted_by_task(tokenizer, tmp_path):
    dirty = [row | {"text": f"{row['text']} {RUN} end"} for row in rows(30)]
    both = [row | {"text": f"{row['text']} {RUN}. {RUN[::-1]}"} for row in rows(1, 50)]
    storage = workspace(tmp_path / "ws", {"web": [*dirty, *rows(20, 30), *both]})
    tasks = (task("run", RUN, "too short"), task("back", RUN[::-1]), task("absent", "nobody wrote this " * 9))
    (built,) = build(storage, tmp_path / "s", tokenizer, {"web": TWO["web"]}, tasks=tasks)
    manifest = json.loads((tmp_path / "s" / "web" / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["documents_in"] == 51 == counts["trained"] + counts["held_out"] + counts["contaminated"]
    held = {int(i, 16) for i in pq.read_table(built.held_out_path)["doc_id"].to_pylist()}
    trained = {int(i, 16) for i in pq.read_table(built.tokens.documents_path)["doc_id"].to_pylist()}
    assert trained == set(range(30, 50)) - held
    assert built.contaminated == 31 - len(held & {*range(30), 50})
    assert built.contaminated_by_task == {"back": 1, "run": built.contaminated}
    assert built.unchecked_items == {"run": 1}
    assert built.task_keys == {each.name: each.key for each in tasks}
    # What is held out is the same without the tasks: a suite that changes does not change it.
    (other,) = build(storage, tmp_path / "other", tokenizer, {"web": TWO["web"]})
    assert other.held_out_path.read_bytes() == built.held_out_path.read_bytes()


def test_a_slice_of_which_nothing_is_left(tokenizer, tmp_path):
    storage = workspace(tmp_path / "ws", {"web": rows(3, text=RUN)})
    with pytest.raises(InputError, match=r"slices.web: nothing is left to train on: 2 documents share text"):
        build(storage, tmp_path / "s", tokenizer, {"web": TWO["web"]}, tasks=(task("run", RUN),))


def test_a_store_made_for_another_suite_stays_and_its_texts_tell_which_items_to_leave_out(tokenizer, tmp_path):
    storage = workspace(tmp_path / "ws", {"web": [*rows(20), *rows(20, 20, text=f"x {RUN} y")]})
    web = {"web": TWO["web"]}
    (first,) = build(storage, tmp_path / "s", tokenizer, web, tasks=(task("old", "something else " * 9),))
    before = digests(tmp_path / "s")
    new = task("new", "nowhere to be found " * 5, RUN)
    (kept,) = build(storage, tmp_path / "s", tokenizer, web, tasks=(new,))
    assert (kept, digests(tmp_path / "s")) == (first, before)
    with connect(storage) as session:
        found = shared_text(session, kept, [new], 13, tmp_path)["new"]
    assert (found.items, len(found.documents)) == ((1,), 18)


def test_curated_that_lacks_a_kept_document(tokenizer, tmp_path):
    storage = workspace(tmp_path / "ws", {"web": rows(9)})
    write_group(storage, "web/curated", [[document(0)]], schema.DOCUMENTS)
    with pytest.raises(WorkspaceError, match=f"8 kept documents are not among the curated ones, {1:032x}"):
        build(storage, tmp_path / "s", tokenizer, {"web": TWO["web"]})


def test_the_sample_draws_evenly_and_leaves_held_out_text_alone(tmp_path):
    storage = workspace(tmp_path / "ws", {"web": rows(900), "wiki": rows(300, 1000), "tiny": rows(2, 2000)})
    with connect(storage) as session:
        slices = [ResolvedSlice(s, f"source = '{s}'", mix(TWO).slices["web"], 0) for s in ("web", "wiki", "tiny")]
        documents = chosen_documents(session, slices)
        sample = list(tokenizer_sample(session, documents, 0.1, 30_000))
        assert list(tokenizer_sample(session, documents, 0.1, 30_000)) == sample
        everything = list(tokenizer_sample(session, documents, 0.1))
    numbers = [int(text.split()[1].rstrip(":")) for text in sample]
    size = {
        s: sum(len(t) for n, t in zip(numbers, sample, strict=True) if n // 1000 == i)
        for i, s in enumerate(("web", "wiki", "tiny"))
    }
    assert 20_000 < sum(size.values()) < 40_000
    assert size["web"] == pytest.approx(size["wiki"], rel=0.1)
    assert sum(n >= 2000 for n in numbers) == 1  # the other is held out
    held = [held_out(documents.keys[documents.slices == i], 0.1).sum() for i in range(3)]
    assert len(everything) == 1202 - sum(held)


def test_a_trained_tokenizer_is_kept_until_its_text_changes(storage, tmp_path, monkeypatch):
    config = mix(TWO).tokenizer.model_copy(update={"train": TokenizerTraining(vocabulary=300)})
    trained: list[int] = []

    def counted(texts: Any, vocabulary: int) -> MixTokenizer:
        trained.append(vocabulary)
        return train_tokenizer(texts, vocabulary)

    monkeypatch.setattr(sampling, "train_tokenizer", counted)
    with connect(storage) as session:
        documents = chosen_documents(session, resolve_slices(session, mix(TWO)))
        first = slices_tokenizer(session, config, documents, 0.1, tmp_path)
        assert slices_tokenizer(session, config, documents, 0.1, tmp_path) == first
        assert trained == [300]
        slices_tokenizer(session, config, documents, 0.2, tmp_path)
        (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text() + " ")
        slices_tokenizer(session, config, documents, 0.2, tmp_path)
        assert len(trained) == 3
        (tmp_path / "own.json").write_text(first.text, "utf-8")
        own = slices_tokenizer(session, TokenizerConfig(file=str(tmp_path / "own.json")), documents, 0.1, tmp_path)
    assert (own, len(trained)) == (first, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.mix.material import build as slice_build
from pipeline.mix.material.tokenizer import load_tokenizer
from pipeline.table.storage import Storage
from tests.unit.test_mix_slices import TWO, build

left, replace = int(sys.argv[4]), os.replace

def counted(*arguments):
    global left
    left -= str(arguments[1]).startswith(sys.argv[2])  # compiled kernels are cached by renaming, too
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*arguments)

os.replace = counted
build(Storage.at(sys.argv[1]), Path(sys.argv[2]), load_tokenizer(Path(sys.argv[3])), TWO)
"""


@pytest.mark.parametrize("replaced", [0, 2, 5])
def test_a_killed_build_is_finished_to_the_same_bytes(storage, tokenizer, tmp_path, replaced):
    build(storage, tmp_path / "whole", tokenizer)
    (tmp_path / "t.json").write_text(tokenizer.text, "utf-8")
    arguments = [storage.root, str(tmp_path / "killed"), str(tmp_path / "t.json"), str(replaced)]
    run = subprocess.run([sys.executable, "-c", KILLED, *arguments], env={**os.environ}, check=False)
    assert run.returncode == -signal.SIGKILL
    shutil.copytree(tmp_path / "killed", tmp_path / "seen")
    assert (tmp_path / "seen" / "web" / "manifest.json").exists() == (replaced > 3)
    build(storage, tmp_path / "killed", tokenizer)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")

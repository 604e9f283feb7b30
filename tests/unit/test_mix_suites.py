"""Suites: files and presets, every mistake named by file and line, keys that follow content alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.mix.config import HeldOutConfig, SuiteConfig, TaskConfig
from pipeline.mix.material import suites
from pipeline.mix.material.suites import held_out_task, load_suite, suite_hash, task_key, tokenise_task
from pipeline.mix.material.tokenizer import train_tokenizer
from pipeline.mix.types import Item, Task
from pipeline.table.errors import ConfigError, InputError, ShardError

ROWS = [{"id": "a", "prompt": "2 + 2 =", "continuation": " 4", "gold": 0}, {"prompt": "", "continuation": "é x"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(folder: Path, text: str = LINES, suite: str = "tasks: [{name: sums, path: sums.jsonl}]") -> str:
    (folder / "sums.jsonl").write_text(text)
    (folder / "suite.yaml").write_text(suite)
    return str(folder / "suite.yaml")


def test_items_are_read_with_ids_and_unknown_fields_ignored(tmp_path):
    suite = load_suite(write(tmp_path))
    assert suite.tasks[0].items == (Item("a", "2 + 2 =", " 4"), Item("2", "", "é x"))
    assert suite.config.weights() == {"sums": 1.0}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_files_have_the_same_items(tmp_path, suffix):
    plain = load_suite(write(tmp_path))
    pack = gzip.compress if suffix == ".gz" else zstandard.compress
    (tmp_path / f"sums.jsonl{suffix}").write_bytes(pack(LINES.encode()[:30]) + pack(LINES.encode()[30:]))
    packed = load_suite(write(tmp_path, suite=f"tasks: [{{name: sums, path: sums.jsonl{suffix}}}]"))
    assert packed.tasks == plain.tasks


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    beside, here, named = (tmp_path / name for name in ("beside", "here", "named"))
    for folder, answer in ((beside, "1"), (here, "2"), (named, "3")):
        folder.mkdir()
        (folder / "sums.jsonl").write_text(json.dumps({"prompt": "", "continuation": answer}))
    monkeypatch.chdir(here)
    path = beside / "suite.yaml"

    def answer(text: str) -> str:
        path.write_text(text)
        return load_suite(str(path)).tasks[0].items[0].continuation

    task = "tasks: [{name: sums, path: sums.jsonl}]"
    assert answer(task) == "2"
    (here / "sums.jsonl").unlink()
    assert answer(task) == "1"
    assert answer(f"folder: {named}\n{task}") == "3"
    assert answer(f"folder: ../named\n{task}") == "3"  # from the working directory
    (here / "named").mkdir()
    with pytest.raises(InputError, match=r"named/sums.jsonl: No such file"):
        answer(f"folder: named\n{task}")  # a folder that is given is the only place


def test_a_preset_is_found_by_name_and_a_wrong_name_says_so(tmp_path, monkeypatch):
    preset = Path(write(tmp_path))
    monkeypatch.setattr(suites, "preset_path", lambda kind, name: preset if name == "arithmetic" else None)
    monkeypatch.setattr(suites, "preset_names", lambda kind: ["arithmetic"])
    assert load_suite("arithmetic").path == preset
    with pytest.raises(ConfigError, match=r"'arithmetics': no such file.*nearest: 'arithmetic'"):
        load_suite("arithmetics")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES + "{", r"sums.jsonl:3: not JSON .*; each line is an object with `prompt` and `continuation`"),
        (LINES + "\n[1]\n", r"sums.jsonl:4: a list, not an object with `prompt` and `continuation`"),
        ('{"prompt": 3, "continuation": "x"}', r"sums.jsonl:1: `prompt` is int '3'"),
        ('{"prompt": ""}', r"sums.jsonl:1: `continuation` is missing"),
        ('{"prompt": "a", "continuation": ""}', r"sums.jsonl:1: `continuation` is empty"),
        ('{"prompt": "a", "continuation": "\\ud800"}', r"sums.jsonl:1: `continuation` holds half a surrogate"),
        ("\n \n", r"sums.jsonl holds no items"),
        ("[" * 100_000, r"sums.jsonl:1: not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_suite(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_packed(tmp_path):
    path = write(tmp_path)
    (tmp_path / "sums.jsonl").write_bytes(b'{"prompt": "\xff", "continuation": "x"}')
    with pytest.raises(InputError, match=r"sums.jsonl:1: not JSON .*utf-8"):
        load_suite(path)
    for suffix, damaged in ((".gz", b"plain"), (".zst", b"plain"), (".gz", gzip.compress(LINES.encode())[:-9])):
        (tmp_path / f"sums.jsonl{suffix}").write_bytes(damaged)
        with pytest.raises(InputError, match=r"tasks.sums: .*sums.jsonl"):
            load_suite(write(tmp_path, suite=f"tasks: [{{name: sums, path: sums.jsonl{suffix}}}]"))


def test_limits(tmp_path, monkeypatch):
    path = write(tmp_path, LINES * 10)
    monkeypatch.setattr(suites, "MAX_LINE_BYTES", 60)
    with pytest.raises(InputError, match=r"sums.jsonl:1: longer than 60 bytes"):
        load_suite(path)
    monkeypatch.setattr(suites, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(suites, "MAX_TASK_BYTES", 300)
    with pytest.raises(InputError, match="more than 300 bytes"):
        load_suite(path)
    few = load_suite(write(tmp_path, LINES * 10, "tasks: [{name: sums, path: sums.jsonl, limit: 3}]"))
    assert len(few.tasks[0].items) == 3


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("tasks: []", "a suite needs at least one task"),
        ("tasks: [{name: sums, path: a}, {name: sums, path: b}]", "two are named 'sums'"),
        ("tasks: [{name: sums, path: sums.jsonl, weight: 0}]", "all weights are zero"),
        ("tasks: [{name: sums, path: sums.jsonl, wieght: 0}]", "unknown key 'tasks.0.wieght'"),
        ("tasks: [{name: sums, path: sums.jsonl, metric: accuracy}]", "bits_per_byte"),
    ],
)
def test_suites_that_cannot_be(tmp_path, suite, message):
    with pytest.raises(ConfigError, match=message):
        load_suite(write(tmp_path, suite=suite))


def test_a_key_follows_content_and_order_but_not_ids():
    first, second = Item("a", "p", "c"), Item("b", "pc", "")
    assert task_key([first]) == task_key([Item("other", "p", "c")])
    assert len({task_key([first]), task_key([second]), task_key([first, second]), task_key([second, first])}) == 4


def test_the_suite_s_hash_follows_weights_groups_and_items_but_not_order():
    tasks = [TaskConfig(name="a", path="a"), TaskConfig(name="b", path="b", weight=2)]
    items = [Task("a", "k1", ()), Task("b", "k2", ())]
    plain = suite_hash(SuiteConfig(tasks=tuple(tasks)), items)
    assert plain == suite_hash(SuiteConfig(tasks=tuple(tasks[::-1])), items[::-1])
    moved = [tasks[0].model_copy(update={"path": "elsewhere"}), tasks[1]]
    assert plain == suite_hash(SuiteConfig(tasks=tuple(moved)), items)
    heavier = [tasks[0].model_copy(update={"weight": 1.5}), tasks[1]]
    grouped = [tasks[0].model_copy(update={"group": "g"}), tasks[1]]
    others = [suite_hash(SuiteConfig(tasks=tuple(each)), items) for each in (heavier, grouped, tasks[:1])]
    others.append(suite_hash(SuiteConfig(tasks=tuple(tasks)), [items[0], Task("b", "k3", ())]))
    assert len({plain, *others}) == 5


def held_out_file(path: Path, texts: list[str]) -> Path:
    ids = [f"{number:032x}" for number in range(len(texts))]
    table = pa.table({"doc_id": ids, "text": pa.array(texts, pa.large_string())})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_held_out_text_is_a_task_of_bounded_size_whatever_the_order_of_rows(tmp_path, monkeypatch):
    texts = [f"text {number} " + "é" * number for number in range(300)]
    path = held_out_file(tmp_path / "a.parquet", texts)
    config = HeldOutConfig(slice="web", weight=2)
    whole = held_out_task(config, path)
    assert (whole.name, len(whole.items), {item.prompt for item in whole.items}) == ("held_out_web", 300, {""})
    monkeypatch.setattr(suites, "HELD_OUT_BYTES", 1000)
    monkeypatch.setattr(suites, "HELD_OUT_DOCUMENT_BYTES", 101)
    small = held_out_task(config, path)
    assert sum(len(item.continuation.encode()) for item in small.items) in (999, 1000)
    assert max(len(item.continuation.encode()) for item in small.items) <= 101
    for item, full in zip(small.items[:-1], whole.items, strict=False):
        assert item.id == full.id
        assert full.continuation.startswith(item.continuation)
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(300)[::-1]), path)
    assert held_out_task(config, path) == small


def test_no_held_out_text_and_a_damaged_file(tmp_path):
    with pytest.raises(InputError, match="slice 'web' has no held-out text"):
        held_out_task(HeldOutConfig(slice="web"), held_out_file(tmp_path / "a.parquet", []))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="cannot be read"):
        held_out_task(HeldOutConfig(slice="web"), tmp_path / "b.parquet")


def test_prompt_and_continuation_are_tokenised_apart():
    tokenizer = train_tokenizer(["the mill grinds the grain"] * 50, 300)
    items = (Item("a", "the mill", " grinds é"), Item("b", "", "the"), Item("c", "th", "e"))
    task = tokenise_task(Task("t", "k", items), tokenizer)
    assert [item.n_bytes for item in task.items] == [10, 3, 1]
    for item, tokens in zip(items, task.items, strict=True):
        assert tokens.tokens.dtype == np.int32
        assert tokens.tokens[0] == tokenizer.eos
        assert tokenizer.decode(tokens.tokens[1 : tokens.start]) == item.prompt
        assert tokenizer.decode(tokens.tokens[tokens.start :]) == item.continuation
    assert task.items[1].start == 1
    assert (task.name, task.key) == ("t", "k")

"""A change does again exactly what it touches, and a run with nothing to do writes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli_runs import Ran, gristmill, made, running, select, snapshot, started, table, write_config

MEASURED = ("documents", "rejects", "signals/language", "signals/text_stats")


def again(folder: Path, change: str = "", only: str = "", **extra: str) -> tuple[Ran, dict[str, int]]:
    """Run with a `--set` change; return how it went and how many parts it wrote in each group."""
    before = snapshot(folder / "ws")
    switches = [*(["--set", change] if change else []), *(["--only", only] if only else [])]
    ran = gristmill("run", "curate.yaml", *switches, cwd=folder, **extra)
    assert ran.code == 0, ran.err
    return ran, made(before, folder / "ws")


def groups(parts: Mapping[str, int]) -> set[str]:
    return {group.split("/", 1)[1] for group in parts}


def test_nothing_to_do_writes_nothing_and_leaves_prefect_alone(copied: Path, tmp_path: Path) -> None:
    before = snapshot(copied)
    # A Prefect server that cannot be reached, and a cache that would show one of ours.
    ran, parts = again(copied, PREFECT_API_URL="http://127.0.0.1:9/api", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert parts == {}
    assert snapshot(copied) == before
    assert "nothing to do" in ran.err
    assert "Prefect" not in ran.err
    assert not list(tmp_path.glob("cache/gristmill/prefect*"))


def test_a_change_of_select_runs_select_alone(copied: Path) -> None:
    ran, parts = again(copied, "select.rules={words: word_count > 60}")
    assert groups(parts) == {"outcomes", "curated"}
    assert {group.split("/")[0] for group in parts} == {"notes", "web"}
    assert {key for key, (to_do, _) in table(ran.err).items() if to_do} == {("notes", "select"), ("web", "select")}
    words = select(copied / "ws", "SELECT max(word_count) AS n FROM web.outcomes WHERE outcome = 'dropped'")
    assert words[0]["n"] is not None
    assert "Prefect" not in ran.err
    _, parts = again(copied)
    assert groups(parts) <= {"outcomes", "curated"}


def test_a_change_of_bands_runs_dedup_and_select(copied: Path) -> None:
    ran, parts = again(copied, "dedup.num_bands=1", "notes")
    assert groups(parts) == {"signatures", "duplicates", "outcomes", "curated"}
    assert {stage for (_, stage), (to_do, _) in table(ran.err).items() if to_do} == {"dedup", "select"}


def test_a_change_of_verify_keeps_the_signatures(copied: Path) -> None:
    ran, parts = again(copied, "dedup.verify=0.9", "notes")
    assert "signatures" not in groups(parts)
    assert "duplicates" in groups(parts)
    assert "nothing to do" not in ran.err
    assert table(ran.err)["notes", "dedup"] == (1, 1)


def test_without_dedup_every_copy_is_kept(copied: Path, config: dict[str, Any]) -> None:
    write_config(copied / "curate.yaml", {key: value for key, value in config.items() if key != "dedup"})
    _, parts = again(copied)
    assert groups(parts) == {"outcomes", "curated"}
    assert select(copied / "ws", "SELECT DISTINCT duplicate_of FROM outcomes") == [{"duplicate_of": None}]


def test_another_tokenizer_counts_again(copied: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    for name, splitter in (("a", pre_tokenizers.Whitespace()), ("b", pre_tokenizers.WhitespaceSplit())):
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = splitter
        tokenizer.save(str(copied / f"{name}.json"))
    _, parts = again(copied, "annotate.tokenizer=a.json", "manuals")
    assert groups(parts) == {"signals/tokens", "outcomes", "curated"}
    total = "SELECT sum(token_count) AS n FROM manuals.outcomes"
    first = select(copied / "ws", total)
    _, parts = again(copied, "annotate.tokenizer=b.json", "manuals")
    assert "signals/tokens" in groups(parts)
    assert groups(parts) <= {"signals/tokens", "outcomes", "curated"}
    assert select(copied / "ws", total)[0]["n"] < first[0]["n"]


def test_inputs_come_change_and_go(corpus: Path, config: dict[str, Any], tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    crawl.mkdir()
    sources = {"web": {"format": "warc", "inputs": ["crawl/*.warc.gz"]}}
    write_config(tmp_path / "curate.yaml", {**config, "sources": sources})
    for name in ("pages-0.warc.gz", "pages-1.warc.gz"):
        shutil.copy(corpus / "crawl" / name, crawl / name)
    again(tmp_path)

    shutil.copy(corpus / "crawl" / "pages-2.warc.gz", crawl)
    ran, parts = again(tmp_path)
    assert {group: count for group, count in parts.items() if group.split("/", 1)[1] in MEASURED} == {
        f"web/{group}": 1 for group in MEASURED
    }
    assert table(ran.err)["web", "extract"] == (1, 2)
    assert table(ran.err)["web", "annotate"] == (1, 2)

    status = (crawl / "pages-1.warc.gz").stat()
    os.utime(crawl / "pages-1.warc.gz", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))
    ran, parts = again(tmp_path)
    assert parts["web/documents"] == parts["web/rejects"] == 1
    assert table(ran.err)["web", "extract"] == (1, 2)
    # The same bytes came out: what is made from documents is known by their content.
    assert groups(parts) == {"documents", "rejects"}

    (crawl / "pages-0.warc.gz").unlink()
    ran, parts = again(tmp_path)
    assert not groups(parts) & {*MEASURED, "signatures"}
    for view in ("documents", "rejects", "outcomes", "everything", "curated", "duplicates", "signals_language"):
        column = "origin.file" if view in ("documents", "rejects", "everything", "curated") else "doc_id"
        rows = select(tmp_path / "ws", f"SELECT DISTINCT {column} AS x FROM web.{view}")
        if column == "origin.file":
            assert {row["x"] for row in rows} == {"pages-1.warc.gz", "pages-2.warc.gz"}
        else:
            left = {row["x"] for row in select(tmp_path / "ws", "SELECT doc_id AS x FROM web.documents")}
            assert {row["x"] for row in rows} == left


def test_a_second_run_on_a_workspace_refuses_naming_the_first(copied: Path, own_cache: Path) -> None:
    change = ("run", "curate.yaml", "--only", "notes", "--set", "dedup.num_bands=20", "--set", "engine.prefect=always")
    with started(*change, cwd=copied, XDG_CACHE_HOME=str(own_cache)) as first:
        first.wait_for(lambda err: "starting Prefect" in err)
        second = gristmill("run", "curate.yaml", cwd=copied)
        assert first.process.poll() is None
        assert second.code == 2
        assert "gristmill run curate.yaml" in second.err
        assert str(first.process.pid) in second.err
        assert len(second.err.splitlines()) == 1
        # Reading goes on meanwhile.
        assert gristmill("sql", "ws", "SELECT 1", cwd=copied).code == 0
        code, _ = first.end(120)
        assert code == 0, first.err()
        assert running(first.mark) == {}
    assert "nothing to do" in gristmill(*change, cwd=copied).err


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small classifiers, `a` and `b`."""
    folder = tmp_path_factory.mktemp("models")
    words = {"good": "clear careful reasoned explained example", "bad": "buy cheap click casino winner"}
    for kind, text in words.items():
        lines = [f'{{"text": "{text} number {number} {text.split()[number % 5]}"}}' for number in range(120)]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
    for name, seed in (("a", 1), ("b", 2)):
        training = {
            "name": "quality",
            "output": name,
            "seed": seed,
            "positives": [{"path": "good.jsonl"}],
            "negatives": [{"path": "bad.jsonl"}],
            "fasttext": {"epochs": 5, "dimension": 8, "bucket": 1000},
        }
        write_config(folder / f"{name}.yaml", training)
        ran = gristmill("classifier", "train", f"{name}.yaml", cwd=folder)
        assert ran.code == 0, ran.err
    return folder


def test_another_classifier_scores_again(copied: Path, models: Path) -> None:
    use = "classify={{quality: {{model: {}}}}}"
    _, parts = again(copied, use.format(models / "a"), "manuals")
    assert groups(parts) == {"predictions/quality", "scores/quality", "outcomes", "curated"}
    score = "SELECT doc_id, quality_score, quality_probability, quality_rank FROM manuals.outcomes ORDER BY doc_id"
    first = select(copied / "ws", score)
    assert {row["quality_rank"] for row in first} <= set(range(20))
    _, parts = again(copied, use.format(models / "b"), "manuals")
    assert groups(parts) <= {"predictions/quality", "scores/quality", "outcomes", "curated"}
    assert select(copied / "ws", score) != first
    _, parts = again(copied, only="manuals")
    assert groups(parts) <= {"outcomes", "curated"}
    columns = {row["column_name"] for row in select(copied / "ws", "DESCRIBE manuals.outcomes")}
    assert not any(name.startswith("quality") for name in columns)

"""What is expected of a workspace, and whether it is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.config import RunConfig
from flows.launch import expectations
from pipeline.status.config import ExpectConfig, bounds
from pipeline.table.errors import ConfigError, InputError, WorkspaceError
from tests.cli_runs import snapshot, write_config
from tests.local_run import rows, run_all, write_jsonl

DOCUMENTS = [
    *({**row, "url": f"https://big.example/{n}"} for n, row in enumerate(rows(6))),
    *({**row, "url": f"https://user@small.example:80/{n}"} for n, row in enumerate(rows(2, 10))),
    {"text": "too short", "url": "https://big.example/short"},
    {"text": "", "url": "https://big.example/empty"},
]


def a_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a workspace of two sources, whose inputs are written."""
    write_jsonl(folder / "web.jsonl", DOCUMENTS)
    write_jsonl(folder / "notes.jsonl", rows(4, 50))
    return {
        "workspace": str(folder / "ws"),
        "sources": {name: {"format": "jsonl", "inputs": [f"{folder}/{name}.jsonl"]} for name in ("web", "notes")},
        "select": {"rules": {"words": "word_count > 3"}},
        "engine": {"workers": 1},
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A workspace that is up to date, for tests that only read it; its configuration."""
    config = a_config(tmp_path_factory.mktemp("expected"))
    run_all(config)
    return config


def told(config: dict[str, Any], tmp_path: Path, **expect: Any) -> dict[tuple[str, str], tuple[Any, str, list[str]]]:
    """Return what is found, the outcome and the details of each expectation, by source and key."""
    path = write_config(tmp_path / "c.yaml", config | {"expect": expect})
    before = snapshot(Path(config["workspace"]))
    found = expectations(str(path))
    assert snapshot(Path(config["workspace"])) == before
    return {(row["source"], row["expectation"]): (row["found"], row["outcome"], row["details"]) for row in found}


def test_shares_and_counts(config: dict[str, Any], tmp_path: Path) -> None:
    found = told(
        config,
        tmp_path,
        kept_share="at least 0.9",
        kept_documents="between 4 and 8",
        kept_tokens="at least 1_000_000",
        rejects_share="at most 0.05",
        rule_share={"words": "at most 0.1"},
    )
    assert found["web", "kept_share"] == (8 / 9, "missed", [])
    assert found["notes", "kept_share"] == (1.0, "met", [])
    assert found["web", "kept_documents"][:2] == (8, "met")
    assert found["web", "kept_tokens"][1] == "missed"
    assert found["web", "rejects_share"][:2] == (0.1, "missed")
    assert found["web", "rule_share.words"][:2] == (1 / 9, "missed")
    assert found["notes", "rule_share.words"][:2] == (0.0, "met")


def test_hosts_and_languages(config: dict[str, Any], tmp_path: Path) -> None:
    found = told(
        config, tmp_path, no_host_above=0.7, no_host_tokens_above=1, languages={"en": "at least 0", "xx": "at most 0"}
    )
    assert found["web", "no_host_above"] == (0.75, "missed", ["the largest is big.example"])
    assert found["web", "no_host_tokens_above"][1] == "met"
    assert found["web", "languages.xx"][:2] == (0.0, "met")


def test_documents_that_must_be_kept_and_must_not(config: dict[str, Any], tmp_path: Path) -> None:
    lines = ["# ours", "", "https://big.example/0", "https://example.org/51 ", "https://big.example/short"]
    lines += ["https://big.example/empty", "https://nowhere.example/", "https://big.example/0"]
    (tmp_path / "urls.txt").write_text("\ufeff" + "\r\n".join(lines), "utf-8")
    path = str(tmp_path / "urls.txt")
    found = told(config, tmp_path, must_keep=path, must_drop=path)
    assert found["web+notes", "must_keep"] == (
        2.0,
        "missed",
        [
            "https://big.example/short: dropped by words",
            "https://big.example/empty: rejected: empty",
            "https://nowhere.example/: not in the workspace",
        ],
    )
    kept = ["https://big.example/0: kept", "https://example.org/51: kept"]
    kept.append("1 of 5 lines name nothing in the workspace")
    assert found["web+notes", "must_drop"] == (2.0, "missed", kept)


def test_only_ten_are_named(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"{n:032x}" for n in range(12)))
    (_, outcome, details) = told(config, tmp_path, must_keep=str(tmp_path / "ids.txt"))["web+notes", "must_keep"]
    assert (outcome, len(details), details[-1]) == ("missed", 11, "2 more")


def test_changes_against_the_run_before(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    run_all(config)
    expect = {"changed_kept_share": 0.1, "changed_kept_tokens": "at most 0.5"}
    first = told(config, tmp_path, **expect)
    assert first["web", "changed_kept_share"] == (None, "cannot be told", ["no earlier run has counts to compare"])
    changed = config | {"select": {"rules": {"none": "word_count > 1000"}}}
    run_all(changed)
    second = told(changed, tmp_path, **expect)
    assert second["web", "changed_kept_share"][:2] == (8 / 9, "missed")
    assert second["notes", "changed_kept_tokens"][:2] == (1.0, "missed")
    # A run whose record is lost: the workspace is compared with what was recorded last.
    run_all(config)
    max((tmp_path / "ws" / "_runs").iterdir()).unlink()
    assert told(config, tmp_path, **expect)["web", "changed_kept_share"][:2] == (8 / 9, "missed")


def test_tokens_that_were_counted_otherwise_are_not_compared(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    run_all(config)
    run_all(config | {"select": {"rules": {"words": "word_count > 4"}}})
    for record in (tmp_path / "ws" / "_runs").iterdir():
        text = record.read_text()
        assert "estimated_tokens" in text
        record.write_text(
            text.replace('"counted_by":"estimated_tokens"', '"counted_by":"token_count"').replace(
                '"counted_by": "estimated_tokens"', '"counted_by": "token_count"'
            )
        )
    changed = config | {"select": {"rules": {"words": "word_count > 5"}}}
    run_all(changed)
    found = told(changed, tmp_path, changed_kept_tokens="at most 0.5", changed_kept_share="at most 0.5")
    said = ["tokens were counted by token_count, and now by estimated_tokens"]
    assert found["web", "changed_kept_tokens"] == (None, "cannot be told", said)
    assert found["web", "changed_kept_share"][1] == "met"


def test_expectations_change_no_stage_and_a_source_has_its_own(config: dict[str, Any], tmp_path: Path) -> None:
    notes = config["sources"]["notes"] | {"expect": {"kept_share": None, "kept_documents": "at most 1"}}
    config = config | {"sources": config["sources"] | {"notes": notes}}
    found = told(config, tmp_path, kept_share="at least 0.1")
    assert {key: row[1] for key, row in found.items()} == {
        ("web", "kept_share"): "met",
        ("notes", "kept_documents"): "missed",
    }
    with_own = RunConfig.model_validate(config | {"expect": {"kept_share": "at least 0.5"}})
    assert with_own.sources["web"].expect == ExpectConfig(kept_share="at least 0.5")


def test_what_cannot_be_tested_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is expected"):
        told(config, tmp_path)
    with pytest.raises(ConfigError, match=r"wrds: no source has such a rule \(nearest: 'words'\)"):
        told(config, tmp_path, rule_share={"wrds": "at most 0.1"})
    with pytest.raises(InputError, match=r"no\.txt"):
        told(config, tmp_path, must_keep=str(tmp_path / "no.txt"))
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="names no URL"):
        told(config, tmp_path, must_drop=str(tmp_path / "none.txt"))
    with pytest.raises(WorkspaceError, match=r"not up to date .* web select has work to do \(changed rule words\)"):
        told(config | {"select": {"rules": {"words": "word_count > 4"}}}, tmp_path, kept_share="at least 0")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kept_share", 0.3, "does not say which side"),
        ("kept_share", "between 0.5 and 0.3", "greater than the second"),
        ("kept_share", "at least 1.5", "between 0 and 1"),
        ("kept_share", "more than 0.5", "between A and B"),
        ("kept_share", "at least nan", "between A and B"),
        ("kept_tokens", "at least -1", "not negative"),
        ("no_host_above", True, "string"),
        ("kept_shar", "at least 0.5", "nearest: 'kept_share'"),
    ],
)
def test_mistakes(config: dict[str, Any], tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        told(config, tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("between 0.3 and .6", (0.3, 0.6)),
        ("At  least 1e6", (1e6, float("inf"))),
        ("at most 1_000", (float("-inf"), 1000.0)),
    ],
)
def test_ranges(text: str, expected: tuple[float, float]) -> None:
    assert bounds(text) == expected


def test_exit_codes(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def code(*more: str) -> Any:
        path = str(write_config(tmp_path / "c.yaml", config))
        with pytest.raises(SystemExit) as ended:
            cli.main(["test", path, *more])
        return ended.value.code

    assert code("--set", "expect.kept_share=at least 0.5", "--json") == 0
    assert {row["outcome"] for row in json.loads(capsys.readouterr().out)} == {"met"}
    assert code("--set", "expect.kept_share=at least 0.95") == 1
    assert "missed" in capsys.readouterr().out
    assert code("--set", "expect.kept=1") == 2

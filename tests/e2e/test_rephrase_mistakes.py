"""Mistakes around rephrasing: each gives one line that says what, where and what to do, and nothing else fails.

The exit code is 2 for what is found before work begins and 1 for a run that failed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.config import RunConfig
from flows.stages import Run, check_everything, check_rephrase
from pipeline.rephrase.verify import SCHEMA
from pipeline.table.errors import ConfigError
from tests.cli_runs import gristmill, select, snapshot
from tests.e2e.test_mistakes import answer, one_line, says
from tests.faults.llm_server import Server
from tests.local_run import rows, run_all, write_jsonl

NOWHERE = "http://127.0.0.1:9/v1"
KEY = "sk-very-secret-0123456789"


def configured(**rephrase: Any) -> dict[str, Any]:
    """Return a configuration that would run, but for what the test changes and an endpoint that nobody serves."""
    source = {"format": "jsonl", "inputs": ["in.jsonl"]}
    endpoint = {"base_url": NOWHERE, "model": "tiny"}
    routes = [{"where": "word_count > 1", "styles": ["distill"]}]
    client = {"start_timeout_s": 0.2, "backoff_s": 0.001, "backoff_cap_s": 0.01, "max_attempts": 2}
    return {
        "workspace": "ws",
        "sources": {"web": source},
        "dedup": {},
        "select": {"rules": {"words": "word_count > 3"}},
        "engine": {"workers": 1},
        "rephrase": {"source": "web", "endpoint": endpoint, "routes": routes, "client": client, **rephrase},
    }


def write(config: Mapping[str, Any]) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(dict(config)), "utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an input of 30 documents."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", rows(30))
    return tmp_path


@pytest.fixture
def selected(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same with a source that was selected."""
    run_all({**configured(), "rephrase": None})
    capsys.readouterr()
    return folder


WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("unknown style", {"routes": [{"styles": ["wikipedai"]}]}, ("wikipedai", "wikipedia")),
    ("unknown source", {"source": "wep"}, ("rephrase.source", "'wep'", "'web'")),
    ("output taken", {"output": "web"}, ("rephrase", "web", "choose another name")),
    ("output reserved", {"output": "mix"}, ("rephrase.output", "'mix'", "reserved")),
    ("unknown key", {"enpoint": {}}, ("enpoint", "endpoint")),
    ("no endpoint", {"endpoint": []}, ("rephrase.endpoint",)),
    ("no URL", {"endpoint": {"base_url": "127.0.0.1:8000", "model": "m"}}, ("base_url", "http://")),
    ("key in the URL", {"endpoint": {"base_url": f"http://u:{KEY}@h/v1", "model": "m"}}, ("base_url", "api_key_env")),
    ("a key for its name", {"endpoint": {"base_url": NOWHERE, "model": "m", "api_key_env": KEY}}, ("api_key_env",)),
    (
        "key is not set",
        {"endpoint": {"base_url": NOWHERE, "model": "m", "api_key_env": "NO_SUCH_KEY"}},
        ("NO_SUCH_KEY", "is not set", "set it"),
    ),
    (
        "two models",
        {"endpoint": [{"base_url": NOWHERE, "model": "a"}, {"base_url": "http://127.0.0.1:8/v1", "model": "b"}]},
        ("model", "'a'", "'b'"),
    ),
    ("no routes", {"routes": []}, ("rephrase.routes",)),
    ("unknown column", {"routes": [{"where": "word_cuont > 3", "styles": ["qa"]}]}, ("routes.0.where", "word_count")),
    ("no truth value", {"routes": [{"where": "word_count", "styles": ["qa"]}]}, ("routes.0.where", "comparison")),
    ("no SQL", {"routes": [{"where": "word_count >", "styles": ["qa"]}]}, ("routes.0.where",)),
    ("other documents", {"routes": [{"where": "count(*) > 1", "styles": ["qa"]}]}, ("routes.0.where", "count")),
    ("folder of styles", {"prompts": "nowhere"}, ("rephrase.prompts", "nowhere")),
    ("other bands than the parent's", {"dedup": {"num_bands": 3}}, ("rephrase.dedup", "'web'")),
    ("unknown rules", {"select": {"rules": "rephrasd"}}, ("rephrase.select.rules", "rephrased")),
    ("rule on an unknown column", {"select": {"rules": {"x": "faithfull"}}}, ("faithfull", "faithful")),
]


@pytest.mark.parametrize(("values", "phrases"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_found_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], phrases: tuple[str, ...]
) -> None:
    """Also on a workspace that does not exist yet, where nothing is there to be checked against."""
    write(configured(**values))
    line = answer(capsys, ["run", "run.yaml"])
    says(line, *phrases)
    assert KEY not in line
    assert not (folder / "ws" / "web").exists()


def test_output_of_another_sources_name(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(output="notes")
    config["sources"]["notes"] = {**config["sources"]["web"], "inputs": ["in.jsonl"]}
    write(config)
    says(answer(capsys, ["run", "run.yaml"]), "rephrase.output", "'notes'", "choose another name")


@pytest.mark.parametrize("command", ["run", "rephrase"])
def test_remote_workspace(capsys: pytest.CaptureFixture[str], command: str) -> None:
    write({**configured(), "workspace": f"memory://{uuid.uuid4()}"})
    says(answer(capsys, [command, "run.yaml"]), "memory://", "local")


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        (["--sample", "0"], ("--sample 0", "between 1 and")),
        (["--sample", "many"], ("--sample", "many")),
        (["--sample", "-1"], ("--sample",)),
        (["--set", "rephrase.samples=0"], ("rephrase.samples",)),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], options: list[str], phrases: tuple[str, ...]) -> None:
    write(configured())
    says(answer(capsys, ["rephrase", "run.yaml", *options]), *phrases)


def test_a_configuration_without_rephrasing(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured()
    del config["rephrase"]
    write(config)
    says(answer(capsys, ["rephrase", "run.yaml"]), "run.yaml", "'rephrase'", "endpoint")


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--sample", "2"]])
def test_rephrase_before_the_source_was_selected(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    write(configured())
    says(answer(capsys, ["rephrase", "run.yaml", *options]), "gristmill run")


@pytest.mark.parametrize("options", [[], ["--sample", "2"]])
def test_unknown_column_on_a_selected_source(
    selected: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    write(configured(routes=[{"where": "word_cuont > 3", "styles": ["qa"]}]))
    says(answer(capsys, ["rephrase", "run.yaml", *options]), "rephrase.routes.0.where", "'word_cuont'", "word_count")


def test_a_route_may_read_what_this_run_will_measure_first(selected: Path) -> None:
    """The source was selected without token counts; the run that adds them may route by them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save("tokenizer.json")
    config = {
        **configured(routes=[{"where": "token_count > 1", "styles": ["distill"]}]),
        "annotate": {"tokenizer": "tokenizer.json"},
    }
    checked = RunConfig.model_validate(config)
    check_everything(Run.of(checked), ["web"], "rephrase")
    with pytest.raises(ConfigError, match="token_count"):
        check_rephrase(Run.of(checked))  # the stage alone


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--sample", "2"]])
def test_no_endpoint_is_reachable(selected: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    write(configured())
    before = {name: seen for name, seen in snapshot(selected / "ws").items() if name.startswith("web/")}
    says(answer(capsys, ["rephrase", "run.yaml", *options]), "no endpoint is reachable", NOWHERE, "start the server")
    assert {name: seen for name, seen in snapshot(selected / "ws").items() if name.startswith("web/")} == before


def test_a_dry_run_needs_neither_endpoint_nor_key(selected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(configured(endpoint={"base_url": NOWHERE, "model": "m", "api_key_env": "NO_SUCH_KEY"}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["rephrase", "run.yaml", "--dry-run"])
    assert ended.value.code == 0
    assert "requests                     30\n" in capsys.readouterr().out


def test_a_run_without_an_endpoint_does_all_the_rest(folder: Path) -> None:
    write(configured())
    ran = gristmill("run", "run.yaml", cwd=folder)
    assert ran.code == 1, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    complaint = [line for line in ran.err.splitlines() if "reachable" in line]
    assert complaint == [ran.err.splitlines()[-1]]
    says(complaint[0], "gristmill: ", "no endpoint is reachable", NOWHERE, "start the server")
    assert select(folder / "ws", "SELECT count(*) AS n FROM web.curated") == [{"n": 30}]
    assert not (folder / "ws" / "web_rephrased").exists()


def test_a_key_that_is_not_taken(
    selected: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_API_KEY", KEY)
    with Server(key="another") as server:
        write(configured(endpoint={"base_url": server.url, "model": "tiny", "api_key_env": "LLM_API_KEY"}))
        line = answer(capsys, ["rephrase", "run.yaml"])
    says(line, "401", "api_key_env")
    assert KEY not in line
    for path in (selected / "ws").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_key_is_in_nothing_that_a_run_leaves(selected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", KEY)
    with Server(key=KEY) as server:
        run_all(
            configured(endpoint={"base_url": server.url, "model": "tiny", "api_key_env": "LLM_API_KEY"}), "rephrase"
        )
    assert select(selected / "ws", "SELECT count(*) AS n FROM web_rephrased.documents") == [{"n": 30}]
    for path in (selected / "ws").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_model_that_the_server_does_not_have(selected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(model="another") as server:
        write(configured(endpoint={"base_url": server.url, "model": "tiny"}))
        says(answer(capsys, ["rephrase", "run.yaml"]), "404", "'tiny'", "model")


def test_a_server_that_always_fails(selected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(faults=1.0, kinds="500") as server:
        write(configured(endpoint={"base_url": server.url, "model": "tiny"}))
        says(answer(capsys, ["rephrase", "run.yaml"], code=1), "requests all failed", "500", "none was stored")


# gristmill verify -----------------------------------------------------------------------------------------------------

PAIRS = [
    {"id": "kept", "source": "The bridge was built in 1931.", "rephrased": "In 1931 the bridge was built."},
    {"id": 7, "source": "The bridge was built in 1931.", "rephrased": "The bridge was built in 1932."},
    {"id": "empty", "source": "The bridge was built in 1931.", "rephrased": ""},
]


def verified(capsys: pytest.CaptureFixture[str], text: str) -> tuple[list[dict[str, Any]], str, object]:
    """Run `gristmill verify` on a file; return its rows, its complaint and the exit code."""
    Path("pairs.jsonl").write_text(text, "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "pairs.jsonl"])
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err, ended.value.code


def test_verify_prints_every_verdict_of_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps(pair) for pair in PAIRS]
    found, err, code = verified(capsys, "\n".join([lines[0], "", *lines[1:]]) + "\n")
    assert (err, code) == ("", 0)
    assert [row["id"] for row in found] == ["kept", 7, "empty"]
    assert [row["faithful"] for row in found] == [True, False, False]
    for row in found:
        assert list(row) == ["id", *SCHEMA.names]
    assert found[1]["unsupported_dates"] + found[1]["unsupported_numbers"] >= 1


def test_verify_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, "") == ([], "", 0)


@pytest.mark.parametrize(
    ("line", "phrases"),
    [
        ("{no JSON", ("pairs.jsonl:2", "JSON")),
        ("[]", ("pairs.jsonl:2", "list")),
        ('{"id": 1, "source": "a"}', ("pairs.jsonl:2", "rephrased", "missing")),
        ('{"id": 1, "source": 3, "rephrased": "b"}', ("pairs.jsonl:2", "source", "text")),
        ('{"source": "a", "rephrased": "b"}', ("pairs.jsonl:2", "id")),
        ("[" * 100_000, ("pairs.jsonl:2",)),
    ],
)
def test_verify_of_a_bad_line(capsys: pytest.CaptureFixture[str], line: str, phrases: tuple[str, ...]) -> None:
    """What stands before it is judged; the complaint names the line."""
    found, err, code = verified(capsys, f"{json.dumps(PAIRS[0])}\n{line}\n{json.dumps(PAIRS[1])}\n")
    assert [row["id"] for row in found] == ["kept"]
    says(one_line("", err, code, 2), *phrases)


def test_verify_of_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    says(answer(capsys, ["verify", "nowhere.jsonl"]), "nowhere.jsonl", "JSONL")

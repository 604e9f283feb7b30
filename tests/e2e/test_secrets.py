"""Secrets of every kind are planted in a run; nothing that it leaves or says holds one, raw or encoded."""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from flows.cli import main
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.cli_runs import environment, gristmill, write_config
from tests.local_run import rows, run_all

SIGNATURE, TOKEN, CREDENTIAL, PASSWORD = "5igNatureX0f1a7", "t0kenOfSession+9/b", "AKIA5ECRETID42", "hunter2hunter2"
SECRETS = (SIGNATURE, TOKEN, CREDENTIAL, PASSWORD)


class _Bucket(BaseHTTPRequestHandler):
    """Gives a corpus to whoever has a signature; sends an old one elsewhere first; repeats the address of others."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        signature = query.get("X-Amz-Signature", [""])[0]
        if "old" in self.path:
            self.send_response(307)
            self.send_header("Location", self.path.replace("old", "notes"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = 200 if signature.startswith(SIGNATURE) else 403
        body = "".join(json.dumps(row) + "\n" for row in rows(20)) if status == 200 else f"no: {self.path}"
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def bucket() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def signed(bucket: str, name: str = "notes.jsonl", more: str = "") -> str:
    credential = f"{CREDENTIAL}/20260101/us-east-1/s3/aws4_request"
    return (
        f"{bucket}/{name}?X-Amz-Date=20260101T0000{more}Z&X-Amz-Credential={quote(credential, safe='')}"
        f"&X-Amz-Security-Token={quote(TOKEN, safe='')}&X-Amz-Signature={SIGNATURE}{more}"
    )


def configuration(*inputs: str) -> dict[str, Any]:
    return {
        "workspace": "ws",
        "sources": {"notes": {"format": "jsonl", "inputs": list(inputs)}},
        "select": {"rules": {"any": "text_length > 0"}, "keep": "url asc"},
        "engine": {"workers": 1, "prefect": "always"},
    }


def forms(secret: str) -> Iterator[bytes]:
    """Yield a secret as it is, percent-encoded, in JSON, and what every Base64 of a text around it has in common."""
    yield from (secret.encode(), quote(secret, safe="").encode(), json.dumps(secret)[1:-1].replace("/", "\\/").encode())
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        whole = b"x" * before + secret.encode()
        yield base64.b64encode(whole[: len(whole) // 3 * 3])[skipped:]


def leaks(*texts: bytes) -> list[bytes]:
    return [form for secret in SECRETS for form in forms(secret) if any(form in text for text in texts)]


def left_behind(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_no_secret(bucket: str, tmp_path: Path, own_cache: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    extra = {"XDG_CACHE_HOME": str(own_cache), "HOME": str(tmp_path / "home"), "PREFECT_LOGGING_TO_API_ENABLED": "true"}
    write_config(folder / "good.yaml", configuration(signed(bucket), signed(bucket, "old.jsonl")))
    write_config(folder / "bad.yaml", configuration(signed(bucket).replace("Signature=", f"Signature={PASSWORD}")))
    write_config(folder / "user.yaml", configuration(bucket.replace("//", f"//me:{PASSWORD}@") + "/a.jsonl"))
    (folder / "broken.yaml").write_text(f"workspace: ws\nsources: {{a: {{inputs: [https://me:{PASSWORD}@h/x: ]]\n")
    ran = [gristmill("run", "good.yaml", cwd=folder, **extra)]
    assert ran[0].code == 0, ran[0].err
    assert "starting Prefect" in ran[0].err
    ran += [gristmill("run", f"{name}.yaml", cwd=folder, **extra) for name in ("bad", "user", "broken")]
    assert [each.code for each in ran[1:]] == [2, 2, 2]
    assert "no user and no password" in ran[2].err
    ran.append(gristmill("run", "good.yaml", "--dry-run", "--set", "dedup.num_bands=15", cwd=folder, **extra))
    ran.append(gristmill("funnel", "ws", "--json", cwd=folder, **extra))
    ran.append(gristmill("explain", "ws", "https://example.org/1", "--json", cwd=folder, **extra))
    said = [text.encode() for each in ran for text in (each.out, each.err)]
    assert leaks(*said) == []
    found = left_behind(folder / "ws", own_cache, tmp_path / "home")
    assert any(b"X-Amz-Signature=***" in text for name, text in found.items() if name.endswith(".json"))
    assert {name: leaks(text) for name, text in found.items() if leaks(text)} == {}
    (home,) = (own_cache / "gristmill").glob("prefect-*")
    with sqlite3.connect(home / "prefect.db") as database:
        parameters = [row[0] for row in database.execute("SELECT parameters FROM flow_run")]
    assert any("X-Amz-Signature=***" in text for text in parameters)
    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in home.iterdir() if path.is_file()} <= {0o600}


def test_another_signature_extracts_nothing_again(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *_ = run_all(configuration(signed(bucket)), "extract")
    with connect(Storage.at("ws")) as session:
        ids = session.execute("SELECT doc_id, origin FROM notes.documents ORDER BY doc_id")
    again, *_ = run_all(configuration(signed(bucket, more="22")), "extract")
    assert (first.shards, again.shards, again.shards_done_before) == (1, 0, 1)
    with connect(Storage.at("ws")) as session:
        assert session.execute("SELECT doc_id, origin FROM notes.documents ORDER BY doc_id") == ids


@pytest.mark.parametrize("command", [["sql"], ["funnel"], ["gc"], ["explain"]])
def test_a_workspace_s_url_is_not_repeated(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argument = {"sql": ["SELECT 1"], "explain": ["x"]}.get(command[0], [])
    for url in (f"s3://me:{PASSWORD}@bucket/ws", f"s3://bucket/ws?X-Amz-Signature={PASSWORD}"):
        with pytest.raises(SystemExit) as ended:
            main([*command, url, *argument])
        printed = capsys.readouterr()
        assert ended.value.code == 2
        assert printed.err.count("\n") == 1
        assert PASSWORD not in printed.err + printed.out


def test_a_crash_prints_no_secret() -> None:
    code = f"from flows.cli import _crash; import sys; sys.excepthook = _crash; raise RuntimeError('https://u:{PASSWORD}@h')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=False)
    assert b"RuntimeError: https://***@h" in done.stderr
    assert leaks(done.stderr.replace(code.encode(), b"")) == []

"""Secrets are taken out of addresses and texts, and nothing else is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.config import RunConfig
from pipeline.table.errors import GristmillError, WorkspaceError, check_address, redact
from pipeline.table.storage import Storage

SIGNED = "https://h/a.gz?X-Amz-Credential=AKIA/2/us/s3&X-Amz-Date=2&part=1&X-Amz-Signature=abc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/a", "https://***@host/a"),
        ("https://ghp_token@host/a", "https://***@host/a"),
        ("https://u:p/a?s#s@host/x", "https://***@host/x"),
        ("s3://AKIA:secret@bucket/k", "s3://***@bucket/k"),
        ("sftp://me:pw@h/x and sftp://me@h/x", "sftp://***@h/x and sftp://me@h/x"),
        ("zip://a.csv::https://u:p@h/z", "zip://a.csv::https://***@h/z"),
        ("abfs://c@account.dfs.core.windows.net/p", None),
        ("github://org:repo@main/x", None),
        ("https://h:8080/a@b and http://[::1]:80/x@y", None),
        (SIGNED, "https://h/a.gz?X-Amz-Credential=***&X-Amz-Date=***&part=1&X-Amz-Signature=***"),
        ("https://h/a?sv=1&se=2&sig=a%2Bb%3D&x=1", "https://h/a?sv=***&se=***&sig=***&x=1"),
        ("https://h/a?st=1&expires=2", None),
        ("https://h/a?Expires=12&Signature=abc&Key-Pair-Id=K", "https://h/a?Expires=***&Signature=***&Key-Pair-Id=***"),
        ("https://h/a?accessToken=a&apiKey=b&api-key=c&key=d", "https://h/a?accessToken=***&apiKey=***&api-key=***&key=***"),
        ("https://h/a?tokenizer=gpt2&token_count=5&monkey=1", None),
        ("https://h/a#access_token=abc", "https://h/a#access_token=***"),
        ("403, message='Forbidden', url='https://h/x?a=b&token=c;d'", "403, message='Forbidden', url='https://h/x?a=b&token=***'"),
        ("https://h/r?next=https%3A%2F%2Fu%3Ap%40g%2Fa%3Fsig%3Dabc%26x%3D1", "https://h/r?next=https%3A%2F%2F***%40g%2Fa%3Fsig%3D***%26x%3D1"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("rule token_count = 5, key=3, /data/a?key=3", "rule token_count = 5, key=3, /data/a?key=***"),
    ],
)  # fmt: skip
def test_what_is_taken_out(text: str, expected: str | None) -> None:
    assert redact(text) == (expected or text)
    assert str(GristmillError(text)) == redact(text)


@given(st.text(alphabet="ab/:@?&=#;% .'\"tokensigkey~3AF2D", max_size=80))
def test_once_is_enough(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", ["a://b:x", "?a=b", "?", "%3A%2F%2F", "?a%", "&token=a", "?sig=a b", ":", "&token=."])
def test_time_grows_with_the_text(text: str) -> None:
    started = time.process_time()
    redact(text * (300_000 // len(text)) + "=")
    assert time.process_time() - started < 3


def test_a_user_in_a_url_is_refused_and_not_shown() -> None:
    assert check_address(SIGNED) == SIGNED
    for url in ("https://user:hunter2@h/a", "https://hunter2@h/a", "s3://A:hunter2@b/k"):
        with pytest.raises(ValueError, match="no user and no password") as refused:
            check_address(url)
        assert "hunter2" not in str(refused.value)
        with pytest.raises(WorkspaceError) as storage:
            Storage.at(url)
        assert "hunter2" not in str(storage.value)
        with pytest.raises(ValidationError):
            RunConfig.model_validate({"workspace": "ws", "sources": {"a": {"inputs": [url]}}})
    with pytest.raises(WorkspaceError, match="no signature"):
        Storage.at("s3://bucket/ws?token=hunter2")


def test_a_configuration_is_written_down_without_secrets_and_used_with_them() -> None:
    config = RunConfig.model_validate({"workspace": "ws", "sources": {"a": {"inputs": [SIGNED, "/data/a?key=1.gz"]}}})
    assert config.sources["a"].inputs == (SIGNED, "/data/a?key=1.gz")
    assert "abc" not in config.model_dump_json()
    assert config.model_dump()["sources"]["a"]["inputs"] == (redact(SIGNED), "/data/a?key=1.gz")

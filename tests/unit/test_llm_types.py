"""Requests, their keys, endpoints and keys of APIs."""

import json

import pytest
from pydantic import ValidationError

from pipeline.llm.config import BudgetConfig, EndpointConfig, check_endpoints
from pipeline.llm.types import Parameters, make_request
from pipeline.table.config import validate
from pipeline.table.errors import ConfigError, UsageError

CHAT = EndpointConfig(base_url="http://127.0.0.1:8000/v1", model="tiny")
TEXT = EndpointConfig(base_url="http://127.0.0.1:8000/v1", model="tiny", kind="completions")
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüße, 世界"}]


def test_a_request_sends_what_was_asked_and_nothing_that_was_not():
    request = make_request(CHAT, MESSAGES, Parameters(max_tokens=9, temperature=0, extra={"top_k": 3}), order="a")
    assert json.loads(request.body) == {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": 9,
        "temperature": 0,
        "top_k": 3,
        "stream": False,
    }
    assert request.prompt_bytes == len("Be kind.Grüße, 世界".encode())
    assert request.reserved_tokens >= request.prompt_bytes + 9 > request.estimated_prompt_tokens
    assert json.loads(make_request(TEXT, "Once", Parameters(max_tokens=9, stop=("\n",))).body)["stop"] == ["\n"]


def test_the_key_depends_on_everything_that_decides_the_answer_and_on_nothing_else():
    same = Parameters(max_tokens=9, temperature=0.5, seed=1)
    first = make_request(CHAT, MESSAGES, same, prompt_hash="p", order="1")
    moved = CHAT.model_copy(update={"base_url": "http://elsewhere/v1", "max_concurrency": 2, "price_input": 3.0})
    assert make_request(moved, [dict(m) for m in MESSAGES], same, prompt_hash="p", order="2").key == first.key
    others = [
        make_request(CHAT.model_copy(update={"model": "big"}), MESSAGES, same, prompt_hash="p"),
        make_request(CHAT.model_copy(update={"revision": "v2"}), MESSAGES, same, prompt_hash="p"),
        make_request(CHAT, MESSAGES[1:], same, prompt_hash="p"),
        make_request(CHAT, MESSAGES, same, prompt_hash="q"),
        *(
            make_request(CHAT, MESSAGES, same.model_copy(update=change), prompt_hash="p")
            for change in ({"seed": 2}, {"temperature": 0.6}, {"max_tokens": 8}, {"top_p": 0.9}, {"stop": ("x",)})
        ),
    ]
    assert len({first.key, *(other.key for other in others)}) == len(others) + 1
    assert len(first.key) == 16


def test_a_text_that_is_no_text_is_sent_as_one():
    assert b"a?b" in make_request(TEXT, "a\ud800b", Parameters(max_tokens=1)).body


def test_a_prompt_that_does_not_fit_the_endpoint_is_refused():
    with pytest.raises(UsageError, match="kind chat"):
        make_request(CHAT, "text", Parameters(max_tokens=1))
    with pytest.raises(UsageError, match="kind completions"):
        make_request(TEXT, MESSAGES, Parameters(max_tokens=1))
    with pytest.raises(UsageError, match="extra sets model, stream"):
        make_request(CHAT, MESSAGES, Parameters(max_tokens=1, extra={"stream": True, "model": "x", "top_k": 1}))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host/v1",
        "http://",
        "http://user:hunter2@host/v1",
        "https://hunter2@host/v1",
        "http://host/v1?api_key=hunter2",
        "http://host/v1#hunter2",
        "http://host:99999/v1",
        "http://ho st/v1",
        "http://[::1/v1",
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        validate(EndpointConfig, {"base_url": url, "model": "m"}, "curate.yaml")
    assert "\n" not in str(caught.value)
    assert "base_url" in str(caught.value)


@pytest.mark.parametrize("name", ["sk-123", "", "A B", "1A"])
def test_a_key_in_place_of_its_variable_is_refused(name):
    with pytest.raises(ValidationError):
        EndpointConfig(base_url="http://host/v1", model="m", api_key_env=name)


def test_the_key_comes_from_the_environment(monkeypatch):
    endpoint = EndpointConfig(base_url="http://host/v1/", model="m", api_key_env="GM_TEST_KEY")
    assert endpoint.base_url == "http://host/v1"
    monkeypatch.delenv("GM_TEST_KEY", raising=False)
    with pytest.raises(UsageError, match="GM_TEST_KEY is not set"):
        endpoint.api_key()
    monkeypatch.setenv("GM_TEST_KEY", "sk-1\r\nX-Evil: 1")
    with pytest.raises(UsageError) as caught:
        endpoint.api_key()
    assert "sk-1" not in str(caught.value)
    monkeypatch.setenv("GM_TEST_KEY", " sk-secret\n")
    assert endpoint.api_key() == "sk-secret"
    assert "sk-secret" not in repr(endpoint) + endpoint.model_dump_json()
    assert CHAT.api_key() is None


def test_endpoints_must_serve_the_same():
    check_endpoints((CHAT, CHAT.model_copy(update={"base_url": "http://other/v1"})))
    with pytest.raises(ConfigError, match="no endpoint"):
        check_endpoints(())
    with pytest.raises(ConfigError, match="model 'tiny' is not 'big'"):
        check_endpoints((CHAT, EndpointConfig(base_url="http://other/v1", model="big")))
    with pytest.raises(ConfigError, match="twice"):
        check_endpoints((CHAT, CHAT))
    with pytest.raises(ValidationError):
        BudgetConfig(requests=-1)


def test_money_needs_both_prices():
    priced = CHAT.model_copy(update={"price_input": 0.5, "price_output": 2.0})
    assert priced.money(2_000_000, 1_000_000) == 3.0
    assert CHAT.model_copy(update={"price_input": 0.5}).money(1, 1) is None


def test_an_endpoint_says_what_its_server_takes():
    odd = CHAT.model_copy(update={"omit": ("temperature", "top_k"), "max_tokens_as": "max_completion_tokens"})
    given = Parameters(max_tokens=9, temperature=0.5, top_p=0.9, seed=1, extra={"top_k": 5, "min_p": 0.1})
    sent = json.loads(make_request(odd, MESSAGES, given).body)
    assert sent.keys() - {"model", "messages", "stream"} == {"max_completion_tokens", "top_p", "seed", "min_p"}
    assert sent["max_completion_tokens"] == 9
    assert make_request(odd, MESSAGES, given).key != make_request(CHAT, MESSAGES, given).key
    with pytest.raises(UsageError, match="max_tokens_as"):
        make_request(CHAT, MESSAGES, Parameters(max_tokens=9, extra={"max_completion_tokens": 9}))


@pytest.mark.parametrize("name", ["messages", "max_tokens", "not a name", ""])
def test_what_cannot_be_left_out_is_refused(name):
    with pytest.raises(ValidationError):
        EndpointConfig(base_url="http://a/v1", model="m", omit=(name,))

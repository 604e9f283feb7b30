"""From bytes to answers, classes of errors, waiting times, the limit of concurrency."""

import base64
import json
import random
from urllib.parse import quote

import pytest

from pipeline.llm import policies
from pipeline.llm.answers import BadAnswer, check_echo, is_same_model, read_answer, request_id
from pipeline.llm.config import EndpointConfig
from pipeline.llm.limiter import Limiter
from pipeline.llm.types import REASONS, Parameters, ending, make_request

ENDPOINT = EndpointConfig(base_url="http://host/v1", model="org/tiny")
REQUEST = make_request(ENDPOINT, [{"role": "user", "content": "word " * 20}], Parameters(max_tokens=50))
OTHER = make_request(ENDPOINT, [{"role": "user", "content": "other"}], Parameters(max_tokens=50))
NAMES = frozenset({"org/tiny"})
GOOD = {
    "id": "cmpl-7",
    "model": "org/tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Grüße"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 25, "completion_tokens": 3, "total_tokens": 28},
}


def changed(**fields):
    return json.dumps({**GOOD, **fields}).encode()


def choice(**fields):
    return [{"message": {"content": "x"}, "finish_reason": "stop", **fields}]


def test_a_good_answer_is_read():
    answer = read_answer(json.dumps(GOOD).encode(), REQUEST, ENDPOINT.base_url, NAMES)
    assert (answer.key, answer.text, answer.finish_reason) == (REQUEST.key, "Grüße", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.model) == (25, 3, "org/tiny")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"usage": None}, (None, None)),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, (None, None)),
        ({"usage": {"prompt_tokens": 5}}, (5, None)),
    ],
)
def test_usage_may_be_absent(fields, expected):
    answer = read_answer(changed(**fields), REQUEST, "e", NAMES)
    assert (answer.prompt_tokens, answer.completion_tokens) == expected


def test_texts_of_completions_and_empty_contents_are_read():
    assert read_answer(changed(choices=[{"text": "a", "finish_reason": "length"}]), REQUEST, "e", NAMES).text == "a"
    assert read_answer(changed(choices=choice(message={"content": None})), REQUEST, "e", NAMES).text == ""
    assert read_answer(changed(model=None), REQUEST, "e", NAMES).model is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "broken_answer"),
        (b"<html>", "broken_answer"),
        (b"\xff\xfe", "broken_answer"),
        (b"[" * 100_000, "broken_answer"),
        (b"1" * 10_000, "broken_answer"),
        (b"null", "broken_answer"),
        (json.dumps(GOOD).encode()[:-30], "broken_answer"),
        (changed(choices=[]), "broken_answer"),
        (changed(choices=GOOD["choices"] * 2), "broken_answer"),
        (changed(choices=["x"]), "broken_answer"),
        (changed(choices=choice(message={})), "broken_answer"),
        (changed(choices=choice(message="x")), "broken_answer"),
        (changed(choices=choice(message={"content": ["x"]})), "broken_answer"),
        (changed(choices=choice(message={"content": "\ud800"})), "broken_answer"),
        (changed(choices=choice(finish_reason=None)), "broken_answer"),
        (changed(choices=choice(finish_reason="x" * 100)), "broken_answer"),
        (changed(model=7), "broken_answer"),
        (changed(model="another"), "wrong_model"),
        (changed(model="org/tiny-large"), "wrong_model"),
        (changed(id=f"chatcmpl-{request_id(OTHER)}"), "wrong_request"),
        (changed(metadata={"request_id": request_id(OTHER)}), "wrong_request"),
        (changed(usage=[]), "broken_answer"),
        (changed(usage={"prompt_tokens": -1, "completion_tokens": 1}), "impossible_usage"),
        (changed(usage={"prompt_tokens": True, "completion_tokens": 1}), "impossible_usage"),
        (changed(usage={"prompt_tokens": 1.5, "completion_tokens": 1}), "impossible_usage"),
        (changed(usage={"prompt_tokens": 10**6, "completion_tokens": 1}), "impossible_usage"),
        (changed(usage={"prompt_tokens": 9, "completion_tokens": 51 + 64}), "impossible_usage"),
    ],
)
def test_what_cannot_be_used_is_named(body, reason):
    with pytest.raises(BadAnswer) as caught:
        read_answer(body, REQUEST, "e", NAMES)
    assert caught.value.reason == reason
    assert reason in REASONS
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    ("answered", "asked", "same"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("tiny", "org/tiny", True),
        ("/models/org/tiny", "org/tiny", True),
        ("org/tiny@main", "org/tiny", True),
        ("tiny:latest", "tiny", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("llama-3-70b", "llama-3", False),
        ("", "tiny", False),
        ("tin", "tiny", False),
    ],
)
def test_servers_name_a_model_in_their_own_ways(answered, asked, same):
    assert is_same_model(answered, asked) is same


def test_an_echoed_id_counts_only_where_it_is_one_of_ours():
    for harmless in (None, "", "req-123", "gristmill-", request_id(REQUEST), f"chatcmpl-{request_id(REQUEST)}"):
        check_echo(harmless, REQUEST)
    with pytest.raises(BadAnswer):
        check_echo(request_id(OTHER), REQUEST)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        *((code, "server_error") for code in (408, 409, 425, 500, 502, 504, 599, 204)),
        *((code, "busy") for code in (503, 529)),
        *((code, "refused") for code in (400, 413, 415, 422, 451)),
        *((code, "denied") for code in (401, 402, 403)),
        *((code, "unknown") for code in (301, 307, 404, 405)),
        (429, "rate_limited"),
    ],
)
def test_every_status_has_a_policy(status, name):
    assert policies.of_status(status, b"").name == name


def test_a_used_up_quota_is_no_rate_limit():
    assert policies.of_status(429, b'{"error": {"code": "insufficient_quota"}}').name == "denied"


def test_messages_are_one_short_line_without_the_key():
    body = json.dumps({"error": {"message": "bad key sk-secret\n\x1b[31m" + "x" * 999}}).encode()
    message = policies.message_of(401, body, "sk-secret")
    assert message.startswith("401 bad key *** [31m")
    assert len(message) == 300
    assert policies.message_of(500, b"[" * 5000, None).startswith("500 [[[")
    assert policies.message_of(500, b"", None) == "500"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("100000", 60),
        ("99999999999999999999", 0),
        ("-3", 0),
        ("soon", 0),
        ("nan", 0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:30 GMT", 60),
        ("Wed, 99 Oct 2015 07:28:30 GMT", 0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date_is_capped(value, expected):
    assert policies.retry_after_s(value, 60.0, now=1445412480.0) == expected


def test_back_off_is_full_jitter():
    random.seed(1)
    waits = [policies.backoff_s(3, 0.5, 30.0) for _ in range(2000)]
    assert 0 <= min(waits) < 0.1
    assert 3.9 < max(waits) <= 4.0
    assert max(policies.backoff_s(10**6, 0.5, 30.0) for _ in range(100)) <= 30.0


# The limit ------------------------------------------------------------------------------------------------------------


def served(limiter, seconds, slots, service_s, now=0.0):
    """Run calls against a simulated server of `slots` and `service_s`; return answers a second and the time."""
    busy, waiting, answers, began = [], [], 0, now
    while now < began + seconds:
        while limiter.free(now) >= 1:
            limiter.sent()
            waiting.append(now)
        while waiting and len(busy) < slots:
            busy.append((now + service_s, waiting.pop(0)))
        busy.sort()
        now, sent_at = busy.pop(0)
        limiter.in_flight -= 1
        limiter.answered(sent_at, now)
        answers += 1
    limiter.in_flight = 0
    return answers / (now - began), now


@pytest.mark.parametrize(("slots", "service_s"), [(1, 0.1), (4, 0.02), (30, 1.0), (100, 0.2)])
def test_the_limit_finds_a_servers_slots_and_stays_near(slots, service_s):
    limiter = Limiter(1000, 0.0)
    _, now = served(limiter, 200 * service_s, slots, service_s)
    rate, _ = served(limiter, 200 * service_s, slots, service_s, now)
    assert rate > 0.95 * slots / service_s
    assert limiter.limit < max(60, 8 * slots)


def test_errors_shrink_the_limit_once_a_round():
    limiter = Limiter(100, 0.0)
    limiter.limit = 50.0
    limiter.failed(policies.RATE_LIMITED, sent_at=1.0, now=2.0)
    limiter.failed(policies.RATE_LIMITED, sent_at=1.5, now=2.1)  # sent before the limit shrank
    assert limiter.limit == 35.0
    limiter.failed(policies.TIMEOUT, sent_at=2.5, now=3.0)
    assert limiter.limit == 24.5
    limiter.failed(policies.bad_answer("broken_answer"), sent_at=3.5, now=4.0)
    assert limiter.limit == 24.5
    for moment in range(5, 99):
        limiter.failed(policies.CONNECTION, sent_at=moment, now=moment)
    assert limiter.limit == 1.0


def test_an_endpoint_that_is_gone_is_left_out_and_probed_with_one_call():
    limiter = Limiter(100, 0.0)
    for moment in range(3):
        assert not limiter.is_down
        limiter.failed(policies.UNREACHABLE, moment, moment)
    assert limiter.is_down
    assert limiter.free(2.1) == 0
    assert limiter.free(3.0) == 1
    limiter.sent()
    assert limiter.free(3.0) == 0
    limiter.in_flight -= 1
    limiter.failed(policies.UNREACHABLE, 3.0, 3.0)
    assert limiter.free(3.3) == 0  # the pause is longer now
    limiter.answered(3.5, 4.0)
    assert not limiter.is_down
    assert limiter.free(4.0) >= 1


def test_retry_after_closes_an_endpoint_that_only_refuses():
    limiter = Limiter(100, 0.0)
    limiter.failed(policies.RATE_LIMITED, 0.0, 0.0, pause_s=9.0)
    assert limiter.free(0.1) >= 1
    limiter.failed(policies.RATE_LIMITED, 0.0, 0.0, pause_s=9.0)
    limiter.failed(policies.RATE_LIMITED, 0.0, 0.0, pause_s=9.0)
    assert limiter.free(8.9) == 0
    assert limiter.free(9.1) >= 1


def test_a_server_that_restarts_is_soon_asked_as_much_as_before():
    limiter = Limiter(1000, 0.0)
    _, now = served(limiter, 20.0, 64, 0.2)
    before = limiter.limit
    for step in range(100):
        limiter.failed(policies.UNREACHABLE, now + step, now + step)
    assert limiter.limit == 1.0
    _, now = served(limiter, 16.0, 64, 0.2, now + 120)
    assert limiter.limit > 0.7 * before > 30


def test_a_server_that_bears_less_after_a_restart_is_not_pressed():
    limiter = Limiter(1000, 0.0)
    limiter.limit = 200.0
    limiter.answered(0.0, 1.0)
    for moment in range(2, 40):
        limiter.failed(policies.UNREACHABLE, moment, moment)
    limiter.answered(40.0, 41.0)
    limiter.failed(policies.TIMEOUT, 42.0, 43.0)
    limiter._was_full = True
    before = limiter.limit
    limiter.answered(44.0, 45.0)
    assert limiter.limit == before + 1 / before, "by one a round"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((name, "complete") for name in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE")),
        *((name, "complete") for name in ("FINISH_REASON_STOP", "end_of_turn", "<|endoftext|>", "eos-token")),
        *(
            (name, "cut_off")
            for name in ("length", "MAX_TOKENS", "max_length", "model_length", "model_context_window_exceeded")
        ),
        *(
            (name, "other")
            for name in ("content_filter", "tool_calls", "SAFETY", "RECITATION", "error", "abort", "ERROR_TOXIC")
        ),
        *((name, None) for name in ("natural", "?", "完成", "stopp")),
    ],
)
def test_how_an_answer_ended(reason, expected):
    assert ending(reason) == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
               "'max_completion_tokens' instead.", "code": "unsupported_parameter"}}, "max_tokens"),
        (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.5 with this model.",
               "param": "temperature", "code": "unsupported_value"}}, "temperature"),
        (400, {"error": {"message": "Unrecognized request argument supplied: top_k"}}, "top_k"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}, "seed"),
        (400, {"message": "top_k: Unknown field"}, "top_k"),
        (400, {"error": {"message": "Unsupported parameter: 'logit_bias'"}}, None),
        (400, {"error": {"message": "max_tokens is too large: 5000. This model supports at most 4096."}}, None),
        (400, {"message": "This model's maximum context length is 300 tokens."}, None),
        (500, {"message": "Unsupported parameter: seed"}, None),
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_taken_is_named(status, body, expected):
    sent = ("max_tokens", "temperature", "top_k", "seed")
    assert policies.not_taken(status, json.dumps(body).encode(), sent) == expected


KEY = "sk-live_9f8e7d/6c5b+4a3Z=2y1x0w"


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        quote(KEY, safe=""),
        "".join(f"%{ord(c):02X}" for c in KEY),
        "".join(f"\\u{ord(c):04x}" for c in KEY),
        "".join(f"&#{ord(c)};" for c in KEY),
        KEY.replace("/", "\\/"),
        KEY.encode().hex(),
        f"{KEY[:9]}\\n{KEY[9:]}",
        *(base64.b64encode(f"{user}{KEY}".encode()).decode() for user in ("", "u:", "me:", "you:")),
        base64.urlsafe_b64encode(f"u:{KEY}".encode()).decode(),
    ],
)
@pytest.mark.parametrize("before", [0, 4_080, 4_090])
def test_a_key_is_taken_out_before_anything_is_cut(written: str, before: int) -> None:
    body = b"x" * before + f" {written} and more".encode()
    assert policies.holds_key(body, KEY)
    left = policies.without_key(body, KEY).decode()
    assert "***" in left
    assert not any(written[at : at + 8] in left for at in range(8, len(written) - 16))
    message = policies.message_of(401, body.lstrip(b"x"), KEY)
    assert not any(KEY[at : at + 6] in message for at in range(len(KEY) - 6))


def test_what_is_no_key_stays() -> None:
    assert policies.without_key(b"an EMPTY answer", "sk-live_9f8e7d") == b"an EMPTY answer"
    assert not policies.holds_key(b"an EMPTY answer", "EMPTY")
    long = policies.without_key(b"y" * (1 << 15) + KEY.encode() * 2, KEY)
    assert KEY[:6].encode() not in long

"""What holds for every damage to a store, every answer's bytes, every order of answers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.llm import policies
from pipeline.llm.answers import BadAnswer, read_answer
from pipeline.llm.budget import Admission
from pipeline.llm.cache import DATABASE, Cache
from pipeline.llm.config import BudgetConfig, EndpointConfig
from pipeline.llm.types import REASONS, Answer, Failure, Parameters, Request, make_request
from tests.former_answers import START, segment

VERSION_AT = 63
"""A database with another number there is of a newer version: an error, and the file stays as it is."""
ENDPOINT = EndpointConfig(base_url="http://host/v1", model="tiny", kind="completions")
REQUEST = make_request(ENDPOINT, "x" * 40, Parameters(max_tokens=20))
NAMES = frozenset({"tiny"})

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
counts = st.none() | st.integers(0, 2**40)
keys = st.integers(0, 12).map(lambda number: hashlib.blake2b(bytes([number]), digest_size=16).digest())
stored_answers = st.builds(Answer, keys, texts, texts, counts, counts, st.none() | texts, texts, st.integers(1, 9))
failures = st.builds(Failure, keys, st.sampled_from(REASONS), texts, st.integers(1, 9))
records = st.lists(stored_answers | failures, max_size=8)


def taken_over(folder: str, data: bytes) -> tuple[list[Answer | Failure], list[str]]:
    """Return what a store holds after it took over a segment, and what it says of damage."""
    (Path(folder) / "answers-000000.seg").write_bytes(data)
    with Cache(folder) as cache:
        return list(cache.records()), cache.damage


def newest(items: list[Answer | Failure]) -> list[Answer | Failure]:
    """Return the newest record of each key, in order of writing."""
    return sorted({item.key: item for item in items}.values(), key=lambda item: max(
        number for number, other in enumerate(items) if other.key == item.key
    ))  # fmt: skip


def kept_of(items: list[Answer | Failure]) -> list[Answer | Failure]:
    """Return what a store takes over of a segment: the newest of each key, but no failure where there is an answer."""
    answered = {item.key for item in items if isinstance(item, Answer)}
    return newest([item for item in items if isinstance(item, Answer) or item.key not in answered])


@settings(max_examples=60, deadline=None)
@given(records, st.data())
def test_a_segment_cut_anywhere_keeps_what_was_whole_before(items, data):
    whole = segment(items)
    length = data.draw(st.integers(len(START), len(whole)))
    kept = next(n for n in range(len(items), -1, -1) if len(segment(items[:n])) <= length)
    with tempfile.TemporaryDirectory() as folder:
        found, damage = taken_over(folder, whole[:length])
        assert found == kept_of(items[:kept])
        assert len(damage) == (length > len(segment(items[:kept])))
        with Cache(folder) as cache:
            cache.write(items)
            assert list(cache.records()) == newest(items[:kept] + items)
            assert cache.damage == []


@settings(max_examples=60, deadline=None)
@given(records.filter(bool), st.data())
def test_a_changed_byte_loses_one_record_and_changes_none(items, data):
    whole = bytearray(segment(items))
    at = data.draw(st.integers(len(START), len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    hit = next(n for n in range(len(items)) if len(segment(items[: n + 1])) > at)
    with tempfile.TemporaryDirectory() as folder:
        found, damage = taken_over(folder, bytes(whole))
    assert found == kept_of(items[:hit] + items[hit + 1 :])
    assert len(damage) == 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_taken_over(data):
    with tempfile.TemporaryDirectory() as folder:
        found, damage = taken_over(folder, START + data)
        assert (found, bool(damage)) == ([], bool(data))


@settings(max_examples=60, deadline=None)
@given(records.filter(bool), st.data())
def test_a_database_with_changed_bytes_gives_what_was_written_or_nothing(items, data):
    with tempfile.TemporaryDirectory() as folder:
        with Cache(folder) as cache:
            cache.write(items)
        path = Path(folder) / DATABASE
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 40))):
            at = data.draw(st.integers(0, len(whole) - 1).filter(lambda at: at != VERSION_AT))
            whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
        for _ in range(2):
            with Cache(folder) as cache:
                assert all(cache.get(item.key) in (item, None) for item in newest(items))
                assert all(record in items for record in cache.records())
                cache.write(items)
                assert [cache.get(item.key) for item in newest(items)] == newest(items)


# Answers --------------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
FIELDS = ("id", "model", "choices", "usage", "metadata", "user", "text", "message", "content", "finish_reason")
likely = st.recursive(
    scalars | st.just("tiny"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from((*FIELDS, "prompt_tokens", "completion_tokens")), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=60) | values.map(json.dumps).map(str.encode) | likely.map(json.dumps).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(bodies)
def test_any_body_is_an_answer_or_a_named_reason(body):
    result = read(body)
    if isinstance(result, BadAnswer):
        assert result.reason in REASONS
        assert len(policies.scrub(result.detail, None)) <= 300
    else:
        result.text.encode()
        assert result.model is None or "tiny" in result.model
        assert result.completion_tokens is None or 0 <= result.completion_tokens <= 20 + 64


def read(body: bytes) -> Answer | BadAnswer:
    try:
        return read_answer(body, REQUEST, "e", NAMES)
    except BadAnswer as error:
        return error


@settings(max_examples=200, deadline=None)
@given(st.integers(100, 599), st.binary(max_size=80), st.from_regex("sk-[!-~]{1,20}", fullmatch=True))
def test_any_status_has_a_policy_and_a_message_without_the_key(status, body, key):
    assert policies.of_status(status, body).action in ("again", "refuse", "stop", "stop_or_refuse")
    message = policies.message_of(status, body + key.encode(), key)
    assert len(message) <= 300
    assert "\n" not in message
    assert key not in message


@given(st.text(max_size=40))
def test_any_retry_after_is_a_wait_within_the_cap(value):
    assert 0 <= policies.retry_after_s(value, 60.0) <= 60


# Budgets --------------------------------------------------------------------------------------------------------------


def admitted(asked: list[Request], answers: list[Answer], budget: BudgetConfig, draw) -> int:
    """Admit as the client does, with answers that come in any order; return how many requests were admitted."""
    admission, under_way, count = Admission(budget), [], 0
    while count < len(asked):
        decision = admission.decide(asked[count])
        if decision == "admit":
            admission.admit(asked[count])
            under_way.append(count)
            count += 1
        elif decision != "wait":
            return count
        while under_way and (decision == "wait" or draw(st.booleans())):
            number = under_way.pop(draw(st.integers(0, len(under_way) - 1)))
            admission.settle(asked[number], answers[number])
            decision = "admit"
    return count


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), counts, counts), max_size=12),
    st.none() | st.integers(0, 600),
    st.none() | st.integers(0, 12),
    st.data(),
)
def test_what_a_budget_admits_does_not_depend_on_the_order_of_answers(sizes, tokens, limit, data):
    asked = [make_request(ENDPOINT, "x" * size, Parameters(max_tokens=most)) for size, most, _, _ in sizes]
    answers = [Answer(REQUEST.key, "", "stop", prompt, done, None, "e", 1) for _, _, prompt, done in sizes]
    budget = BudgetConfig(tokens=tokens, requests=limit)
    one_by_one = 0
    admission = Admission(budget)
    for request, answer in zip(asked, answers, strict=True):
        if admission.decide(request) != "admit":
            break
        admission.admit(request)
        admission.settle(request, answer)
        one_by_one += 1
    assert admission.charged_tokens <= (tokens if tokens is not None else 10**18)
    assert admitted(asked, answers, budget, data.draw) == one_by_one


@given(st.text(max_size=60), st.text(max_size=20), st.none() | st.integers(0, 9))
def test_keys_are_equal_when_requests_are(prompt, salt, seed):
    first, second = (
        make_request(ENDPOINT, prompt, Parameters(max_tokens=5, seed=seed), prompt_hash=salt, order=order)
        for order in ("a", "b")
    )
    assert first.key == second.key
    assert first.key != make_request(ENDPOINT, prompt + "x", Parameters(max_tokens=5, seed=seed), prompt_hash=salt).key

"""What a budget admits and what counts."""

import pytest

from pipeline.llm.budget import Admission, charge_tokens
from pipeline.llm.config import BudgetConfig, EndpointConfig
from pipeline.llm.types import Answer, Failure, Parameters, Request, make_request

ENDPOINT = EndpointConfig(base_url="http://host/v1", model="tiny", kind="completions")


def request(size: int, max_tokens: int = 10) -> Request:
    return make_request(ENDPOINT, "x" * size, Parameters(max_tokens=max_tokens))


def answer(asked: Request, prompt: int | None, completion: int | None, text: str = "") -> Answer:
    return Answer(asked.key, text, "stop", prompt, completion, "tiny", "e", 1)


def test_without_a_budget_everything_is_admitted():
    admission = Admission(BudgetConfig())
    for size in range(100):
        assert admission.decide(request(size)) == "admit"
        admission.admit(request(size))


def test_requests_are_counted():
    admission = Admission(BudgetConfig(requests=2))
    for expected in ("admit", "admit", "budget_requests"):
        assert admission.decide(request(1)) == expected
        if expected == "admit":
            admission.admit(request(1))


def test_admission_waits_where_answers_decide():
    asked = request(100)  # may cost 100 + 8 + 16 + 10 = 134 tokens
    assert asked.reserved_tokens == 134
    admission = Admission(BudgetConfig(tokens=180))
    admission.admit(asked)
    assert admission.decide(asked) == "wait"
    admission.settle(asked, answer(asked, 25, 10))
    assert admission.decide(asked) == "admit"
    admission.admit(asked)
    admission.settle(asked, answer(asked, 25, 10))
    assert admission.charged_tokens == 70
    assert admission.decide(asked) == "budget_tokens"
    assert Admission(BudgetConfig(tokens=133)).decide(asked) == "budget_tokens"
    assert Admission(BudgetConfig(tokens=134)).decide(asked) == "admit"


@pytest.mark.parametrize(
    ("prompt", "completion", "text", "expected"),
    [
        (25, 5, "", 30),
        (None, 5, "", 25 + 8 + 5),
        (25, None, "x" * 13, 25 + 4),
        (25, None, "x" * 9999, 25 + 10),
        (10**6, 5, "", 134),
    ],
)
def test_an_answer_is_charged_what_it_says_at_most_what_was_reserved(prompt, completion, text, expected):
    asked = request(100)
    assert charge_tokens(asked, answer(asked, prompt, completion, text)) == expected


def test_a_failure_is_charged_what_it_may_have_cost():
    asked = request(100)
    assert charge_tokens(asked, Failure(asked.key, "timeout", "", 8)) == 25 + 8 + 10

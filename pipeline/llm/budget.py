"""Which requests a budget admits: a prefix of them in their order, whatever the order of their answers.

What counts: every distinct or repeated request of the stream counts as one, and the tokens of its answer as the server
counts them (estimated where it does not), at most what was reserved for it; a failure counts its estimated prompt and
`max_tokens`, for that is what it may have cost. *A stored answer counts like one that is asked for now*, so a run that
was killed and resumed ends with the same rows as one that was not; to go on after a stop, raise the budget.

A request is admitted when what the ones before it were charged, plus the most that it can be charged, is within the
budget. While earlier answers are under way their largest possible charge stands for them; where that is too much but
the truth may not be, admission waits for them. So the decision depends on answers, never on when they came. The first
request that is not admitted ends the run.
"""

from __future__ import annotations

from typing import Literal

from pipeline.llm.config import BudgetConfig
from pipeline.llm.types import BYTES_A_TOKEN, Answer, Failure, Request, Stopped

Decision = Literal["admit", "wait"] | Stopped


class Admission:
    """What a budget has left."""

    def __init__(self, budget: BudgetConfig) -> None:
        self._budget = budget
        self._reserved = 0
        self.requests = 0
        self.charged_tokens = 0

    def decide(self, request: Request) -> Decision:
        """Say whether the next request in order may go, must wait for answers, or ends the run."""
        if self._budget.requests is not None and self.requests >= self._budget.requests:
            return "budget_requests"
        if self._budget.tokens is None:
            return "admit"
        left = self._budget.tokens - self.charged_tokens - request.reserved_tokens
        if left >= self._reserved:
            return "admit"
        return "wait" if left >= 0 and self._reserved else "budget_tokens"

    def admit(self, request: Request) -> None:
        """Reserve what an admitted request may cost."""
        self.requests += 1
        self._reserved += request.reserved_tokens

    def settle(self, request: Request, result: Answer | Failure, times: int = 1) -> None:
        """Replace a reservation, made `times` times, with what the request cost, where tokens are counted at all."""
        self._reserved -= request.reserved_tokens * times
        if self._budget.tokens is not None:
            self.charged_tokens += charge_tokens(request, result) * times


def charge_tokens(request: Request, result: Answer | Failure) -> int:
    """Return the tokens that a request's result counts."""
    if isinstance(result, Failure):
        return min(request.estimated_prompt_tokens + request.max_tokens, request.reserved_tokens)
    prompt, completion = result.prompt_tokens, result.completion_tokens
    if prompt is None:
        prompt = request.estimated_prompt_tokens
    if completion is None:
        completion = min(request.max_tokens, -(-len(result.text.encode()) // BYTES_A_TOKEN))
    return min(prompt + completion, request.reserved_tokens)

"""What may be expected of a workspace: the key `expect` of a run's configuration. It changes no stage."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.table.config import Address, StageConfig

_NUMBER = r"([-+]?[\d_]*\.?[\d_]+(?:e[-+]?\d+)?)"
_GRAMMAR = re.compile(rf"(?:between {_NUMBER} and {_NUMBER}|(at least|at most) {_NUMBER})", re.IGNORECASE)
_HINT = "write `between A and B`, `at least A` or `at most A`"


def bounds(text: str) -> tuple[float, float]:
    """Return the least and the greatest number that a wanted range allows.

    Raises: ValueError when it is none.
    """
    match = _GRAMMAR.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError(_HINT)
    low, high, side, number = match.groups()
    try:
        if side is None:
            return float(low), float(high)
        return (float(number), math.inf) if side.lower() == "at least" else (-math.inf, float(number))
    except ValueError as error:  # an underscore where Python has none
        raise ValueError(_HINT) from error


def _range(is_share: bool, side: Literal["at most"] | None, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if side is None:
            raise ValueError(f"a number alone does not say which side is meant; {_HINT}")
        value = f"{side} {value}"
    if not isinstance(value, str):
        return value
    low, high = bounds(value)
    if low > high:
        raise ValueError("the first number is greater than the second")
    if any(each < 0 or (is_share and each > 1) for each in (low, high) if math.isfinite(each)):
        raise ValueError("a share lies between 0 and 1" if is_share else "a count or a change is not negative")
    return " ".join(value.split())


def _checked(is_share: bool, side: Literal["at most"] | None = None) -> Callable[[Any], Any]:
    return partial(_range, is_share, side)


Share = Annotated[str, BeforeValidator(_checked(is_share=True))]
Count = Annotated[str, BeforeValidator(_checked(is_share=False))]
ShareAtMost = Annotated[str, BeforeValidator(_checked(is_share=True, side="at most"))]
ChangeAtMost = Annotated[str, BeforeValidator(_checked(is_share=False, side="at most"))]


class ExpectConfig(StageConfig):
    """What is expected of a source, once its stages are done; null expects nothing."""

    kept_share: Share | None = Field(
        None, description="expected by `gristmill test`: a range for kept documents, of all documents"
    )
    kept_documents: Count | None = Field(None, description="a range for the documents that are kept")
    kept_tokens: Count | None = Field(
        None, description="a range for their tokens: `token_count`, or else `estimated_tokens`"
    )
    rejects_share: Share | None = Field(None, description="a range for rejects, of all units that were read")
    rule_share: dict[str, Share] = Field(
        default_factory=dict,
        description="ranges for the documents that fail a rule, of all: `{gopher_words: at most 0.2}`",
    )
    languages: dict[str, Share] = Field(
        default_factory=dict,
        description="ranges for the kept documents in a language, of all kept: `{en: at least 0.9}`",
    )
    no_host_above: ShareAtMost | None = Field(None, description="greatest share of one host in the kept documents")
    no_host_tokens_above: ShareAtMost | None = Field(None, description="greatest share of one host in the kept tokens")
    must_keep: Address | None = Field(
        None,
        description="a file with a URL or `doc_id` a line, which must be kept; `#` begins a comment. Sources that "
        "name the same file are looked at together",
    )
    must_drop: Address | None = Field(None, description="a file with a URL or `doc_id` a line, which must not be kept")
    changed_kept_share: ShareAtMost | None = Field(
        None, description="greatest change of the kept share since the run before"
    )
    changed_kept_tokens: ChangeAtMost | None = Field(
        None, description="greatest change of the kept tokens, as a share of those of the run before"
    )

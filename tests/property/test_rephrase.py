"""What holds for rephrasing on any text: segments rejoin, requests are planned once, rows are conserved."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.llm.types import REASONS, Answer, Failure
from pipeline.rephrase.licence import inherit, strictness
from pipeline.rephrase.output import Rejected, Rephrased, outcomes
from pipeline.rephrase.plan import Planned, SourceDocument, make_plan, plan_requests
from pipeline.rephrase.post import finish
from pipeline.rephrase.segments import split
from pipeline.rephrase.styles import Style, load_styles, render_prompt, style_names
from tests.unit.rephrase_plans import configure

PIECES = [
    "word",
    "é",
    "𝒳",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    ". ",
    "? ",
    "。",
    "...",
    '." ',
    "x" * 30,
    "\u2028",
    "{text}",
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
SHIPPED = list(load_styles(style_names()).values())
LICENCES = [
    "MIT",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "GPL-3.0-only",
    "CC-BY-NC-4.0",
    "CC-BY-ND-4.0",
    "LicenseRef-x",
]


@given(TEXTS, st.integers(1, 40))
def test_every_character_is_in_exactly_one_segment(text: str, budget: int) -> None:
    segments = split(text, budget)
    assert "".join(text[s.start : s.end] for s in segments) == text
    assert [s.index for s in segments] == list(range(len(segments)))
    assert [s.start for s in segments] == [0, *(s.end for s in segments[:-1])]
    assert all(s.end > s.start for s in segments) or not text
    if text.strip():
        assert all(text[s.start : s.end].strip() for s in segments), "no segment asks about nothing"


@given(TEXTS, st.integers(1, 40))
def test_no_segment_is_above_the_budget(text: str, budget: int) -> None:
    for segment in split(text, budget):
        sent = text[segment.start : segment.end].strip()
        assert len(sent.encode("utf-8", "surrogatepass")) <= 4 * budget or len(sent) == 1


@given(TEXTS, st.integers(4, 40))
def test_two_neighbours_never_fit_together(text: str, budget: int) -> None:
    """There are as few segments as the pieces allow: two that fit together would be one fewer."""
    segments = split(text, budget)
    for left, right in pairwise(segments):
        joined = text[left.start : right.end].strip().encode("utf-8", "surrogatepass")
        assert len(joined) > 4 * budget


@given(TEXTS, st.sampled_from(["stop", "length", "x"]), st.sampled_from(SHIPPED))
def test_answers_of_any_kind_are_finished(answer: str, reason: str, style: Style) -> None:
    done = finish(style, "A segment.", answer, reason)
    assert done.text[done.body_start :] == done.body
    assert (not done.body) == (not done.text)
    assert finish(style, "A segment.", answer, reason) == done


@given(TEXTS, st.one_of(st.none(), TEXTS), st.sampled_from(SHIPPED))
def test_a_prompt_holds_the_document_literally(text: str, title: str | None, style: Style) -> None:
    before, after = style.user.split("{text}")
    messages = render_prompt(style, "chat", text, title)
    assert isinstance(messages, list)
    assert messages[-1]["content"] == (before + text.strip() + after).strip()


@given(st.sampled_from(LICENCES), st.sampled_from(LICENCES))
def test_a_child_is_never_freer_than_either(parent: str, model: str) -> None:
    child = inherit(parent, model).licence
    assert child in (parent, model)
    assert strictness(child) == max(strictness(parent), strictness(model))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sets(st.integers(0, 1))), max_size=4), st.integers(1, 2), st.randoms())
def test_each_planned_request_ends_as_one_row(texts: list[tuple[str, set[int]]], samples: int, random: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(configure(Path(folder), samples=samples))
        documents = [
            SourceDocument(f"{n:032x}", text.encode("utf-8", "replace").decode(), tuple(sorted(routes)))
            for n, (text, routes) in enumerate(texts)
        ]
        planned = list(plan_requests(documents, plan))
        rows = list(outcomes(planned, lambda key: _result(key, planned), plan))
    assert len(rows) == len(planned)
    assert [row.planned.record_id for row in rows] == sorted({p.record_id for p in planned}, key=_parts)
    assert {type(row) for row in rows} <= {Rephrased, Rejected}
    expected = {
        (document.doc_id, style.name)
        for document in documents
        if document.text.strip()
        for route in document.routes
        for style in plan.routes[route]
    }
    assert {(p.parent.doc_id, p.style.name) for p in planned} == expected


def _result(key: bytes, planned: list[Planned]) -> Answer | Failure:
    """Return an answer or one of the failures, as the key's first byte says."""
    if key[0] % 3:
        return Answer(key, "An answer." * (key[1] % 3), "stop", None, None, None, "http://a/v1", 1)
    return Failure(key, REASONS[key[1] % len(REASONS)], "why", 1)  # type: ignore[arg-type]


def _parts(record_id: str) -> tuple[str, int, str, int]:
    parent, segment, style, sample = record_id.split(":")
    return parent, int(segment), style, int(sample)

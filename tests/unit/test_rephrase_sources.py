"""Which kept documents meet which routes, and what is said of a predicate that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.rephrase.config import RouteConfig
from pipeline.rephrase.sources import count_routes, kept_documents, resolve_routes
from pipeline.table.errors import ConfigError
from pipeline.table.sql import Session, connect
from pipeline.table.storage import Storage
from tests.select_workspace import doc_id, request, row, select, write


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    storage = Storage.at(str(tmp_path_factory.mktemp("ws")))
    rows = [
        row(
            n,
            text=f"text {n}",
            title=f"t{n}",
            word_count=n,
            score=None if n == 5 else n / 10,
            licence="MIT",
            language="en",
        )
        for n in range(10)
    ]
    write(storage, "web", {"part-a": rows[::2], "part-b": rows[1::2]})
    select(request(storage, {"words": "word_count < 9"}))
    with connect(storage) as opened:
        yield opened


def routes(*predicates: str) -> list[RouteConfig]:
    return [RouteConfig(where=predicate, styles=("qa",)) for predicate in predicates]


def test_documents_come_in_the_order_of_ids_with_their_routes(session: Session) -> None:
    routed = resolve_routes(session, "web", routes("quality_score >= 0.5", "word_count in (4, 6) -- even", "false"))
    found = list(kept_documents(session, routed))
    assert [(d.doc_id, d.routes) for d in found] == [
        (doc_id(4), (1,)),
        (doc_id(6), (0, 1)),
        (doc_id(7), (0,)),
        (doc_id(8), (0,)),
    ], "5 has no score, 9 is not kept"
    assert (found[0].text, found[0].title, found[0].licence, found[0].language) == ("text 4", "t4", "MIT", "en")
    assert count_routes(session, routed) == [3, 2, 0]


def test_a_predicate_may_read_the_text(session: Session) -> None:
    routed = resolve_routes(session, "web", routes("text like '%3' or title = 't1'"))
    assert [d.doc_id for d in kept_documents(session, routed)] == [doc_id(1), doc_id(3)]


def test_a_limit_takes_the_first(session: Session) -> None:
    routed = resolve_routes(session, "web", routes("true"))
    assert [d.doc_id for d in kept_documents(session, routed, 2)] == [doc_id(0), doc_id(1)]
    assert len(list(kept_documents(session, routed))) == 9


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (
            "quality_scor >= 0.5",
            r"rephrase\.routes\.0\.where: unknown column 'quality_scor' \(nearest: 'quality_score'\)",
        ),
        ("word_count", "not true or false; write a comparison"),
        ("word_count >", r"routes\.0\.where"),
        ("", "SQL expression"),
        ("true) or (true", "expected|syntax"),
        ("true; drop table x", "expected|syntax|Syntax|Only SELECT"),
        ("random() < 0.5", r"random\(\) depends on more than the document"),
        ("count(*) > 1", r"count_star\(\) reads more than one|reads more than one"),
        ("word_count > (select avg(word_count) from web.outcomes)", "subqueries are not allowed"),
        ("row_number() over () < 5", "window functions are not allowed"),
        ("* > 1", "not allowed|SQL|yntax"),
        ("true as x", "expected|yntax"),
        ("nosuch(word_count)", "nosuch"),
    ],
)
def test_a_predicate_that_cannot_be_used_is_one_line(session: Session, predicate: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        resolve_routes(session, "web", [RouteConfig.model_construct(where=predicate, styles=("qa",))])
    assert "\n" not in str(raised.value)


def test_data_that_breaks_a_predicate_is_named(session: Session) -> None:
    routed = resolve_routes(session, "web", routes("true", "cast(title as integer) > 1"))
    with pytest.raises(ConfigError, match=r"routes\.1\.where: .*Could not convert"):
        list(kept_documents(session, routed))

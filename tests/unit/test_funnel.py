"""`gristmill funnel`: every number adds up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
import workspace_builder as wb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.select.funnel import FunnelRow, as_text, funnel, kept_by_shares, reject_reasons
from pipeline.table import schema
from pipeline.table.catalog import Catalog
from pipeline.table.storage import Storage


def test_the_whole_funnel(tmp_path: Path) -> None:
    rows = funnel(wb.build(str(tmp_path / "ws")))
    assert rows == [
        FunnelRow("web", "extract", None, 8, 6, None, 210),
        FunnelRow("web", "annotate", None, 6, 6, 210, 210),
        FunnelRow("web", "dedup", None, 6, 6, 210, 210),
        FunnelRow("web", "classify", None, 6, 6, 210, 210),
        FunnelRow("web", "select", "language", 6, 4, 210, 170),
        FunnelRow("web", "select", "words", 4, 3, 170, 150),
        FunnelRow("web", "select", "exact_duplicate", 3, 3, 150, 150),
        FunnelRow("web", "select", "near_duplicate", 3, 2, 150, 100),
    ]
    assert asdict(rows[0]) == {
        "source": "web",
        "stage": "extract",
        "rule": None,
        "documents_in": 8,
        "documents_out": 6,
        "tokens_in": None,
        "tokens_out": 210,
    }
    text = as_text(rows, reject_reasons(Storage.at(str(tmp_path / "ws"))))
    assert "near_duplicate" in text
    assert "rejects: empty 1, not_html 1" in text
    assert "25.0 %" in text


def test_rules_that_took_nothing_are_counted_and_shown_on_request(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"))
    rows = funnel(storage)
    short, full = as_text(rows, {}), as_text(rows, {}, everything=True)
    assert "exact_duplicate" not in short
    assert short.splitlines()[-1] == "  1 rule that took nothing: --all shows them, too"
    assert "exact_duplicate" in full
    assert "--all" not in full
    nothing = [FunnelRow("web", "extract", None, 0, 0, None, 0), FunnelRow("web", "select", "a", 0, 0, 0, 0)]
    assert as_text(nothing, {}).splitlines()[-1].split()[:4] == ["select", "a", "0", "0"]


def test_shares_tell_what_they_keep_of_documents_and_tokens(tmp_path: Path) -> None:
    """Of documents 1 to 8 (their tokens: ten times the number) 1 fails `words`; `best` keeps 6, 7 and 8 of the rest."""
    storage = Storage.at(str(tmp_path / "ws"))
    failed = {1: ["words", "best"], 2: ["best"], 3: ["best", "near_duplicate"], 4: ["best", "most"], 5: ["best"]}
    wb.write_group(storage, "web/documents", [[wb.document(n) for n in range(1, 9)]], schema.DOCUMENTS)
    stats = [{"doc_id": wb.doc_id(n), "word_count": 3, "estimated_tokens": 10 * n} for n in range(1, 9)]
    wb.write_group(storage, "web/signals/text_stats", [stats], wb.TEXT_STATS)
    outcomes = [wb.outcome(n, [(rule, {}) for rule in failed.get(n, [])], estimated_tokens=10 * n) for n in range(1, 9)]
    written = {"words": "word_count > 2", "best": "TOP_SHARE (x, 0.4)", "most": "top_token_share(x, 0.9)"}
    details = {"rules": [{"name": name, "sql": sql} for name, sql in written.items()]}
    details["rules"] += [{"name": "near_duplicate", "sql": None}]  # type: ignore[list-item]
    wb.write_group(storage, "web/outcomes", [outcomes], wb.OUTCOMES, details)
    whole = "of those that pass every rule without a share"
    assert kept_by_shares(storage) == {
        "web": [
            f"best keeps 42.9 % of 7 documents and 60.0 % of their 350 tokens, {whole}",
            f"most keeps 85.7 % of 7 documents and 88.6 % of their 350 tokens, {whole}",
        ]
    }
    assert "best keeps 42.9 %" in as_text(funnel(storage), {}, kept_by_shares(storage))


@pytest.mark.parametrize(
    ("until", "stages"),
    [
        ("extract", ["extract"]),
        ("annotate", ["extract", "annotate"]),
        ("dedup", ["extract", "annotate", "dedup"]),
        ("classify", ["extract", "annotate", "dedup", "classify"]),
    ],
)
def test_only_stages_that_have_run(tmp_path: Path, until: str, stages: list[str]) -> None:
    rows = funnel(wb.build(str(tmp_path / "ws"), until=until))
    assert list(dict.fromkeys(row.stage for row in rows)) == stages
    assert rows[0].tokens_out == (None if until == "extract" else 210)


def test_sources_are_apart(tmp_path: Path) -> None:
    wb.build(str(tmp_path / "ws"), "a-b", until="extract")
    rows = funnel(wb.build(str(tmp_path / "ws"), "web"))
    assert [row.source for row in rows] == ["a-b"] + ["web"] * 8


def test_exact_tokens_win_over_estimates(tmp_path: Path) -> None:
    import pyarrow as pa

    storage = wb.build(str(tmp_path / "ws"), until="annotate")
    counts = pa.schema([("doc_id", pa.string()), ("token_count", pa.int64())])
    rows = [{"doc_id": wb.doc_id(n), "token_count": n} for n in range(1, 7)]
    wb.write_group(storage, "web/signals/tokens", [rows], counts)
    assert funnel(storage)[0].tokens_out == 21


def test_no_documents_and_no_rules(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    wb.write_group(storage, "web/documents", [[]], schema.DOCUMENTS)
    wb.write_group(storage, "web/rejects", [], schema.REJECTS)
    wb.write_group(storage, "web/outcomes", [[]], wb.OUTCOMES)
    rows = funnel(storage)
    assert [(row.stage, row.documents_in, row.documents_out) for row in rows] == [("extract", 0, 0), ("select", 0, 0)]
    assert "-" in as_text(rows, {})


RULES = ["a", "b", "c", "quality's"]
failures = st.lists(st.sampled_from([*RULES, "near_duplicate", "exact_duplicate"]), unique=True, max_size=6)


@given(
    failed=st.lists(failures, max_size=30),
    reasons=st.lists(st.sampled_from(sorted(schema.REJECT_REASONS)), max_size=20),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_takes_what_the_one_before_left(
    tmp_path_factory: pytest.TempPathFactory, failed: list[list[str]], reasons: list[str]
) -> None:
    """Units = documents + rejects; each rule takes from what earlier ones left; the last row leaves what is kept."""

    def quarters(columns: pa.Schema) -> pa.Schema:
        place = columns.get_field_index("estimated_tokens")
        return columns.set(place, pa.field("estimated_tokens", pa.float64()))

    storage = Storage.at(str(tmp_path_factory.mktemp("funnel")))
    documents = [wb.document(number) for number in range(len(failed))]
    wb.write_group(storage, "web/documents", [documents], schema.DOCUMENTS)
    wb.write_group(storage, "web/rejects", [[wb.reject(n, r) for n, r in enumerate(reasons)]], schema.REJECTS)
    stats = [{"doc_id": wb.doc_id(n), "word_count": 1, "estimated_tokens": n / 4} for n in range(len(failed))]
    wb.write_group(storage, "web/signals/text_stats", [stats], quarters(wb.TEXT_STATS))
    outcomes = [wb.outcome(n, [(rule, {}) for rule in rules], estimated_tokens=n / 4) for n, rules in enumerate(failed)]
    details = {"rules": [{"name": name, "sql": "x", "resolved": "x"} for name in RULES]}
    wb.write_group(storage, "web/outcomes", [outcomes], quarters(wb.OUTCOMES), details)

    def tokens(numbers: Iterable[int]) -> int:
        return round(sum(numbers) / 4)  # once, of the whole sum

    rows = funnel(storage)
    assert (rows[0].documents_in, rows[0].documents_out) == (len(failed) + len(reasons), len(failed))
    assert reject_reasons(storage).get("web", {}) == {reason: reasons.count(reason) for reason in reasons}
    selected = [row for row in rows if row.stage == "select"]
    assert (selected[0].documents_in, selected[0].tokens_in) == (len(failed), tokens(range(len(failed))))
    kept = [number for number, rules in enumerate(failed) if not rules]
    assert (selected[-1].documents_out, selected[-1].tokens_out) == (len(kept), tokens(kept))
    for before, after in pairwise(rows):
        assert before.documents_out == after.documents_in
    for before, after in pairwise(rows[1:]):
        assert before.tokens_out == after.tokens_in
    for row in selected:
        at = [*RULES, "exact_duplicate", "near_duplicate"].index(str(row.rule))
        earlier = set([*RULES, "exact_duplicate", "near_duplicate"][:at])
        first = [rules for rules in failed if row.rule in rules and not earlier & set(rules)]
        assert row.documents_in - row.documents_out == len(first)


def test_the_last_row_leaves_the_curated_documents(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"))
    (source,) = Catalog.read(storage).sources
    assert funnel(storage)[-1].documents_out == source.rows("curated")

"""Rows: one for each planned request, the same bytes whatever happened on the way, and nothing lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.llm.types import REASONS as FAILURES
from pipeline.llm.types import Answer, Failure
from pipeline.rephrase.collapse import measure_collapse
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.output import (
    REASONS,
    VERDICTS,
    OutputJob,
    OutputReport,
    Rejected,
    Rephrased,
    is_done,
    outcome,
    output_key,
    write_output,
)
from pipeline.rephrase.plan import Planned, SourceDocument, count_requests, make_plan, plan_requests
from pipeline.rephrase.styles import Format
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import planned_columns, read_wide, wide_table
from pipeline.signals.language import LANGUAGE
from pipeline.signals.text_stats import COLUMNS as STATS
from pipeline.signals.tokens import SCHEMA as TOKENS
from pipeline.table.errors import ConservationError
from pipeline.table.schema import DOCUMENTS, DUPLICATES, REJECT_REASONS
from pipeline.table.shards import Group, Part, read_batches
from pipeline.table.storage import Storage
from tests.unit.rephrase_plans import answering, configure, contents, document, stored

DATE = datetime(2024, 5, 1, tzinfo=UTC)
TEXT = "\n\n".join(f"Paragraph number {n} says a few words." for n in range(6))
DOCUMENTS_IN = [document(n, f"{n}. {TEXT}", (n % 2,), title=f"T{n}", licence="CC-BY-4.0", date=DATE) for n in range(9)]
PAIRS = "Pairs:\nQuestion: What is said?\nAnswer: A few words."


def reply(planned: Planned) -> Answer:
    return answering(lambda text: PAIRS if planned.style.name == "pairs" else f"It is said again: {text}")(planned)


class Stage:
    """A plan over a workspace in a folder."""

    def __init__(self, folder: Path, documents: list[SourceDocument] | None = None, **values: Any) -> None:
        self.config: RephraseConfig = configure(folder / "prompts", **values)
        self.plan = make_plan(self.config)
        self.workspace = folder / "ws"
        self.job = OutputJob(Storage.at(str(self.workspace)), self.plan, None, "v1")
        self.documents = DOCUMENTS_IN if documents is None else documents
        self.key = output_key(self.plan, self.config, [], "v1")

    def planned(self) -> list[Planned]:
        return list(plan_requests(self.documents, self.plan))

    def write(self, become: Callable[[Planned], Answer | Failure] = reply, **more: Any) -> OutputReport:
        found = stored(self.planned(), become)
        return write_output(
            self.job, iter(self.planned()), found.get, self.key, Group.complete, part_requests=7, **more
        )

    def rows(self, group: str) -> list[dict[str, Any]]:
        chosen = getattr(self.job, group)
        tables = [table for part in chosen.parts() for table in read_batches(chosen, part.name)]
        return [row for table in tables for row in table.to_pylist()]


def test_every_request_is_one_row_in_order(tmp_path: Path) -> None:
    stage = Stage(tmp_path, samples=2)
    report = stage.write()
    rows = stage.rows("documents")
    assert (report.planned, report.documents, report.rejects) == (len(stage.planned()), len(rows), 0)
    assert [row["origin"]["record_id"] for row in rows] == [p.record_id for p in stage.planned()]
    places = [
        (r["parent_id"], m["segment"], m["style"], m["sample"]) for r in rows for m in [json.loads(r["metadata"])]
    ]
    assert places == sorted(set(places))
    assert len({row["doc_id"] for row in rows}) == len(rows)


def test_what_a_row_holds(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://a/v1", "model": "m", "revision": "r1", "licence": "CC-BY-SA-4.0"}
    stage = Stage(tmp_path, [DOCUMENTS_IN[0]], routes=[{"styles": "pairs"}], endpoint=endpoint)
    stage.write()
    row = stage.rows("documents")[1]
    planned = stage.planned()[1]
    body = "Question: What is said?\nAnswer: A few words."
    assert row["text"] == f"{planned.segment_text.strip()}\n\n{body}"
    assert (row["source"], row["url"], row["title"], row["date"]) == ("web_rephrased", None, "T0", DATE)
    assert row["licence"] == "CC-BY-SA-4.0", "the stricter of the two"
    assert row["parent_id"] == DOCUMENTS_IN[0].doc_id
    assert row["origin"] == {"file": "web/curated", "offset": planned.segment.start, "record_id": planned.record_id}
    assert json.loads(row["metadata"]) == {
        "segment": 1,
        "segment_start": planned.segment.start,
        "segment_end": planned.segment.end,
        "style": "pairs",
        "style_version": 1,
        "sample": 0,
        "body_start": len(row["text"]) - len(body),
        "model": "m",
        "revision": "r1",
        "prompt_hash": planned.style.prompt_hash,
        "parameters": {"max_tokens": 60, "seed": 1},
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "finish_reason": "stop",
        "parent_licence": "CC-BY-4.0",
        "model_licence": "CC-BY-SA-4.0",
        "licence_conflict": None,
    }


def test_each_failure_has_a_reject_reason_of_the_closed_list() -> None:
    assert set(REASONS) == set(FAILURES)
    assert set(REASONS.values()) <= set(REJECT_REASONS)


def test_failures_become_rejects_that_name_them(tmp_path: Path) -> None:
    reasons = list(FAILURES)
    stage = Stage(tmp_path, routes=[{"styles": "short"}] * 2)
    planned = stage.planned()
    assert len({each.request.key for each in planned}) == len(planned)

    def become(each: Planned) -> Answer | Failure:
        number = planned.index(each)
        if number < len(reasons):
            return Failure(each.request.key, reasons[number], "why it was", 3)  # type: ignore[arg-type]
        return answering(lambda _: " ")(each) if number == len(reasons) else reply(each)

    report = stage.write(become)
    rejects = stage.rows("rejects")
    assert report.planned == report.documents + report.rejects == len(planned)
    assert [row["detail"] for row in rejects[:-1]] == [f"{reason}: why it was" for reason in reasons]
    assert rejects[-1]["reason"] == "empty"
    assert rejects[-1]["detail"].startswith("empty_answer: the answer is empty")
    assert [row["origin"]["record_id"] for row in rejects] == [p.record_id for p in planned[: len(rejects)]]
    assert sum(report.reasons.values()) == len(rejects)


def test_an_answer_of_which_nothing_is_left_is_a_reject(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    planned = next(each for each in stage.planned() if each.style.name == "pairs")
    row = outcome(planned, answering(lambda _: "Pairs:")(planned), stage.plan)
    assert isinstance(row, Rejected)
    assert row.detail == "empty_answer: nothing is left after post-processing (finish reason stop)"
    assert isinstance(outcome(planned, answering(lambda _: "Pairs: x")(planned), stage.plan), Rephrased)


def test_bytes_do_not_depend_on_the_order_of_answers_endpoints_or_attempts(tmp_path: Path) -> None:
    first, second = Stage(tmp_path / "a"), Stage(tmp_path / "b")
    first.write()

    def elsewhere(each: Planned) -> Answer:
        answer = reply(each)
        return Answer(answer.key, answer.text, "stop", 7, 5, "models/m", "http://other/v1", random.randrange(1, 9))

    found = stored(random.Random(1).sample(second.planned(), len(second.planned())), elsewhere)
    write_output(second.job, second.planned(), found.get, second.key, Group.complete, part_requests=7)
    assert contents(first.workspace) == contents(second.workspace)


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert not is_done(stage.job, stage.key)
    assert stage.write().parts_kept == 0
    before = contents(stage.workspace)
    again = stage.write()
    assert (again.parts_made, again.parts_kept) == (0, len(stage.job.documents.parts()))
    assert contents(stage.workspace) == before
    assert is_done(stage.job, stage.key)


def test_a_killed_run_goes_on_and_readers_see_nothing_before(tmp_path: Path) -> None:
    whole, killed = Stage(tmp_path / "a"), Stage(tmp_path / "b")
    whole.write()

    class Kill(Exception):
        pass

    def die(_rows: int) -> None:
        raise Kill

    for _ in range(3):
        with pytest.raises(Kill):
            killed.write(tell=die)
        assert killed.job.documents.index() is None
    assert killed.write().parts_kept == 1
    assert contents(killed.workspace) == contents(whole.workspace)


def test_a_failure_that_passes_re_makes_its_own_part_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    last = stage.planned()[-1].request.key

    def fail(each: Planned) -> Answer | Failure:
        return Failure(last, "timeout", "slow", 8) if each.request.key == last else reply(each)

    stage.write(fail)
    assert is_done(stage.job, stage.key)
    assert not is_done(stage.job, stage.key, retry_failed=True)
    report = stage.write()
    assert (report.parts_made, report.rejects) == (1, 0)
    assert is_done(stage.job, stage.key, retry_failed=True)


def test_an_unknown_finish_reason_is_reported_with_its_count(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    odd = stage.planned()[0].request.key

    def end(each: Planned) -> Answer:
        return replace(reply(each), finish_reason="natural" if each.request.key == odd else "STOP")

    assert stage.write(end).unknown_endings == {"natural": 1}
    assert stage.write(end).unknown_endings == {"natural": 1}, "also when the parts are made"
    verdicts = stage.rows("verdicts")
    assert [row["finish_reason_ok"] for row in verdicts] == [None, *[True] * (len(verdicts) - 1)]


def test_what_the_endpoint_does_not_take_is_not_in_the_metadata_either(tmp_path: Path) -> None:
    endpoint = {
        "base_url": "http://a/v1",
        "model": "m",
        "omit": ["temperature"],
        "max_tokens_as": "max_completion_tokens",
    }
    stage = Stage(tmp_path, [DOCUMENTS_IN[0]], routes=[{"styles": "short"}], endpoint=endpoint)
    stage.write()
    assert json.loads(stage.rows("documents")[0]["metadata"])["parameters"] == {
        "max_completion_tokens": 10,
        "top_p": 0.9,
        "seed": 1,
    }


def test_planned_requests_are_counted_without_making_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, samples=3)
    assert count_requests(stage.documents, stage.plan) == len(stage.planned())


def test_a_budget_leaves_the_first_requests(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    planned = stage.planned()
    found = stored(planned[:10], reply)
    report = write_output(
        stage.job, planned, found.get, stage.key, Group.complete, stopped_at=planned[10].request.order
    )
    assert report.planned == 10
    assert [row["origin"]["record_id"] for row in stage.rows("documents")] == [p.record_id for p in planned[:10]]
    index = stage.job.documents.index()
    assert index is not None
    assert index.details == {"stopped_at": planned[10].request.order}


def test_a_request_without_an_end_is_an_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(ConservationError, match="neither an answer nor a failure"):
        write_output(stage.job, stage.planned(), {}.get, stage.key, Group.complete)


def test_nothing_planned_is_an_empty_source(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    assert stage.write() == OutputReport(0, 0, 0, 0, 0, {}, {})
    assert is_done(stage.job, stage.key)


def test_the_key_follows_everything_that_decides_rows(tmp_path: Path) -> None:
    def key(parents: list[Part] | None = None, version: str = "v1", **values: Any) -> str:
        config = configure(tmp_path, **values)
        return output_key(make_plan(config), config, parents or [], version)

    part = Part(name="part-1-00000000", key="k", rows=1, bytes=1, content="c")
    keys = [
        key(),
        key([part]),
        key([part.model_copy(update={"content": "d"})]),
        key(version="v2"),
        key(seed=2),
        key(samples=2),
        key(budget={"requests": 5}),
        key(routes=[{"where": "c", "styles": ["short"]}]),
        key(endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "n"}),
        key(endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "m", "licence": "MIT"}),
        key(endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "m", "omit": ["temperature"]}),
        key(endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "m", "prefill": "message"}),
        key(endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "m", "max_tokens_as": "max_completion_tokens"}),
    ]
    assert len(set(keys)) == len(keys)
    elsewhere = {"base_url": "http://b/v1", "model": "m", "max_concurrency": 3, "timeout_s": 5, "api_key_env": "SECRET"}
    assert key(endpoint=elsewhere, client={"max_attempts": 2}) == keys[0]


def test_no_key_reaches_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPHRASE_TEST_KEY", "sk-very-secret-0123456789")
    endpoint = {"base_url": "http://a/v1", "model": "m", "api_key_env": "REPHRASE_TEST_KEY"}
    stage = Stage(tmp_path, endpoint=endpoint)
    stage.write()
    for path in stage.workspace.rglob("*.json"):
        assert b"very-secret" not in path.read_bytes()
        assert b"REPHRASE_TEST_KEY" not in path.read_bytes()
    assert all("very-secret" not in str(row) for row in stage.rows("documents"))


def test_verdicts_are_aligned_and_judge_the_models_own_text(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.write()
    verdicts = stage.rows("verdicts")
    assert [row["doc_id"] for row in verdicts] == [row["doc_id"] for row in stage.rows("documents")]
    assert list(verdicts[0]) == VERDICTS.names
    pairs = [row for row in verdicts if row["style"] == "pairs"]
    assert all(row["marker_found"] and row["copied_8gram_share"] == 0 for row in pairs), "the segment is not judged"
    others = [row for row in verdicts if row["style"] != "pairs"]
    assert all(row["marker_found"] is None for row in others)
    assert all(row["copied_8gram_share"] > 0.5 for row in others if row["style"] == "long")


def test_rows_reach_rules_through_the_narrow_columns(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.write()
    narrow = wide_table(Storage.at(str(stage.workspace)), "web_rephrased", ["signals/rephrase"])
    tables = [table for part in narrow.parts for table in read_wide(narrow, part)]
    assert pa.concat_tables(tables).num_rows == len(stage.planned())


def test_the_default_rules_fit_the_columns() -> None:
    stats = pa.schema([("doc_id", pa.string()), *((name, column.type) for name, column in STATS.items())])
    groups = {"signals/language": LANGUAGE, "signals/text_stats": stats, "signals/tokens": TOKENS}
    columns = planned_columns({**groups, "signals/rephrase": VERDICTS, "duplicates": DUPLICATES})
    bound = check_rules(load_rules("rephrased", "select.rules"), columns)
    assert len(bound.rules) == 19
    assert not [rule.name for rule in bound.rules if "style" in rule.columns], "a style's own file says what it waives"


def test_a_style_waives_rules_by_its_file_and_a_null_is_not_false(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [document(1, " ".join(f"word{n}" for n in range(40)))])
    asked = next(each for each in stage.planned() if each.style.name == "pairs")
    strict = replace(asked, style=asked.style.model_copy(update={"format": Format(pairs=1), "waive": ("copied",)}))
    for each, expected in ((asked, (None, [])), (strict, (False, ["copied"]))):
        found = stored([each], answering(lambda text: "No pairs."))
        judging = Stage(tmp_path / str(expected[0]), stage.documents)
        write_output(judging.job, [each], found.get, judging.key, Group.complete)
        [judged] = judging.rows("verdicts")
        assert (judged["format_ok"], judged["waived"]) == expected
        assert judged["echoed_8gram_share"] == 0


def test_an_answer_that_was_begun_is_whole(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "prefill": "message"}
    plan = make_plan(configure(tmp_path, endpoint=endpoint))
    [asked] = [each for each in plan_requests([document(1, "A text.")], plan) if each.style.name == "pairs"]
    begun = replace(asked, style=asked.style.model_copy(update={"prefill": "Pairs:\nQuestion:"}))
    row = outcome(begun, answering(lambda text: " Who?\nAnswer: He.")(begun), plan)
    assert isinstance(row, Rephrased)
    assert (row.body, row.has_marker) == ("Question: Who?\nAnswer: He.", None)
    nothing = outcome(begun, answering(lambda text: "")(begun), plan)
    assert isinstance(nothing, Rejected)
    assert nothing.reason == "empty"


def test_collapse_is_measured_on_the_models_own_text(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.write()
    measured = {row.style: row for row in measure_collapse(stage.job.documents)}
    assert set(measured) == {"long", "pairs", "short"}
    assert measured["pairs"].self_similarity == 1
    assert measured["pairs"].openings[0].text == "question what is"
    assert measured["long"].top_opening_share == 1.0
    assert DOCUMENTS.names == list(stage.rows("documents")[0])

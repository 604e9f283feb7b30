"""From answers to rows: a document of the new source for each answer, a reject with a named reason for each failure.

A part holds the rows of so many planned requests, in the plan's order, and its name comes from what is in it: the
requests and what became of them. So bytes depend neither on the order of answers nor on how often a run was killed,
and a request that failed and is asked again re-makes its own part alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

import pyarrow as pa

from pipeline.llm.answers import ending
from pipeline.llm.policies import Reason
from pipeline.llm.types import Answer, Failure
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.licence import inherit
from pipeline.rephrase.plan import Plan, Planned
from pipeline.rephrase.post import finish
from pipeline.rephrase.verify import SCHEMA, Expectations, Pair, verdict_table
from pipeline.table import schema
from pipeline.table.errors import ConservationError
from pipeline.table.schema import RejectReason
from pipeline.table.shards import Group, Identity, Index, Part, PartWriter, Tally, Work, digest, finished, made_from
from pipeline.table.stages import Publish
from pipeline.table.storage import Storage

VERSION = "rephrase_v3"
VERDICTS_FOLDER = "signals/rephrase"

REASONS: Mapping[Reason, RejectReason] = {
    "refused": "http_status",
    "timeout": "timeout",
    "connection": "crash",
    "server_error": "http_status",
    "rate_limited": "http_status",
    "broken_answer": "damaged",
    "oversize_answer": "oversize",
    "wrong_model": "damaged",
    "wrong_request": "damaged",
    "impossible_usage": "damaged",
    "leaked_key": "damaged",
}
"""The reject reason of each failure of a request; `detail` begins with the failure's own name. An answer that is
blank, or of which post-processing leaves nothing, is `empty`."""

DESCRIPTION = pa.schema(
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),  # null where the server does not count
        pa.field("completion_tokens", pa.int64()),
        pa.field("waived", pa.list_(pa.string()), nullable=False),  # the rules that the style's file waives
        pa.field("licence_conflict", pa.string()),  # null: the parent's and the model's licences go together
    ]
)
VERDICTS = pa.schema([pa.field(schema.DOC_ID, pa.string(), nullable=False), *DESCRIPTION, *SCHEMA])
"""Columns of `signals/rephrase`, row-aligned with `documents`: beside the verdicts what rules need to know of a row and
`documents` keeps in its metadata. What a judge or embeddings add has a group of its own."""

Lookup = Callable[[bytes], Answer | Failure | None]
"""What became of a request, by its key: `Cache.get`."""


@dataclass(frozen=True, slots=True)
class Rephrased:
    """A planned request and the document that came of it."""

    planned: Planned
    answer: Answer
    doc_id: str
    text: str
    body: str
    body_start: int
    has_marker: bool | None
    licence: str | None
    licence_conflict: str | None


Measure = Callable[[Sequence[Rephrased]], pa.Table]
"""From rows to their verdicts: a table with `doc_id`, row for row."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A planned request of which nothing came."""

    planned: Planned
    reason: RejectReason
    detail: str


@dataclass(frozen=True)
class OutputJob:
    """Where the rows of a plan go."""

    storage: Storage
    plan: Plan
    measure: Measure
    verdicts_version: str
    """What decides the verdicts besides the rows: their rules' version and settings."""

    @property
    def documents(self) -> Group:
        return Group(self.storage, f"{self.plan.output}/documents")

    @property
    def rejects(self) -> Group:
        return Group(self.storage, f"{self.plan.output}/rejects")

    @property
    def verdicts(self) -> Group:
        return Group(self.storage, f"{self.plan.output}/{VERDICTS_FOLDER}")


@dataclass(frozen=True, slots=True)
class OutputReport:
    """What the new source holds: planned = documents + rejects."""

    planned: int
    documents: int
    rejects: int
    parts_made: int
    parts_kept: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    unknown_endings: Mapping[str, int] = field(default_factory=dict)
    """Finish reasons of documents that say nothing we know, of which `finish_reason_ok` is null."""


@dataclass(frozen=True, slots=True)
class _Made:
    documents: Part
    rejects: Part
    verdicts: Part
    is_new: bool
    reasons: Counter[str]
    unknown_endings: Counter[str]


def output_key(plan: Plan, config: RephraseConfig, parents: Sequence[Part], verdicts_version: str) -> str:
    """Return the identity of the whole new source: 32 hex digits over plan, routes, budget and the parents' content.

    `parents` are the current parts of the source's `outcomes` and `curated`: the first decide which routes a document
    meets, the second hold its text.
    """
    described = {
        **plan.identity(),
        "where": [route.where for route in config.routes],
        "budget": config.budget.model_dump(mode="json"),
    }
    identity = Identity("rephrase", VERSION, described, {"verdicts": verdicts_version})
    return identity.key([made_from(part) for part in sorted(parents, key=lambda part: part.name)])


def is_done(job: OutputJob, key: str, retry_failed: bool = False) -> bool:
    """Tell whether the new source was completely made for `key`; with `retry_failed`, also that no request failed."""
    groups = (job.documents, job.rejects, job.verdicts)
    if not all(group.is_complete(key) for group in groups):
        return False
    index = job.rejects.index()
    return not retry_failed or (index is not None and set(index.counts) <= {"empty"})


def write_output(
    job: OutputJob,
    planned: Iterable[Planned],
    lookup: Lookup,
    key: str,
    publish: Publish,
    stopped_at: str | None = None,
    part_requests: int = 8192,
    tell: Callable[[int], None] = lambda _rows: None,
) -> OutputReport:
    """Write the rows of every planned request before `stopped_at` and complete the new source; rows never drop.

    Each request becomes exactly one document or one reject. Parts that are already made are kept. Memory holds one
    part's requests and rows. `tell` gets the rows of each part as it is done, and may raise to stop: then the indexes
    stay as they were, and parts that are done are not made again.

    Raises: ConservationError when a request before `stopped_at` has neither answer nor failure, or rows do not add up.
    """
    stream = before(stopped_at, planned)
    made: list[_Made] = []
    count = 0
    while chunk := list(islice(stream, part_requests)):
        made.append(_make_part(job, len(made), chunk, lookup))
        count += len(chunk)
        tell(len(chunk))
    reasons = sum((each.reasons for each in made), Counter[str]())
    unknown = sum((each.unknown_endings for each in made), Counter[str]())
    documents = sum(each.documents.rows for each in made)
    rejects = sum(each.rejects.rows for each in made)
    if documents + rejects != count:
        raise ConservationError(
            f"{job.plan.output}: {count} planned requests, but {documents} documents and {rejects} rejects; "
            "this is a bug in Gristmill, the source was not completed"
        )
    counts = {"planned": count, "documents": documents, "rejects": rejects}
    index = Index(stage="rephrase", key=key, counts=counts, details={"stopped_at": stopped_at})
    # Documents last: a run that is killed in between is not done, and the next one lists the rest.
    publish(job.verdicts, [each.verdicts for each in made], index)
    publish(job.rejects, [each.rejects for each in made], index.model_copy(update={"counts": dict(reasons)}))
    publish(job.documents, [each.documents for each in made], index)
    new = sum(each.is_new for each in made)
    found = (dict(sorted(counted.items())) for counted in (reasons, unknown))
    return OutputReport(count, documents, rejects, new, len(made) - new, *found)


def before(stopped_at: str | None, planned: Iterable[Planned]) -> Iterator[Planned]:
    """Yield the planned requests that a budget admitted: those before the one that it stopped at, or all."""
    return iter(planned) if stopped_at is None else takewhile(lambda each: each.request.order < stopped_at, planned)


def outcomes(planned: Iterable[Planned], lookup: Lookup, plan: Plan) -> Iterator[Rephrased | Rejected]:
    """Yield what became of each planned request, in order; none is left out.

    Raises: ConservationError when a request has neither an answer nor a failure.
    """
    for each in planned:
        result = lookup(each.request.key)
        if result is None:
            raise ConservationError(
                f"{plan.output}: request {each.record_id} has neither an answer nor a failure; run the stage again"
            )
        yield outcome(each, result, plan)


def outcome(planned: Planned, result: Answer | Failure, plan: Plan) -> Rephrased | Rejected:
    """Return the document or the reject that one request's result becomes."""
    if isinstance(result, Failure):
        return Rejected(planned, REASONS[result.reason], f"{result.reason}: {result.detail}")
    prefill = planned.style.prefill if plan.endpoint.prefill is not None else None
    done = finish(planned.style, planned.segment_text, result.text, result.finish_reason, prefill)
    if not done.body:
        why = "nothing is left after post-processing" if result.text.strip() else "the answer is empty"
        return Rejected(planned, "empty", f"empty_answer: {why} (finish reason {result.finish_reason})")
    inherited = inherit(planned.parent.licence, plan.model_licence)
    return Rephrased(
        planned=planned,
        answer=result,
        doc_id=schema.doc_id(plan.output, _file(plan), planned.segment.start, planned.record_id, done.text),
        text=done.text,
        body=done.body,
        body_start=done.body_start,
        has_marker=done.has_marker,
        licence=inherited.licence,
        licence_conflict=inherited.conflict,
    )


def documents_table(rows: Sequence[Rephrased], plan: Plan) -> pa.Table:
    """Return rows of `schema.DOCUMENTS`. Title and date are the parent's; a url is where a text was found: none."""
    return pa.Table.from_pylist(
        [
            {
                "doc_id": row.doc_id,
                "source": plan.output,
                "url": None,
                "text": row.text,
                "title": row.planned.parent.title,
                "date": row.planned.parent.date,
                "licence": row.licence,
                "parent_id": row.planned.parent.doc_id,
                "origin": _origin(row.planned, plan),
                "metadata": _json(_metadata(row, plan)),
            }
            for row in rows
        ],
        schema.DOCUMENTS,
    )


def own_texts(documents: pa.Table) -> pa.Table:
    """Return `doc_id` and as `text` what the model wrote: without the segment that a style puts before it, row for row.

    Raises: SchemaError when a column is missing.
    """
    schema.require(documents, schema.DOC_ID, schema.TEXT, "metadata")
    rows = zip(documents[schema.TEXT].to_pylist(), documents["metadata"].to_pylist(), strict=True)
    own = pa.array([text[json.loads(metadata)["body_start"] :] for text, metadata in rows], pa.string())
    return pa.table({schema.DOC_ID: documents[schema.DOC_ID], schema.TEXT: own})


def rejects_table(rows: Sequence[Rejected], plan: Plan) -> pa.Table:
    """Return rows of `schema.REJECTS`; the origin's `record_id` is that of the document that did not come."""
    return pa.Table.from_pylist(
        [
            {
                "source": plan.output,
                "url": None,
                "reason": row.reason,
                "detail": row.detail,
                "origin": _origin(row.planned, plan),
            }
            for row in rows
        ],
        schema.REJECTS,
    )


def _metadata(row: Rephrased, plan: Plan) -> dict[str, Any]:
    """Return what the row's columns do not say. Nothing of it depends on when or where the answer was given."""
    planned, segment = row.planned, row.planned.segment
    return {
        "segment": segment.index,
        "segment_start": segment.start,
        "segment_end": segment.end,
        "style": planned.style.name,
        "style_version": planned.style.version,
        "sample": planned.sample,
        "body_start": row.body_start,
        "model": plan.endpoint.model,
        "revision": plan.endpoint.revision,
        "prompt_hash": planned.style.prompt_hash,
        "parameters": plan.sent(planned.style, planned.sample),
        "prompt_tokens": row.answer.prompt_tokens,
        "completion_tokens": row.answer.completion_tokens,
        "finish_reason": row.answer.finish_reason,
        "parent_licence": planned.parent.licence,
        "model_licence": plan.model_licence,
        "licence_conflict": row.licence_conflict,
    }


def _make_part(job: OutputJob, number: int, chunk: Sequence[Planned], lookup: Lookup) -> _Made:
    """Make one part of each group, or find that it is made."""
    rows = list(outcomes(chunk, lookup, job.plan))
    rejected = [row for row in rows if isinstance(row, Rejected)]
    rephrased = [row for row in rows if isinstance(row, Rephrased)]
    reasons: Counter[str] = Counter(row.reason for row in rejected)
    endings = Counter(row.answer.finish_reason for row in rephrased)
    unknown = Counter({name: count for name, count in endings.items() if ending(name) is None})
    documents = documents_table(rephrased, job.plan)
    rejects = rejects_table(rejected, job.plan)
    works = _works(job, number, documents, rejects, len(chunk))
    groups = (job.documents, job.rejects, job.verdicts)
    done = [finished(group, [work]).get(work.stem) for group, work in zip(groups, works, strict=True)]
    if all(done):
        kept = [part for part in done if part is not None]
        return _Made(kept[0], kept[1], kept[2], False, reasons, unknown)
    verdicts = job.measure(rephrased)
    schema.require(verdicts, schema.DOC_ID)
    if not verdicts[schema.DOC_ID].equals(documents[schema.DOC_ID]):
        raise ConservationError(f"{job.verdicts.folder}: verdicts are not those of the documents, in their order")
    # Documents last: a part of them is the proof that its rejects and verdicts are there.
    second = _write(job.rejects, works[1], rejects, Tally(rows_in=len(rejected), counts=reasons))
    third = _write(job.verdicts, works[2], verdicts, Tally(rows_in=len(rephrased)))
    first = _write(job.documents, works[0], documents, Tally(rows_in=len(chunk), rejects=len(rejected)))
    return _Made(first, second, third, True, reasons, unknown)


def _works(job: OutputJob, number: int, documents: pa.Table, rejects: pa.Table, planned: int) -> tuple[Work, ...]:
    """Return the work of each group's part, keyed by the rows themselves, in which requests and answers are."""
    described = {"planned": planned, "documents": _content(documents), "rejects": _content(rejects)}
    identity = Identity("rephrase", VERSION, job.plan.identity())
    judged = Identity("verify", VERSION, {"version": job.verdicts_version, "schema": digest(VERDICTS.to_string())})
    stem = f"part-{number:05d}"
    return Work(stem, identity, (described,)), Work(stem, identity, (described,)), Work(stem, judged, (described,))


def _content(table: pa.Table) -> str:
    """Return a hash of a table's rows."""
    content = hashlib.blake2b(digest_size=16)
    for row in table.to_pylist():
        content.update(json.dumps(row, ensure_ascii=True, default=str).encode())
        content.update(b"\n")
    return content.hexdigest()


def _write(group: Group, work: Work, table: pa.Table, tally: Tally) -> Part:
    with PartWriter(group, work, table.schema) as writer:
        writer.write(table)
    return writer.finish(tally)


def _origin(planned: Planned, plan: Plan) -> dict[str, Any]:
    return {"file": _file(plan), "offset": planned.segment.start, "record_id": planned.record_id}


def _file(plan: Plan) -> str:
    """Return the name under which all rows of a plan have their origin: stable, whatever the parents' parts are."""
    return f"{plan.source}/curated"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


# --- verdicts


def measure_with(model: str, detect: Callable[[str], str | None] | None = None) -> Measure:
    """Return the function that judges rows as a table of `VERDICTS`, row for row; no row can drop.

    `model` is what its column says, `detect` tells a text's language. The model's own text is judged against its
    segment: of a style that appends, the segment before it is not part of what is judged.
    """

    def verdicts(rows: Sequence[Rephrased]) -> pa.Table:
        judged = verdict_table(_pair(row, detect) for row in rows)
        described = pa.Table.from_pylist([_described(row, model) for row in rows], DESCRIPTION)
        # The marker was looked for before post-processing removed it, and with Markdown around it.
        found = pa.array([row.has_marker for row in rows], pa.bool_())
        columns = {name: judged[name] for name in SCHEMA.names} | {"marker_found": found}
        ids = pa.array([row.doc_id for row in rows], pa.string())
        arrays = [ids, *(described[name] for name in DESCRIPTION.names), *(columns[name] for name in SCHEMA.names)]
        return pa.Table.from_arrays(arrays, schema=VERDICTS)

    return verdicts


def _pair(row: Rephrased, detect: Callable[[str], str | None] | None) -> Pair:
    low, high = row.planned.style.length_ratio
    expected = Expectations(
        min_length_ratio=low,
        max_length_ratio=high,
        finish_reason=row.answer.finish_reason,
        format=row.planned.style.format,
        instructions=row.planned.style.instructions,
        language=row.planned.parent.language,
        detect=detect,
    )
    return Pair(row.planned.segment_text.strip(), row.body, expected)


def _described(row: Rephrased, model: str) -> dict[str, Any]:
    return {
        "style": row.planned.style.name,
        "segment": row.planned.segment.index,
        "sample": row.planned.sample,
        "model": model,
        "finish_reason": row.answer.finish_reason,
        "prompt_tokens": row.answer.prompt_tokens,
        "completion_tokens": row.answer.completion_tokens,
        "waived": list(row.planned.style.waive),
        "licence_conflict": row.licence_conflict,
    }

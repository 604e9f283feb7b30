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
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import pyarrow as pa

from pipeline.llm.policies import Reason
from pipeline.llm.types import Answer, Failure, ending
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.licence import inherit
from pipeline.rephrase.plan import Plan, Planned
from pipeline.rephrase.post import finish
from pipeline.rephrase.verify import COLUMNS as VERDICTS_OF_A_PAIR
from pipeline.rephrase.verify import SCHEMA, Expectations, Pair, verdict_table
from pipeline.table import schema
from pipeline.table.errors import ConservationError
from pipeline.table.schema import Column, RejectReason
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

_DESCRIBED = {
    "style": Column(pa.string(), "the style that was asked for", False),
    "segment": Column(pa.int32(), "number of the segment of the source document", False),
    "sample": Column(pa.int32(), "number of the answer to the same segment and style", False),
    "model": Column(pa.string(), "the model that answered", False),
    "finish_reason": Column(pa.string(), "why the answer ended, as the server says it", False),
    "prompt_tokens": Column(pa.int64(), "tokens of the request; null where the server does not count"),
    "completion_tokens": Column(pa.int64(), "tokens of the answer; null where the server does not count"),
    "waived": Column(pa.list_(pa.string()), "the rules that the style's file waives", False),
    "licence_conflict": Column(
        pa.string(), "why the parent's and the model's licences do not go together; null: they do"
    ),
}
DESCRIPTION = schema.arrow(_DESCRIBED)
VERDICT_COLUMNS = schema.ID_COLUMN | _DESCRIBED | VERDICTS_OF_A_PAIR
VERDICTS = schema.arrow(VERDICT_COLUMNS)
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


@dataclass(frozen=True, slots=True)
class Rejected:
    """A planned request of which nothing came."""

    planned: Planned
    reason: RejectReason
    detail: str


@dataclass(frozen=True)
class OutputJob:
    """Where the rows of a plan go, and what judges them."""

    storage: Storage
    plan: Plan
    detect: Callable[[str], str | None] | None
    """Tells a text's language."""
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
    reasons: Mapping[str, int]
    unknown_endings: Mapping[str, int]
    """Finish reasons of documents that say nothing we know, of which `finish_reason_ok` is null."""


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
    parts: list[tuple[Part, Part, Part]] = []
    reasons, unknown = Counter[str](), Counter[str]()
    count = new = 0
    while chunk := list(islice(stream, part_requests)):
        rows = list(outcomes(chunk, lookup, job.plan))
        rejected = [row for row in rows if isinstance(row, Rejected)]
        rephrased = [row for row in rows if isinstance(row, Rephrased)]
        made, is_new = _make_part(job, len(parts), rephrased, rejected)
        parts.append(made)
        reasons.update(row.reason for row in rejected)
        unknown.update(row.answer.finish_reason for row in rephrased if ending(row.answer.finish_reason) is None)
        count, new = count + len(chunk), new + is_new
        tell(len(chunk))
    verdicts, rejects, documents = ([made[number] for made in parts] for number in range(3))
    n_documents, n_rejects = (sum(part.rows for part in group) for group in (documents, rejects))
    if n_documents + n_rejects != count:
        raise ConservationError(
            f"{job.plan.output}: {count} planned requests, but {n_documents} documents and {n_rejects} rejects; "
            "this is a bug in Gristmill, the source was not completed"
        )
    counts = {"planned": count, "documents": n_documents, "rejects": n_rejects}
    index = Index(stage="rephrase", key=key, counts=counts, details={"stopped_at": stopped_at})
    # Documents last: a run that is killed in between is not done, and the next one lists the rest.
    publish(job.verdicts, verdicts, index)
    publish(job.rejects, rejects, index.model_copy(update={"counts": dict(reasons)}))
    publish(job.documents, documents, index)
    found = (dict(sorted(counted.items())) for counted in (reasons, unknown))
    return OutputReport(count, n_documents, n_rejects, new, len(parts) - new, *found)


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
        doc_id=schema.doc_id(plan.output, plan.file, planned.segment.start, planned.record_id, done.text),
        text=done.text,
        body=done.body,
        body_start=done.body_start,
        has_marker=done.has_marker,
        licence=inherited.licence,
        licence_conflict=inherited.conflict,
    )


def own_texts(documents: pa.Table) -> pa.Table:
    """Return `doc_id` and as `text` what the model wrote: without the segment that a style puts before it, row for row.

    Raises: SchemaError when a column is missing.
    """
    schema.require(documents, schema.DOC_ID, schema.TEXT, "metadata")
    rows = zip(documents[schema.TEXT].to_pylist(), documents["metadata"].to_pylist(), strict=True)
    own = pa.array([text[json.loads(metadata)["body_start"] :] for text, metadata in rows], pa.string())
    return pa.table({schema.DOC_ID: documents[schema.DOC_ID], schema.TEXT: own})


def _make_part(
    job: OutputJob, number: int, rephrased: Sequence[Rephrased], rejected: Sequence[Rejected]
) -> tuple[tuple[Part, Part, Part], bool]:
    """Make one part of the verdicts, the rejects and the documents, or find that it is made; say whether it is new."""
    described = [_metadata(row, job.plan) for row in rephrased]
    documents = pa.Table.from_pylist(
        [
            {
                "doc_id": row.doc_id,
                "source": job.plan.output,
                "text": row.text,
                "title": row.planned.parent.title,
                "date": row.planned.parent.date,
                "licence": row.licence,
                "parent_id": row.planned.parent.doc_id,
                "origin": _origin(row.planned, job.plan),
                "metadata": json.dumps(metadata, ensure_ascii=False, sort_keys=True, allow_nan=False),
            }
            for row, metadata in zip(rephrased, described, strict=True)
        ],
        schema.DOCUMENTS,
    )
    # The origin's `record_id` is that of the document that did not come. No row has a url: that is where it was found.
    rejects = pa.Table.from_pylist(
        [
            {
                "source": job.plan.output,
                "reason": row.reason,
                "detail": row.detail,
                "origin": _origin(row.planned, job.plan),
            }
            for row in rejected
        ],
        schema.REJECTS,
    )
    planned = len(rephrased) + len(rejected)
    # The key of a part is in the rows themselves, and so in requests and answers.
    rows = {"planned": planned, "documents": _content(documents), "rejects": _content(rejects)}
    made = Identity("rephrase", VERSION, job.plan.identity())
    judged = Identity("verify", VERSION, {"version": job.verdicts_version, "schema": digest(VERDICTS.to_string())})
    works = [Work(f"part-{number:05d}", identity, (rows,)) for identity in (judged, made, made)]
    groups = (job.verdicts, job.rejects, job.documents)
    done = [finished(group, [work]).get(work.stem) for group, work in zip(groups, works, strict=True)]
    if done[0] and done[1] and done[2]:
        return (done[0], done[1], done[2]), False
    verdicts = _verdicts(rephrased, described, job.detect)
    counts = Counter[str](row.reason for row in rejected)
    tallies = (
        Tally(rows_in=len(rephrased)),
        Tally(rows_in=len(rejected), counts=counts),
        Tally(rows_in=planned, rejects=len(rejected)),
    )
    # Documents last: a part of them is the proof that its rejects and verdicts are there.
    parts = []
    for group, work, table, tally in zip(groups, works, (verdicts, rejects, documents), tallies, strict=True):
        with PartWriter(group, work, table.schema) as writer:
            writer.write(table)
        parts.append(writer.finish(tally))
    return (parts[0], parts[1], parts[2]), True


def _content(table: pa.Table) -> str:
    """Return a hash of a table's rows."""
    content = hashlib.blake2b(digest_size=16)
    for row in table.to_pylist():
        content.update(json.dumps(row, ensure_ascii=True, default=str).encode())
        content.update(b"\n")
    return content.hexdigest()


def _origin(planned: Planned, plan: Plan) -> dict[str, Any]:
    return {"file": plan.file, "offset": planned.segment.start, "record_id": planned.record_id}


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


def _verdicts(
    rows: Sequence[Rephrased], described: Sequence[Mapping[str, Any]], detect: Callable[[str], str | None] | None
) -> pa.Table:
    """Return rows of `VERDICTS`, row for row. The model's own text is judged against its segment: of a style that
    appends, the segment before it is not part of what is judged.
    """
    pairs = []
    for row in rows:
        style = row.planned.style
        expected = Expectations(
            min_length_ratio=style.length_ratio[0],
            max_length_ratio=style.length_ratio[1],
            finish_reason=row.answer.finish_reason,
            format=style.format,
            instructions=style.instructions,
            language=row.planned.parent.language,
            detect=detect,
        )
        pairs.append(Pair(row.planned.segment_text.strip(), row.body, expected))
    judged = verdict_table(pairs)
    # The marker was looked for before post-processing removed it, and with Markdown around it.
    found = pa.array([row.has_marker for row in rows], pa.bool_())
    judged = judged.set_column(judged.column_names.index("marker_found"), SCHEMA.field("marker_found"), found)
    known = [{**metadata, "waived": row.planned.style.waive} for row, metadata in zip(rows, described, strict=True)]
    columns = [pa.array([row.doc_id for row in rows], pa.string())]
    columns += [*pa.Table.from_pylist(known, DESCRIPTION).columns, *judged.columns]
    return pa.Table.from_arrays(columns, schema=VERDICTS)

"""Stack Exchange's dumps: a question with its answers is a document.

Source: "Database schema documentation for the public data dump and SEDE" (Meta Stack Exchange 2677); the licence by
date, https://stackoverflow.com/help/licensing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO
from xml.parsers import expat

from pipeline.extract.config import StackExchangeOptions
from pipeline.extract.members import RawInput, read_head, read_lines
from pipeline.extract.threads.store import Row, Store, Thread, as_int, open_store, opened
from pipeline.extract.units import (
    DAMAGE,
    LEFT_OUT,
    MAX_DETAIL,
    MERGED,
    SKIPPED,
    Document,
    Entry,
    Given,
    Origin,
    OwnColumn,
    Raw,
    Reader,
    Reject,
    refuse,
)
from pipeline.inputs.files import InputFile
from pipeline.table.schema import RejectReason

COLUMNS: dict[str, OwnColumn] = {
    "accepted": OwnColumn("bool", "an accepted answer is in the document"),
    "answers": OwnColumn("int", "answers in the document"),
    "best_answer_score": OwnColumn("int", "greatest score of an answer in the document"),
    "closed": OwnColumn("bool", "the question was closed"),
    "comments": OwnColumn("int", "comments of question and answers in the document"),
    "duplicate_questions": OwnColumn("int[]", "ids of the questions that it was closed as a duplicate of"),
    "linked": OwnColumn("int[]", "ids of questions that it links to"),
    "post_id": OwnColumn("int", "id of the question"),
    "score": OwnColumn("int", "score of the question"),
    "site": OwnColumn("text", "host of the site"),
    "tags": OwnColumn("text[]", "tags of the question"),
    "views": OwnColumn("int", "how often the question was viewed"),
}
QUESTION, ANSWER, COMMENT, LINK = range(4)
"""Kinds of rows. The first two are posts, to which the others belong."""
LICENCES = (("2011-04-08", "CC-BY-SA-2.5"), ("2018-05-02", "CC-BY-SA-3.0"), ("9999", "CC-BY-SA-4.0"))
"""What was posted before a day is under this licence."""

_TABLES = ("posts", "comments", "postlinks", "tags", "posthistory", "votes", "users", "badges")
_NAME = re.compile(
    rf"(?P<site>.*?)[-_. ]?(?P<table>{'|'.join(_TABLES)})\.xml(?:\.(?:gz|bz2|zst|xz|lz4))?", re.IGNORECASE
)
_SITE = re.compile(r"(?:[a-z0-9-]+\.)+(?:com|net|org|io)", re.IGNORECASE)
_KEPT = {
    "posts": (
        *("Title", "Body", "Tags", "CreationDate", "Score", "ViewCount", "AcceptedAnswerId", "ClosedDate"),
        *("ContentLicense", "DeletionDate"),
    ),
    "comments": ("PostId", "Text"),
    "postlinks": ("PostId", "RelatedPostId", "LinkTypeId"),
}
_POST_TYPES = {
    **{"3": "an orphaned tag wiki", "4": "a tag's excerpt", "5": "a tag's wiki", "6": "a moderator's nomination"},
    **{"7": "a placeholder of a wiki", "8": "a privilege's wiki"},
}
_CHARACTER = re.compile(rb"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,9}));")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LICENCE = re.compile(r"CC[ -]BY-SA[ -](\d\.\d)")


def together(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """Group the files of each site's dump, its posts first: those of one folder whose names begin alike."""
    groups: dict[tuple[str, ...], list[tuple[int, str, InputFile]]] = {}
    for file in files:
        folder, _, name = file.shown_url.rpartition("/")
        match = _NAME.fullmatch(name)
        if match is None or file.problem is not None:
            groups[file.shown_url, "", "alone"] = [(0, file.name, file)]
        else:
            rank = _TABLES.index(match["table"].lower())
            groups.setdefault((folder, match["site"].lower()), []).append((rank, file.name, file))
    ordered = [tuple(file for *_, file in sorted(group, key=lambda item: item[:2])) for group in groups.values()]
    return sorted(ordered, key=lambda group: group[0].name)


def read(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield what is no question or answer, then each question, from `start` on, with what went into it."""
    with open_store(None if given.rows else given.storage) as store:
        for entry in _load(stream, given, store):
            if start == 0:
                yield entry
        site = _site(given)
        names = [given.file, *(file.name for file in given.beside)]
        for thread in store.threads(start - 1, given.limits.record_bytes):
            for index, (result, record_type) in enumerate(_results(thread, names, site, given.options)):
                yield Entry(thread.number + 1, result, record_type, index == 0)


def _site(given: Given) -> str | None:
    """Return the host of a dump's site: as an option says, or the file's name, or its folder's."""
    assert isinstance(given.options, StackExchangeOptions)
    folder, _, name = given.address.rpartition("/")
    match = _NAME.fullmatch(name)
    named = [match["site"] if match else "", folder.rpartition("/")[2]]
    found = [each.lower() for each in named if _SITE.fullmatch(each)]
    return given.options.site or (found[0] if found else None)


# ---- rows


def _load(stream: BinaryIO, given: Given, store: Store) -> Iterator[Entry]:
    """Put the rows of a dump's files into the store, posts first. Yield an entry for each that is not put there."""
    assert isinstance(given.options, StackExchangeOptions)
    used = {"posts", "postlinks"} | ({"comments"} if given.options.comments else set())
    tables: set[str] = set()
    for number, name, found in opened(stream, given.file, given.beside):
        if isinstance(found, tuple):
            yield refuse(name, 0, *found, DAMAGE if number else "file")
            tables.add("posts")  # perhaps
            continue
        match = _NAME.fullmatch(name.rpartition("/")[2])
        table = _table(found, match["table"].lower() if match else None)
        if table is None:
            detail = (
                "not a table of a Stack Exchange dump such as Posts.xml: it begins with another element, or is no XML"
            )
            yield refuse(name, 0, "unsupported", detail, DAMAGE if number else "file")
        elif table in used:
            if table != "posts":
                store.index_ids()
            yield from _rows(found, number, name, table, given, store)
        elif table:
            yield Entry(0, None, SKIPPED, False)
        tables |= {table or "posts"}
    if "posts" not in tables:
        detail = "no posts: name Posts.xml of the same site among `inputs`, in the same folder"
        yield refuse(given.file, 0, "unsupported", detail, "file")


def _table(stream: BinaryIO, named: str | None) -> str | None:
    """Return which table a file holds, by its first element: "" of an empty file, None of what is no table."""
    head, is_all = read_head(RawInput(stream, whole=False))
    if is_all and not head.strip():
        return ""
    if not head:  # damaged from the first byte on, which reading it tells
        return named
    elements = re.findall(rb"<([a-zA-Z]\w*)", re.sub(rb"<!--.*?-->", b"", head, flags=re.DOTALL))
    first = elements[0].decode().lower() if head.lstrip().startswith(b"<") and elements else ""
    return first if first in _TABLES else None


def _rows(stream: BinaryIO, number: int, name: str, table: str, given: Given, store: Store) -> Iterator[Entry]:
    limit, rows = given.limits.record_bytes, 0
    # Within attributes `<` is always escaped, so a row ends before the next one: damage costs no more than its row.
    for piece in read_lines(RawInput(stream), 0, limit, b"<"):
        place = max(0, piece.offset - 1)
        if piece.damage is not None:
            yield refuse(name, place, piece.damage.reason, str(piece.damage), DAMAGE)
        elif piece.data is None:
            yield _refused(name, place, None, "oversize", f"a row of over {limit} bytes")
        elif piece.data[:3] == b"row" and piece.data[3:4].isspace():
            found = _row(piece.data, number, name, place, table, store)
            if isinstance(found, Entry):
                yield found
            else:
                store.add(found)
            rows += 1
            if rows == given.rows:
                return


def _refused(name: str, place: int, record_id: str | None, reason: RejectReason, detail: str) -> Entry:
    return Entry(0, Reject(Origin(name, place, record_id), None, reason, detail[:MAX_DETAIL]), resumable=False)


def _row(piece: bytes, number: int, name: str, place: int, table: str, store: Store) -> Row | Entry:
    """Return what of a row is kept, or the entry of one that is not."""
    try:
        fields = _attributes(piece)
    except expat.ExpatError as error:
        return _refused(name, place, None, "damaged", f"a row that is no XML: {error}")
    row_id, kept = as_int(fields.get("Id")), {key: fields[key] for key in _KEPT[table] if key in fields}
    data = json.dumps(kept, ensure_ascii=False).encode()
    if table != "posts":
        post = as_int(fields.get("PostId"))
        thread = store.thread_of(post) if post is not None else None
        if row_id is None or thread is None:
            return Entry(0, None, LEFT_OUT, False)
        return Row(thread, COMMENT if table == "comments" else LINK, row_id, number, place, data)
    kind = fields.get("PostTypeId")
    thread = row_id if kind == "1" else as_int(fields.get("ParentId"))
    if kind is not None and kind not in ("1", "2"):
        what = _POST_TYPES.get(kind, f"a post of type {kind[:20]}")
        return _refused(name, place, fields.get("Id"), "namespace", f"{what}, neither question nor answer")
    if row_id is None or kind is None or thread is None or thread < 0:
        missing = "Id" if row_id is None else "PostTypeId" if kind is None else "ParentId"
        return _refused(name, place, fields.get("Id"), "damaged", f"a post without {missing}")
    return Row(thread, QUESTION if kind == "1" else ANSWER, row_id, number, place, data)


def _attributes(piece: bytes) -> Mapping[str, str]:
    """Return the attributes of a row, what no XML may hold among its characters replaced. Raises: ExpatError."""
    tag = b"<" + piece[: piece.rfind(b">")].rstrip(b"/") + b"/>"
    try:
        return _parsed(tag)
    except expat.ExpatError:
        mended = _CONTROL.sub(b" ", _CHARACTER.sub(_allowed, tag))
        if mended == tag:
            raise
        return _parsed(mended)


def _parsed(tag: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = lambda _, attributes: found.update(attributes)
    parser.Parse(tag, True)
    return found


def _allowed(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16) if match[1] else int(match[2])
    is_legal = code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000
    return match[0] if is_legal else b"&#xFFFD;"


# ---- threads

Result = Raw | Document | Reject | None
Post = tuple[Row, dict[str, str]]
"""A row and its fields."""


def _results(thread: Thread, names: Sequence[str], site: str | None, options: Any) -> Iterator[tuple[Result, str]]:
    """Yield what a question and what belongs to it become, each with its type of record."""
    assert isinstance(options, StackExchangeOptions)
    url = f"https://{site}/questions/{thread.number}" if site else None

    def origin(row: Row) -> Origin:
        return Origin(names[row.file], row.place, str(row.id))

    posts = [row for row in thread.repeated if row.kind in (QUESTION, ANSWER)]
    for row in posts:
        yield Reject(origin(row), url, "duplicate_record", f"post {row.id} was there before"), "row"
    left = len(thread.repeated) - len(posts) + thread.behind
    of_kind: list[list[Post]] = [[], [], [], []]
    for row in thread.rows:
        of_kind[row.kind].append((row, json.loads(row.data)))
    questions, answers, comments, links = of_kind
    if not questions:
        for row, _ in answers:
            detail = f"an answer whose question {thread.number} is not among the posts"
            yield Reject(origin(row), url, "damaged", detail), "row"
        yield from [(None, LEFT_OUT)] * (left + len(comments) + len(links))
        return
    question = questions[0]
    chosen = _chosen(question, answers, options)
    refused = _refusal(question[1], bool(chosen), thread.behind, options)
    if refused is not None:
        yield Reject(origin(question[0]), url, *refused), "row"
        merged = 0
    else:
        said: dict[int, list[str]] = {row.id: [] for row, _ in (question, *chosen)}
        for _, fields in comments:
            if (post := as_int(fields["PostId"])) in said:
                said[post].append(fields.get("Text", ""))
        document = Document(origin(question[0]), url, "", **_facts(question, chosen, links, site))
        document.kept["comments"] = sum(map(len, said.values()))
        yield Raw(document, _payload(question, chosen, said)), "row"
        merged = len(chosen) + sum(map(len, said.values())) + len(links)
    yield from [(None, MERGED)] * merged
    yield from [(None, LEFT_OUT)] * (left + len(answers) + len(comments) + len(links) - merged)


def _chosen(question: Post, answers: Sequence[Post], options: StackExchangeOptions) -> list[Post]:
    """Return the answers that go into the document, in order: the accepted one, then by score, then by id."""
    accepted, least = as_int(question[1].get("AcceptedAnswerId")), options.min_answer_score
    chosen = [
        (row, fields)
        for row, fields in answers
        if "DeletionDate" not in fields
        and (least is None or _score(fields) >= least)
        and (options.answers != "accepted" or row.id == accepted)
    ]
    chosen.sort(key=lambda post: (post[0].id != accepted, -_score(post[1]), post[0].id))
    return chosen[: 1 if options.answers == "best" else None]


def _score(fields: Mapping[str, str]) -> int:
    return as_int(fields.get("Score")) or 0


def _refusal(
    question: Mapping[str, str], is_answered: bool, behind: int, options: StackExchangeOptions
) -> tuple[RejectReason, str] | None:
    """Return why a question becomes no document."""
    least = options.min_question_score
    if "DeletionDate" in question:
        return "deleted", f"deleted on {question['DeletionDate'][:40]}"
    if behind:
        return "oversize", f"a thread over `limits.record_bytes`: {behind:,} further rows"
    if least is not None and _score(question) < least:
        return "namespace", f"score {_score(question)}, below min_question_score {least}"
    return None if is_answered or options.unanswered else ("namespace", "no answer")


def _facts(question: Post, chosen: Sequence[Post], links: Sequence[Post], site: str | None) -> dict[str, Any]:
    """Return what is known of a document beside its text."""
    row, fields = question
    accepted = as_int(fields.get("AcceptedAnswerId"))
    linked: dict[bool, set[int]] = {False: set(), True: set()}
    for _, link in links:
        if (to := as_int(link.get("RelatedPostId"))) is not None:
            linked[link.get("LinkTypeId") == "3"].add(to)
    # A later version may be used for what was published under an earlier one, so the whole is under the latest.
    licences = sorted({_licence(post) for _, post in (question, *chosen)} - {None}, key=str)
    kept: dict[str, object] = {
        "accepted": any(answer.id == accepted for answer, _ in chosen),
        "best_answer_score": max((_score(answer) for _, answer in chosen), default=None),
        "answers": len(chosen),
        "closed": "ClosedDate" in fields,
        "comments": 0,
        "duplicate_questions": sorted(linked[True]),
        "linked": sorted(linked[False]),
        "post_id": row.id,
        "score": as_int(fields.get("Score")),
        "site": site,
        "tags": re.findall(r"[^<>|]+", fields.get("Tags", "")),
        "views": as_int(fields.get("ViewCount")),
    }
    metadata = {"answer_ids": [answer.id for answer, _ in chosen], "licences": licences}
    title = " ".join(fields.get("Title", "").split()) or None
    latest = licences[-1] if licences else None
    return {"title": title, "date": _date(fields), "licence": latest, "metadata": metadata, "kept": kept}


def _date(fields: Mapping[str, str]) -> datetime | None:
    try:
        date = datetime.fromisoformat(fields.get("CreationDate", ""))
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _licence(fields: Mapping[str, str]) -> str | None:
    """Return the licence of a post: as its row says, or by the day on which it was written."""
    if (stated := _LICENCE.search(fields.get("ContentLicense", ""))) is not None:
        return f"CC-BY-SA-{stated[1]}"
    date = _date(fields)
    return next((name for day, name in LICENCES if date.isoformat() < day), None) if date is not None else None


def _payload(question: Post, chosen: Sequence[Post], said: Mapping[int, Sequence[str]]) -> bytes:
    """Return what the worker makes text of."""
    accepted = as_int(question[1].get("AcceptedAnswerId"))
    posts = [
        {"body": fields.get("Body", ""), "accepted": row.id == accepted, "comments": said[row.id]}
        for row, fields in (question, *chosen)
    ]
    return json.dumps({"title": question[1].get("Title", ""), "posts": posts}, ensure_ascii=False).encode()


STACKEXCHANGE = Reader(read, COLUMNS, "pipeline.extract.threads.posts:make_handler", ("lxml",), together=together)

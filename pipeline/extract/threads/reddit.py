"""Reddit's submissions and comments as Pushshift and its successors publish them: a thread is a document.

Files of both kinds, of any months and in any order, are one input: what a row is its fields say. Authors are looked at
once, to know bots by their names, and are in nothing that is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

from pipeline.extract.config import RedditOptions
from pipeline.extract.members import BOM, LONG_ZSTD_WINDOW, RawInput, read_lines
from pipeline.extract.threads.store import Row, Thread, as_int, open_store, opened
from pipeline.extract.units import (
    DAMAGE,
    LEFT_OUT,
    MAX_DETAIL,
    MERGED,
    Document,
    Entry,
    Given,
    Origin,
    OwnColumn,
    Reader,
    Reject,
    refuse,
)
from pipeline.inputs.files import InputFile
from pipeline.table.schema import RejectReason

COLUMNS: dict[str, OwnColumn] = {
    "comments": OwnColumn("int", "comments in the document"),
    "flair": OwnColumn("text", "flair of the submission"),
    "link": OwnColumn("text", "address that the submission points to"),
    "over_18": OwnColumn("bool", "marked as for adults alone"),
    "post_id": OwnColumn("text", "id of the submission, or of the comment"),
    "score": OwnColumn("int", "votes up less votes down"),
    "subreddit": OwnColumn("text", "name of the subreddit"),
    "upvote_ratio": OwnColumn("float", "share of the votes that are up"),
}
SUBMISSION, COMMENT = range(2)

_KEPT = (
    (
        *("title", "selftext", "score", "created_utc", "subreddit", "permalink", "url", "is_self", "over_18"),
        *("link_flair_text", "upvote_ratio", "removed_by_category"),
    ),
    ("parent_id", "body", "score", "created_utc", "subreddit", "permalink"),
)
_BASE36 = re.compile(r"(?:t[1-6]_)?([0-9a-z]{1,12})", re.IGNORECASE)
_GONE = re.compile(r"\[\s*(?:deleted|removed)\b[^\]]*\]", re.IGNORECASE)
_ENTITY = re.compile(r"&(amp|lt|gt|quot|#39|#x27);")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "#39": "'", "#x27": "'"}
_FILLERS = re.compile(r"&#x200b;|&zwnj;", re.IGNORECASE)
_BOT = re.compile(r"(?:^|[^a-zA-Z])[bB][oO][tT][-_]?\d*$|[a-z\d]B(?:ot|OT)[-_]?\d*$")
_BOT_NAMES = """automoderator autotldr bitcointip changetip colorcodebot gifvbot haikubot-1911 imguralbumbot
imgurtranscriber metric_units raddbot savevideo sneakpeekbot sub_mentions totesmessenger transcribersofreddit
tweetposter vredditdownloader youtubefactsbot"""
_BOTS = frozenset(_BOT_NAMES.split())
"""Those that do not end in a word `bot`."""
_MAX_INDENT = 10
"""Levels of replies that are shown: thousands of them would be mostly white space."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Result = Document | Reject | None
Post = tuple[Row, dict[str, Any]]
"""A row and its fields."""


def together(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """Group all files of a source, but for those of which it is known that they cannot be read."""
    sound = tuple(file for file in files if file.problem is None)
    groups = [(file,) for file in files if file.problem is not None]
    return sorted([*groups, *([sound] if sound else [])], key=lambda group: group[0].name)


def read(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield rows that cannot be read or are not wanted, then the threads, from `start` on; none can drop."""
    assert isinstance(given.options, RedditOptions)
    names = [given.file, *(file.name for file in given.beside)]
    with open_store(None if given.rows else given.storage) as store:
        for number, name, found in opened(stream, given.file, given.beside):
            items: Iterator[Row | Entry]
            if isinstance(found, tuple):
                items = iter([refuse(name, 0, *found, DAMAGE if number else "file")])
            else:
                items = _rows(found, number, name, given, given.options)
            for item in items:
                if isinstance(item, Row):
                    store.add(item)
                elif start == 0:
                    yield item
        for thread in store.threads(start - 1, given.limits.record_bytes):
            for index, (result, record_type) in enumerate(_results(thread, names, given.options)):
                yield Entry(thread.number + 1, result, record_type, index == 0)


# ---- rows


def _rows(stream: BinaryIO, number: int, name: str, given: Given, options: RedditOptions) -> Iterator[Row | Entry]:
    """Yield the rows of a file, and an entry for each line that is none."""
    wanted, unwanted = (frozenset(map(_subreddit, each)) for each in (options.subreddits, options.exclude_subreddits))
    bots = _BOTS | {bot.lower() for bot in options.bot_names}
    limit, rows = given.limits.record_bytes, 0
    for line in read_lines(RawInput(stream, window=LONG_ZSTD_WINDOW), 0, limit):
        place = line.offset
        if line.damage is not None:
            yield refuse(name, place, line.damage.reason, str(line.damage), DAMAGE)
            continue
        if line.data is None:
            yield _refused(name, place, "oversize", f"a line of over {limit} bytes")
            continue
        if not line.data or line.data.isspace():
            continue
        try:
            fields = json.loads(line.data.removeprefix(BOM).decode())
            author = fields.get("author")
        except RecursionError:
            yield _refused(name, place, "too_deep", "JSON nested too deeply")
        except (ValueError, AttributeError) as error:
            what = "no object" if isinstance(error, AttributeError) else f"invalid JSON: {error}"
            yield _refused(name, place, "damaged", what)
        else:
            subreddit = _subreddit(str(fields.get("subreddit") or ""))
            is_wanted = (not wanted or subreddit in wanted) and subreddit not in unwanted
            yield _row(fields, is_wanted, _is_bot(author, bots), Origin(name, place), number)
        rows += 1
        if rows == given.rows:
            return


def _row(fields: dict[str, Any], is_wanted: bool, is_bot: bool, origin: Origin, number: int) -> Row | Entry:
    """Return what of a row is kept, or the entry of one that is not."""
    is_comment = "body" in fields and ("link_id" in fields or "parent_id" in fields)
    row_id = _number(fields.get("id") or fields.get("name"))
    thread = _number(fields.get("link_id")) if is_comment else row_id
    if not is_comment and "title" not in fields:
        return _refused(origin.file, origin.offset, "damaged", "neither a submission nor a comment of Reddit")
    if row_id is None or thread is None:
        missing = "id" if row_id is None else "link_id"
        return _refused(origin.file, origin.offset, "damaged", f"no {missing}, or one that is none")
    if not is_wanted:
        if is_comment:
            return Entry(0, None, LEFT_OUT, False)
        return _refused(origin.file, origin.offset, "namespace", f"subreddit {fields.get('subreddit')!s:.60}")
    kind = COMMENT if is_comment else SUBMISSION
    kept = {key: fields[key] for key in _KEPT[kind] if fields.get(key) is not None}
    data = json.dumps({**kept, "bot": True} if is_bot else kept, ensure_ascii=False)
    return Row(thread, kind, row_id, number, origin.offset, data.encode("utf-8", "replace"))  # half surrogate pairs


def _refused(name: str, place: int, reason: RejectReason, detail: str) -> Entry:
    return Entry(0, Reject(Origin(name, place), None, reason, detail[:MAX_DETAIL]), resumable=False)


def _number(value: object) -> int | None:
    """Return the number of an id, which is written to the base of 36."""
    match = _BASE36.fullmatch(str(value).strip()) if isinstance(value, (str, int)) else None
    return int(match[1], 36) if match is not None else None


def _name(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _subreddit(name: str) -> str:
    return name.strip().lower().removeprefix("/").removeprefix("r/")


def _is_bot(author: object, bots: frozenset[str]) -> bool:
    return isinstance(author, str) and (author.lower() in bots or _BOT.search(author) is not None)


# ---- threads


def _results(thread: Thread, names: Sequence[str], options: RedditOptions) -> Iterator[tuple[Result, str]]:
    """Yield what a submission and its comments become, each with its type of record."""
    posts = [(row, json.loads(row.data)) for row in thread.rows]
    submission = posts[0] if posts[0][0].kind == SUBMISSION else None
    comments = [post for post in posts if post[0].kind == COMMENT]

    def origin(row: Row) -> Origin:
        return Origin(names[row.file], row.place, f"t{'31'[row.kind]}_{_name(row.id)}")

    for row in thread.repeated:
        yield Reject(origin(row), None, "duplicate_record", f"{origin(row).record_id} was there before"), "row"
    left = thread.behind
    if options.documents == "comments":
        left += submission is not None
        over_18 = submission is not None and _flag(submission[1].get("over_18"))
        for row, fields in comments:
            refused = _refusal(fields, over_18, options.min_comment_score, options)
            facts = _facts(thread.number, (row, fields), 0, over_18)
            yield _made(origin(row), refused, _clean(fields.get("body")), facts), "row"
    elif submission is None and options.orphans == "reject":
        for row, fields in comments:
            detail = f"a comment whose submission t3_{_name(thread.number)} is not in the inputs"
            refused = ("deleted", "a deleted comment") if _is_gone(fields.get("body")) else ("damaged", detail)
            yield _made(origin(row), refused, "", {}), "row"
    elif posts:
        head, fields = submission or posts[0]
        over_18 = submission is not None and _flag(fields.get("over_18"))
        tree = _tree(comments, options) if options.documents == "threads" else []
        refused = _refusal(fields, over_18, options.min_score, options) if submission is not None else None
        if thread.behind:
            refused = ("oversize", f"a thread over `limits.record_bytes`: {thread.behind:,} further rows")
        text = _text(fields if submission is not None else {}, tree)
        if submission is None and not tree and refused is None:
            refused = ("deleted", "no comment of a submission that is not in the inputs is left")
        facts = _facts(thread.number, (head, fields), len(tree), over_18)
        yield _made(origin(head), refused, text, facts), "row"
        own = submission is None  # the first of its comments is the unit
        merged = 0 if refused else max(0, len(tree) - own)
        yield from [(None, MERGED)] * merged
        left += len(comments) - own - merged
    yield from [(None, LEFT_OUT)] * left


def _made(origin: Origin, refused: tuple[RejectReason, str] | None, text: str, facts: Mapping[str, Any]) -> Result:
    if refused is None and not text:
        refused = ("empty", "neither title nor text")
    url = facts.get("url")
    return Reject(origin, url, *refused) if refused else Document(origin, text=text, **facts)


def _refusal(
    fields: Mapping[str, Any], over_18: bool, least: int | None, options: RedditOptions
) -> tuple[RejectReason, str] | None:
    """Return why a submission, or a comment that would be a document, is none."""
    score = as_int(fields.get("score")) or 0
    if any(map(_is_gone, (fields.get("selftext"), fields.get("title"), fields.get("body")))):
        return "deleted", "deleted or removed"
    if by := fields.get("removed_by_category"):
        return "deleted", f"removed by {by!s:.40}"
    if over_18 and not options.over_18:
        return "namespace", "over 18"
    if fields.get("bot") and not options.bots:
        return "namespace", "written by a bot"
    return ("namespace", f"score {score}, below the least of {least}") if least is not None and score < least else None


def _is_gone(value: object) -> bool:
    return isinstance(value, str) and _GONE.fullmatch(value.strip()) is not None


def _flag(value: object) -> bool:
    return value is True or str(value).lower() in ("true", "1")


def _tree(comments: Sequence[Post], options: RedditOptions) -> list[tuple[int, str]]:
    """Return depth and text of a submission's comments in reading order: of each level the best first, then the oldest.

    A reply to a comment that is left out, or missing, moves up to the nearest that is there.
    """
    parents = {row.id: _parent(fields) for row, fields in comments}
    kept = {
        row.id: fields for row, fields in comments if not _refusal(fields, False, options.min_comment_score, options)
    }
    nearest: dict[int | None, int | None] = {}
    replies: dict[int | None, list[int]] = {}
    for comment in sorted(kept, key=lambda each: _rank(each, kept[each])):
        path, parent = [], parents[comment]
        while parent in parents and parent not in kept and parent not in nearest:
            nearest[parent] = None  # where it ends if it leads back to itself
            path.append(parent)
            parent = parents[parent]
        found = parent if parent in kept else nearest.get(parent)
        nearest |= dict.fromkeys(path, found)
        replies.setdefault(found, []).append(comment)
    tree: list[tuple[int, str]] = []
    seen: set[int] = set()
    for root in (*replies.get(None, ()), *sorted(kept)):  # the latter for those that are replies to each other
        waiting = [(0, root)]
        while waiting:
            depth, comment = waiting.pop()
            if comment in seen:
                continue
            seen.add(comment)
            waiting += [(depth + 1, reply) for reply in reversed(replies.get(comment, ()))]
            text = _clean(kept[comment].get("body"))
            if text and (options.max_depth is None or depth < options.max_depth):
                tree.append((depth, text))
    return tree[: options.max_comments]


def _parent(fields: Mapping[str, Any]) -> int | None:
    """Return the number of the comment that one replies to; None at the top, where the parent is the submission."""
    parent = fields.get("parent_id")
    if isinstance(parent, (int, float)):  # some years have the number itself
        return as_int(parent)
    return _number(parent) if isinstance(parent, str) and not parent.startswith("t3_") else None


def _rank(number: int, fields: Mapping[str, Any]) -> tuple[int, int, int]:
    return -(as_int(fields.get("score")) or 0), as_int(fields.get("created_utc")) or 0, number


def _text(submission: Mapping[str, Any], tree: Sequence[tuple[int, str]]) -> str:
    """Return the text of a thread: title, text, and comments as a list whose levels are those of the replies."""
    title, body = " ".join(_clean(submission.get("title")).split()), _clean(submission.get("selftext"))
    parts = [f"# {title}"] if title else []
    parts += [body] if body else []
    parts += ["## Comments"] if tree and parts else []
    for depth, text in tree:
        indent = "  " * min(depth, _MAX_INDENT)
        parts.append(f"{indent}- " + text.replace("\n", f"\n{indent}  "))
    return "\n\n".join(parts)


def _clean(value: object) -> str:
    """Return text with its entities decoded once, as it is Markdown, without what the editor fills empty lines with."""
    if not isinstance(value, str):
        return ""
    text = _ENTITY.sub(lambda match: _ENTITIES[match[1]], value.replace("\r\n", "\n"))
    return _FILLERS.sub("", text).replace("&nbsp;", " ").strip()


def _facts(thread: int, post: Post, comments: int, over_18: bool) -> dict[str, Any]:
    """Return what is known of a document beside its text."""
    row, fields = post
    subreddit, name = str(fields.get("subreddit") or ""), _name(row.id)
    link, permalink = fields.get("url"), str(fields.get("permalink") or "")
    if not permalink:
        place = f"/r/{subreddit}" if subreddit else ""
        permalink = f"{place}/comments/{_name(thread)}/" + (f"_/{name}/" if row.kind == COMMENT else "")
    created, ratio = as_int(fields.get("created_utc")), fields.get("upvote_ratio")
    is_link = row.kind == SUBMISSION and isinstance(link, str) and not _flag(fields.get("is_self"))
    kept = {
        "comments": comments,
        "flair": _clean(fields.get("link_flair_text")) or None,
        "link": _clean(link) if is_link else None,
        "over_18": over_18,
        "post_id": name,
        "score": as_int(fields.get("score")),
        "subreddit": subreddit or None,
        "upvote_ratio": float(ratio) if isinstance(ratio, (int, float)) and 0 <= ratio <= 1 else None,
    }
    return {
        "url": permalink if "://" in permalink else f"https://www.reddit.com{permalink}",
        "title": " ".join(_clean(fields.get("title")).split()) or None,
        "date": datetime.fromtimestamp(created, UTC) if created is not None and 0 <= created < 1 << 33 else None,
        "kept": kept,
    }


REDDIT = Reader(read, COLUMNS, together=together)

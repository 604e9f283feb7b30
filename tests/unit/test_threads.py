"""Stack Exchange and Reddit: rows to threads, whatever the files they lie in, and what becomes of the odd ones."""

import bz2
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from flows.config import _built_in_columns
from pipeline.extract.config import OPTIONS, ExtractConfig, ExtractLimits
from pipeline.extract.formats import READERS
from pipeline.extract.shard import ExtractJob, read
from pipeline.extract.threads.posts import body_text, thread_text
from pipeline.extract.threads.reddit import _is_bot
from pipeline.extract.units import Document, Entry, Raw, Reject
from pipeline.inputs.files import resolve
from pipeline.table.storage import Storage

PARSER = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)


def entries(
    folder: Path, form: str, start: int = 0, limits: Mapping[str, int] | None = None, **options: Any
) -> Iterator[Entry]:
    """Yield what a format's reader makes of the files of a folder, group by group."""
    config = ExtractConfig(limits=ExtractLimits(**(limits or {})))
    files = resolve([str(folder)], "inputs")
    chosen = OPTIONS[form].model_validate(options)
    for file, *beside in READERS[form].together(files):
        storage = Storage.at(str(folder.parent / "ws"))
        job = ExtractJob(storage, "s", file, form, {}, config, options=chosen, beside=tuple(beside))
        with file.open() as stream:
            yield from read(stream, job, start, ())


def document(entry: Entry) -> Document:
    """Return the document of an entry, its text made here where a worker would."""
    result = entry.result
    if isinstance(result, Raw):
        text = thread_text(json.loads(result.payload), PARSER)
        return Document(**{name: getattr(result.document, name) for name in Document.__slots__} | {"text": text})
    assert isinstance(result, Document), result
    return result


def documents(found: Iterator[Entry]) -> list[Document]:
    return [document(entry) for entry in found if isinstance(entry.result, (Raw, Document))]


def rejects(found: Iterator[Entry]) -> list[tuple[str, str]]:
    return [(e.result.reason, e.result.detail) for e in found if isinstance(e.result, Reject)]


def tally(found: Iterator[Entry]) -> dict[str, int]:
    """Count documents, rejects by reason, and what is no unit by its type."""
    counts: Counter[str] = Counter()
    for entry in found:
        if entry.result is None:
            counts[entry.record_type] += 1
        else:
            counts[entry.result.reason if isinstance(entry.result, Reject) else "documents"] += 1
    return dict(counts)


# ---- Stack Exchange


def xml(table: str, *rows: Mapping[str, object] | str, head: str = '<?xml version="1.0" encoding="utf-8"?>\n') -> str:
    def row(fields: Mapping[str, object]) -> str:
        said = {key: quoteattr(str(value), {"\n": "&#xA;", '"': "&quot;"}) for key, value in fields.items()}
        return f"<row {' '.join(f'{key}={value}' for key, value in said.items())} />"

    lines = [each if isinstance(each, str) else row(each) for each in rows]
    return f"\ufeff{head}<{table}>\n" + "".join(f"  {line}\n" for line in lines) + f"</{table}>\n"


def question(number: int, **fields: object) -> dict[str, object]:
    known = {
        "Id": number,
        "PostTypeId": 1,
        "CreationDate": "2016-08-02T15:39:14.947",
        "Score": 5,
        "Title": f"Q{number}",
    }
    return known | {"Body": f"<p>question {number}</p>\n", "Tags": "<a><b-c>"} | fields


def answer(number: int, parent: int, **fields: object) -> dict[str, object]:
    known = {"Id": number, "PostTypeId": 2, "ParentId": parent, "CreationDate": "2016-08-03T00:00:00.000", "Score": 1}
    return known | {"Body": f"<p>answer {number}</p>"} | fields


SITE = {
    "Posts": xml(
        "posts",
        answer(9, 1, Score=3),
        question(1, AcceptedAnswerId=3, ViewCount=154, ClosedDate="2017-01-01T00:00:00.000", Title="What is\n <i>?"),
        answer(3, 1, Score=-1, CreationDate="2019-01-01T00:00:00.000"),
        answer(4, 1, Score=3),
        question(2, CreationDate="2010-01-01T00:00:00", Score="many", Tags="|x|y.z|"),
        {"Id": 5, "PostTypeId": 5, "Body": "a wiki"},
        answer(6, 77),
    ),
    "Comments": xml(
        "comments",
        {"Id": 1, "PostId": 3, "Text": "good,\nthanks [here](http://x)", "UserId": 4},
        {"Id": 2, "PostId": 1, "Text": "why?"},
        {"Id": 3, "PostId": 1234, "Text": "lost"},
    ),
    "PostLinks": xml(
        "postlinks",
        {"Id": 1, "PostId": 1, "RelatedPostId": 2, "LinkTypeId": 1},
        {"Id": 2, "PostId": 1, "RelatedPostId": 8, "LinkTypeId": 3},
    ),
    "Users": xml("users", {"Id": 1, "DisplayName": "Somebody"}),
}


def dump(folder: Path, tables: Mapping[str, str] = SITE, name: str = "ai.stackexchange.com-{}.xml.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for table, text in tables.items():
        data = text.encode()
        path = folder / name.format(table)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def test_a_question_with_its_answers(tmp_path: Path) -> None:
    """By acceptance, score and id; of several licences the latest is the whole's."""
    first, second = documents(entries(dump(tmp_path / "in"), "stackexchange", comments=True))
    assert first.text == (
        "# What is <i>?\n\nquestion 1\n\nComments:\n\n- why?\n\n## Accepted answer\n\nanswer 3\n\n"
        "Comments:\n\n- good, thanks [here](http://x)\n\n## Answer\n\nanswer 4\n\n## Answer\n\nanswer 9"
    )
    assert first.kept == {
        **{
            "accepted": True,
            "best_answer_score": 3,
            "answers": 3,
            "closed": True,
            "comments": 2,
            "duplicate_questions": [8],
        },
        **{"linked": [2], "post_id": 1, "score": 5, "site": "ai.stackexchange.com"},
        **{"tags": ["a", "b-c"], "views": 154},
    }
    assert set(first.kept) == set(READERS["stackexchange"].columns)
    assert (first.url, first.title) == ("https://ai.stackexchange.com/questions/1", "What is <i>?")
    assert (first.licence, first.date) == ("CC-BY-SA-4.0", datetime(2016, 8, 2, 15, 39, 14, 947000, UTC))
    assert first.metadata == {"answer_ids": [3, 4, 9], "licences": ["CC-BY-SA-3.0", "CC-BY-SA-4.0"]}
    assert (first.origin.file, first.origin.record_id) == ("ai.stackexchange.com-Posts.xml.gz", "1")
    assert (second.licence, second.kept["score"], second.kept["tags"]) == ("CC-BY-SA-2.5", None, ["x", "y.z"])
    assert second.text == "# Q2\n\nquestion 2"


def test_every_row_of_a_dump_is_accounted_for(tmp_path: Path) -> None:
    folder = dump(tmp_path / "in")
    expected = {"namespace": 1, "damaged": 1, "documents": 2, "merged": 5, "skipped": 2}
    assert tally(entries(folder, "stackexchange")) == expected
    with_comments = expected | {"merged": 7, "left_out": 1, "skipped": 1}
    assert tally(entries(folder, "stackexchange", comments=True)) == with_comments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"1": [3, 4, 9], "2": []}),
        ({"answers": "accepted"}, {"1": [3], "2": []}),
        ({"answers": "best"}, {"1": [3], "2": []}),
        ({"answers": "best", "min_answer_score": 0}, {"1": [4], "2": []}),
        ({"min_answer_score": 4}, {"1": [], "2": []}),
        ({"unanswered": False}, {"1": [3, 4, 9], "2": ("namespace", "no answer")}),
        ({"min_question_score": 3}, {"1": [3, 4, 9], "2": ("namespace", "score 0, below min_question_score 3")}),
    ],
)
def test_options_of_stack_exchange(tmp_path: Path, options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = list(entries(dump(tmp_path / "in"), "stackexchange", **options))
    made: dict[str | None, Any] = {}
    for entry in found:
        if isinstance(entry.result, Raw):
            made[entry.result.document.origin.record_id] = entry.result.document.metadata["answer_ids"]
        elif (
            isinstance(entry.result, Reject)
            and entry.result.reason == "namespace"
            and "wiki" not in entry.result.detail
        ):
            made[entry.result.origin.record_id] = (entry.result.reason, entry.result.detail)
    assert made == expected
    rows = sum(text.count("<row") for table, text in SITE.items() if table in ("Posts", "PostLinks"))
    counts = tally(iter(found))
    assert sum(counts.values()) == rows + counts["skipped"]


def test_files_of_one_site_belong_together(tmp_path: Path) -> None:
    """By folder and by what stands before the table's name; the site is what one of them names."""
    folder = tmp_path / "in"
    dump(folder)
    dump(folder, {"Posts": SITE["Posts"]}, "b-{}.xml")
    dump(folder / "math.stackexchange.com", SITE, "{}.xml")
    dump(folder / "other", {"Posts": SITE["Posts"]}, "{}.xml.gz")
    (folder / "odd.xml").write_text(SITE["Posts"])
    groups = READERS["stackexchange"].together(resolve([str(folder)], "inputs"))  # type: ignore[misc]
    heads = ["ai.stackexchange.com-Posts.xml.gz", "b-Posts.xml", "math.stackexchange.com/Posts.xml", "odd.xml"]
    assert [(group[0].name, len(group)) for group in groups] == [
        *zip(heads, (4, 1, 4, 1), strict=True),
        ("other/Posts.xml.gz", 1),
    ]
    found = Counter(each.kept["site"] for each in documents(entries(folder, "stackexchange")))
    assert found == {"ai.stackexchange.com": 2, "math.stackexchange.com": 2, None: 6}
    named = documents(entries(folder / "other", "stackexchange", site="x.org"))
    assert [each.url for each in named] == ["https://x.org/questions/1", "https://x.org/questions/2"]


ODD_ROWS = [
    ('<row Id="1" PostTypeId="1" Body="cut', ("damaged", "a row that is no XML")),
    ('<row Id="1" PostTypeId="1" Body="&bomb;" />', ("damaged", "a row that is no XML")),
    ('<row Id="1" PostTypeId="1" Id="2" />', ("damaged", "a row that is no XML")),
    ('<row PostTypeId="1" Body="x" />', ("damaged", "a post without Id")),
    ('<row Id="x" PostTypeId="1" Body="x" />', ("damaged", "a post without Id")),
    ('<row Id="1" Body="x" />', ("damaged", "a post without PostTypeId")),
    ('<row Id="1" PostTypeId="2" Body="x" />', ("damaged", "a post without ParentId")),
    (f'<row Id="{10**30}" PostTypeId="1" Body="x" />', ("damaged", "a post without Id")),
    ('<row Id="1" PostTypeId="17" Body="x" />', ("namespace", "a post of type 17, neither question nor answer")),
    (f'<row Id="1" PostTypeId="1" Body="{"x" * 3000}" />', ("oversize", "a row of over 2000 bytes")),
    ('<row Id="1" PostTypeId="1" Body="x" DeletionDate="2020-01-01" />', ("deleted", "deleted on 2020-01-01")),
    ('<row Id="2" PostTypeId="1" Body="again" />', ("duplicate_record", "post 2 was there before")),
]


@pytest.mark.parametrize(("row", "expected"), ODD_ROWS)
def test_an_odd_row_costs_itself_alone(tmp_path: Path, row: str, expected: tuple[str, str]) -> None:
    head = '<?xml version="1.0"?>\n<!DOCTYPE posts [<!ENTITY bomb "<posts>boom">]>\n'
    folder = dump(tmp_path / "in", {"Posts": xml("posts", question(2), row, question(3), head=head)})
    found = list(entries(folder, "stackexchange", limits={"record_bytes": 2000}))
    assert [each.text for each in documents(iter(found))] == ["# Q2\n\nquestion 2", "# Q3\n\nquestion 3"]
    ((reason, detail),) = rejects(iter(found))
    assert (reason, detail[: len(expected[1])]) == expected


def test_characters_that_xml_forbids_are_replaced(tmp_path: Path) -> None:
    row = '<row Id="1" PostTypeId="1" Title="a&#x0;b&#xFFFF;c" Body="x\x08y" />'
    (found,) = documents(entries(dump(tmp_path / "in", {"Posts": xml("posts", row)}), "stackexchange"))
    assert found.text == "# a\ufffdb\ufffdc\n\nx y"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress, zstandard.compress])
def test_a_dump_in_any_form(tmp_path: Path, encoding: str, compress: Any) -> None:
    """Also with all rows in one line, elements that are closed apart, and names that say nothing."""
    text = SITE["Posts"].removeprefix("\ufeff").replace(" />", "></row>").replace("\n", "")
    (folder := tmp_path / "in").mkdir()
    (folder / "dump").write_bytes(compress(text.encode(encoding)))
    counts = tally(entries(folder, "stackexchange"))
    assert counts == {"namespace": 1, "damaged": 1, "documents": 2, "merged": 3}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b'{"a": 1}\n', [("unsupported", "not a table of a Stack Exchange dump")]),
        (b"<html><body>posts</body></html>", [("unsupported", "not a table of a Stack Exchange dump")]),
        (xml("comments", {"Id": 1, "PostId": 1, "Text": "x"}).encode(), [("unsupported", "no posts: name Posts.xml")]),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), [("unsupported", "a 7z archive; unpack it and name the files in it")]),
        (gzip.compress(SITE["Posts"].encode())[:-30], [("truncated_input", "input ends within a gzip member")]),
        (b"\x1f\x8b\x08" + bytes(99), [("damaged", "gzip member cannot be decoded")]),
    ],
)
def test_an_odd_file_is_one_reject(tmp_path: Path, data: bytes, expected: list[tuple[str, str]]) -> None:
    (folder := tmp_path / "in").mkdir()
    (folder / "x-Posts.xml").write_bytes(data)
    found = [
        (reason, detail) for reason, detail in rejects(entries(folder, "stackexchange")) if "question 77" not in detail
    ]
    assert [
        (reason, detail[: len(want[1])]) for (reason, detail), want in zip(found, expected, strict=True)
    ] == expected


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("<p>one</p>\n\n<p>two <em>b</em> <strong>c</strong> <a href='http://x'>link</a></p>", "one\n\ntwo b c link"),
        (
            r"<p>$a_1 &lt; b$ and \\( x \\)  two\nlines, $$\\int\n  x$$</p>",
            r"$a_1 < b$ and \\( x \\)  two\nlines, $$\\int\n  x$$",
        ),
        ("<p>&amp;amp; &lt;b&gt; x&nbsp;y</p>", "&amp; <b> x\u00a0y"),
        ("<pre class='lang-py s'><code>a &lt; b\n\n  c\n</code></pre>", "```py\na < b\n\n  c\n```"),
        ("<pre><code>a ``` b</code></pre>", "````\na ``` b\n````"),
        ("<p><code>a</code> <code>b`c</code> <code>`</code></p>", "`a` ``b`c`` `` ` ``"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n  - c"),
        ("<ol start='3'><li><p>a</p></li><li><p>b</p><p>c</p></li></ol>", "3. a\n\n4. b\n\nc"),
        ("<ul><li>x<pre><code>  y\nz</code></pre></li></ul>", "- x\n\n```\n  y\nz\n```"),
        ("<ul><li>$a\nb$</li></ul>", "- $a\nb$"),
        ("<blockquote><p>a<br>b</p><pre><code>c\nd</code></pre></blockquote>", "> a\n> b\n\n```\nc\nd\n```"),
        ("<blockquote><p>$$a\nb$$</p></blockquote>", "> $$a\nb$$"),
        ("<p>x<sup>2</sup> y<sub>i+1</sub> 1<sup>st</sup> <kbd>Ctrl</kbd></p>", "x^2 y_(i+1) 1st Ctrl"),
        ("<h1>A <code>b</code></h1><h3>C</h3><hr>", "### A `b`\n\n##### C\n\n---"),
        ("<p><img src='x' alt='a cat'> <img src='x' alt='enter image description here'></p>", "a cat"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td></tr></table>", "| a | b |\n| --- | --- |\n| 1 |  |"),
        ("<table><tr><td>a|b</td><td>$|x|$</td></tr></table>", "| a\\|b | $|x|$ |\n| --- | --- |"),
        ("<p>a<br>\nb</p><p>&nbsp;</p><p>c</p>", "a\nb\n\nc"),
        ("<!-- language: lang-c --><p>a</p><script>x</script><style>y</style>", "a"),
        ("<dl><dt>term</dt><dd>what</dd></dl>", "term\n\nwhat"),
        ("<p>open <b>tags <p>never <ul><li>closed", "open tags\n\nnever\n\n- closed"),
        ('<?xml version="1.0" encoding="latin-1"?><p>é</p>', "é"),
        ("</body></html><p>behind</p>", "behind"),
        ("plain, no tag\r\nat all", "plain, no tag\nat all"),
    ],
)
def test_bodies(html: str, text: str) -> None:
    assert body_text(html, PARSER) == text


# ---- Reddit


def submission(name: str, /, **fields: object) -> dict[str, object]:
    known = {"id": name, "title": f"T {name}", "selftext": f"text {name}", "author": "someone", "score": 7}
    return known | {"subreddit": "Askscience", "created_utc": 1706745600, "over_18": False, "is_self": True} | fields


def comment(name: str, thread: str, parent: str | None = None, /, **fields: object) -> dict[str, object]:
    known = {"id": name, "link_id": f"t3_{thread}", "parent_id": f"t1_{parent}" if parent else f"t3_{thread}"}
    said = {
        "body": f"says {name}",
        "author": "other",
        "score": 1,
        "subreddit": "Askscience",
        "created_utc": "1706745601",
    }
    return known | said | fields


def reddit(folder: Path, *files: list[dict[str, object] | str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(files):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{number}.ndjson.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    return folder


THREAD = [
    comment("b", "87", score=5),
    comment("a", "87", body="two\n\nparts &amp;gt; &lt;b&gt; &amp;#x200B;\n\n    code"),
    comment("e", "87", "c"),
    comment("c", "87", "a", body="[removed]"),
    comment("d", "87", "c", score=None),
    comment("f", "87", "gone", author="AutoModerator"),
    comment("g", "87", "b", score="3"),
    submission(
        "87", title="A &amp; B\nC", link_flair_text="Physics", upvote_ratio=0.9, permalink="/r/x/comments/87/a/"
    ),
]


def test_a_thread_is_a_tree(tmp_path: Path) -> None:
    """Of each level the best first, then the oldest; replies to what is left out move up, bots are left out."""
    found = list(entries(reddit(tmp_path / "in", THREAD), "reddit"))
    (made,) = documents(iter(found))
    assert made.text == (
        "# A & B C\n\ntext 87\n\n## Comments\n\n- says b\n\n  - says g\n\n"
        "- two\n  \n  parts &gt; <b> \n  \n      code\n\n  - says e\n\n  - says d"
    )
    assert made.kept == {
        **{"comments": 5, "flair": "Physics", "link": None, "over_18": False, "post_id": "87", "score": 7},
        **{"subreddit": "Askscience", "upvote_ratio": 0.9},
    }
    assert set(made.kept) == set(READERS["reddit"].columns)
    assert (made.url, made.title) == ("https://www.reddit.com/r/x/comments/87/a/", "A & B C")
    assert (made.date, made.licence) == (datetime(2024, 2, 1, tzinfo=UTC), None)
    assert (made.origin.file, made.origin.record_id) == ("0.ndjson.zst", "t3_87")
    assert tally(iter(found)) == {"documents": 1, "merged": 5, "left_out": 2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_depth": 1}, ["b", "a"]),
        ({"max_comments": 1}, ["b"]),
        ({"min_comment_score": 2}, ["b", "g"]),
        ({"bots": True}, ["b", "g", "a", "e", "d", "f"]),
        ({"bot_names": ["Other"]}, []),
    ],
)
def test_comments_that_an_option_leaves_out(tmp_path: Path, options: dict[str, Any], expected: list[str]) -> None:
    rows = [row | {"body": f"says {row['id']}"} if row["id"] == "a" else row for row in THREAD]
    found = list(entries(reddit(tmp_path / "in", rows), "reddit", **options))
    (made,) = documents(iter(found))
    assert [line.split()[-1] for line in made.text.split("\n") if "says" in line] == expected
    assert sum(tally(iter(found)).values()) == len(rows)


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        (submission("1", selftext="[removed]"), {}, ("deleted", "deleted or removed")),
        (submission("1", selftext=" [ Removed by Reddit ] "), {}, ("deleted", "deleted or removed")),
        (submission("1", title="[deleted by user]"), {}, ("deleted", "deleted or removed")),
        (submission("1", removed_by_category="moderator"), {}, ("deleted", "removed by moderator")),
        (submission("1", over_18=True), {}, ("namespace", "over 18")),
        (submission("1", over_18="true"), {}, ("namespace", "over 18")),
        (submission("1", over_18=True), {"over_18": True}, None),
        (submission("1", author="Bitty_Bot"), {}, ("namespace", "written by a bot")),
        (submission("1", author="[deleted]"), {}, None),
        (submission("1"), {"subreddits": ["r/askSCIENCE"]}, None),
        (submission("1"), {"subreddits": ["other"]}, ("namespace", "subreddit Askscience")),
        (submission("1"), {"exclude_subreddits": ["askscience"]}, ("namespace", "subreddit Askscience")),
        (submission("1", score="2"), {"min_score": 3}, ("namespace", "score 2, below the least of 3")),
        (submission("1", title="", selftext=""), {}, ("empty", "neither title nor text")),
        (submission("1", id=None), {}, ("damaged", "no id, or one that is none")),
        (submission("1", id="$$"), {}, ("damaged", "no id, or one that is none")),
        (submission("1", id=None, name="t3_1"), {}, None),
        (comment("1", "$"), {}, ("damaged", "no link_id, or one that is none")),
        (comment("1", "zz"), {}, ("damaged", "a comment whose submission t3_zz is not in the inputs")),
        (comment("1", "zz", body="[deleted]"), {}, ("deleted", "a deleted comment")),
        ({"id": "1"}, {}, ("damaged", "neither a submission nor a comment of Reddit")),
        ("[1]", {}, ("damaged", "no object")),
        ('{"id": ', {}, ("damaged", "invalid JSON")),
        ("[" * 99_999, {}, ("too_deep", "JSON nested too deeply")),
        (json.dumps({"title": "x" * 200_000}), {}, ("oversize", "a line of over 150000 bytes")),
        (submission("2"), {}, ("duplicate_record", "t3_2 was there before")),
    ],
)
def test_an_odd_line_costs_itself_alone(
    tmp_path: Path, row: Any, options: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    others = [submission("2", subreddit="other"), "", submission("3", subreddit="other")]
    if "exclude_subreddits" not in options and "subreddits" not in options:
        others = [submission("2"), "  ", submission("3")]
    folder = reddit(tmp_path / "in", others, [row])
    found = list(entries(folder, "reddit", limits={"record_bytes": 150_000}, **options))
    told = [(reason, detail[: len(expected[1]) if expected else None]) for reason, detail in rejects(iter(found))]
    assert (expected in told) if expected else not any(reason != "namespace" for reason, _ in told)
    assert sum(tally(iter(found)).values()) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"documents": 1, "merged": 5, "left_out": 2, "damaged": 2, "deleted": 1}),
        ({"orphans": "documents"}, {"documents": 2, "merged": 6, "left_out": 3}),
        ({"documents": "submissions"}, {"documents": 1, "left_out": 7, "damaged": 2, "deleted": 1}),
        ({"documents": "comments"}, {"documents": 7, "left_out": 1, "deleted": 2, "namespace": 1}),
    ],
)
def test_what_a_document_is(tmp_path: Path, options: dict[str, Any], expected: dict[str, int]) -> None:
    orphans = [comment("x", "zz"), comment("y", "zz", "x"), comment("z", "zz", body="[deleted]")]
    found = list(entries(reddit(tmp_path / "in", THREAD, orphans), "reddit", **options))
    assert tally(iter(found)) == expected
    if options.get("orphans") == "documents":
        assert documents(iter(found))[-1].text == "- says x\n\n  - says y"


def test_replies_in_a_circle_and_very_deep_ones(tmp_path: Path) -> None:
    circle = [submission("1"), comment("a", "1", "b"), comment("b", "1", "a"), comment("c", "1", "c")]
    (made,) = documents(entries(reddit(tmp_path / "circle", circle), "reddit"))
    assert made.text.endswith("- says a\n\n  - says b\n\n- says c")
    names = [f"a{number}" for number in range(3000)]
    body = ["[deleted]" if number % 2 else "x" for number in range(3000)]
    deep = [comment(name, "1", above, body=text) for name, above, text in zip(names[1:], names, body, strict=False)]
    (made,) = documents(entries(reddit(tmp_path / "deep", [submission("1"), *deep]), "reddit"))
    assert made.kept["comments"] == 1500
    assert len(made.text) < 1500 * 30


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *zip(
            ("AutoModerator", "RemindMeBot", "Bitty_Bot", "imgur-bot", "GIFV_BOT", "haiku-bot2"),
            [True] * 6,
            strict=True,
        ),
        *zip(("Talbot", "abbot", "robot", "sabotage", "bottle", None, 7), [False] * 7, strict=True),
    ],
)
def test_bots_are_known_by_their_names(name: object, expected: bool) -> None:
    assert _is_bot(name, frozenset({"automoderator"})) is expected


def test_half_surrogate_pairs_and_odd_values(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"selftext": "a\ud83d b", "score": 1e400, "created_utc": "soon", "upvote_ratio": 10**400}
    odd |= {"permalink": 3, "over_18": None, "link_flair_text": ["x"], "subreddit": None, "url": {"a": 1}, "is_self": 0}
    (made,) = documents(entries(reddit(tmp_path / "in", [submission("1", **odd)]), "reddit"))
    assert made.text == "# T 1\n\na? b"
    assert {name for name, value in made.kept.items() if value is not None} == {"comments", "over_18", "post_id"}
    assert made.date is None


def test_the_long_window_of_zstandard(tmp_path: Path) -> None:
    """Months of Reddit are compressed with a window of 2 GiB, which other formats refuse."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    data = bytearray(compressor.compress(json.dumps(submission("1")).encode()) + compressor.flush())
    assert data[4] & 0x20 == 0, "no single segment: the window is said in the next byte"
    data[5] = (31 - 10) << 3
    (folder := tmp_path / "in").mkdir()
    (folder / "RS_2024-02.zst").write_bytes(data)
    assert tally(entries(folder, "reddit")) == {"documents": 1}


# ---- both


@pytest.mark.parametrize("form", ["reddit", "stackexchange"])
def test_columns_have_names_of_their_own(form: str) -> None:
    columns = READERS[form].columns
    assert list(columns) == sorted(columns)
    assert not set(columns) & _built_in_columns(())


def many(folder: Path, form: str, files: int, order: list[int]) -> Path:
    """Write thirty threads of a few posts, in some order over some files."""
    if form == "reddit":
        rows: list[Any] = [submission(f"{number}") for number in range(10, 40)]
        rows += [
            comment(f"{number}{k}", f"{number}", f"{number}{k - 1}" if k else None)
            for number in range(10, 40)
            for k in range(3)
        ]
    else:
        rows = [question(number) for number in range(10, 40)]
        rows += [answer(100 * number + k, number, Score=k) for number in range(10, 40) for k in range(3)]
    rows = [rows[index] for index in order]
    if form == "reddit":
        return reddit(folder, *(rows[number::files] for number in range(files)))
    return dump(folder, {"Posts": xml("posts", *rows)})


@pytest.mark.parametrize("form", ["reddit", "stackexchange"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_order_and_any_beginning_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    """Texts do not depend on where rows lie, and from each place where reading may begin again comes the same rest."""
    order = data.draw(st.permutations(range(120)))
    folder = tmp_path_factory.mktemp("threads")
    found = list(entries(many(folder / "in", form, data.draw(st.integers(1, 3)), order), form))
    expected = [each.text for each in documents(entries(many(folder / "sorted", form, 1, list(range(120))), form))]
    assert [each.text for each in documents(iter(found))] == expected
    assert len(expected) == 30
    assert tally(iter(found)) == {"documents": 30, "merged": 90}
    places = [index for index, entry in enumerate(found) if entry.resumable]
    index = data.draw(st.sampled_from(places))
    assert list(entries(folder / "in", form, found[index].offset)) == found[index:]

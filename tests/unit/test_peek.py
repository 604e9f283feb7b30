"""What a file is and gives, before a run: `peek`, `extract`, what `auto` reads, mappings of published corpora."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import gristmill as gm
from flows.config import RunConfig
from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.peek.peek import Peeked, peek
from pipeline.table.kept import read_yaml
from tests.local_run import run_all
from tests.mix_workspace import here

WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
<siteinfo><sitename>Little</sitename><dbname>littlewiki</dbname><base>https://en.wikipedia.org/wiki/A</base>
<namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>
<page><title>Mill</title><ns>0</ns><id>7</id><revision><id>9</id><timestamp>2024-01-02T03:04:05Z</timestamp>
<model>wikitext</model><format>text/x-wiki</format>
<text>A '''mill''' grinds [[grain]] to flour.</text></revision></page>
</mediawiki>"""
POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="1" PostTypeId="1" AcceptedAnswerId="2" CreationDate="2020-01-02T00:00:00.000" Score="5" ViewCount="9" \
Title="What grinds?" Tags="|mills|" Body="&lt;p&gt;Which stone?&lt;/p&gt;" />
  <row Id="2" PostTypeId="2" ParentId="1" CreationDate="2020-01-03T00:00:00.000" Score="3" \
Body="&lt;p&gt;Granite.&lt;/p&gt;" />
  <row Id="3" PostTypeId="5" CreationDate="2020-01-03T00:00:00.000" Score="0" Body="" />
</posts>"""
COMMENTS = """<comments>
<row Id="1" PostId="1" Score="0" Text="A good question." CreationDate="2020-01-04T00:00:00.000" />
</comments>"""
PAPER = r"\documentclass{article}\title{On Mills}\begin{document}\maketitle\section{Stones}They turn.\end{document}"
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy ... and this permission notice ..."
SUBMISSION = {"id": "a1", "name": "t3_a1", "subreddit": "mills", "title": "Look", "selftext": "A wheel.", "score": 4}
SUBMISSION |= {"created_utc": 1600000000, "permalink": "/r/mills/comments/a1/look/", "author": "x", "is_self": True}
COMMENT = {"id": "c1", "subreddit": "mills", "body": "Nice.", "link_id": "t3_a1", "parent_id": "t3_a1", "score": 2}
COMMENT |= {"created_utc": 1600000001, "author": "y", "permalink": "/r/mills/comments/a1/look/c1/"}


def tar(files: Mapping[str, str]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return sink.getvalue()


def zipped(files: Mapping[str, str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return sink.getvalue()


FILES: Mapping[str, tuple[bytes, str | None, str]] = {
    "little-pages-articles.xml.bz2": (bz2.compress(WIKI.encode()), "wikipedia", "certain"),
    "Posts.xml": (POSTS.encode(), "stackexchange", "certain"),
    "rows.jsonl.gz": (gzip.compress(b'{"text": "a mill", "meta": {"stars": 3}}\n'), "jsonl", "certain"),
    "rows.json": (b'[{"content": "a mill"}]', "jsonl", "certain"),
    "table.csv": (b"body,link\na mill by the water,https://e.org/\n", "csv", "likely"),
    "RS_2024-01.ndjson": (json.dumps(SUBMISSION).encode() + b"\n", "reddit", "certain"),
    "paper.tex.gz": (gzip.compress(PAPER.encode()), "latex", "certain"),
    "eprint.tar.gz": (tar({"main.tex": PAPER, "fig.txt": "1 2"}), "latex", "likely"),
    "site.zip": (zipped({"a.html": "<html><p>A mill</p></html>", "b.html": "<html></html>"}), "html", "likely"),
    "page.html": (b"<!doctype html><html><body><p>A mill grinds.</p></body></html>", "html", "certain"),
    "tool-1.0.tar.gz": (tar({"tool/a.py": "x = 1", "tool/LICENSE": MIT, "tool/README.md": "#"}), "code", "likely"),
    "notes.md": (b"# Mills\n\nThey grind.\n", "markdown", "likely"),
    "book.txt": ("Ein Mühlrad dreht sich.\n".encode(), "text", "likely"),
}
UNREAD: Mapping[str, tuple[bytes, str]] = {
    "empty.jsonl": (b"", "empty: "),
    "spaces.txt": (b" \n\n", "empty: "),
    "broken.gz": (b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes([255] * 60), "damaged: "),
    "blob.bin": (bytes(range(256)) * 40, "binary data of no known format"),
    "secret.parquet": (b"PARE" + bytes(40), "encrypted"),
    "images.tar.gz": (tar({"a.png": "x", "b.jpg": "y"}), "an archive of files that nothing here reads"),
    "saved.mhtml": (b"From: <x>\nMIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n\n--x\n", "(MHTML)"),
    "Tags.xml": (b'<?xml version="1.0"?>\n<tags>\n  <row Id="1" TagName="x" />\n</tags>', "the table tags of a dump"),
    "cut.parquet": (b"PAR1" + bytes(200), "a Parquet file without its end"),
}


def write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_peek_tells_the_format_and_its_block_reads_the_file(name: str, tmp_path: Path) -> None:
    data, form, sure = FILES[name]
    found = peek(write(tmp_path, name, data))
    assert (found.format, found.sure) == (form, sure), found.why
    assert found.problems in ([], ["namespace: a tag's wiki, neither question nor answer"])
    assert found.rows
    assert found.sources is not None
    assert found.as_text().endswith(found.sources)
    sources = yaml.safe_load(found.sources)["sources"]
    config = RunConfig.model_validate({"workspace": str(tmp_path / "ws"), "sources": sources})
    (report,) = run_all(config.model_dump(exclude_unset=True), "extract")
    assert report.rows_out > 0


@pytest.mark.parametrize("name", UNREAD)
def test_what_nothing_reads_gets_one_clear_answer(name: str, tmp_path: Path) -> None:
    data, why = UNREAD[name]
    path = write(tmp_path, name, data)
    found = peek(path)
    assert (found.format, found.sources) == (None, None)
    assert why in found.why
    ran = here(tmp_path, "extract", path)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1


def test_folders_and_what_is_not_there_are_mistakes(tmp_path: Path) -> None:
    write(tmp_path, "a.md", b"a")
    write(tmp_path, "b.md", b"b")
    with pytest.raises(gm.InputError, match="names 2 files; name one of them, such as"):
        gm.peek(str(tmp_path))
    (tmp_path / "repository").mkdir()
    write(tmp_path, "repository/a.py", b"a")
    write(tmp_path, "repository/LICENSE", b"b")
    with pytest.raises(gm.InputError, match="`format: code` reads the folder"):
        gm.peek(str(tmp_path / "repository"))
    with pytest.raises(gm.InputError, match=r"token=\*\*\*"):
        gm.peek("http://127.0.0.1:9/a.jsonl?token=abcdef")
    with pytest.raises(gm.InputError, match="does not exist"):
        gm.peek(str(tmp_path / "c.md"))


def test_peek_shows_columns_with_types_and_examples(tmp_path: Path) -> None:
    rows = [{"text": "a", "meta": {"stars": 3, "ok": True}, "tags": ["x"]}, {"text": "b", "meta": {"stars": None}}]
    found = peek(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, [*rows, 7])).encode()))
    told = {column["name"]: (column["type"], column["example"]) for column in found.columns}
    assert told["text"] == ("text", "a")
    assert told["meta.stars"] == ("int", "3")
    assert told["meta.ok"] == ("bool", "True")
    assert told["tags"] == ("text[]", '["x"]')
    assert found.problems == ["damaged: a JSON int, not an object"]


def test_files_that_belong_together_are_found_beside(tmp_path: Path) -> None:
    posts = write(tmp_path, "Posts.xml", POSTS.encode())
    write(tmp_path, "Comments.xml", COMMENTS.encode())
    write(tmp_path, "notes.xml", b"<a/>")
    source = yaml.safe_load(str(peek(posts).sources))["sources"]["stackexchange"]
    assert [Path(path).name for path in source["inputs"]] == ["Posts.xml", "Comments.xml"]
    (document, reject) = sorted(gm.extract(posts, {"options.comments": True}), key=lambda row: row["reason"] or "")
    assert "A good question." in document["text"]
    assert "## Accepted answer\n\nGranite." in document["text"]
    assert document["kept"]["score"] == 5
    assert (reject["reason"], reject["text"]) == ("namespace", None)
    submissions = write(tmp_path, "RS_2024-01.ndjson", json.dumps(SUBMISSION).encode())
    write(tmp_path, "RC_2024-01.ndjson", json.dumps(COMMENT).encode())
    write(tmp_path, "RC_2024-02.ndjson", json.dumps(COMMENT | {"body": "Of another month."}).encode())
    (thread,) = gm.extract(submissions)
    assert "Nice." in thread["text"]
    assert "another" not in thread["text"]


def test_extract_prints_text_or_one_array(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "title": f"Title {n}"} for n in range(4)] + [{"text": ""}]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    ran = here(tmp_path, "extract", path, "-n", "2")
    assert (ran.code, ran.out) == (0, "=== 1 Title 0\ntext 0\n\n=== 2 Title 1\ntext 1\n\n")
    assert ran.err == "2 documents, 0 rejects\n"
    assert here(tmp_path, "extract", path).err.startswith("4 documents, 1 rejects (--json has them): empty 1 (")
    ran = here(tmp_path, "extract", path, "--json")
    found = ran.rows()
    assert [row["text"] for row in found] == ["text 0", "text 1", "text 2", "text 3", None]
    assert found[4]["reason"] == "empty"
    assert here(tmp_path, "extract", path, "-n", "0").code == 2
    assert "nearest" in here(tmp_path, "extract", path, "--set", "optoins.x=1").err
    assert not list(tmp_path.glob("gristmill-*"))


def test_auto_reads_what_its_beginning_proves(tmp_path: Path) -> None:
    for name in ("little-pages-articles.xml.bz2", "Posts.xml", "paper.tex.gz", "rows.jsonl.gz"):
        write(tmp_path, name, FILES[name][0])
    write(tmp_path, "odd.xml", b"<feed></feed>")
    with chdir(tmp_path):
        config = {
            "workspace": "ws",
            "sources": {
                "a": {"inputs": ["*.xml*", "*.gz"], "keep_columns": {"s": {"path": "meta.stars", "type": "int"}}}
            },
        }
        (first,), (again,) = run_all(config, "extract"), run_all(config, "extract")
        assert (first.rows_in, first.rows_out) == (6, 4)  # a tag's wiki and a feed are rejects
        assert again.shards == 0
        rows = gm.open("ws").sql("SELECT origin.file AS file, s, metadata FROM a.documents ORDER BY file")
        told = {row["file"]: (row["s"], json.loads(row["metadata"])) for row in rows}
    assert told["rows.jsonl.gz"][0] == 3
    assert told["Posts.xml"][1]["tags"] == ["mills"]
    assert told["little-pages-articles.xml.bz2"][1]["wiki"] == "littlewiki"


# Published corpora ----------------------------------------------------------------------------------------------------

TEXT = "A mill grinds grain to flour between two stones."
URL = "https://example.org/"
DATE = "2024-01-02T03:04:05Z"
DOLMA = {"id": "1", "text": TEXT, "source": "s", "added": DATE, "created": DATE}
FINEWEB = {
    "text": TEXT,
    "id": "<urn:uuid:1>",
    "dump": "CC-MAIN-2024-10",
    "url": URL,
    "date": DATE,
    "file_path": "s3://x",
}
ROWS: Mapping[str, dict[str, Any]] = {
    "c4": {"text": TEXT, "timestamp": DATE, "url": URL},
    "common-pile": DOLMA | {"metadata": {"license": "CC-BY-4.0", "url": URL}},
    "dolma": DOLMA,
    "pes2o": DOLMA | {"version": "v2"},
    "fineweb": FINEWEB | {"language": "en", "language_score": 0.9, "token_count": 9},
    "finepdfs": FINEWEB
    | {"offset": 1, "token_count": 9, "language": "eng_Latn", "full_doc_lid": "eng_Latn", "full_doc_lid_score": 0.9}
    | {"is_truncated": False, "extractor": "docling", "page_ends": [9]},
    "refinedweb": {"content": TEXT, "url": URL, "timestamp": DATE, "dump": "d", "segment": "s", "image_urls": []},
    "redpajama-arxiv": {
        "text": TEXT,
        "meta": {"timestamp": DATE, "yymm": "2401", "arxiv_id": "2401.00001", "language": "en", "url": URL},
    },
    "wikipedia-hub": {"id": "12", "url": URL, "title": "Mill", "text": TEXT},
    "the-stack": {
        **{"hexsha": "ab", "size": 9, "ext": "py", "lang": "Python", "content": TEXT, "alphanum_fraction": 0.5},
        **{"max_stars_repo_path": "a.py", "max_stars_repo_name": "o/r", "max_stars_repo_head_hexsha": "cd"},
        **{"max_stars_repo_licenses": ["MIT"], "max_stars_count": 3, "avg_line_length": 9.0, "max_line_length": 9},
    },
    "the-stack-v2": {
        **{
            "blob_id": "ab",
            "path": "/a.py",
            "detected_licenses": ["MIT"],
            "license_type": "permissive",
            "content": TEXT,
        },
        **{
            "repo_name": "o/r",
            "revision_id": "cd",
            "revision_date": DATE,
            "star_events_count": 3,
            "language": "Python",
        },
        **{"is_vendor": False, "is_generated": False, "length_bytes": 9},
    },
    "pushshift-csv": {
        **{"created_utc": "1375189051.0", "score": "12", "title": "Look", "num_comments": "3", "permalink": URL},
        **{"selftext": TEXT, "over_18": "False", "name": "t3_1jcg0j"},
    },
}
"""A row of each corpus in `configs/corpora`, of the schema that its header names."""


def test_every_published_corpus_has_a_row() -> None:
    assert set(ROWS) == set(preset_names("corpora"))


@pytest.mark.parametrize("name", ROWS)
def test_a_published_corpus_is_read_with_its_mapping(name: str, tmp_path: Path) -> None:
    preset = preset_path("corpora", name)
    assert preset is not None
    assert "# Schema: http" in preset.read_text("utf-8") or name == "pushshift-csv"
    (source,) = read_yaml(preset)[0]["sources"].values()
    row, path = ROWS[name], tmp_path / f"rows.{source['format']}"
    if source["format"] == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif source["format"] == "jsonl":
        path.write_text(json.dumps(row))
    else:
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    found: Peeked = peek(str(path))
    assert found.facts == {"columns_of": name}
    told = yaml.safe_load(str(found.sources))["sources"]["corpus"]
    assert {key: told.get(key) for key in ("format", "columns", "keep_columns")} == {
        key: source.get(key) for key in ("format", "columns", "keep_columns")
    }
    config = {"workspace": str(tmp_path / "ws"), "sources": {"a": source | {"inputs": [str(path)]}}}
    run_all(config, "extract")
    (document,) = gm.open(str(tmp_path / "ws")).sql("SELECT * FROM a.documents")
    assert document["text"] == TEXT
    expected = set(source["columns"]) - {"text", "id"} | set(source.get("keep_columns", {}))
    assert not [column for column in expected if document[column] is None]
    assert "id" not in source["columns"] or document["origin"]["record_id"]

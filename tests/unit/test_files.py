"""HTML, text, Markdown and LaTeX in files and archives: one unit a file or paper, whatever it is packed in."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.extract.config import OPTIONS, ExtractConfig, ExtractLimits, InputsConfig, KeepColumn
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import ExtractJob, by_workers, page_pool, read
from pipeline.extract.units import LEFT_OUT, Document, Given, Reject
from pipeline.inputs.files import resolve
from pipeline.table.storage import Storage

TEXT = "The quick brown fox jumps over the lazy dog, happily."
PAGE = f"<html><head><title>A fox</title></head><body><p>{TEXT}</p></body></html>".encode()
PAPER = rb"\documentclass{article}\title{On $x$}\begin{document}\section{One}\input{part}Caf\'e.\end{document}"

Run = Callable[..., list[Document | Reject]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    pools: dict[str, WorkerPool] = {}
    config = ExtractConfig()
    with ExitStack() as stack:

        def pool(handler: str) -> WorkerPool:
            if handler not in pools:
                pools[handler] = stack.enter_context(page_pool(1, config, handler))
            return pools[handler]

        def made(form: str, files: dict[str, bytes], start: int = 0, **options: object) -> list[Document | Reject]:
            folder = tmp_path_factory.mktemp("in")
            for name, data in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            asked = InputsConfig(format=form, inputs=(str(folder),), options=options)
            keep = {name: KeepColumn(path=name, type=kind) for name, kind in READERS[form].columns.items()}
            found: list[Document | Reject] = []
            for file in resolve(asked.inputs, "inputs"):
                storage = Storage.at(str(folder))
                job = ExtractJob(storage, "s", file, form, {}, config, keep, asked.format_options())
                with file.open() as stream:
                    entries = [entry.result for entry in read(stream, job, start, ()) if entry.result is not None]
                found += by_workers(job, entries, pool)
            return found

        yield made


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return packed.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def texts(found: list[Document | Reject]) -> list[str]:
    return [each.text if isinstance(each, Document) else each.reason for each in found]


def test_html_is_read_from_files_and_archives_alike(run: Run) -> None:
    files = {"a.html": PAGE, "notes": PAGE, "style.css": b"p { color: red }", "x.png": b"\x89PNG\r\n\x1a\n\0\0"}
    plain = run("html", files)
    packed = run("html", {"all.tar.gz": gzip.compress(tar(files)), "all.zip": zipped(files)}, base_url="https://a.org/")
    assert texts(plain) == [TEXT, TEXT, "not_html", "unsupported"]
    assert texts(packed) == texts(plain) * 2
    first = packed[0]
    assert isinstance(first, Document)
    assert (first.title, first.url, first.kept, first.origin.record_id) == (
        "A fox", "https://a.org/a.html", {"path": "a.html"}, "a.html",
    )  # fmt: skip


def test_text_is_read_in_its_charset(run: Run) -> None:
    german = "Die Straße ist groß und schön, und für alle Leute in dieser Stadt gebaut worden.\n"
    files = {
        "a.txt": german.encode(),
        "b.txt": german.encode("cp1252"),
        "c.txt": german.encode("utf-16"),
        "d.txt.gz": gzip.compress(german.encode()),
        "e.txt": b"",
        "f.txt": gzip.compress(german.encode() * 99)[:-20],
        "g.bin": bytes(range(256)) * 9,
        "h.txt": b"ORCHARDS begin like a format of tables.\n",
    }
    read_in = ["empty", "truncated_input", "unsupported", files["h.txt"].decode()]
    assert texts(run("text", files)) == [german] * 4 + read_in


def test_front_matter_of_markdown_becomes_metadata(run: Run) -> None:
    source = b"""---
title: "A: b"
date: 2024-03-02
license: CC-BY-4.0
tags: [x, y]
---
<!-- toc -->
# Head

$a_1$ `<!-- code -->` <!-- note --> end

```
<!-- kept -->
```
"""
    (found,) = run("markdown", {"a.md": source})
    assert isinstance(found, Document)
    assert (found.title, str(found.date), found.licence) == ("A: b", "2024-03-02 00:00:00+00:00", "CC-BY-4.0")
    assert found.text == "# Head\n\n$a_1$ `<!-- code -->`  end\n\n```\n<!-- kept -->\n```\n"
    assert found.metadata["front_matter"] == {
        "title": "A: b", "date": "2024-03-02", "license": "CC-BY-4.0", "tags": ["x", "y"],
    }  # fmt: skip


def test_comments_of_markdown_go_but_none_of_its_code(run: Run) -> None:
    kept = "- ```\n  <!-- a -->\n  ```\n\n> ~~~\n> <!-- b -->\n> ~~~\n\n    <!-- c -->\n\n"
    kept += "```d``` `<!-- e -->`\n\nf <!-- never closed\n"
    assert texts(run("markdown", {"a.md": f"<!-- no\n-->\nx<!-- no -->\n{kept}".encode()})) == [f"x\n{kept}"]


def test_hostile_front_matter_is_no_fields(run: Run) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    sources = [
        f"---\n{bomb}---\n# T\n",
        "---\na: !!python/object/apply:os.system [ls]\n---\n# T\n",
        "---\n" + "[" * 9000 + "\n---\n# T\n",
    ]
    for found in run("markdown", {f"{number}.md": source.encode() for number, source in enumerate(sources)}):
        assert isinstance(found, Document)
        assert found.title == "T"
        assert "front_matter" not in found.metadata


def test_options_choose_files(run: Run) -> None:
    files = {"docs/a.md": b"# A", "docs/in/b.md": b"# B", "README.md": b"# C", "setup.py": b"import x"}
    assert texts(run("markdown", {"r.zip": zipped(files)})) == ["# A\n", "# B\n", "# C\n", "unsupported"]
    chosen = run("markdown", {"r.zip": zipped(files)}, include=["docs/**/*.md"], exclude=["b.*"])
    assert texts(chosen) == ["# A\n"]


@pytest.mark.parametrize("form", ["html", "text", "markdown", "pdf", "code"])
def test_formats_of_files_judge_alike(form: str) -> None:
    files = {"d/a.md": b"x" * 2000, "d/b.md": b"left out", "d/empty.md": b" "}
    sizes = {"max_bytes": 1000} if form in ("pdf", "code") else {}
    options = OPTIONS[form](exclude=("b.*",), base_url="https://a.org/x", **sizes)
    given = Given("r.zip", ExtractLimits(payload_bytes=1000), options)
    large, left, empty = READERS[form].read(io.BytesIO(zipped(files)), 0, given)
    assert (left.result, left.record_type) == (None, LEFT_OUT)
    for entry, reason in ((large, "oversize"), (empty, "empty")):
        assert isinstance(entry.result, Reject)
        assert entry.result.reason == reason
        assert entry.result.origin.record_id == entry.result.detail.split(":")[0]
        assert entry.result.url is not None
        assert entry.result.url.startswith("https://a.org/x/")


def test_each_paper_of_a_bulk_tar_is_a_unit(run: Run) -> None:
    eprint = gzip.compress(tar({"ms.tex": PAPER, "part.tex": b"$y$ and ", "fig.png": b"\x89PNG\r\n\x1a\n\0"}))
    bulk = {
        "2301/2301.00001.gz": eprint,
        "2301/2301.00002.gz": gzip.compress(PAPER),
        "2301/2301.00003.pdf": b"%PDF-1.4",
        "2301/2301.00004.gz": gzip.compress(b"%auto-ignore\nThis paper has been withdrawn."),
        "2301/hep-th9901007.gz": gzip.compress(rb"\section{Old} " + "café".encode("cp1252")),
        "2301/2301.00005.gz": eprint[:60],
    }
    found = run("latex", {"arXiv_src_2301_001.tar": tar(bulk)})
    assert texts(found) == [
        "# On $x$\n\n## One\n\n$y$ and Café.\n",
        "# On $x$\n\n## One\n\nCafé.\n",
        "unsupported",
        "deleted",
        "## Old\n\ncafé\n",
        "truncated_input",
    ]
    first, old = found[0], found[4]
    assert isinstance(first, Document)
    assert isinstance(old, Document)
    assert (first.url, first.title, str(first.date)[:7]) == ("https://arxiv.org/abs/2301.00001", "On $x$", "2023-01")
    assert old.kept == {"arxiv_id": "hep-th/9901007", "macros_expanded": 0}


def test_an_open_eprint_is_one_paper_and_leads_nowhere(run: Run) -> None:
    files = {"../../up.tex": PAPER, "ms.tex": PAPER, "part.tex": rb"\input{ms}\input{/etc/passwd}", "/abs.tex": PAPER}
    found = run("latex", {"paper.tar.gz": gzip.compress(tar(files))})
    assert sorted(texts(found)) == ["# On $x$\n\n## One\n\nCafé.\n", "unsupported", "unsupported"]


@pytest.mark.parametrize("form", ["html", "text", "markdown", "latex"])
def test_reading_begins_again_at_each_resumable_entry(form: str, tmp_path: Path) -> None:
    files = {f"{number}/{name}": data for number in range(3) for name, data in (("a.tex", PAPER), ("b.html", PAGE))}
    (tmp_path / "in.tar").write_bytes(tar(files | {"../x": b"1", "9/c.gz": gzip.compress(PAPER)}))
    (file,) = resolve((str(tmp_path / "in.tar"),), "inputs")
    options = InputsConfig(format=form, inputs=("x",)).format_options()
    job = ExtractJob(Storage.at(str(tmp_path)), "s", file, form, {}, ExtractConfig(), {}, options)
    with file.open() as stream:
        entries = list(read(stream, job, 0, ()))
        for place, entry in enumerate(entries):
            if entry.resumable:
                assert list(read(stream, job, entry.offset, ())) == entries[place:]

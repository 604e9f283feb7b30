"""MB/s a core and peak memory of each streaming format of `extract`, at two sizes of input, beside a peer's reader.

    python tests/bench/readers_bench.py [--sizes 50 500] [--folder FOLDER] [--keep] [FORMAT ...]

Inputs are what ../shared/data has of the kind (code: Python's standard library), repeated with changed ids, in one
file that is not compressed (reddit: two; of LaTeX the papers in it are). Each run is a process of its own that extracts
its input to Parquet with one worker, as `gristmill run` does. MB are of the input without compression; a core's seconds
are user and system time of the process and its workers; memory is the largest resident set of the process and of a
worker. A peer reads a beginning of the same input (`--peer-mb`); one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import html
import importlib
import io
import json
import re
import resource
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from warcio.archiveiterator import ArchiveIterator

from tests.bench.tables import Table, bench_parser

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RAW = DATA / "sources" / "raw"
MB = 1_000_000
FORMATS = ("wikipedia", "stackexchange", "reddit", "latex", "code", "html", "text", "markdown")


# Inputs ---------------------------------------------------------------------------------------------------------------


def make(form: str, megabytes: int, folder: Path) -> list[Path]:
    """Write an input of about `megabytes` MB, where it is not there yet, and return its files."""
    if form in ("wikipedia", "stackexchange"):
        path = folder / ("sample-pages-articles.xml" if form == "wikipedia" else "math.stackexchange.com-Posts.xml")
        _repeat(path, megabytes * MB, *(_wiki() if form == "wikipedia" else _posts()))
        return [path]
    if form == "reddit":
        names = {"RS_2023-01": "submissions", "RC_2023-01": "comments"}
        for name, what in names.items():
            rows = [json.loads(line) for line in _zstd(RAW / f"pushshift-{what}.ndjson.zst").splitlines()]
            _repeat(folder / name, megabytes * MB // 2, "", lambda number, rows=rows: _rows(rows, number), "")
        return [folder / name for name in names]
    path = folder / f"{form}.tar"
    if not path.exists():
        _pack(path, megabytes * MB, _files(form), (lambda name: name) if form != "latex" else None)
    return [path]


def _repeat(path: Path, size: int, head: str, body: Callable[[int], str], tail: str) -> None:
    if path.exists():
        return
    with open(path, "w", encoding="utf-8") as file:
        written, number = file.write(head), 0
        while written < size:
            written += len((text := body(number)).encode())
            file.write(text)
            number += 1
        file.write(tail)


def _wiki() -> tuple[str, Callable[[int], str], str]:
    text = bz2.decompress((RAW / "enwiki-sample-pages-articles.xml.bz2").read_bytes()).decode()
    begin, end = text.index("  <page>"), text.rindex("</page>") + len("</page>\n")

    def body(number: int) -> str:
        named = re.sub(r"(?<=<title>)([^<]+)", rf"\1 ({number})", text[begin:end])
        return re.sub(r"(?<=</ns>\n    <id>)(\d+)", lambda match: str(int(match[1]) + number * 10**9), named)

    return text[:begin], body, text[end:]


def _posts() -> tuple[str, Callable[[int], str], str]:
    text = gzip.decompress((RAW / "matheducators.stackexchange.com-Posts.xml.gz").read_bytes()).decode()
    begin, end = text.index("  <row"), text.rindex("</posts>")
    ids = re.compile(r'( (?:Id|ParentId|AcceptedAnswerId)=")(\d+)')
    return (
        text[:begin],
        lambda number: ids.sub(lambda match: f"{match[1]}{int(match[2]) + number * 10**7}", text[begin:end]),
        text[end:],
    )


def _rows(rows: list[dict[str, Any]], number: int) -> str:
    """Return rows with other ids; a comment is of the submission that it was of, where that is there."""

    def changed(row: dict[str, Any]) -> dict[str, Any]:
        names = ("id", "name", "link_id", "parent_id")
        return row | {key: f"{row[key]}{number}" for key in names if isinstance(row.get(key), str)}

    return "".join(json.dumps(changed(row)) + "\n" for row in rows)


def _zstd(path: Path) -> str:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(path.read_bytes()).read().decode()


@cache
def _files(form: str) -> tuple[tuple[str, bytes], ...]:
    if form == "code":
        folder = Path(sysconfig.get_paths()["stdlib"])
        paths = [path for path in sorted(folder.rglob("*.py")) if not path.is_symlink()]
        outside = ("site-packages", "dist-packages", "__pycache__")
        paths = [path for path in paths if not any(part in outside for part in path.parts)]
        found = [(str(path.relative_to(folder)), path.read_bytes()) for path in paths]
        licences = [path.read_bytes() for path in folder.glob("LICENSE*")] or [b"PSF LICENSE AGREEMENT FOR PYTHON"]
        return (("LICENSE", licences[0]), *found)
    if form == "html":
        with open(DATA / "web" / "web-dev.warc.gz", "rb") as warc:
            records = [r.content_stream().read() for r in ArchiveIterator(warc) if r.rec_type == "response"]
        pages = [data for data in records if b"<html" in data[:2000].lower()]
        return tuple((f"{number}.html", data) for number, data in enumerate(pages[::8]))  # less than the smallest input
    if form == "text":
        names = ("gutenberg-1342-0.txt.gz", "wikitext-2-valid.txt.gz", "wikitext-2-test.txt.gz")
        return tuple((name.removesuffix(".gz"), gzip.decompress((RAW / name).read_bytes())) for name in names)
    if form == "markdown":
        return tuple((f"{number}.md", path.read_bytes()) for number, path in enumerate(sorted(DATA.rglob("*.md"))))
    with tarfile.open(RAW / "hott-book-eprint.tar.gz") as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        return tuple((name, file.read()) for name, file in members if file is not None)


def _pack(path: Path, size: int, files: Iterable[tuple[str, bytes]], name: Callable[[str], str] | None) -> None:
    """Write a tar with a folder for each repetition; without `name` each is a paper, a tar of its own."""
    changed = {
        ".py": b"\n# %d\n",
        ".html": b"\n<!-- %d -->\n",
        ".txt": b"\n%d\n",
        ".md": b"\n%d\n",
        ".tex": b"\n%% %d\n",
    }
    written, number = 0, 0
    with tarfile.open(path, "w") as archive, ExitStack() as stack:
        while written < size:
            inner, packed = archive, io.BytesIO()
            if name is None:
                inner = stack.enter_context(tarfile.open(fileobj=packed, mode="w"))
            for file, data in files:
                mark = changed.get(Path(file).suffix)
                data += mark % number if mark else b""
                _add(inner, f"copy{number:05d}/{file}" if name else file, data)
                written += len(data)
                if name and written >= size:
                    break
            if name is None:
                inner.close()
                _add(archive, f"2101/2101.{number:05d}.tar.gz", gzip.compress(packed.getvalue(), 1))
            number += 1


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


# Ours -----------------------------------------------------------------------------------------------------------------


def extract(form: str, paths: list[Path]) -> dict[str, float]:
    """Extract files in this process, and return what it took; call it in a process of its own."""
    from pipeline.extract.config import ExtractConfig, InputsConfig, KeepColumn
    from pipeline.extract.formats import READERS
    from pipeline.extract.isolation import WorkerPool
    from pipeline.extract.shard import ExtractJob, extract_input, page_pool
    from pipeline.inputs.files import resolve
    from pipeline.table.storage import Storage

    reader, config = READERS[form], ExtractConfig()
    asked = InputsConfig(format=form, inputs=tuple(map(str, paths)))  # type: ignore[arg-type]
    keep = {name: KeepColumn(path=name, type=kind) for name, kind in sorted(reader.columns.items())}
    files = resolve(asked.inputs, "inputs", reader.skipped)
    groups = reader.together(files) if reader.together else [(file,) for file in files]
    documents = rejects = 0
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as workspace, ExitStack() as stack:
        pool: list[WorkerPool] = []

        def pools(handler: str) -> WorkerPool:
            if not pool:
                pool.append(stack.enter_context(page_pool(1, config, handler)))
            return pool[0]

        before = time.perf_counter()
        for head, *beside in groups:
            options = asked.format_options()
            job = ExtractJob(Storage.at(workspace), "s", head, form, {}, config, keep, options, (*beside,))
            for shard in extract_input(job, pools, lambda rows, place: None):
                documents, rejects = documents + shard.documents.rows, rejects + shard.rejects.rows
        wall = time.perf_counter() - before
        workers = psutil.Process().children(recursive=True)  # their parent may end them without a word
        busy = sum(sum(worker.cpu_times()[:2]) for worker in workers)
        worker_peak = max((_peak(worker.pid) for worker in workers), default=0.0)
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu": busy + sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "wall": wall,
        "memory": _peak("self"),
        "worker": worker_peak,
        "documents": documents,
        "rejects": rejects,
    }


def _peak(pid: int | str) -> float:
    """Return the largest resident set of a process in MiB; `ru_maxrss` has that of its starter, too."""
    found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# Peers ----------------------------------------------------------------------------------------------------------------


def peers(form: str, paths: list[Path], size: int) -> Iterator[tuple[str, float]]:
    """Yield the name and MB/s of what else reads the first `size` bytes of the kind."""
    for name, module, read in _PEERS[form]:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        texts = list(_TEXTS[form](paths, size))
        before = time.process_time()
        for file, data in texts:
            try:
                read(file, data)
            except Exception as error:  # noqa: BLE001 - a peer's crash is its own
                print(f"{name}: {type(error).__name__} in {file}", file=sys.stderr)
        yield name, sum(len(data) for _, data in texts) / MB / (time.process_time() - before)


def _pages(paths: list[Path], size: int) -> Iterator[tuple[str, bytes]]:
    head = paths[0].open("rb").read(size).decode(errors="ignore")
    for number, match in enumerate(re.finditer(r"<text[^>]*>([^<]+)</text>", head)):
        yield str(number), html.unescape(match[1]).encode()


def _members(paths: list[Path], size: int) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(paths[0]) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is None or size <= 0:
                return
            data = file.read()
            inner = [data] if not member.name.endswith(".tar.gz") else _sources(data)
            for each in inner:
                size -= len(each)
                yield member.name, each


def _sources(data: bytes) -> Iterator[bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.name.endswith(".tex") and (file := archive.extractfile(member)) is not None:
                yield file.read()


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _posts_by_lxml(_: str, data: bytes) -> None:
    for _event, row in _module("lxml.etree").iterparse(io.BytesIO(data), tag="row", recover=True):
        if body := row.get("Body"):
            _module("lxml.html").fromstring(f"<div>{body}</div>").text_content()
        row.clear()


def _guess(name: str, data: bytes) -> None:
    _module("pygments.lexers").guess_lexer_for_filename(name, data.decode(errors="replace"))


_Read = Callable[[str, bytes], object]
_PEERS: dict[str, list[tuple[str, str, _Read]]] = {
    "wikipedia": [
        (
            "mwparserfromhell `strip_code`, wikitext alone",
            "mwparserfromhell",
            lambda _, data: _module("mwparserfromhell").parse(data.decode()).strip_code(),
        ),
        (
            "wikitextparser `plain_text`, wikitext alone",
            "wikitextparser",
            lambda _, data: _module("wikitextparser").parse(data.decode()).plain_text(),
        ),
    ],
    "stackexchange": [("lxml `iterparse` and `text_content` of each post", "lxml.html", _posts_by_lxml)],
    "reddit": [("`json.loads` of each line", "json", lambda _, data: [json.loads(line) for line in data.splitlines()])],
    "latex": [
        (
            "pylatexenc `LatexNodes2Text`, file by file",
            "pylatexenc.latex2text",
            lambda _, data: (
                _module("pylatexenc.latex2text").LatexNodes2Text(math_mode="verbatim").latex_to_text(data.decode())
            ),
        )
    ],
    "code": [("tarfile and Pygments' guess of the language", "pygments.lexers", _guess)],
    "html": [
        ("trafilatura `extract`", "trafilatura", lambda _, data: _module("trafilatura").extract(data)),
        ("resiliparse `extract_plain_text`", "resiliparse.extract.html2text",
         lambda _, data: _module("resiliparse.extract.html2text").extract_plain_text(
             data.decode(errors="replace"), main_content=True)),
    ],
    "text": [],
    "markdown": [],
}  # fmt: skip
_TEXTS: dict[str, Callable[[list[Path], int], Iterable[tuple[str, bytes]]]] = {
    "wikipedia": _pages,
    "stackexchange": lambda paths, size: [("", paths[0].open("rb").read(size))],
    "reddit": lambda paths, size: [("", paths[0].open("rb").read(size).rpartition(b"\n")[0])],
    **dict.fromkeys(("latex", "code", "html", "text", "markdown"), _members),
}


# The table ------------------------------------------------------------------------------------------------------------


def report(form: str, sizes: list[int], folder: Path, peer_mb: float, keeps: bool, table: Table) -> None:
    """Add the rows of a format, and of its peers; a peer has a speed alone."""
    for size in sizes:
        where = folder / f"{form}-{size}"
        where.mkdir(parents=True, exist_ok=True)
        paths = make(form, size, where)
        command = [sys.executable, __file__, "--one", form, *map(str, paths)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        decoded = size if form == "latex" else sum(path.stat().st_size for path in paths) / MB
        speed, counts = decoded / done["cpu"], (done["documents"], done["rejects"])
        table.row(form, "gristmill", size, speed, done["memory"], done["worker"], *counts)
        for name, speed in peers(form, paths, int(peer_mb * MB)) if size == sizes[0] else ():
            table.row(form, name, peer_mb, speed, None, None, None, None)
        for path in paths if not keeps else ():
            path.unlink()


def main() -> None:
    """Print the table, or what one run took."""
    parser = bench_parser(__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 500], help="MB of input")
    parser.add_argument("--folder", type=Path, help="where inputs are written; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the inputs there")
    parser.add_argument("--peer-mb", type=float, default=2.0)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(extract(given.one[0], [Path(path) for path in given.one[1:]])))
        return
    table = Table("readers", given.csv, "format reader input_mb mb_per_cpu_s process_mib worker_mib documents rejects")
    with tempfile.TemporaryDirectory() as temporary:
        for form in given.formats or FORMATS:
            folder = given.folder or Path(temporary)
            keeps = given.keep and given.folder is not None
            report(form, given.sizes, folder, given.peer_mb, keeps, table)


if __name__ == "__main__":
    main()

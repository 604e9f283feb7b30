"""Extraction on annotated real pages: word F1 by gold source, what is lost of their structure, and CPU time.

python tests/bench/bench_extraction.py f1 [--every 3]
python tests/bench/bench_extraction.py structure [--every 3]
python tests/bench/bench_extraction.py cpu [--every 10] [--rounds 3]
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import psutil
import trafilatura
from warcio.archiveiterator import ArchiveIterator

from pipeline.extract.html.charset import decode
from pipeline.extract.html.messages import HANDLER, HtmlOptions
from pipeline.extract.html.pages import extract_pages
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.units import Document, Origin, Page
from tests.bench.tables import Table, bench_parser

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "web"
_WORD = re.compile(r"\w+")
# As browsers read the labels. (GB2312's dash is another character in GB18030.)
_BROWSER_CODECS = {"gb2312": "gb18030", "iso-8859-1": "cp1252", "windows-1252": "cp1252", "windows-1250": "cp1250"}


@dataclass(frozen=True, slots=True)
class GoldPage:
    """A page with its annotation."""

    page: Page
    source: str
    gold_text: str | None
    body_encoding: str
    meta_charset: str | None
    header_is_wrong: bool

    def correctly_decoded(self) -> str:
        """Return the text in the encoding that the gold names, as a browser would read it.

        Three pages say UTF-8 in their meta tag and are UTF-8 but for a few broken bytes; the gold calls them
        windows-1252, which would turn every umlaut into two letters.
        """
        encoding = _BROWSER_CODECS.get(self.body_encoding, self.body_encoding)
        if self.body_encoding == "windows-1252" and self.meta_charset == "utf-8":
            encoding = "utf-8"
        errors = "ignore" if self.page.truncated else "replace"
        return self.page.payload.decode(encoding, errors).removeprefix("\ufeff")


def gold_pages(folder: Path = DATA) -> list[GoldPage]:
    """Return the annotated pages of web-dev."""
    with open(folder / "web-dev-gold.jsonl", encoding="utf-8") as lines:
        gold = {row["record_id"]: row for row in map(json.loads, lines)}
    pages = []
    with open(folder / "web-dev.warc.gz", "rb") as warc:
        for record in ArchiveIterator(warc):
            row = gold.get(record.rec_headers.get_header("WARC-Record-ID"))
            if row is None or record.rec_type != "response":
                continue
            content_type = (record.http_headers.get_header("Content-Type") or "").lower()
            charset = re.search(r"charset=([\w-]+)", content_type)
            page = Page(
                Origin("web-dev.warc.gz", len(pages), row["record_id"]),
                row["url"],
                record.content_stream().read(),
                content_type.partition(";")[0].strip() or None,
                charset.group(1) if charset else None,
                None,
                "length" if row["truncated"] else None,
            )
            wrong = "wrong on purpose" in row["header_charset"]
            pages.append(
                GoldPage(page, row["source"], row.get("text"), row["body_encoding"], row["meta_charset"], wrong)
            )
    return pages


def word_f1(text: str, gold: str) -> float:
    """Return F1 over NFKC-casefolded word multisets; both empty is 1."""
    found, wanted = _words(text), _words(gold)
    if not found and not wanted:
        return 1.0
    common = sum((found & wanted).values())
    return 2 * common / (sum(found.values()) + sum(wanted.values()))


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def report_f1(pages: list[GoldPage], folder: Path | None) -> None:
    """Add rows of word F1 by gold source, ours and trafilatura's own."""
    annotated = [page for page in pages if page.gold_text is not None]
    table = Table("extraction-f1", folder, "engine favor gold pages mean_f1")
    with WorkerPool(HANDLER, 2) as pool:
        for engine in ("trafilatura", "resiliparse"):
            for favor in ("precision", "balanced", "recall"):
                options = HtmlOptions(engine=engine, favor=favor)  # type: ignore[arg-type]
                results = extract_pages(pool, (page.page for page in annotated), options)
                texts = [result.text if isinstance(result, Document) else "" for result in results]
                _add_rows(table, engine, favor, annotated, texts)
                if engine == "trafilatura":
                    bare = [_bare(page.correctly_decoded(), favor) for page in annotated]
                    _add_rows(table, "trafilatura called directly", favor, annotated, bare)


def _bare(html: str, favor: str = "balanced") -> str:
    precision, recall = favor == "precision", favor == "recall"
    return trafilatura.extract(html, include_comments=False, favor_precision=precision, favor_recall=recall) or ""


def _add_rows(table: Table, engine: str, favor: str, pages: list[GoldPage], texts: list[str]) -> None:
    scores: dict[str, list[float]] = defaultdict(list)
    for page, text in zip(pages, texts, strict=True):
        for source in (page.source, "all"):
            scores[source].append(word_f1(text, page.gold_text or ""))
    for source in sorted(scores, key=lambda name: (name == "all", name)):
        table.row(engine, favor, source, len(scores[source]), mean(scores[source]))


@dataclass(frozen=True, slots=True)
class Structure:
    """What a page's expected Markdown holds: code lines as they are, the rest as runs of letters and digits."""

    code_lines: list[str]
    formulas: list[str]
    list_items: list[str]
    table_rows: list[str]
    headings: list[str]

    def found(self, text: str) -> dict[str, tuple[int, int]]:
        """Return how many of each kind `text` holds, and how many there are.

        A code line counts with its indentation, a formula wherever its LaTeX stands but for spaces, a heading as a
        line of its own, items and rows where one line of the text holds all of it.
        """
        lines = text.split("\n")
        verbatim = {line.rstrip() for line in lines}
        dense = "".join(text.split())
        letters = [_letters(line) for line in _DELIMITED.sub("", text).split("\n")]
        words = "\n".join(letters)
        holds: dict[str, Callable[[str], bool]] = {
            "code_lines": verbatim.__contains__,
            "formulas": lambda formula: "".join(formula.split()) in dense,
            "headings": set(letters).__contains__,
        }
        counts = {}
        for kind in self.__slots__:
            wanted: list[str] = getattr(self, kind)
            test = holds.get(kind, words.__contains__)
            counts[kind] = sum(map(test, wanted)), len(wanted)
        return counts


_FRONT_MATTER = re.compile(r"\A```json\n\{.*?\n\}\n```\n", re.S)
_FENCE = re.compile(r"^[> ]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[> ]*\1[ \t]*$", re.S | re.M)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?=[^\s$])([^$\n]+?)(?<=\S)\$(?!\d)", re.S)
_DELIMITED = re.compile(r"\\\(.*?\\\)|\\\[.*?\\\]", re.S)  # formulas as our text has them
_MARKDOWN_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s\"[^\"]*\")?\)")
_LIST_ITEM = re.compile(r"^[> ]*(?:[-*+]|\d+[.)])\s+(.+)$", re.M)
_TABLE_ROW = re.compile(r"^[> ]*\|(.+)\|[ \t]*$", re.M)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)#*$", re.M)


def structure_of(markdown: str) -> Structure:
    """Return what the Markdown of a page holds."""
    markdown = _FRONT_MATTER.sub("", markdown)
    code = [line.rstrip() for _, block in _FENCE.findall(markdown) for line in block.split("\n") if line.strip()]
    rest = _FENCE.sub("", markdown)
    formulas = [(display or inline).strip() for display, inline in _FORMULA.findall(rest)]
    rest = _FORMULA.sub("", _MARKDOWN_LINK.sub(r"\1", rest))
    kinds = ([_letters(match) for match in pattern.findall(rest)] for pattern in (_LIST_ITEM, _TABLE_ROW, _HEADING))
    items, rows, headings = ([entry for entry in kind if entry] for kind in kinds)
    return Structure(code, formulas, items, rows, headings)


def _letters(text: str) -> str:
    return "".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def structure_pages(folder: Path = DATA) -> tuple[list[Page], list[Structure]]:
    """Return the pages of structure-dev and what their expected Markdown holds."""
    with gzip.open(folder / "structure-dev-gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        gold = {row["url"]: structure_of(row["markdown"]) for row in map(json.loads, lines)}
    pages = []
    with open(folder / "structure-dev.warc.gz", "rb") as warc:
        for record in ArchiveIterator(warc):
            url = record.rec_headers.get_header("WARC-Target-URI")
            if record.rec_type == "response" and url in gold:
                origin = Origin("structure-dev.warc.gz", len(pages), url)
                pages.append(Page(origin, url, record.content_stream().read(), "text/html", "utf-8", None, None))
    return pages, [gold[page.url or ""] for page in pages]


def report_structure(pages: list[GoldPage], folder: Path | None) -> None:
    """Add rows of how much of the structure of annotated pages each engine keeps."""
    with gzip.open(DATA / "web-gold-markdown.jsonl.gz", "rt", encoding="utf-8") as lines:
        markdown = {row["record_id"]: structure_of(row["markdown"] or "") for row in map(json.loads, lines)}
    marked = [page.page for page in pages if page.page.origin.record_id in markdown]
    sets = {
        "structure-dev": structure_pages(),
        "web-dev": (marked, [markdown[page.origin.record_id or ""] for page in marked]),
    }
    table = Table("extraction-structure", folder, "pages engine favor kind kept of")
    with WorkerPool(HANDLER, 2) as pool:
        for name, (units, wanted) in sets.items():
            for engine in ("trafilatura", "resiliparse"):
                for favor in ("precision", "balanced"):
                    options = HtmlOptions(engine=engine, favor=favor)  # type: ignore[arg-type]
                    results = extract_pages(pool, units, options)
                    totals: Counter[str] = Counter()
                    there: Counter[str] = Counter()
                    for result, structure in zip(results, wanted, strict=True):
                        text = result.text if isinstance(result, Document) else ""
                        for kind, (found, of) in structure.found(text).items():
                            there[kind] += found
                            totals[kind] += of
                    for kind, of in totals.items():
                        table.row(name, engine, favor, kind, there[kind], of)


def report_cpu(pages: list[GoldPage], rounds: int, folder: Path | None) -> None:
    """Add rows of CPU milliseconds a page, the pool's parent and workers against a bare loop, interleaved."""
    units = [page.page for page in pages]
    texts = [decode(unit.payload, unit.charset).text for unit in units]
    variants = {
        "trafilatura": HtmlOptions(),
        "resiliparse": HtmlOptions(engine="resiliparse"),
        "trafilatura, gate en": HtmlOptions(language_gate=("en",)),
    }
    figures: dict[str, list[float]] = defaultdict(list)
    parents: dict[str, list[float]] = defaultdict(list)
    with WorkerPool(HANDLER, 1) as pool:
        list(extract_pages(pool, units[:3], HtmlOptions(language_gate=("en",))))  # processes and model are there
        for _ in range(rounds):
            figures["bare loop, trafilatura"].append(_cpu_s(lambda: [_bare(text) for text in texts])[0])
            for name, options in variants.items():
                run = _run(pool, units, options)
                total_s, own_s = _cpu_s(run)
                figures[f"isolated, {name}"].append(total_s)
                parents[f"isolated, {name}"].append(own_s)
    base = figures["bare loop, trafilatura"]
    print(f"{len(units)} pages of {mean(len(unit.payload) for unit in units) / 1024:.0f} KB, {rounds} rounds, medians")
    table = Table("extraction-cpu", folder, "run cpu_ms_a_page parent_ms against_bare_loop")
    for name, seconds in figures.items():
        ratio = median(mine / bare for mine, bare in zip(seconds, base, strict=True))
        own = median(parents[name]) / len(units) * 1e3 if name in parents else None
        table.row(name, median(seconds) / len(units) * 1e3, own, ratio)


def _run(pool: WorkerPool, units: list[Page], options: HtmlOptions) -> Callable[[], object]:
    return lambda: list(extract_pages(pool, units, options))


def _cpu_s(work: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds of this process and its descendants, and of this process alone."""
    before, own = _tree_cpu_s(), time.process_time()
    work()
    return _tree_cpu_s() - before, time.process_time() - own


def _tree_cpu_s() -> float:
    me = psutil.Process(os.getpid())
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children(recursive=True)])


def main() -> None:
    """Run what the command line asks for."""
    parser = bench_parser(__doc__)
    parser.add_argument("what", choices=["f1", "structure", "cpu"])
    parser.add_argument("--every", type=int, default=1, help="take every n-th page")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    pages = gold_pages()[:: arguments.every]
    if arguments.what == "f1":
        report_f1(pages, arguments.csv)
    elif arguments.what == "structure":
        report_structure(pages, arguments.csv)
    else:
        report_cpu(pages, arguments.rounds, arguments.csv)


if __name__ == "__main__":
    main()

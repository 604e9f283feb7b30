"""Extraction on annotated real pages: word F1 by gold source, and CPU time against trafilatura in a bare loop.

python tests/bench/bench_extraction.py f1 [--every 3]
python tests/bench/bench_extraction.py cpu [--every 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
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

from pipeline.extract.charset import decode
from pipeline.extract.exchange import HtmlOptions
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.pages import HANDLER, extract_pages
from pipeline.extract.units import Document, Origin, Page

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


def report_f1(pages: list[GoldPage]) -> None:
    """Print word F1 by gold source, ours and trafilatura's own."""
    annotated = [page for page in pages if page.gold_text is not None]
    sources = sorted({page.source for page in annotated})
    counts = Counter(page.source for page in annotated)
    print(
        "| extractor | " + " | ".join(f"{source} ({counts[source]})" for source in sources),
        f"| all ({len(annotated)}) |",
    )
    print("| --- |" + " --- |" * (len(sources) + 1))
    with WorkerPool(HANDLER, 2) as pool:
        for engine in ("trafilatura", "resiliparse"):
            for favor in ("precision", "balanced", "recall"):
                options = HtmlOptions(engine=engine, favor=favor)  # type: ignore[arg-type]
                results = extract_pages(pool, (page.page for page in annotated), options)
                texts = [result.text if isinstance(result, Document) else "" for result in results]
                _print_row(f"{engine}, {favor}", annotated, texts, sources)
                if engine == "trafilatura":
                    _print_row(f"trafilatura called directly, {favor}", annotated, _direct(annotated, favor), sources)


def _direct(pages: list[GoldPage], favor: str) -> list[str]:
    return [_bare(page.correctly_decoded(), favor) for page in pages]


def _bare(html: str, favor: str = "precision") -> str:
    precision, recall = favor == "precision", favor == "recall"
    return trafilatura.extract(html, include_comments=False, favor_precision=precision, favor_recall=recall) or ""


def _print_row(name: str, pages: list[GoldPage], texts: list[str], sources: list[str]) -> None:
    scores: dict[str, list[float]] = defaultdict(list)
    for page, text in zip(pages, texts, strict=True):
        scores[page.source].append(word_f1(text, page.gold_text or ""))
    cells = [mean(scores[source]) for source in sources] + [mean(score for found in scores.values() for score in found)]
    print(f"| {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |", flush=True)


def report_cpu(pages: list[GoldPage], rounds: int) -> None:
    """Print CPU milliseconds a page, the pool's parent and workers against a bare loop, interleaved."""
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
    print("| | CPU ms a page | of it the parent | against the bare loop |")
    print("| --- | --- | --- | --- |")
    for name, seconds in figures.items():
        ratio = median(mine / bare for mine, bare in zip(seconds, base, strict=True))
        own = f"{median(parents[name]) / len(units) * 1e3:.2f}" if name in parents else ""
        print(f"| {name} | {median(seconds) / len(units) * 1e3:.2f} | {own} | {ratio:.3f} |")


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["f1", "cpu"])
    parser.add_argument("--every", type=int, default=1, help="take every n-th page")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    pages = gold_pages()[:: arguments.every]
    if arguments.what == "f1":
        report_f1(pages)
    else:
        report_cpu(pages, arguments.rounds)


if __name__ == "__main__":
    main()

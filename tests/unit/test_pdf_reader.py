"""PDFs in files, archives and WARC records: one unit a PDF, its pages beside it; hostile ones cost themselves alone."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from pdf_files import hostile, of_pages, of_texts

from flows.config import RunConfig
from flows.launch import extracted
from flows.stages import Run, check_inputs, expected_columns
from pipeline.extract import stage
from pipeline.extract.config import PAGES_FOLDER, ExtractConfig, ExtractLimits, InputsConfig, PdfOptions, has_pages
from pipeline.extract.content import identify
from pipeline.extract.conversion import RefusedError, _read
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.pdf import document
from pipeline.extract.shard import ExtractJob, by_workers, extract_input, finished_shards, page_pool, read
from pipeline.extract.stage import extract_stage
from pipeline.extract.units import Document, PageText, Reject
from pipeline.inputs.files import resolve
from pipeline.peek.pages import marked, sheet
from pipeline.table import schema
from pipeline.table.errors import GristmillError, MissingDependencyError
from pipeline.table.storage import Storage

ONE = ["The first page of a document has some lines of text,", "and each of them is a sentence, or a part of one."]
TWO = ["What stands on the second page is another text.", "It ends here."]
INFO = b"<< /Title (On pages) /Author (A. Writer) /CreationDate (D:20210304050607+02'00') >>"
Made = Callable[..., list[Document | Reject]]


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], WorkerPool]]:
    started: dict[str, WorkerPool] = {}
    with ExitStack() as stack:

        def pool(handler: str) -> WorkerPool:
            if handler not in started:
                started[handler] = stack.enter_context(page_pool(1, ExtractConfig(), handler))
            return started[handler]

        yield pool


@pytest.fixture
def made(pools: Callable[[str], WorkerPool], tmp_path: Path) -> Made:
    def make(files: dict[str, bytes], form: str = "pdf", config: ExtractConfig | None = None, **options: object):
        for name, data in files.items():
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        asked = InputsConfig(format=form, inputs=(str(tmp_path / "in"),), options=options)
        found: list[Document | Reject] = []
        for file in resolve(asked.inputs, "inputs"):
            storage, own = Storage.at(str(tmp_path / "ws")), config or ExtractConfig()
            job = ExtractJob(storage, "s", file, form, {}, own, {}, asked.format_options())
            with file.open() as stream:
                entries = [entry.result for entry in read(stream, job, 0, ()) if entry.result is not None]
            found += by_workers(job, entries, pools)
        return found

    return make


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def record(url: str, media_type: str, body: bytes, extra: str = "") -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:{url}>\r\nWARC-Target-URI: {url}\r\n{extra}"
    head += f"WARC-Date: 2020-01-02T03:04:05Z\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


def test_pages_of_a_document(made: Made) -> None:
    (found,) = made({"a/paper.pdf": of_texts(ONE, [], TWO, info=INFO)}, base_url="https://example.org/")
    assert isinstance(found, Document)
    assert found.pages is not None
    assert [page.route for page in found.pages] == ["text", "blank", "text"]
    first, blank, second = (found.text[page.start : page.end] for page in found.pages)
    assert (first, blank, second) == (" ".join(ONE), "", " ".join(TWO))
    assert found.title == "On pages"
    assert found.metadata["author"] == "A. Writer"
    assert found.date is not None
    assert found.date.isoformat() == "2021-03-04T03:06:07+00:00"
    assert found.url == "https://example.org/a/paper.pdf"
    assert found.kept == {"path": "a/paper.pdf"}
    assert marked(found).startswith("--- page 1 (text, 1.00) ---\nThe first page")


def test_halves_of_characters_in_a_title_cost_no_document(made: Made) -> None:
    (found,) = made({"a.pdf": of_texts(ONE, info=b"<< /Title <FEFF0041DC000042> /Author <FEFFD83D> >>")})
    assert isinstance(found, Document)
    assert found.title == "A\ufffdB"


def test_the_pages_of_a_book_have_time_to_be_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[float] = []

    @contextmanager
    def allow(cpu_s: float, memory_bytes: int) -> Iterator[None]:
        allowed.append(cpu_s)
        yield

    monkeypatch.setattr(document, "allow", allow)
    facts = PdfOptions(ocr="off").facts(ExtractLimits(cpu_s=1.0))
    document.convert(of_texts(ONE, *[[]] * 199), facts)
    assert allowed[-1] == 3.0


def test_what_passes_through_does_not_pile_up() -> None:
    taken: list[int] = []
    items = ((taken.append(n) or n, None) for n in range(100))  # type: ignore[func-returns-value]
    with WorkerPool("nothing:nothing", 4) as pool:
        for number, (tag, answer) in enumerate(pool.imap(items)):
            assert (tag, answer, len(taken)) == (number, None, number + 1)
    assert len(taken) == 100


def test_without_an_engine_the_run_says_so_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "installed", lambda: None)
    (tmp_path / "a.pdf").write_bytes(of_texts(ONE))
    for ocr, times in (("auto", 1), ("off", 0)):
        run = {"format": "pdf", "inputs": [str(tmp_path / "a.pdf")], "options": {"ocr": ocr}}
        value = {"workspace": str(tmp_path / ocr), "sources": {"s": run}, "engine": {"workers": 1, "prefect": "never"}}
        found = Run.of(RunConfig.model_validate(value))
        told: list[str] = []
        monkeypatch.setattr(type(found.reporter), "line", lambda self, text, told=told: told.append(text))
        with found.resources:
            found.do(extract_stage(found, "s", found.extract_jobs("s"), found.pools))
        assert sum("gristmill[ocr]" in line for line in told) == times


def test_an_engine_that_is_not_there_ends_a_web_archive_too(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    config = ExtractConfig.model_validate({"pdf": {"engine": "tesseract"}})
    with pytest.raises(MissingDependencyError, match="not on the PATH"):
        made({"a.warc": record("http://a/1", "application/pdf", of_texts(ONE))}, form="warc", config=config)


def test_files_are_chosen_and_none_is_lost(made: Made) -> None:
    sound = of_texts(ONE)
    inner = {"b.PDF": sound, "no name": sound, "note.txt": b"words", "empty.pdf": b"", "cut.pdf": sound[:900]}
    found = made({"all.zip": zipped(inner), "other.pdf": b"not one"})
    kinds = [(r.origin.record_id, r.reason if isinstance(r, Reject) else "document") for r in found]
    assert kinds == [
        ("b.PDF", "document"),
        ("no name", "document"),
        ("note.txt", "unsupported"),
        ("empty.pdf", "empty"),
        ("cut.pdf", "truncated_input"),
        (None, "damaged"),
    ]
    assert len(made({}, include=["b.*"], exclude=["*.zip"])) == 1


def test_limits_of_a_document(made: Made) -> None:
    pdf = of_texts(ONE, TWO, ONE)
    for options, detail in (({"max_pages": 2}, "3 pages, the limit is 2"), ({"max_bytes": 100}, "over 100 bytes")):
        (found,) = made({"a.pdf": pdf}, **options)
        assert isinstance(found, Reject)
        assert found.reason == "oversize"
        assert detail in found.detail


def test_too_many_failed_pages_are_a_reject_that_says_so(made: Made) -> None:
    picture = b"0 g 72 72 200 200 re f"  # ink without text; without OCR nobody knows what it says
    pdf = of_pages([picture, picture])
    (found,) = made({"a.pdf": pdf}, ocr="off")
    assert isinstance(found, Reject)
    assert found.reason == "damaged"
    assert "2 of 2 pages failed, the first is page 1" in found.detail
    assert "OCR is off" in found.detail


def test_hostile_files_cost_themselves_alone(made: Made) -> None:
    slow = {"form in itself", "forms in forms", "many lines", "many words"}
    files = {f"{name}.pdf": data for name, data in hostile().items() if name not in slow}
    found = made({"all.zip": zipped(files)}, ocr="off")
    kinds = {str(r.origin.record_id): r.reason if isinstance(r, Reject) else "document" for r in found}
    assert kinds.keys() == files.keys()
    assert kinds["image.pdf"] == kinds["huge page.pdf"] == kinds["page tree in a circle.pdf"] == "damaged"
    assert kinds["xref to itself.pdf"] == kinds["inside out.pdf"] == "document"
    assert kinds["no end.pdf"] == "truncated_input"


@pytest.mark.acceptance
def test_what_makes_the_library_fall_over_is_a_crash(made: Made) -> None:
    files = {name: data for name, data in hostile().items() if name in ("forms in forms", "many lines", "many words")}
    found = made({"all.zip": zipped({f"{name}.pdf": data for name, data in files.items()})}, ocr="off")
    reasons = [r.reason if isinstance(r, Reject) else "document" for r in found]
    assert reasons == ["crash", "empty", "document"]


def test_damaged_bytes_never_stop_anything(made: Made) -> None:
    sound, chance = of_texts(ONE, TWO, info=INFO), random.Random(15)
    files = {}
    for number in range(60):
        data = bytearray(sound)
        for _ in range(chance.choice((1, 10, 100))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        files[f"{number:03}.pdf"] = bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
    found = made({"all.zip": zipped(files)}, ocr="off")
    assert [r.origin.record_id for r in found] == sorted(files)
    assert any(isinstance(r, Document) for r in found)
    assert any(isinstance(r, Reject) for r in found)


def test_pdfs_of_a_web_archive(made: Made) -> None:
    page = (
        b"<html><body><p>"
        + b"A page of HTML with a sentence that is long enough to be text. " * 4
        + b"</p></body></html>"
    )
    pdf = of_texts(ONE, info=INFO)
    archive = b"".join(
        (
            record("http://a/1", "text/html", page),
            record("http://a/2", "application/pdf", pdf),
            record("http://a/3", "application/octet-stream", pdf),
            record("http://a/4", "text/html", pdf),
            record("http://a/5", "application/octet-stream", b"something else"),
            record("http://a/6", "application/pdf", pdf[:900], "WARC-Truncated: length\r\n"),
            record("http://a/7", "image/png", b"\x89PNG"),
        )
    )
    found = made({"a.warc": archive}, form="warc", config=ExtractConfig.model_validate({"pdf": True}))
    kinds = {r.url: r.reason if isinstance(r, Reject) else r.pages and r.pages[0].route for r in found}
    assert list(kinds) == [f"http://a/{number}" for number in range(1, 8)]
    assert list(kinds.values()) == [None, "text", "text", "text", "not_html", "truncated_input", "not_html"]
    assert isinstance(found[1], Document)
    assert found[1].text.startswith(ONE[0])
    assert found[1].date is None, "no document is of later than its capture"
    without = made({}, form="warc")
    assert [r.reason for r in without if isinstance(r, Reject)] == ["not_html"] * 6


def test_pages_are_a_group_beside_documents(pools: Callable[[str], WorkerPool], tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(of_texts(ONE, [], TWO))
    (file,) = resolve((str(tmp_path / "a.pdf"),), "inputs")
    config = InputsConfig(format="pdf", inputs=("a.pdf",))
    storage = Storage.at(str(tmp_path / "ws"))
    job = ExtractJob(storage, "s", file, "pdf", {}, ExtractConfig(), {}, config.format_options())
    (shard,) = extract_input(job, pools, lambda rows, place: None)
    assert shard.pages is not None
    assert job.pages is not None
    assert finished_shards(job) == [shard]
    rows = pq.read_table(tmp_path / "ws" / job.pages.path(shard.pages.name))
    documents = pq.read_table(tmp_path / "ws" / job.documents.path(shard.documents.name))
    assert rows.schema.equals(schema.PAGES)
    assert rows["doc_id"].to_pylist() == documents["doc_id"].to_pylist()
    (row,) = rows.to_pylist()
    assert (row["page_count"], row["ocr_pages"], row["failed_pages"], row["ocr_confidence"]) == (3, 0, 0, None)
    assert [(page["route"], page["confidence"]) for page in row["pages"]] == [
        ("text", 1.0),
        ("blank", 1.0),
        ("text", 1.0),
    ]
    last = row["pages"][2]
    assert documents["text"][0].as_py()[last["start"] : last["end"]] == " ".join(TWO)


def test_which_sources_have_pages() -> None:
    pdf = ExtractConfig.model_validate({"pdf": {"ocr": "off"}})
    assert has_pages("pdf", ExtractConfig())
    assert has_pages("warc", pdf)
    assert has_pages("auto", pdf)
    assert not has_pages("warc", ExtractConfig())
    assert not has_pages("jsonl", pdf)
    sources = {"a": {"format": "pdf", "inputs": ["a"]}, "b": {"format": "text", "inputs": ["a"]}}
    run = Run.of(RunConfig.model_validate({"workspace": "ws", "sources": sources}))
    assert expected_columns(run.config.settings("a"), {})["ocr_pages"] == "BIGINT"
    assert "ocr_pages" not in expected_columns(run.config.settings("b"), {})


def test_an_engine_that_is_not_there_is_told_before_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.pdf").write_bytes(of_texts(["A page."]))
    chosen = {"engine": "tesseract"}
    sources = {
        "crawl": {"inputs": [str(tmp_path / "a.jsonl")], "extract": {"pdf": chosen}},
        "files": {"format": "pdf", "inputs": [str(tmp_path / "a.pdf")], "options": chosen},
        "rows": {"format": "jsonl", "inputs": [str(tmp_path / "a.jsonl")], "extract": {"pdf": chosen}},
    }
    run = Run.of(RunConfig.model_validate({"workspace": str(tmp_path / "ws"), "sources": sources}))
    with pytest.raises(MissingDependencyError, match=r"^sources\.crawl\.extract\.pdf\.engine: ocr engine tesseract"):
        check_inputs(run, "crawl")
    with pytest.raises(MissingDependencyError, match=r"^sources\.files\.options\.engine: ocr engine tesseract"):
        check_inputs(run, "files")
    check_inputs(run, "rows")  # which has no PDFs


def test_off_needs_no_quotes() -> None:
    told = yaml.safe_load("{format: pdf, inputs: [a], options: {ocr: off}}")
    assert InputsConfig.model_validate(told).format_options().model_dump()["ocr"] == "off"


def test_a_web_archive_without_pdfs_is_what_it_was() -> None:
    (file,) = resolve((__file__,), "inputs")
    plain, with_pdf = (
        ExtractJob(Storage.at("."), "s", file, "warc", {}, ExtractConfig.model_validate({"pdf": value})).work(0)
        for value in (False, True)
    )
    assert "pdf" not in plain.identity.config
    assert plain.key != with_pdf.key


def test_content_tells_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "unnamed").write_bytes(of_texts(ONE, TWO))
    with (tmp_path / "unnamed").open("rb") as stream:
        assert identify(stream, "unnamed", {}).kind == "pdf"
    with extracted(str(tmp_path / "unnamed"), pictures=1) as results:
        (found,) = list(results)
    assert isinstance(found, Document)
    assert len(found.pictures) == 1
    shown = sheet("<unnamed>", [found])
    assert shown.count("data:image/png;base64,iVBOR") == 1
    assert "page 2: text, 1.00" in shown
    assert "&lt;unnamed&gt;" in shown
    assert "<script" not in shown


def test_pages_that_a_worker_made_up_are_refused() -> None:
    for pages in (
        [[0, 9, "text", 1]],
        [[0, 2, "guess", 1]],
        [[0, 2, "text", 2]],
        [[2, 1, "text", 1]],
        [[0]],
        "x",
        [[0, 1, "ocr", "y"]],
    ):
        answer = {
            "text": "abc",
            "title": None,
            "date": None,
            "licence": None,
            "metadata": {},
            "kept": {},
            "pages": pages,
        }
        with pytest.raises(RefusedError):
            _read(json.dumps(answer).encode())
    assert PageText(0, 2, "text", 1.0).route == "text"
    assert READERS["pdf"].handler is not None


def test_rejects_are_tried_again_when_asked(pools: Callable[[str], WorkerPool], tmp_path: Path) -> None:
    """The key of the parts stays, so that what came out well is not done again by the run after."""
    (tmp_path / "a.pdf").write_bytes(of_pages([b"0 g 72 72 200 200 re f"]))
    run = {"format": "pdf", "inputs": [str(tmp_path / "a.pdf")], "options": {"ocr": "off"}}
    value = {"workspace": str(tmp_path / "ws"), "sources": {"s": run}, "engine": {"workers": 1, "prefect": "never"}}
    first = Run.of(RunConfig.model_validate(value))
    with first.resources:
        first.do(extract_stage(first, "s", first.extract_jobs("s"), first.pools))
    plans = []
    for retry in ([], ["damaged"], ["timeout"]):
        again = Run.of(RunConfig.model_validate(value | {"extract": {"retry": retry}}))
        (job,) = again.extract_jobs("s")
        plans.append(extract_stage(again, "s", [job], again.pools).shards_to_do)
        assert job.work(0).key == first.extract_jobs("s")[0].work(0).key
        assert len(finished_shards(job)) == (retry != ["damaged"])
    assert plans == [0, 1, 0]


def test_a_run_that_tries_again_may_be_killed(pools: Callable[[str], WorkerPool], tmp_path: Path) -> None:
    """What comes out otherwise lies in files of the same names: no index may speak of what they held."""
    (tmp_path / "a.pdf").write_bytes(of_pages([b"0 g 72 72 200 200 re f"]))
    run = {"format": "pdf", "inputs": [str(tmp_path / "a.pdf")], "options": {"ocr": "off"}}
    value = {"workspace": str(tmp_path / "ws"), "sources": {"s": run}, "engine": {"workers": 1, "prefect": "never"}}
    first = Run.of(RunConfig.model_validate(value))
    with first.resources:
        first.do(extract_stage(first, "s", first.extract_jobs("s"), first.pools))
    again = Run.of(RunConfig.model_validate(value | {"extract": {"retry": ["damaged"]}}))
    (job,) = again.extract_jobs("s")

    def killed(*args: object) -> WorkerPool:
        raise GristmillError("killed")

    with again.resources, pytest.raises(GristmillError, match="killed"):
        again.do(extract_stage(again, "s", [job], killed))
    for group in (job.documents, job.rejects, job.pages):
        assert group is not None
        assert group.present() == {}
        assert group.manifest(job.work(0).name) is None
        (tmp_path / "ws" / group.path(job.work(0).name)).write_bytes(b"another outcome")
    after = Run.of(RunConfig.model_validate(value))
    assert extract_stage(after, "s", after.extract_jobs("s"), after.pools).shards_to_do == 1
    with after.resources:
        after.do(extract_stage(after, "s", after.extract_jobs("s"), after.pools))
    assert [part.rows for part in job.rejects.parts()] == [1]


def test_pages_go_with_the_pdfs(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(record("http://a/1", "application/pdf", of_texts(ONE)))
    rows = []
    for pdf in (True, False):
        run = {"format": "warc", "inputs": [str(tmp_path / "a.warc")], "extract": {"pdf": pdf}}
        value = {"workspace": str(tmp_path / "ws"), "sources": {"s": run}, "engine": {"workers": 1, "prefect": "never"}}
        found = Run.of(RunConfig.model_validate(value))
        with found.resources:
            found.do(extract_stage(found, "s", found.extract_jobs("s"), found.pools))
        rows.append([sum(part.rows for part in found.group("s", name).parts()) for name in ("documents", PAGES_FOLDER)])
    assert rows == [[1, 1], [0, 0]]

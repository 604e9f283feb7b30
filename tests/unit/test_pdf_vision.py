"""Pages asked of a vision model: a server on localhost that speaks the protocol and keeps what it was sent."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pdf_files import lines, of_pages

from pipeline.extract.config import ExtractConfig, InputsConfig, ServedModel, VisionConfig
from pipeline.extract.formats import READERS
from pipeline.extract.pdf.page import png
from pipeline.extract.pdf.vision import TEMPERATURES, Picture, read_pages, shown
from pipeline.extract.shard import ExtractJob, by_workers, page_pool, read
from pipeline.extract.stage import sample
from pipeline.extract.units import Document, Origin, Raw
from pipeline.inputs.files import resolve
from pipeline.llm.cache import Cache
from pipeline.llm.config import ClientConfig
from pipeline.table.errors import GristmillError
from pipeline.table.storage import Storage

KEY = "secret-of-the-test-0123456789"
QUICK = ClientConfig(backoff_s=0.01, backoff_cap_s=0.02, max_attempts=2, give_up_s=5)


def front(text: str | None, *, upright: bool = True, correction: int = 0) -> str:
    fields = f"primary_language: en\nis_rotation_valid: {upright}\nrotation_correction: {correction}\n"
    return f"---\n{fields}is_table: False\nis_diagram: False\n---" + ("" if text is None else f"\n{text}")


class _Model(BaseHTTPRequestHandler):
    """Answers by the shade of a picture's upper left corner, which names the page, and by the temperature."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        [message] = asked["messages"]
        words, picture = message["content"]
        kind, _, data = picture["image_url"]["url"].partition(",")
        assert (words["type"], kind) == ("text", "data:image/png;base64")
        corners = decoded(base64.b64decode(data))
        log = self.server.log  # type: ignore[attr-defined]
        log.append((corners, asked["temperature"], asked["max_tokens"], self.headers["Authorization"]))
        status, text, finish = self.server.answers(corners, asked["temperature"])  # type: ignore[attr-defined]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        body = json.dumps({"model": "reader", "choices": [choice]} if status == 200 else {"error": text}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def decoded(file: bytes) -> tuple[int, ...]:
    """Return the shades of a picture's corners, as another library reads them."""
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(file))
    assert image.format == "PNG"
    wide, high = image.size
    spots = ((0, 0), (wide - 1, 0), (wide - 1, high - 1), (0, high - 1))
    return tuple(image.getpixel(spot)[0] for spot in spots)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Model) as found:
        found.log = []  # type: ignore[attr-defined]
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def config(server: ThreadingHTTPServer, **more: Any) -> VisionConfig:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    endpoint = ServedModel(base_url=url, model="reader", max_concurrency=4, **more)
    return VisionConfig(endpoint=(endpoint,), client=QUICK.model_dump())


def picture(number: int, corners: tuple[int, int, int, int] = (10, 20, 30, 40)) -> Picture:
    pixels = np.full((6, 4, 3), 255, np.uint8)
    for (y, x), shade in zip(((0, 0), (0, -1), (-1, -1), (-1, 0)), corners, strict=True):
        pixels[y, x] = shade
    pixels[2, 2] = number
    return Picture(f"{number:04}", pixels)


def test_pages_are_read_in_order_and_asked_once(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISION_KEY", KEY)
    server.answers = lambda corners, warmth: (200, front(f"Page $x_{corners[0]}$"), "stop")  # type: ignore[attr-defined]
    pictures = [picture(n, (n, 0, 0, 0)) for n in (3, 1, 2)]
    with Cache(tmp_path) as cache:
        found = read_pages(pictures, config(server, api_key_env="VISION_KEY"), cache)
        assert found == ["Page $x_3$", "Page $x_1$", "Page $x_2$"]
        assert {entry[1:] for entry in server.log} == {(0.1, 8000, f"Bearer {KEY}")}  # type: ignore[attr-defined]
        assert len(server.log) == 3  # type: ignore[attr-defined]
    with Cache(tmp_path) as cache:  # another run
        assert read_pages(pictures, config(server, api_key_env="VISION_KEY"), cache) == found
    assert len(server.log) == 3  # type: ignore[attr-defined]
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


def test_what_is_no_answer_is_asked_again_warmer(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    def answers(corners: tuple[int, ...], warmth: float) -> tuple[int, str, str]:
        if corners[0] == 1 and warmth < 0.3:  # first cut off in a rut, then without its head
            return (200, front("the the the"), "length") if warmth < 0.2 else (200, "I cannot see a page.", "stop")
        if corners[0] == 2:
            return 200, "never of the form", "stop"
        return 200, front("null" if corners[0] == 3 else None if corners[0] == 4 else "good"), "stop"

    server.answers = answers  # type: ignore[attr-defined]
    with Cache(tmp_path) as cache:
        found = read_pages([picture(n, (n, 0, 0, 0)) for n in range(1, 6)], config(server), cache)
    assert found == ["good", None, "", "", "good"]
    asked = {n: [entry[1] for entry in server.log if entry[0][0] == n] for n in range(1, 6)}  # type: ignore[attr-defined]
    assert asked == {1: [0.1, 0.2, 0.3], 2: list(TEMPERATURES), 3: [0.1], 4: [0.1], 5: [0.1]}


def test_a_page_is_turned_as_the_answer_says(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    def answers(corners: tuple[int, ...], warmth: float) -> tuple[int, str, str]:
        if corners == (10, 20, 30, 40):
            return 200, front("upright"), "stop"
        if corners[0] == 99:  # never content
            return 200, front("as well as can be", upright=False, correction=90), "stop"
        return 200, front("gibberish", upright=False, correction=90), "stop"

    server.answers = answers  # type: ignore[attr-defined]
    on_its_side = (20, 30, 40, 10)  # what stands at the upper right was at the lower right: 270 degrees are missing
    with Cache(tmp_path) as cache:
        pictures = [picture(1, on_its_side), picture(2, (99, 99, 99, 99))]
        found = read_pages(pictures, config(server).model_copy(update={"max_attempts": 4}), cache)
    assert found == ["upright", "as well as can be"]
    seen = [entry[0] for entry in server.log if entry[0][0] != 99]  # type: ignore[attr-defined]
    assert seen == [(20, 30, 40, 10), (30, 40, 10, 20), (40, 10, 20, 30), (10, 20, 30, 40)]


def test_a_server_that_refuses_a_page_costs_that_page(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.answers = lambda corners, warmth: (413, "too large", "") if corners[0] == 7 else (200, front("ok"), "stop")  # type: ignore[attr-defined]
    with Cache(tmp_path) as cache:
        found = read_pages([picture(n, (n, 0, 0, 0)) for n in (6, 7, 8)], config(server), cache)
    assert found == ["ok", None, "ok"]


def test_a_pdf_all_of_whose_pages_are_refused_costs_those_pages(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.answers = lambda corners, warmth: (413, "too large", "") if corners[0] == 7 else (200, front("ok"), "stop")  # type: ignore[attr-defined]
    units = [Raw(Document(Origin("f", n), None, ""), b"", {"ocr": "auto", "shade": n}) for n in (6, 7, 8)]

    def convert(raw: Raw) -> Document:
        sent = base64.b64encode(png(picture(1, (int(str(raw.facts["shade"])), 0, 0, 0)).pixels)).decode()
        return replace(raw.document, metadata={"numbers": [0]}, pictures=(sent,))

    found = list(shown(units, convert, config(server), str(tmp_path / "answers")))
    assert [isinstance(each, Raw) and each.facts.get("given") for each in found] == [{"0": "ok"}, None, {"0": "ok"}]


def test_a_server_that_refuses_everything_ends_the_run(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.answers = lambda corners, warmth: (401, f"no such key {KEY}", "")  # type: ignore[attr-defined]
    with Cache(tmp_path) as cache, pytest.raises(GristmillError, match="check api_key_env, model and base_url"):
        read_pages([picture(1)], config(server), cache)


def test_a_picture_is_the_same_file_each_time() -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(png(pixels)))
    assert np.array_equal(np.asarray(image), pixels)
    assert png(pixels) == png(pixels.copy())


def test_pages_of_a_pdf_are_read_by_the_model(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    """A scan by the model, born-digital pages by their layer; what the model fails at by what else there is."""
    grey = b"0.%d g 0 0 612 792 re f 0 g 72 72 200 200 re f"  # no text, ink, and a shade that names the page
    words = lines(["A page that has a sound layer of text,", "so that no model has to look at it."])
    (tmp_path / "a.pdf").write_bytes(of_pages([grey % 4, words, grey % 6, grey % 8]))
    shades = {102: "From the *model*.", 153: "null", 204: "x"}
    server.answers = lambda corners, warmth: (  # type: ignore[attr-defined]
        200,
        front(shades[corners[0]]) if shades[corners[0]] != "x" else "no answer",
        "stop",
    )
    options = {"vision": config(server).model_dump(mode="json"), "engine": "auto", "max_failed": 0.5}
    asked = InputsConfig(format="pdf", inputs=(str(tmp_path / "a.pdf"),), options=options)
    (file,) = resolve(asked.inputs, "inputs")
    storage = Storage.at(str(tmp_path / "ws"))
    job = ExtractJob(storage, "s", file, "pdf", {}, ExtractConfig(), {}, asked.format_options(), shown=shown)
    seen = []
    for _ in range(2):  # the second run asks for nothing but the page at which the model fails
        server.log.clear()  # type: ignore[attr-defined]
        with page_pool(1, ExtractConfig(), READERS["pdf"].handler or "") as pool, file.open() as stream:
            units = (entry.result for entry in read(stream, job, 0, ()) if entry.result is not None)
            (found,) = by_workers(job, units, lambda handler, pool=pool: pool)
        assert isinstance(found, Document)
        assert found.pages is not None
        assert [page.route for page in found.pages[:3]] == ["vlm", "text", "blank"]
        assert found.pages[3].route in ("blank", "failed", "ocr")
        assert found.text.startswith("From the *model*.\n\nA page that has")
        seen.append([entry[0][0] for entry in server.log])  # type: ignore[attr-defined]
    assert set(seen[0]) == {102, 153, 204}
    assert set(seen[1]) <= {204}
    assert "http" not in json.dumps(job.work(0).identity.config)


def test_an_estimate_asks_no_model(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(of_pages([b"0 g 72 72 200 200 re f"]))
    options = {"vision": config(server).model_dump(mode="json")}
    asked = InputsConfig(format="pdf", inputs=(str(tmp_path / "a.pdf"),), options=options)
    (file,) = resolve(asked.inputs, "inputs")
    storage = Storage.at(str(tmp_path / "ws"))
    job = ExtractJob(storage, "s", file, "pdf", {}, ExtractConfig(), {}, asked.format_options(), shown=shown)
    with page_pool(1, ExtractConfig(), READERS["pdf"].handler or "") as pool:
        found = sample(job, lambda own, handler: pool)
    assert found is not None
    assert found.units == 1
    assert not server.log  # type: ignore[attr-defined]
    assert not (tmp_path / "ws").exists()

"""PDFs written by hand, sound and hostile, for the tests of what reads them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def stream(data: bytes, entries: bytes = b"") -> bytes:
    """Return an object that holds data."""
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


def lines(texts: Sequence[str], size: int = 12, top: int = 720) -> bytes:
    """Return what draws a line of text below the other."""
    drawn = [f"BT /F1 {size} Tf 72 {top - 1.3 * size * row:.1f} Td ({text}) Tj ET" for row, text in enumerate(texts)]
    return "\n".join(drawn).encode("latin-1")


def pdf(objects: Mapping[int, bytes], info: bytes = b"") -> bytes:
    """Return a PDF of numbered objects, of which 1 is the catalog; `info` is what it says of itself."""
    objects, info = ({**objects, 8: info}, b"/Info 8 0 R") if info else (objects, info)
    out, places = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), {}
    for number, body in objects.items():
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table, size = len(out), max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d %05d %s \n" % (places.get(number, 0), 0, b"n" if number in places else b"f")
    return bytes(out) + b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, info, table)


def of_pages(contents: Sequence[bytes], resources: bytes = b"", box: bytes = b"0 0 612 792", **more: bytes) -> bytes:
    """Return a PDF with a page for each content stream; `more` are further objects by number (`_9=...`)."""
    first = 100
    kids = b" ".join(b"%d 0 R" % (first + 2 * index) for index in range(len(contents)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] /MediaBox [%s] >>" % (len(contents), kids, box),
        3: FONT,
        **{int(name[1:]): body for name, body in more.items() if name.startswith("_")},
    }
    for index, content in enumerate(contents):
        used = b"<< /Font << /F1 3 0 R >> %s >>" % resources
        page = b"<< /Type /Page /Parent 2 0 R /Resources %s /Contents %d 0 R >>" % (used, first + 2 * index + 1)
        objects |= {first + 2 * index: page, first + 2 * index + 1: stream(content)}
    return pdf(objects, more.get("info", b""))


def of_texts(*pages: Sequence[str], info: bytes = b"") -> bytes:
    """Return a PDF whose pages hold lines of text."""
    return of_pages([lines(page) for page in pages], info=info)


def with_image(width: int, height: int, data: bytes, coding: bytes = b"/FlateDecode", bits: int = 1) -> bytes:
    """Return a PDF of one page that is an image of this size, as it says itself."""
    entries = b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray /BitsPerComponent %d" % (
        width,
        height,
        bits,
    )
    image = stream(data, entries + b" /Filter " + coding)
    return of_pages([b"q 612 0 0 792 0 0 cm /I1 Do Q"], b"/XObject << /I1 9 0 R >>", _9=image)


def hostile() -> dict[str, bytes]:
    """Return PDFs that were made to make a reader hang, fall over or eat memory, by what they try."""
    zeros = zlib.compress(bytes(64 << 20), 9)
    bomb = zlib.compress(zlib.compress(bytes(200 << 20), 9), 9)
    sound = of_texts(["Some words on a page."])
    loop = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Count 5 /Kids [2 0 R 4 0 R] >>"}
    loop[4] = b"<< /Type /Pages /Count 5 /Kids [2 0 R 4 0 R] /Parent 2 0 R >>"
    form = stream(
        b"/X1 Do /X1 Do", b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X1 9 0 R >> >>"
    )
    forms = {
        f"_{number}": stream(
            b"/X Do " * 10,
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X %d 0 R >> >>" % (number + 1),
        )
        for number in range(9, 19)
    }
    forms["_19"] = stream(lines(["deep"]), b"/Type /XObject /Subtype /Form /BBox [0 0 9 9]")
    nested = b"[" * 100_000 + b"]" * 100_000
    return {
        "image": with_image(100_000, 100_000, zeros),
        "deep image": with_image(30_000, 30_000, zeros, bits=16),
        "twice packed": with_image(40_000, 40_000, bomb, b"[/FlateDecode /FlateDecode]", 8),
        "jbig2": with_image(65_000, 65_000, b"\0\0\0\0\x30\0\1\0\0\0\x13\xff\xff\xff\xff" + bytes(15), b"/JBIG2Decode"),
        "page tree in a circle": pdf(loop),
        "form in itself": of_pages([b"/X1 Do"], b"/XObject << /X1 9 0 R >>", _9=form),
        "forms in forms": of_pages([b"/X Do"], b"/XObject << /X 9 0 R >>", **forms),
        "nested arrays": of_pages([nested + b" TJ"]),
        "nested states": of_pages([b"q " * 1_000_000 + lines(["words"])]),
        "nested objects": pdf({1: b"<< /Type /Catalog /Pages 2 0 R /X " + nested + b" >>", 2: b"<< >>"}),
        "huge page": of_pages([lines(["words"])], box=b"0 0 9999999 9999999"),
        "page of nothing": of_pages([lines(["words"])], box=b"0 0 0 0"),
        "inside out": of_pages([lines(["words"])], box=b"612 792 0 0"),
        "count": pdf({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Count 2000000000 /Kids [] >>"}),
        "xref to itself": sound.replace(b"/Size", b"/Prev %d /Size" % sound.rindex(b"xref\n0")),
        "content bomb": pdf(
            {
                1: b"<< /Type /Catalog /Pages 2 0 R >>",
                2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] /MediaBox [0 0 612 792] >>",
                3: b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>",
                4: stream(bomb, b"/Filter [/FlateDecode /FlateDecode]"),
            }
        ),
        "many lines": of_pages([b"0 0 m " + b"1 1 l 2 2 l S 0 0 m " * 300_000]),
        "many words": of_pages([b"BT /F1 1 Tf " + b"1 0 Td (word) Tj " * 200_000 + b"ET"]),
        "no end": sound[: len(sound) // 2],
        "no PDF": b"%PDF-1.4\n" + bytes(5000),
        "header alone": b"%PDF-",
    }

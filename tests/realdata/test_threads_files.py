"""Stack Exchange and Reddit as they are published: every row accounted for, no markup left, no code or formula lost."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import pytest
from lxml import etree, html

from tests.unit.test_threads import documents, entries, tally

RAW = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sources" / "raw"
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not RAW.is_dir(), reason=f"{RAW} is absent")]

TALLIES = {
    "coffee.stackexchange.com": {"documents": 225, "namespace": 40, "merged": 327},
    "matheducators.stackexchange.com": {"documents": 397, "namespace": 157, "merged": 1507},
    "meta.mathoverflow.net": {"documents": 254, "namespace": 26, "merged": 392},
}
OPENINGS = {  # read by eye
    ("matheducators.stackexchange.com", 416): (
        "# What are argument one can give to students on the definition $0^0$?\n\nFrom high school to introduction "
        "courses in university, the expression $0^0$ is some (psychological) problems."
    ),
    ("coffee.stackexchange.com", 326): (
        "# How and when is flavoured coffee flavoured?\n\nWhen you buy whole flavoured coffee beans, how have they "
        "been flavoured, and when in the process does this happen?\n\nFor example,"
    ),
}


def alone(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(RAW / name)
    return folder


@pytest.mark.parametrize("site", sorted(TALLIES))
def test_a_dump_gives_clean_threads(tmp_path: Path, site: str) -> None:
    name = f"{site}-Posts.xml.gz"
    found = list(entries(alone(tmp_path / "in", name), "stackexchange"))
    assert tally(iter(found)) == TALLIES[site]
    texts = {made.kept["post_id"]: made.text for made in documents(iter(found))}
    for (of, post), opening in OPENINGS.items():
        assert of != site or texts[post].startswith(opening)
    prose = re.sub(r"```.*?```|`[^`]*`", "", "\n".join(texts.values()), flags=re.DOTALL)
    assert not re.findall(r"</(?:p|li|ul|em|strong|blockquote|pre|code)>|&(?:gt|amp|quot|nbsp);|&#39;", prose)
    lost: Counter[str] = Counter()
    for row in re.findall(r"<row .*?/>", gzip.decompress((RAW / name).read_bytes()).decode("utf-8-sig")):
        post = etree.fromstring(row).attrib
        if post["PostTypeId"] not in ("1", "2") or not post.get("Body"):
            continue
        text = texts[int(post["ParentId"] if post["PostTypeId"] == "2" else post["Id"])]
        body = html.fragment_fromstring(post["Body"], create_parent="div")
        lost["code"] += sum((code.text_content().strip("\n") not in text) for code in body.iter("code"))
        for code in list(body.iter("code")):
            code.text = ""
        formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$|\\\(.+?\\\)", body.text_content(), re.DOTALL)
        lost["formulas"] += sum(formula not in text for formula in formulas)
    assert not +lost


def test_samples_of_pushshift(tmp_path: Path) -> None:
    folder = alone(tmp_path / "in", "pushshift-comments.ndjson.zst", "pushshift-submissions.ndjson.zst")
    counts = tally(entries(folder, "reddit"))
    assert counts == {"documents": 24, "damaged": 23, "deleted": 5, "namespace": 6}
    found = [entry for entry in entries(folder, "reddit", documents="comments", over_18=True) if entry.is_unit]
    (quoting,) = (made for made in documents(iter(found)) if made.kept["post_id"] == "c0cmuoo")
    assert quoting.text.startswith(">Nebraska\n>Diocese of Grand Island (no priests listed in the database)\n\nTh")
    assert quoting.origin.record_id == "t1_c0cmuoo"

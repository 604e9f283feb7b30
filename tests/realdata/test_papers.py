"""A book's e-print from arXiv: what of it is read by eye, and what must not be left of LaTeX."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.extract.latex.papers import to_text

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sources" / "raw"
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent")]

EXCERPTS = [
    "# Homotopy Type Theory: Univalent Foundations of Mathematics\n",
    "\n## Introduction\n",
    "\n### The natural numbers\n",
    "A pointed type $(A,a)$ is a type $A:{\\mathcal{U}}$ together with a point $a:A$, called its basepoint.",
    "$$\\begin{align*}\n{\\mathsf{double}}(0) &\\vcentcolon\\equiv 0\\\\\n",
    "- National Science Foundation: [DMS-1001191](http://www.nsf.gov/awardsearch/showAward.do?AwardNumber=1001191),",
    "we adopt the usual decimal notation $1 \\vcentcolon\\equiv \\mathsf{succ}(0)$",
    "respectively. However, note that unlike in classical mathematics, we do not use elements of",
]


def test_a_books_sources_become_its_text() -> None:
    payload = (DATA / "hott-book-eprint.tar.gz").read_bytes()
    facts = {"name": "hott-book-eprint.tar.gz", "limit": 10 << 20, "bibliography": False, "citations": True}
    found = to_text(payload, facts)
    assert found.title == "Homotopy Type Theory: Univalent Foundations of Mathematics"
    assert len(found.text) > 1_300_000
    assert found.kept["macros_expanded"] > 15_000  # type: ignore[operator]
    assert [excerpt for excerpt in EXCERPTS if excerpt not in found.text] == []
    outside = re.sub(r"\$\$.*?\$\$|```.*?```|\$[^$]*\$", " ", found.text, flags=re.DOTALL)
    assert re.findall(r"\\[A-Za-z]+|[$]", outside) == []

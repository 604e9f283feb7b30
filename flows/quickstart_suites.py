"""Two small evaluation tasks for the quickstart, made from what every machine with Python has.

`reference.jsonl` asks for the next sentence of Python's language reference (`pydoc_data.topics`), `functions.jsonl` for
the body of a function of an installed package, given its head and docstring. Neither text is among the quickstart's
sources, and the check for contamination would drop what is.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

ITEMS = 150
MAX_FILE_BYTES = 60_000
PACKAGES = ("rich", "pydantic", "httpx", "trafilatura", "anyio", "jinja2", "click", "starlette")
_SENTENCE = re.compile(r"(?<=[.:])\s+(?=[A-Z])")

Row = dict[str, str]


def write_suites(folder: Path) -> dict[str, int]:
    """Write the tasks as JSON lines (`id`, `prompt`, `continuation`) and return the number of items of each."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, rows in (("reference", list(_reference())), ("functions", list(_functions()))):
        rows.sort(key=lambda row: hashlib.blake2b(row["id"].encode()).digest())  # a fair sample, the same each time
        kept = rows[:ITEMS]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
        counts[name] = len(kept)
    return counts


def _reference() -> Iterator[Row]:
    """Yield paragraphs of the language reference, split after the first sentence."""
    for topic, text in sorted(topics.items()):
        for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
            sentences = _SENTENCE.split(" ".join(paragraph.split()))
            if len(sentences) >= 2 and len(sentences[0]) > 40 and 40 <= len(sentences[1]) <= 400:
                yield {"id": f"{topic}-{number}", "prompt": sentences[0], "continuation": f" {sentences[1]}"}


def _functions() -> Iterator[Row]:
    """Yield functions with a docstring: the head and docstring, then the body."""
    for package in PACKAGES:
        for name, source in _sources(package):
            lines = source.splitlines(keepends=True)
            for node in ast.walk(ast.parse(source)):
                if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node) or len(node.body) < 3:
                    continue
                cut, end = node.body[0].end_lineno or 0, node.end_lineno or 0
                prompt, body = "".join(lines[node.lineno - 1 : cut]), "".join(lines[cut:end])
                if len(prompt) <= 1_000 and 80 <= len(body) <= 600:
                    yield {"id": f"{name}:{node.lineno}", "prompt": prompt, "continuation": body}


def _sources(package: str) -> Iterator[tuple[str, str]]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in sorted(files, key=str):
        path = Path(str(file.locate()))
        if file.suffix == ".py" and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            try:
                source = path.read_text("utf-8")
                ast.parse(source)
            except (SyntaxError, UnicodeDecodeError, RecursionError):
                continue
            yield str(file), source

"""What tests of the rephrasing stage share: a configuration, documents, and a server that is a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.llm.types import Answer, Failure
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.plan import Planned, SourceDocument

STYLES = {
    "long": {"input_tokens": 200, "output_tokens": 100, "user": "Again: {text}"},
    "short": {
        "input_tokens": 20,
        "output_tokens": 10,
        "user": "{title}: {text}",
        "sampling": {"temperature": 0.5, "top_p": 0.9},
    },
    "pairs": {
        "input_tokens": 40,
        "output_tokens": 60,
        "user": "Ask about {text}",
        "marker": {"text": "Pairs:"},
        "post": ["strip_marker", "qa_pairs", "append_to_source"],
    },
}


def prompts(folder: Path) -> str:
    """Write the tests' styles as files and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in STYLES.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, **content}))
    return str(folder)


def configure(folder: Path, **values: Any) -> RephraseConfig:
    """Return a configuration over the tests' styles."""
    given = {
        "source": "web",
        "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"},
        "routes": [{"where": "a", "styles": ["short", "pairs"]}, {"where": "b", "styles": ["long", "short"]}],
        "prompts": prompts(folder),
        **values,
    }
    return RephraseConfig.model_validate(given)


def document(number: int, text: str, routes: tuple[int, ...] = (0,), **values: Any) -> SourceDocument:
    """Return a kept document with a plausible id."""
    return SourceDocument(f"{number:032x}", text, routes, **values)


def answering(reply: Callable[[str], str]) -> Callable[[Planned], Answer]:
    """Return a function that answers a planned request with `reply` of its segment."""

    def answer(planned: Planned) -> Answer:
        text = reply(planned.segment_text)
        return Answer(planned.request.key, text, "stop", 7, 5, "m", "http://127.0.0.1:1/v1", 1)

    return answer


def stored(planned: Iterable[Planned], become: Callable[[Planned], Answer | Failure]) -> dict[bytes, Answer | Failure]:
    """Return what a cache would hold after all requests have ended."""
    return {each.request.key: become(each) for each in planned}


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "_verified" not in path.parts
    }

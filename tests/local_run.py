"""Whole runs in this process, on threads and without Prefect, for tests that need a real workspace quickly."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.config import RunConfig
from flows.stages import TABLE, opened, steps
from pipeline.table.stages import StageReport

WORDS = ("river", "stone", "cloud", "garden", "window", "market", "silver", "morning", "paper", "music", "forest")


def run_all(config: Mapping[str, Any], until: str = "select") -> list[StageReport]:
    """Bring the workspace of a configuration up to date, stage by stage."""
    checked = RunConfig.model_validate(dict(config))
    with opened(checked, "test") as run:
        return [run.do(TABLE[stage].make(run, sources)) for stage, sources in steps(checked, (), until)]


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    """Return documents of some sixty words, each unlike the others."""
    return [
        {
            "text": " ".join(random.Random(number).choices(WORDS, k=60)),
            "url": f"https://example.org/{number}",
        }
        for number in range(start, start + count)
    ]


def write_jsonl(path: Path, documents: Sequence[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in documents), "utf-8")
    return path

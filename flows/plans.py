"""The stages of a run in order, and the function that plans each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flows.annotate import plan_annotate
from flows.classify import plan_classify
from flows.config import LAST, STAGES, RunConfig
from flows.dedup import plan_dedup
from flows.extract import plan_extract
from flows.rephrase import plan_rephrase
from flows.runs import Run
from flows.select import plan_select
from flows.stages import Plan

_PLANNERS: dict[str, Callable[[Run, Sequence[str]], Plan]] = {
    "extract": plan_extract,
    "annotate": plan_annotate,
    "dedup": plan_dedup,
    "classify": plan_classify,
    "select": plan_select,
    "rephrase": plan_rephrase,
}
_JOINT = ("dedup", "select")
"""Stages that look at all sources of a dedup scope together."""


def plan_stage(stage: str, run: Run, sources: Sequence[str]) -> Plan:
    """Return what a stage has to do for `sources`: one source, or the sources of a scope for the joint stages."""
    return _PLANNERS[stage](run, sources)


def steps(config: RunConfig, only: Sequence[str], until: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each stage up to `until` with the sources that it takes together; none in `only` means all.

    What rephrasing makes goes through the stages after its parents went through all of them.
    """
    chosen = set(only or config.sources)
    for stage in STAGES if until == LAST else STAGES[: STAGES.index(until) + 1]:
        groups = config.scopes() if stage in _JOINT else [(source,) for source in config.sources]
        for group in groups:
            if set(group) <= chosen and _is_configured(config, stage, group[0]):
                yield stage, group
    if until == LAST and config.rephrase is not None and config.rephrase.source in chosen:
        yield LAST, (config.rephrase.source,)
        output = config.rephrase.output_source
        for stage in STAGES[1:]:
            if _is_configured(config, stage, output):
                yield stage, (output,)


def _is_configured(config: RunConfig, stage: str, source: str) -> bool:
    settings = config.settings(source)
    return {"dedup": settings.dedup is not None, "classify": bool(settings.classify)}.get(stage, True)

"""Why a run would make something again, from what the manifests say, and what it will take, from what was taken before.

Nothing is made to find out: wanted works are compared with the manifests of what is there.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.status.runs import RunRecord, flat
from pipeline.table.catalog import Source
from pipeline.table.format import cell
from pipeline.table.shards import THREADS, Group, Work
from pipeline.table.stages import PartJob, Stage, Wanted

MAX_READ = 1000
"""Manifests that are read for one stage: those of more parts say the same, or the first reasons are enough."""
MAX_TOLD = 5
"""Reasons that are told for one stage."""
RECORDS_USED = 10
"""Runs, the newest, whose times an estimate rests on."""
_VALUE_WIDTH = 40
NOT_MADE, MOVED = "not made before", "made of parts that changed"
_NEW, _CHANGED, _GONE, _DELETED = "new input", "changed input", "input that is gone", "deleted part"
LOST = "deleted parts"
"""Of what is decided as a whole: how many are gone nobody counts."""
_COUNTED = {_NEW, _CHANGED, _GONE, _DELETED}
"""Reasons that are told with their number."""
_Placed = tuple[Group, str, Work | None]


def because(stage: Stage[Any, Any]) -> str:
    """Return why a stage has something to do, the most frequent reasons first; an empty text where it has nothing."""
    reasons: Counter[str] = Counter()
    works = itertools.chain(stage.works(), _row_by_row(stage.pending))
    grouped: dict[Group, list[tuple[str, Work | None]]] = {}
    for group, stem, work in works:
        grouped.setdefault(group, []).append((stem, work))
    for group, wanted in grouped.items():
        reasons += _of_parts(group, wanted, is_first=stage.name == "extract")
    whole: Counter[str] = Counter()
    for each in stage.wanted() if stage.whole else ():
        whole.update(_differing(each, LOST if not stage.pending else MOVED))
    if reasons or len(whole) > 1:
        whole.pop(MOVED, None)  # that follows
    told = []
    for reason, count in (*reasons.most_common(), *whole.items()):
        plural = reason.replace("input", "inputs").replace("part", "parts").replace("that is", "that are")
        told.append(f"{count:,} {reason if count == 1 else plural}" if reason in _COUNTED else reason)
    told = list(dict.fromkeys(told))
    more = [f"{len(told) - MAX_TOLD:,} more"] if len(told) > MAX_TOLD else []
    return "; ".join([*told[:MAX_TOLD], *more])


def _row_by_row(pending: Iterable[Any]) -> Iterator[_Placed]:
    for job in pending:
        if isinstance(job, PartJob):
            yield from ((each.target, each.work.stem, each.work) for each in job.row_maps)


def _of_parts(group: Group, wanted: Sequence[tuple[str, Work | None]], is_first: bool) -> Counter[str]:
    """Return the reasons for parts of one group, counted."""
    index = group.index()
    if index is None and not is_first:
        return Counter([NOT_MADE])
    listed = {part.stem: part.name for part in index.parts} if index is not None else {}
    there = [(listed[stem], work) for stem, work in wanted if stem in listed and work is not None]
    new = [work for stem, work in wanted if stem not in listed and work is not None]
    reasons = Counter({_GONE: sum(work is None for _, work in wanted)})
    reasons[_NEW] = sum(len(_named(work.inputs)) for work in new) if is_first else len(new)
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(partial(_of_part, group, is_first), there[:MAX_READ]):
            reasons.update(found)
    if len(there) > MAX_READ:
        reasons[f"{len(there) - MAX_READ:,} more parts"] = 1
    return +reasons


def _of_part(group: Group, is_first: bool, found: tuple[str, Work]) -> list[str]:
    """Return the reasons for one part that the index lists."""
    name, work = found
    manifest = group.manifest(name)
    if manifest is None:
        return [_DELETED]
    was, now = (
        {"version": each.version, "inputs": list(given)}
        | {f"setting {key}": value for key, value in flat(_plain(each.config)).items()}
        | {f"version of {library}": value for library, value in each.libraries.items()}
        for each, given in ((manifest, manifest.inputs), (work.identity, work.inputs))
    )
    reasons = [reason for reason in _differing(Wanted(was, now), "") if reason not in (MOVED, "")]
    if is_first:
        old, new = _named(_plain(was["inputs"])), _named(_plain(now["inputs"]))
        reasons += [_NEW] * len(new.keys() - old.keys()) + [_GONE] * len(old.keys() - new.keys())
        reasons += [_CHANGED for name in old.keys() & new.keys() if old[name] != new[name]]
    elif _plain(was["inputs"]) != _plain(now["inputs"]):
        reasons.append(MOVED)
    return reasons or [_DELETED]


def _named(inputs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the raw inputs of a part by name."""
    return {each["name"]: each for each in inputs if "name" in each}


def _differing(wanted: Wanted, same: str) -> list[str]:
    """Return a reason for each term that differs; where only inputs do that they do, and `same` where nothing does."""
    if wanted.was is None or wanted.now is None:
        return [NOT_MADE]
    was, now = _plain(wanted.was), _plain(wanted.now)
    reasons = []
    for term in dict.fromkeys([*now, *was]):
        if term == "inputs" or now.get(term) == was.get(term):
            continue
        kind = term.split(" ", 1)[0]
        if kind == "rule" and term not in was:
            reasons.append(f"new {term}")
        elif kind == "rule" and term not in now:
            reasons.append(f"{term} is gone")
        elif kind == "rule":
            reasons.append(f"changed {term}")
        else:
            old, new = (cell(each.get(term), _VALUE_WIDTH) for each in (was, now))
            reasons.append(f"changed {term} ({old} -> {new})")
    return reasons or [MOVED if was.get("inputs") != now.get("inputs") else same]


def _plain(value: Any) -> Any:
    """Return a value as a manifest gives it back."""
    return json.loads(json.dumps(value, default=str))


def seconds_a_unit(records: Iterable[RunRecord], source: str, stage: str, unit: str) -> tuple[float, int] | None:
    """Return how long a stage of a source took a row, or a byte of raw input, and in how many runs that was measured.

    Of the newest runs alone, since versions and machines change. None where nothing tells.
    """
    done = [
        each
        for record in records
        for each in record.stages
        if (each.source, each.stage, each.unit) == (source, stage, unit) and each.work
    ][-RECORDS_USED:]
    return (sum(each.seconds for each in done) / sum(each.work for each in done), len(done)) if done else None


def bytes_a_row(sources: Mapping[str, Source], names: Iterable[str], stage: str) -> float | None:
    """Return how many bytes a stage's groups take on disk for each document of some sources; None where none is there.

    `sources` are those of the workspace by name.
    """
    size = rows = 0
    for source in (sources[name] for name in names if name in sources):
        made = [index for index in source.groups.values() if index.stage == stage]
        size += sum(part.bytes for index in made for part in index.parts)
        rows += source.rows("documents") if made else 0
    return size / rows if rows else None

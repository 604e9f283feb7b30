"""Which kept documents each slice holds: predicates checked, `by` expanded, nothing chosen twice, nothing empty.

A slice is over the kept rows of `main.everything`; a null in its predicate means that the document is not chosen. A
predicate reads one document alone, as a rule does: no subqueries, no windows, nothing that depends on clock or chance.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.mix.config import MAX_SLICES, MixConfig, ResolvedSlice, SliceConfig
from pipeline.mix.material.texts import Keys, id_keys
from pipeline.mix.types import ChosenDocuments
from pipeline.table.errors import ConfigError, InputError
from pipeline.table.query import check, first_line, literal, shown
from pipeline.table.sql import BATCH_ROWS, Session

KEPT = "outcome = 'kept'"
_log = logging.getLogger(__name__)


def resolve_slices(session: Session, config: MixConfig) -> list[ResolvedSlice]:
    """Return every slice, in the order of the configuration, those of one `by` in the order of its values.

    A value of `by` becomes part of the name: lower case, every run of other characters than letters and digits an
    underscore. Documents for which an expression of `by` is null are in none of its slices.

    Raises: ConfigError for a predicate that cannot be used, two slices of one name, or a document in two of them;
        InputError for a slice without documents; QueryError when the workspace has no `everything` yet.
    """
    relation = _relation(session, config.slices)
    slices = [expanded for name, item in config.slices.items() for expanded in _expand(session, relation, name, item)]
    _check_names(slices)
    return _counted(session, relation, slices)


def chosen_documents(session: Session, slices: Sequence[ResolvedSlice]) -> ChosenDocuments:
    """Return the documents of resolved slices. Nothing but ids, sources and slices is read or held.

    Raises: ConfigError when the data makes a predicate fail.
    """
    relation = _relation(session, {each.name: each.config for each in slices})
    cases = " ".join(f"WHEN {_flag(each.where)} THEN {number}" for number, each in enumerate(slices))
    inner = f"SELECT doc_id, source, CASE {cases} END AS slice FROM {relation} WHERE {KEPT}"
    keys: list[Keys] = []
    numbers: list[NDArray[np.int32]] = []
    codes: list[NDArray[np.int16]] = []
    sources: dict[str, int] = {}
    for batch in _batches(session, f"SELECT doc_id, source, slice::INTEGER AS slice FROM ({inner}) WHERE slice >= 0"):
        keys.append(id_keys(batch["doc_id"]))
        numbers.append(batch["slice"].to_numpy())
        encoded = batch["source"].dictionary_encode()
        known = [sources.setdefault(name, len(sources)) for name in encoded.dictionary.to_pylist()]
        codes.append(np.array(known, np.int16)[encoded.indices.to_numpy()])
    names = sorted(sources)
    order_of = np.array([names.index(name) for name in sources], np.int16)
    every = np.concatenate([np.empty((0, 2), np.uint64), *keys])
    rank = np.lexsort((every[:, 1], every[:, 0]))
    return ChosenDocuments(
        every[rank],
        np.concatenate([np.empty(0, np.int32), *numbers])[rank],
        order_of[np.concatenate([np.empty(0, np.int16), *codes])[rank]] if names else np.empty(0, np.int16),
        tuple(names),
    )


def _relation(session: Session, slices: Mapping[str, SliceConfig]) -> str:
    """Return the view that the predicates are over, all of them checked: `outcomes` where it has what they read.

    Both have the same rows; `everything` joins documents to add text, title, date, licence and origin.
    """
    every = {row[0]: str(row[1]) for row in session.query("DESCRIBE FROM main.everything").rows}
    narrow = {row[0] for row in session.query("DESCRIBE FROM main.outcomes").rows}
    wheres = {f"slices.{name}.where": config.where for name, config in slices.items()}
    by = {f"slices.{name}.by.{n}": text for name, config in slices.items() for n, text in enumerate(config.by)}
    checked = [*check(wheres, every), *check(by, every, predicates=False)]
    read = {column for expression in checked for column in expression.columns}
    return "main.outcomes" if read <= narrow else "main.everything"


def _expand(session: Session, relation: str, name: str, config: SliceConfig) -> list[ResolvedSlice]:
    """Return the slice, or one for each combination of the values of its `by`."""
    if not config.by:
        return [ResolvedSlice(name, config.where, config, 0)]
    if config.weight is not None:
        raise ConfigError(f"slices.{name}: a fixed `weight` does not go with `by`; bound a `group` in propose.groups")
    texts = [f"CAST((\n{expression}\n) AS VARCHAR)" for expression in config.by]
    values = _rows(
        session,
        f"SELECT DISTINCT {', '.join(texts)} FROM {relation} WHERE {KEPT} AND {_flag(config.where)}"
        f" AND {' AND '.join(f'{text} IS NOT NULL' for text in texts)} ORDER BY ALL LIMIT {MAX_SLICES + 1}",
        f"slices.{name}.by",
    )
    if len(values) > MAX_SLICES:
        raise ConfigError(f"slices.{name}.by: more than {MAX_SLICES} combinations of values; use coarser expressions")
    slices = []
    for row in values:
        equal = " AND ".join(f"{text} = {literal(value)}" for text, value in zip(texts, row, strict=True))
        full = "_".join([name, *(re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") or "none" for value in row)])
        slices.append(ResolvedSlice(full, f"(\n{config.where}\n) AND {equal}", config, 0))
    if not slices:
        raise InputError(f"slices.{name}: no kept document that it chooses has a value for every expression of `by`")
    return slices


def _check_names(slices: Sequence[ResolvedSlice]) -> None:
    if len(slices) > MAX_SLICES:
        raise ConfigError(f"slices: {len(slices)} of them; at most {MAX_SLICES} can be mixed")
    seen: dict[str, ResolvedSlice] = {}
    for each in slices:
        if each.name in seen:
            both = f"{shown(seen[each.name].where)} and {shown(each.where)}"
            raise ConfigError(f"slices: two would be named {each.name!r} ({both}); map values apart in `by`")
        seen[each.name] = each


def _counted(session: Session, relation: str, slices: Sequence[ResolvedSlice]) -> list[ResolvedSlice]:
    """Return the slices with their numbers of documents; refuse overlaps and empty ones."""
    flags = ", ".join(_flag(each.where) for each in slices)
    statement = f"SELECT {flags}, count(*), min(doc_id) FROM {relation} WHERE {KEPT} GROUP BY ALL"
    try:
        found = _rows(session, statement, "slices")
    except ConfigError:
        for each in slices:  # the first predicate that fails on the data
            _rows(session, f"SELECT count_if({_flag(each.where)}) FROM {relation} WHERE {KEPT}", f"slices.{each.name}")
        raise
    chosen = [([i for i, is_in in enumerate(row[:-2]) if is_in], int(row[-2]), row[-1]) for row in found]
    if twice := [(doc_id, numbers) for numbers, _, doc_id in chosen if len(numbers) > 1]:
        doc_id, (first, second, *_) = min(twice)
        count = sum(n for numbers, n, _ in chosen if {first, second} <= set(numbers))
        raise ConfigError(
            f"slices: {count} documents are both in {slices[first].name!r} and in {slices[second].name!r}, {doc_id} "
            "among them; nothing may be counted twice, so make their `where` exclude one another"
        )
    counts = {number: n for numbers, n, _ in chosen for number in numbers}
    kept = sum(n for _, n, _ in chosen)
    for number, each in enumerate(slices):
        if number not in counts:
            raise InputError(
                f"slices.{each.name}: chooses none of {kept} kept documents ({shown(each.where)}); change its `where`"
            )
    if kept > sum(counts.values()):
        _log.info("slices: %d of %d kept documents are in no slice", kept - sum(counts.values()), kept)
    return [replace(each, documents=counts[number]) for number, each in enumerate(slices)]


def _rows(session: Session, statement: str, where: str) -> list[tuple[Any, ...]]:
    try:
        session.verify(statement)
        return session.connection.execute(statement).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"{where}: {first_line(error)}") from error


def _batches(session: Session, statement: str) -> Iterator[pa.RecordBatch]:
    try:
        session.verify(statement)
        yield from session.connection.cursor().sql(statement).to_arrow_reader(BATCH_ROWS * 16)
    except (duckdb.Error, OSError, pa.ArrowException) as error:
        raise ConfigError(f"slices: {first_line(error)}") from error


def _flag(where: str) -> str:
    return f"coalesce((\n{where}\n), false)"

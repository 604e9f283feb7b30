"""What a policy decides about every document, without writing anything: which rules it fails, as bits, and its tokens.

What `select` would write and what `judge` says is found by the same statements; `present` says the same of what it did
write, and `selections` what a workspace would select together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.select.decide import (
    IS_EXACT,
    Chunk,
    Decided,
    KeptBefore,
    ResolvedRule,
    ResolvedRules,
    Selection,
    SourceSelection,
    bound_sources,
    elect,
    gather,
    scratch_tables,
    settle,
)
from pipeline.select.rules import BUILT_IN, EXACT_DUPLICATE, RuleSet, check_rules, load_rules
from pipeline.select.wide_table import Held, WideTable
from pipeline.table.catalog import AGAINST, Catalog, Source
from pipeline.table.errors import ShardError, WorkspaceError, nearest
from pipeline.table.query import quote
from pipeline.table.schema import TOKEN_COLUMNS
from pipeline.table.shards import THREADS, Group, Part, open_part, read_batches
from pipeline.table.storage import Storage, scratch_folder

MEMORY_MB = 1024
"""What deciding may take in memory, as `engine.memory_mb` of a run."""
BLOCK_ROWS = 65_536
UNLISTED = "(unlisted)"
"""The rules that outcomes name and their index does not: it was written by hand, or by another version."""
_WORD = 64
_FAILED = "failed_rules.list.element.rule"
"""Of a document's failed rules the names alone: the values that they read are ten times as large."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Which rules each document of a source fails, and its tokens; documents in the order of their parts and rows."""

    source: str
    rules: tuple[str, ...]
    """In their order, the built-in ones last: the first that a document fails takes it."""
    bits: tuple[int, ...]
    """Which bit of a document's words is whose."""
    words: NDArray[np.uint64]
    """(documents, words)"""
    tokens: NDArray[np.float64] | None
    """(documents,); None where nothing counted them."""
    group: Group
    parts: tuple[Part, ...]
    """Where the documents' ids are."""
    resolved: tuple[ResolvedRule, ...] = ()
    """The rules as they ran, without the built-in ones."""
    table: WideTable | None = None
    """What was measured of the documents; None for what was decided before."""
    counted: str | None = None
    """The column that tokens are counted by."""

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Yield which rules documents fail, (documents, rules), a block at a time."""
        for start in range(0, len(self.words), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            octets = np.ascontiguousarray(self.words[rows]).view(np.uint8)
            yield rows, np.unpackbits(octets, axis=1, bitorder="little")[:, list(self.bits)].astype(bool)

    @property
    def failed(self) -> NDArray[np.uint64]:
        """(documents, words) of this policy's rules alone: other policies may have bits in the same words."""
        masks = [sum(1 << bit % _WORD for bit in self.bits if bit // _WORD == n) for n in range(self.words.shape[1])]
        return self.words & np.array(masks, np.uint64)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(documents,)"""
        return np.asarray((self.failed == 0).all(axis=1))

    def fails(self, rule: str, alone: bool = False) -> NDArray[np.bool_]:
        """Return which documents fail a rule, or fail it `alone`."""
        word, bit = divmod(self.bits[self.rules.index(rule)], _WORD)
        failed, its = self.failed, np.zeros(self.words.shape[1], np.uint64)
        its[word] = 1 << bit
        return np.asarray((failed == its).all(axis=1) if alone else (failed[:, word] & its[word]) != 0)

    def first(self) -> NDArray[np.int16]:
        """Return the number of the rule that takes each document; -1 for one that is kept."""
        found = np.empty(len(self.words), np.int16)
        for rows, failed in self.blocks():
            found[rows] = np.where(failed.any(axis=1), failed.argmax(axis=1), -1)
        return found


# ---- deciding, as bits


def judge(
    storage: Storage, selection: Selection, instead: Sequence[Mapping[str, RuleSet]] = ({},)
) -> Iterator[list[Judged]]:
    """Yield what `select` would decide of the sources of a selection, once for each mapping of `instead`, whose rules
    take the place of those sources' own. Every document is read once, and of it only what rules, order and tokens read;
    constants are found before, each by another reading.

    Raises: RuleError when a rule does not bind; ShardError when one cannot be computed, or a part cannot be read.
    """
    sources = bound_sources(storage, selection, Held(0))
    with (
        scratch_folder("gristmill-judge-") as folder,
        ThreadPoolExecutor(THREADS) as pool,
        scratch_tables(folder, THREADS, MEMORY_MB, pool.map) as scratch,
    ):
        scopes = []
        for rules in instead:
            changed = [
                (table, check_rules(rules[table.source], bound.columns) if bound and table.source in rules else bound)
                for table, bound in sources
            ]
            scopes.append(settle(changed, scratch))
        joined = [_joined(each) for each in zip(*scopes, strict=True)]
        most = max(len(decided.rules.rules) for decided in joined)
        rows, width = sum(table.rows for table, _ in sources), (most + len(BUILT_IN) - 1) // _WORD + 1
        words, tokens = np.zeros((rows, width), np.uint64), np.zeros(rows)

        def see(chunk: Chunk, answer: pa.Table) -> None:
            place = slice(chunk.row, chunk.row + answer.num_rows)
            tokens[place] = answer["tokens"].to_numpy()
            for number in range(width):
                words[place, number] = answer[f"w{number}"].to_numpy()

        members = gather(
            joined, selection.kept_before, scratch, lambda decided: _bits_and_tokens(decided.rules, width), see
        )
        for scope in scopes:
            bits = [_bits(mine, whole) for mine, whole in zip(scope, joined, strict=True)]
            elect(scope, members, scratch, _passing(bits, width))
            copies = scratch.run(f"SELECT place, {IS_EXACT} FROM copies")
            places, is_exact = copies["place"].to_numpy(), copies[IS_EXACT].to_numpy()
            decided_words = words.copy() if len(scopes) > 1 else words
            yield list(_judged(selection, scope, bits, (decided_words, tokens), (places, is_exact)))


def _joined(policies: Sequence[Decided]) -> Decided:
    """Return a source with the rules of all policies, each once, and the column that counts its tokens."""
    rules = policies[0].rules
    every = dict.fromkeys(rule for policy in policies for rule in policy.rules.rules)
    reads = frozenset(name for policy in policies for name in policy.rules.reads)
    counted = {name for name in [_counted(rules.columns)] if name}
    return replace(policies[0], rules=replace(rules, rules=tuple(every), reads=reads | counted))


def _counted(columns: Iterable[str]) -> str | None:
    """Return the best column that counts tokens."""
    return next((name for name in TOKEN_COLUMNS if name in set(columns)), None)


def _bits(policy: Decided, joined: Decided) -> list[int]:
    """Return the bits of a policy's rules among those of all policies, the built-in ones last."""
    every = {rule: number for number, rule in enumerate(joined.rules.rules)}
    return [*(every[rule] for rule in policy.rules.rules), *range(len(every), len(every) + len(BUILT_IN))]


def _bits_and_tokens(rules: ResolvedRules, width: int) -> dict[str, str]:
    """Return expressions for a document's words, in which the bit of each rule that it fails is set, and its tokens."""
    fails = [f"(CAST(NOT coalesce({r.resolved}, false) AS UBIGINT) << {n % _WORD})" for n, r in enumerate(rules.rules)]
    cut = [fails[number * _WORD : (number + 1) * _WORD] for number in range(width)]
    words = {f"w{number}": " | ".join(["0::UBIGINT", *each]) for number, each in enumerate(cut)}
    counted = _counted(rules.columns)
    return words | {"tokens": f"CAST(coalesce({quote(counted) if counted else 0}, 0) AS DOUBLE)"}


def _passing(bits: Sequence[Sequence[int]], width: int) -> str:
    """Return whether a member passes all rules, over its words; one that was kept before has none and passes."""
    cases = []
    for priority, mine in enumerate(bits):
        masks = [sum(1 << bit % _WORD for bit in mine if bit // _WORD == number) for number in range(width)]
        unset = " AND ".join(f"(w{number} & {mask}::UBIGINT) = 0" for number, mask in enumerate(masks))
        cases.append(f"WHEN {priority} THEN {unset}")
    return f"CASE priority {' '.join(cases)} ELSE true END"


def _judged(
    selection: Selection,
    scope: Sequence[Decided],
    bits: Sequence[Sequence[int]],
    measured: tuple[NDArray[np.uint64], NDArray[np.float64]],
    copies: tuple[NDArray[np.int64], NDArray[np.bool_]],
) -> Iterator[Judged]:
    """Yield what is decided of each source, once `copies` (their places, and whether exact) have failed, too."""
    first, (words, tokens), (places, is_exact) = 0, measured, copies
    for chosen, decided, mine in zip(selection.sources, scope, bits, strict=True):
        rows, here = slice(first, first + decided.table.rows), (places >= first) & (places < first + decided.table.rows)
        first = rows.stop
        for name, bit in zip(BUILT_IN, mine[-len(BUILT_IN) :], strict=True):
            failed = places[here & (is_exact == (name == EXACT_DUPLICATE))]
            words[failed, bit // _WORD] |= np.uint64(1 << bit % _WORD)
        names = [rule.name for rule in chosen.rules.rules]  # also of a source without documents, where nothing is bound
        yield Judged(
            chosen.name,
            (*names, *BUILT_IN),
            tuple(mine) if decided.parts else (0,) * (len(names) + len(BUILT_IN)),
            words[rows],
            tokens[rows] if _counted(decided.rules.columns) else None,
            Group(decided.table.storage, f"{chosen.name}/documents"),
            tuple(part["documents"] for part in decided.table.parts),
            decided.rules.rules,
            decided.table,
            _counted(decided.rules.columns),
        )


@contextmanager
def as_reader() -> Iterator[None]:
    """Let a part that cannot be read be found before work begins: whoever only reads does no other."""
    try:
        yield
    except ShardError as error:
        raise WorkspaceError(str(error)) from error


def present(storage: Storage, source: Source) -> Judged | None:
    """Return what was decided of a source's documents, as its outcomes have it; None where nothing was.

    Raises: ShardError when a part is damaged.
    """
    index, group = source.groups.get("outcomes"), Group(storage, f"{source.name}/outcomes")
    if index is None:
        return None
    parts = sorted(index.parts, key=lambda part: part.stem)
    group.verify(parts)
    group.memory.save()
    written = [rule["name"] for rule in index.details.get("rules", [])]
    names = [*(name for name in written if name not in BUILT_IN), *BUILT_IN]
    codes, width = pa.array(names), len(names) // _WORD + 1  # a bit more, for what the index does not list
    counted = None
    if parts:
        with open_part(group, parts[0].name) as file:
            counted = _counted(file.schema_arrow.names)

    def read(part: Part) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        words, tokens = [np.zeros((0, width), np.uint64)], [np.zeros(0)]
        for rows in read_batches(group, part.name, [_FAILED, *([counted] if counted else [])]):
            failed = rows["failed_rules"].combine_chunks()
            numbers = pc.fill_null(pc.index_in(pc.struct_field(failed.flatten(), "rule"), value_set=codes), len(names))
            bits = np.zeros((rows.num_rows, width * _WORD), np.uint8)
            bits[np.repeat(np.arange(rows.num_rows), failed.value_lengths().to_numpy()), numbers.to_numpy()] = 1
            words.append(np.packbits(bits, axis=1, bitorder="little").view(np.uint64))
            if counted:
                tokens.append(np.nan_to_num(rows[counted].to_numpy().astype(np.float64)))
        return np.concatenate(words), np.concatenate(tokens)

    with ThreadPoolExecutor(THREADS) as pool:
        read_parts = list(pool.map(read, parts)) or [(np.zeros((0, width), np.uint64), np.zeros(0))]
    words, tokens = (np.concatenate(each) for each in zip(*read_parts, strict=True))
    if (words[:, -1] >> np.uint64(len(names) % _WORD)).any():
        names.append(UNLISTED)
    return Judged(
        source.name,
        tuple(names),
        tuple(range(len(names))),
        words,
        tokens if counted else None,
        group,
        tuple(parts),
        tuple(
            ResolvedRule(rule["name"], rule["sql"], rule["resolved"], tuple(rule.get("columns", ())))
            for rule in index.details.get("rules", [])
            if rule.get("resolved")
        ),
        counted=counted,
    )


# ---- the workspace as it is


def named_sources(catalog: Catalog, names: Sequence[str] | None) -> list[Source]:
    """Return these sources of a workspace, all that have documents where none is named.

    Raises: WorkspaceError for a name that is not there, or when no source has documents.
    """
    known = {source.name: source for source in catalog.sources if "documents" in source.groups}
    for name in names or ():
        if name not in known:
            raise WorkspaceError(f"{catalog.storage.url} has no source {name!r}{nearest(name, known)}")
    if not known:
        raise WorkspaceError(
            f"{catalog.storage.url}: no source has documents yet; `gristmill run CONFIG` extracts them"
        )
    return [source for name, source in known.items() if not names or name in names]


def selections(
    catalog: Catalog, chosen: Sequence[Source], rules_of: Callable[[Source], RuleSet]
) -> Iterator[Selection]:
    """Yield what `select` would take together, of these sources and those whose components they share."""
    known, done = {source.name: source for source in catalog.sources}, set[str]()
    for source in chosen:
        if source.name in done:
            continue
        duplicates = source.groups.get("duplicates") if "duplicates" in _folders(catalog, source) else None
        scope = duplicates.details.get("scope", [source.name]) if duplicates else [source.name]
        scope = [name for name in scope if name in known] or [source.name]
        done |= set(scope)
        before = tuple(
            KeptBefore(parent, f"{source.name}/{AGAINST}/{parent}")
            for parent in source.nested(AGAINST)
            if duplicates and parent in known
        )
        yield Selection(
            tuple(
                SourceSelection(name, rules_of(known[name]), tuple(_folders(catalog, known[name]))) for name in scope
            ),
            kept_before=before,
        )


def _folders(catalog: Catalog, source: Source) -> list[str]:
    """Return the groups that a source's rules can read: those with a row for every document. Duplicates only where the
    outcomes, if there are any, were decided with them.
    """
    documents = source.groups.get("documents")
    stems = {part.stem: part.rows for part in documents.parts} if documents else {}
    measured = [folder for folder in source.groups if folder.startswith(("signals/", "scores/"))]
    outcomes = source.groups.get("outcomes")
    made = (
        catalog.group(source.name, "outcomes").manifest(outcomes.parts[0].name) if outcomes and outcomes.parts else None
    )
    if "duplicates" in source.groups and (
        made is None or any(part.get("group") == "duplicates" for part in made.inputs)
    ):
        measured.append("duplicates")
    rows = {folder: {part.stem: part.rows for part in source.groups[folder].parts} for folder in measured}
    return [folder for folder, found in rows.items() if found.items() >= stems.items()]


def present_rules(source: Source, keep: str | None = None) -> RuleSet | None:
    """Return the rules by which a source's outcomes were decided, with this order of election if one is given."""
    index = source.groups.get("outcomes")
    if index is None:
        return None
    written = {rule["name"]: rule["sql"] for rule in index.details.get("rules", []) if rule.get("sql")}
    return load_rules(written, f"outcomes of {source.name}", keep or index.details.get("keep") or None)


def matches(after: Judged, before: Judged) -> NDArray[np.int64]:
    """Return, of each document of `after`, its number in `before`; -1 where it is not there."""
    lists = [[(part.stem, part.ids, part.rows) for part in judged.parts] for judged in (after, before)]
    if lists[0] == lists[1] and all(part.ids for part in after.parts):
        return np.arange(len(after.words))
    found = pc.index_in(doc_ids(after), value_set=doc_ids(before))
    numbers: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return numbers


def doc_ids(judged: Judged) -> pa.Array:
    """Return the id of every document."""

    def read(part: Part) -> pa.Table:
        return pa.concat_tables(read_batches(judged.group, part.name, ["doc_id"]))

    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(read, judged.parts))
    return pa.concat_tables(tables)["doc_id"].combine_chunks() if tables else pa.array([], pa.string())

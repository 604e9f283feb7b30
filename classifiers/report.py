"""What a classifier does to texts: scores, what a cut keeps, what they follow, calibration, words, pages to read.

On a workspace the scores that this very model (by content) gave are taken; otherwise, as on files, a sample is scored.
A sample depends on ids, of files on the seed, and on nothing else, so the same question has the same answer. Every
interval holds 95 %, and takes the documents for ones drawn, one by one, from more of their kind, also where all of a
source were looked at; pages of one host are alike, so intervals are rather too narrow than too wide.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from classifiers import corpus
from classifiers.artefact import NEGATIVE, POSITIVE, Classifier, Measured, load, score_texts
from classifiers.evaluate import Z, measure, rank_correlation, share_interval
from classifiers.preprocess import preprocess
from classifiers.report_page import MIN_GROUP, ClassifierReport, Row
from pipeline.kernels import fasttext
from pipeline.table.catalog import Catalog, Source
from pipeline.table.errors import InputError, UsageError, WorkspaceError, nearest, shown
from pipeline.table.schema import DOC_ID, HOST, TEXT, text_buffers
from pipeline.table.shards import Part, aligned, read_batches, read_rows
from pipeline.table.sql import reading
from pipeline.table.storage import Storage

COLUMNS = ("text", "url", "language", "label")
"""What is read of a file, if it is there."""
SCORED, UNSCORED, WORDED = 1_000_000, 10_000, 2_000
"""Documents looked at: where the workspace has their scores, where they are scored now, and for their words."""
LEAST = 100
SHOWN, LARGEST, BEGINNING = 10, 20, 300
"""Documents of each kind to read, groups and words that are listed, characters of a text."""
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_STEPS = 20
_LENGTHS = (0, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10)
_LENGTH_NAMES = (
    "under 256 B",
    "256 B to 1 KiB",
    "1 to 4 KiB",
    "4 to 16 KiB",
    "16 to 64 KiB",
    "64 to 256 KiB",
    "larger",
)
_LABELS = {"1": True, "true": True, POSITIVE: True, "0": False, "false": False, NEGATIVE: False}
_HOW = (
    "fastText's log-odds of a text are a mean over its words, its n-grams of words and its end. What a word moves in a "
    "document is its share of that mean (its vector against the outputs, times its occurrences, over all features); "
    "given is the average over documents, also those without the word. N-grams are hashed into buckets and cannot "
    "be named: `named` is the share of all movement that words have, the rest is theirs."
)
_WORD_BYTES, _MAX_WORDS = 8 << 20, 200_000

Floats = NDArray[np.float64]
_NUMBERS = [("score", pa.float32()), ("probability", pa.float32()), ("bytes", pa.int64()), ("tokens", pa.float64())]
_NAMES = ("source", "language", "host")
_WIDE = pa.schema(
    [
        *_NUMBERS,
        *((name, pa.string()) for name in (*_NAMES, DOC_ID, "url", TEXT, "part")),
        ("label", pa.bool_()),
        ("row", pa.int64()),
    ]
)


@dataclass
class _Words:
    """What each word moves: by word, in how many documents, the sum and the sum of squares of what it moves in one."""

    classifier: Classifier
    found: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    documents: int = 0
    named: list[Floats] = field(default_factory=list)
    hidden: list[Floats] = field(default_factory=list)

    def add(self, texts: pa.Array) -> None:
        """Take texts into account, some megabytes at a time."""
        _, offsets = text_buffers(texts)
        starts = np.unique(
            np.searchsorted(offsets, np.arange(0, offsets[-1] - offsets[0] + 1, _WORD_BYTES) + offsets[0])
        )
        for start, end in zip(starts, [*starts[1:], len(texts)], strict=True):
            if end > start:
                self._add(preprocess(texts[int(start) : int(end)], self.classifier.artefact.preprocess))

    def _add(self, lines: pa.LargeStringArray) -> None:
        whole = fasttext.features(self.classifier.model, *text_buffers(lines))
        pieces = pc.split_pattern(lines, " ")
        words, owner = pc.list_flatten(pieces), np.asarray(pc.list_parent_indices(pieces), np.int64)
        is_word = pc.not_equal(words, "")
        encoded = words.filter(is_word).dictionary_encode()
        known = self._weights(
            pa.concat_arrays([encoded.dictionary.cast(pa.large_string()), pa.array([""], pa.large_string())])
        )
        codes = np.asarray(encoded.indices, np.int64)
        pairs, times = np.unique(owner[np.asarray(is_word)] * len(known) + codes, return_counts=True)
        document, word = np.divmod(pairs, len(known))
        features = np.maximum(whole.n_features, 1)
        moved = times * known[word] / features[document]
        named = np.bincount(document, moved, len(lines)) + known[-1] / features
        self.named.append(named)
        self.hidden.append(self._margins(whole.mean) - named)
        self.documents += len(lines)
        sums = [np.bincount(word, weights, len(known)) for weights in (None, moved, moved * moved)]
        for place, name in enumerate(encoded.dictionary.to_pylist()):
            if known[place] != 0.0:
                documents, total, squares = self.found.get(name, (0, 0.0, 0.0))
                more = (float(each[place]) for each in sums)
                self.found[name] = documents + int(next(more)), total + next(more), squares + next(more)
        if len(self.found) > 2 * _MAX_WORDS:  # only of a model with character n-grams, which knows every word
            self.found = dict(sorted(self.found.items(), key=lambda item: (-abs(item[1][1]), item[0]))[:_MAX_WORDS])

    def _weights(self, words: pa.Array) -> Floats:
        """Return what each word adds to the log-odds of a text of one feature; the last is the end of a text."""
        model = self.classifier.model
        alone = fasttext.FastTextModel(model.labels, model.tables._replace(word_ngrams=1), model.output)
        found = fasttext.features(alone, *text_buffers(words))
        sums = self._margins(found.mean) * found.n_features
        return np.append(sums[:-1] - sums[-1], sums[-1])

    def _margins(self, mean: Floats) -> Floats:
        model = self.classifier.model
        logits = mean @ model.output.weights.T.astype(np.float64) if model.output.weights.size else mean
        return np.asarray(logits[:, model.labels.index(POSITIVE)] - logits[:, model.labels.index(NEGATIVE)], np.float64)

    def rows(self) -> Iterator[Row]:
        """Yield the words that move the score most: towards positive, then towards negative."""
        n = self.documents
        ordered = sorted(self.found.items(), key=lambda item: (-item[1][1], item[0]))
        for towards, items in ((POSITIVE, ordered), (NEGATIVE, ordered[::-1])):
            for word, (documents, total, squares) in islice(items, LARGEST):
                if (total > 0) != (towards == POSITIVE) or total == 0:
                    break
                mean = total / n
                half = Z * float(np.sqrt(max(squares - n * mean * mean, 0.0) / max(n - 1, 1) / n))
                row = {"word": word[:BEGINNING], "towards": towards, "documents": documents}
                yield row | {"log_odds": mean, "low": mean - half, "high": mean + half}


@reading
def report(
    model: str | os.PathLike[str],
    on: str,
    *,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    n: int | None = None,
    at: float | None = None,
) -> ClassifierReport:
    """Return what the classifier in the folder `model` does to a workspace's documents, or to the texts of files.

    `source` is one of a workspace's; `columns` names a file's (ours, of `COLUMNS`, to theirs); `n` is about how many
    documents are looked at, at most; `at` is a cut of the raw score, around which documents are shown.

    Raises: InputError for the model, a file or a label; WorkspaceError; UsageError for what does not go together.
    """
    classifier = load(model)
    if n is not None and n < LEAST:
        raise UsageError(f"--n {n}: look at {LEAST} documents at least")
    if at is not None and not 0.0 <= at <= 1.0:
        raise UsageError(f"--at {at}: a score lies between 0 and 1")
    names = {name: name for name in COLUMNS} | dict(columns or {})
    if wrong := sorted(names.keys() - set(COLUMNS)):
        raise UsageError(f"--columns {wrong[0]}=...{nearest(wrong[0], COLUMNS)}: there are {', '.join(COLUMNS)}")
    words = _Words(classifier)
    is_file = os.path.isfile(on) or on.split("?", 1)[0].lower().endswith(corpus.SUFFIXES)
    if is_file and source is not None:
        raise UsageError(f"--source {source}: {on} is a file and has no sources; leave the option out")
    if not is_file and columns:
        raise UsageError(f"--columns: {on} is a workspace, whose columns are known; leave the option out")
    looked = _Files(classifier, on, names, n) if is_file else _Workspace(classifier, on, source, n)
    narrow, wide = [], _WIDE.empty_table()
    for rows, texts in looked.batches():
        if len(texts):
            words.add(texts)
        if rows.num_rows:
            narrow.append(_narrow(rows))
            wide = pa.concat_tables([wide, rows])
            wide = wide.take(sorted({place for _, places in _to_read(wide, at) for place in places}))
    if not narrow:
        raise InputError(f"{on} has no text to score")
    return _report(looked, pa.concat_tables(narrow).unify_dictionaries(), looked.with_texts(wide), words, at)


def _narrow(rows: pa.Table) -> pa.Table:
    """Return what is kept of every document that was looked at: some fifty bytes."""
    names = {name: rows[name].dictionary_encode() for name in _NAMES}
    return pa.table({**{name: rows[name] for name, _ in _NUMBERS}, **names, "label": rows["label"]})


# Where documents come from --------------------------------------------------------------------------------------------


@dataclass
class _Files:
    """Files of texts, of which so many rows are drawn."""

    classifier: Classifier
    on: str
    columns: Mapping[str, str]
    n: int | None
    of: int = 0
    notes: list[str] = field(default_factory=list)
    about: Row = field(
        default_factory=lambda: {"kind": "file", "sources": [], "scores": "now", "tokens": "estimated_tokens"}
    )

    def batches(self) -> Iterator[tuple[pa.Table, pa.Array]]:
        """Yield rows, and the texts whose words count."""
        self.of = sum(batch.num_rows for batch in self._read({TEXT: self.columns[TEXT]}))
        share, worded = (n / max(self.of, 1) for n in (self.n or UNSCORED, WORDED))
        drawn, row = np.random.default_rng(1), 0
        for batch in self._read(self.columns):
            draws = drawn.random(batch.num_rows)
            places = np.flatnonzero(draws < share)
            taken = pa.Table.from_batches([batch]).take(places).combine_chunks()
            texts = taken[TEXT].combine_chunks().fill_null("")
            labels = _labels(taken["label"].to_pylist(), self.on) if "label" in taken.column_names else None
            known = {name: taken[name] for name in ("url", "language") if name in taken.column_names}
            yield (
                _rows(self.classifier, texts, {**known, "label": labels, "row": places + row}),
                texts.filter(pa.array(draws[places] < worded)),
            )
            row += batch.num_rows

    def _read(self, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        return corpus.read_files(self.on, columns, "--on")

    def with_texts(self, rows: pa.Table) -> pa.Table:
        return rows


def _labels(values: Sequence[str | None], where: str) -> list[bool | None]:
    """Return labels as true for positive, null where there is none."""
    found = []
    for value in values:
        label = (value or "").strip().lower().removeprefix("__label__").removesuffix(".0")
        if label and label not in _LABELS:
            raise InputError(
                f"{where}: label {label[:40]!r} is neither positive (also 1, true) nor negative (0, false); correct "
                "it, or name another column with --columns label=NAME"
            )
        found.append(_LABELS[label] if label else None)
    return found


@dataclass
class _Workspace:
    """A workspace's documents, of which those with the smallest ids are looked at: ids are hashes."""

    classifier: Classifier
    on: str
    source: str | None
    n: int | None
    of: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.catalog = Catalog.read(Storage.at(self.on))
        known = {source.name: source for source in self.catalog.sources if source.rows("documents")}
        if self.source is not None and self.source not in known:
            there = nearest(self.source, known) or f" (there are: {', '.join(known)})"
            raise WorkspaceError(f"--source {self.source}: {self.on} has no such source with documents{there}")
        self.sources = [known[self.source]] if self.source is not None else list(known.values())
        self.of = sum(source.rows("documents") for source in self.sources)
        if not self.of:
            raise WorkspaceError(f"{self.on} has no documents yet; run `gristmill run CONFIG`")
        stored = {source.name: self._stored(source) for source in self.sources}
        self.stored = stored if all(stored.values()) else {}
        if not self.stored and any(stored.values()):
            lacking = ", ".join(name for name, found in stored.items() if not found)
            self.notes.append(
                f"this model has not scored all documents of {lacking}, so a sample of all was scored now"
            )
        self.counted = all("signals/tokens" in source.groups for source in self.sources)
        self.about = {
            "kind": "workspace",
            "sources": [source.name for source in self.sources],
            "scores": "stored" if self.stored else "now",
            "tokens": "token_count" if self.counted else "estimated_tokens",
        }

    def _stored(self, source: Source) -> str | None:
        """Return the name under which this model has scored all documents of a source."""
        for name, index in source.nested("predictions").items():
            group = self.catalog.group(source.name, f"predictions/{name}")
            counts = {source.rows(folder) for folder in ("documents", f"predictions/{name}", f"scores/{name}")}
            manifests = (group.manifest(part.name) for part in index.parts)
            models = {manifest.config.get("model") if manifest else None for manifest in manifests}
            if len(counts) == 1 and models == {self.classifier.content_hash}:
                return name
        return None

    def batches(self) -> Iterator[tuple[pa.Table, pa.Array]]:
        """Yield rows, and the texts whose words count."""
        for source in self.sources:
            for part, beside in self._parts(source):
                yield from self._part(source, part, beside)

    def _parts(self, source: Source) -> Iterator[tuple[Part, dict[str, Part]]]:
        """Yield each part of the documents, and what lies beside it by folder."""
        listed = {}
        for folder in ("documents", *self._beside(source)):
            group = self.catalog.group(source.name, folder)
            listed[folder] = {part.stem: part for part in group.parts()}
            group.memory.save()
        documents = listed.pop("documents")
        for stem, part in documents.items():
            yield part, {folder: parts[stem] for folder, parts in listed.items() if stem in parts}

    def _part(self, source: Source, part: Part, beside: Mapping[str, Part]) -> Iterator[tuple[pa.Table, pa.Array]]:
        share, worded = (self.n or (SCORED if self.stored else UNSCORED)) / self.of, WORDED / self.of
        documents = self.catalog.group(source.name, "documents")
        narrow = pa.concat_tables(read_batches(documents, part.name, [DOC_ID, "url"]))
        places = np.flatnonzero(_smallest(narrow[DOC_ID], share))
        has_words = np.flatnonzero(_smallest(narrow[DOC_ID], min(share, worded)))
        known: dict[str, Any] = {
            "source": [source.name] * places.size,
            "part": [part.name] * places.size,
            "row": places,
        }
        known |= {name: narrow[name].take(places) for name in (DOC_ID, "url")}
        for folder, columns in self._beside(source).items():
            if folder in beside:
                group, asked = self.catalog.group(source.name, folder), [DOC_ID, *columns.values()]
                table = pa.concat_tables(read_batches(group, beside[folder].name, asked))
                aligned(narrow, table, f"{folder}/{beside[folder].name}")
                known |= {ours: table[theirs].take(places) for ours, theirs in columns.items()}
        if self.stored:
            yield _rows(self.classifier, None, known), pa.array([], pa.string())
            for table in read_rows(documents, part.name, has_words, [TEXT]):
                yield _WIDE.empty_table(), table[TEXT].combine_chunks()
            return
        done = 0
        for table in read_rows(documents, part.name, places, [TEXT]):
            texts, end = table[TEXT].combine_chunks(), done + table.num_rows
            rows = {name: values[done:end] for name, values in known.items()}
            yield _rows(self.classifier, texts, rows), texts.filter(pa.array(np.isin(places[done:end], has_words)))
            done = end

    def _beside(self, source: Source) -> dict[str, dict[str, str]]:
        """Return the columns that other groups have of a document, ours to theirs."""
        beside = {"signals/language": {"language": "language"}, "signals/text_stats": {"bytes": "text_bytes"}}
        if self.counted:
            beside["signals/tokens"] = {"tokens": "token_count"}
        if name := self.stored.get(source.name):
            beside[f"scores/{name}"] = {"score": "score", "probability": "probability"}
        return {folder: columns for folder, columns in beside.items() if folder in source.groups}

    def with_texts(self, rows: pa.Table) -> pa.Table:
        """Return rows with the beginning of their texts, which need not have been read."""
        if not self.stored:
            return rows
        where = rows.select(["source", "part", "row"]).to_pylist()
        asked: dict[tuple[str, str], list[int]] = {}
        for row in where:
            asked.setdefault((row["source"], row["part"]), []).append(row["row"])
        texts: dict[tuple[str, str, int], str] = {}
        for (source, part), places in asked.items():
            tables = read_rows(self.catalog.group(source, "documents"), part, np.array(sorted(places)), [TEXT])
            found = [text for table in tables for text in _beginnings(table[TEXT]).to_pylist()]
            texts |= {(source, part, place): text for place, text in zip(sorted(places), found, strict=True)}
        said = pa.array([texts[row["source"], row["part"], row["row"]] for row in where], pa.string())
        return rows.set_column(rows.column_names.index("text"), "text", said)


def _smallest(ids: pa.ChunkedArray, share: float) -> NDArray[np.bool_]:
    """Tell which ids are among the smallest share of all possible ones."""
    if share >= 1.0:
        return np.ones(len(ids), np.bool_)
    return np.asarray(pc.less(ids, f"{int(share * (1 << 53)) << 75:032x}"))


def _beginnings(texts: pa.Array | pa.ChunkedArray) -> Any:
    return pc.utf8_slice_codeunits(texts, 0, BEGINNING).cast(pa.string())


def _rows(classifier: Classifier, texts: pa.Array | None, known: Mapping[str, Any]) -> pa.Table:
    """Return documents as rows of `_WIDE`: what is known of them, the scores of `texts`, and what follows from both."""
    columns = {name: values for name, values in known.items() if values is not None}
    if texts is not None:
        scores, probabilities = score_texts(texts, classifier)
        # As the stage keeps them: a threshold found here must keep there what it keeps here.
        columns |= {"score": scores.astype(np.float32), "probability": probabilities.astype(np.float32)}
        columns |= {"text": _beginnings(texts), "bytes": pc.binary_length(texts)}
    if "url" in columns:
        columns["host"] = pc.utf8_lower(pc.struct_field(pc.extract_regex(columns["url"], HOST), "host"))
    size = len(columns["score"])
    size = len(columns["score"])
    found = {f.name: _array(columns[f.name], f.type) if f.name in columns else pa.nulls(size, f.type) for f in _WIDE}
    found["bytes"] = pc.fill_null(found["bytes"], 0)
    found["tokens"] = pc.coalesce(found["tokens"], pc.divide(found["bytes"].cast(pa.float64()), 4.0))
    return pa.table(found, schema=_WIDE)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)).cast(kind)


# What is said of them -------------------------------------------------------------------------------------------------


def _report(
    looked: _Files | _Workspace, rows: pa.Table, wide: pa.Table, words: _Words, at: float | None
) -> ClassifierReport:
    artefact, n = looked.classifier.artefact, rows.num_rows
    scores, probabilities, tokens, sizes = (
        np.asarray(rows[name], np.float64) for name in ("score", "probability", "tokens", "bytes")
    )
    ordered = np.sort(scores), np.sort(probabilities)
    steps = [step / _STEPS for step in range(1, _STEPS)]
    cuts = [
        ("score", scores, sorted({*steps, *([at] if at is not None else [])})),
        ("probability", probabilities, steps),
    ]
    correlation, low, high = rank_correlation(scores, sizes)
    kinds = np.searchsorted(_LENGTHS, sizes, side="right") - 1
    lengths = pa.DictionaryArray.from_arrays(pa.array(kinds, pa.int32()), pa.array(_LENGTH_NAMES))
    by = {"length": lengths, **{name: rows[name].combine_chunks() for name in _NAMES}}
    calibration = [_calibration("held_out", artefact.training.measured)]
    labels = rows["label"].drop_null()
    if len(labels):
        calibration.append(_measured_on(rows))
    documents = [
        {
            "which": which,
            **{name: row[name] for name in (*(name for name, _ in _NUMBERS), DOC_ID, "source", "url", "row", TEXT)},
        }
        for which, places in _to_read(wide, at)
        for row in wide.take(places).to_pylist()
    ]
    moved = [np.abs(np.concatenate([np.empty(0), *parts])) for parts in (words.named, words.hidden)]
    share = _ratio(moved[0], moved[0] + moved[1])
    return ClassifierReport(
        model={
            "name": artefact.name,
            "folder": str(looked.classifier.folder),
            "content_hash": looked.classifier.content_hash,
            "trained_positives": artefact.training.positives.trained,
            "trained_negatives": artefact.training.negatives.trained,
            **artefact.calibration.model_dump(),
        },
        sample={"on": shown(looked.on), **looked.about, "documents": n, "of": looked.of, "at": at}
        | {f"{name}s": len(rows[name].drop_null().unique()) for name in ("language", "host")},
        doubts=artefact.training.measured.doubts(),
        notes=[*_notes(looked, rows, calibration)],
        distribution=[row for of, values, _ in cuts for row in _histogram(of, values)],
        quantiles=[_quantile(*ordered, share) for share in QUANTILES],
        thresholds=[_threshold(ordered, scores, tokens, share) for share in SHARES],
        kept=[
            {"of": of, "at_least": cut} | _kept(values, tokens, cut)
            for of, values, all_cuts in cuts
            for cut in all_cuts
        ],
        length={"rank_correlation": correlation, "low": low, "high": high},
        groups=[row for name, values in by.items() if len(values.drop_null()) for row in _groups(name, values, scores)],
        calibration=calibration,
        words_from=dict(zip(("named", "low", "high"), share, strict=True))
        | {"documents": words.documents, "how": _HOW},
        words=list(words.rows()),
        documents=documents,
    )


def _histogram(of: str, values: Floats) -> Iterator[Row]:
    counts = np.bincount(np.minimum((values * _STEPS).astype(np.int64), _STEPS - 1), minlength=_STEPS)
    for step, count in enumerate(counts.tolist()):
        low, high = share_interval(count, values.size)
        row = {"of": of, "at_least": step / _STEPS, "below": (step + 1) / _STEPS, "documents": count}
        yield row | {"share": count / values.size, "low": low, "high": high}


def _quantile(scores: Floats, probabilities: Floats, share: float) -> Row:
    """Return where a share of sorted scores and probabilities ends, and the interval of that score."""
    n = scores.size
    half = Z * float(np.sqrt(share * (1 - share) / n))
    places = [int(np.clip(np.ceil(p * n) - 1, 0, n - 1)) for p in (share, share - half, share + half)]
    ends = dict(zip(("score", "score_low", "score_high"), map(float, scores[places]), strict=True))
    return {"share": share, **ends, "probability": float(probabilities[places[0]])}


def _threshold(ordered: tuple[Floats, Floats], scores: Floats, tokens: Floats, share: float) -> Row:
    """Return the cut that keeps a share of the documents, rounded down, so that it keeps equal scores as well."""
    found = _quantile(-ordered[0][::-1], -ordered[1][::-1], share)
    cut = {
        "score": -found["score"],
        "score_low": -found["score_high"],
        "score_high": -found["score_low"],
        "probability": -found["probability"],
    }
    for name, value in cut.items():
        scale = 10.0 ** (8 - np.floor(np.log10(value))) if value > 0 else 1.0
        cut[name] = float(np.floor(value * scale) / scale)
    return {"keep": share, **cut, **_kept(scores, tokens, cut["score"])}


def _kept(values: Floats, tokens: Floats, cut: float) -> Row:
    is_kept = values >= cut
    count = int(is_kept.sum())
    documents = (count / values.size, *share_interval(count, values.size))
    names = [f"{what}{end}" for what in ("documents", "tokens") for end in ("", "_low", "_high")]
    return dict(zip(names, (*documents, *_ratio(tokens * is_kept, tokens)), strict=True))


def _ratio(some: Floats, whole: Floats) -> tuple[float | None, float | None, float | None]:
    """Return the share that `some` has of `whole`, sums over documents, with its interval (linearised)."""
    total = float(whole.sum())
    if not total:
        return None, None, None
    share = float(some.sum()) / total
    half = Z * float(np.sqrt(np.sum((some - share * whole) ** 2))) / total
    return share, max(0.0, share - half), min(1.0, share + half)


def _groups(by: str, values: pa.DictionaryArray, scores: Floats) -> Iterator[Row]:
    """Yield the mean score of each group, of names of the largest alone; null is what has no name."""
    names = [*values.dictionary.to_pylist(), None]
    codes = np.asarray(pc.fill_null(values.indices, len(names) - 1), np.int64)
    counts, sums = np.bincount(codes, minlength=len(names)), np.bincount(codes, scores, len(names))
    means = sums / np.maximum(counts, 1)
    squares = np.bincount(codes, (scores - means[codes]) ** 2, len(names))
    places = (
        range(len(names)) if by == "length" else sorted(range(len(names)), key=lambda i: (-counts[i], names[i] or ""))
    )
    for i in islice((i for i in places if counts[i]), LARGEST):
        count, mean = int(counts[i]), float(means[i])
        half = Z * float(np.sqrt(squares[i] / (count - 1) / count)) if count > 1 else None
        ends = (max(0.0, mean - half), min(1.0, mean + half)) if half is not None else (None, None)
        row = {"by": by, "group": names[i], "documents": count, "score": mean, "low": ends[0], "high": ends[1]}
        yield row | {"is_small": count < MIN_GROUP}


def _measured_on(rows: pa.Table) -> Row:
    """Return how well scores fit the labels of a file."""
    sides = [rows.filter(pc.equal(rows["label"], label)) for label in (True, False)]
    if min(side.num_rows for side in sides) < 2:
        counts = {"n_positives": sides[0].num_rows, "n_negatives": sides[1].num_rows}
        return _calibration("file", None) | counts
    good, bad = ([np.asarray(side[name], np.float64) for name in ("score", "probability", "bytes")] for side in sides)
    return _calibration("file", measure((good[0], bad[0]), (good[1], bad[1]), (good[2], bad[2])))


def _calibration(labels: str, measured: Measured | None) -> Row:
    names = ("auc", "auc_low", "auc_high", "brier", "n_positives", "n_negatives", "reliability")
    found = measured.model_dump(mode="json", include=set(names)) if measured else {}
    return {"labels": labels, **{name: found.get(name) for name in names}}


def _to_read(rows: pa.Table, at: float | None) -> list[tuple[str, list[int]]]:
    """Return the places of the documents to read: best, worst, at the border, at the cut. Copies are read once."""
    scores, probabilities = (np.asarray(rows[name], np.float64) for name in ("score", "probability"))
    orders = [("best", -scores), ("worst", scores), ("border", np.abs(probabilities - 0.5))]
    orders += [("cut", np.abs(scores - at))] if at is not None else []
    sizes, found = np.asarray(rows["bytes"]), []
    for which, values in orders:
        chosen: dict[tuple[float, int], int] = {}
        for place in np.argsort(values, kind="stable"):
            chosen.setdefault((float(scores[place]), int(sizes[place])), int(place))
            if len(chosen) == SHOWN:
                break
        found.append((which, list(chosen.values())))
    return found


def _notes(looked: _Files | _Workspace, rows: pa.Table, calibration: Sequence[Row]) -> Iterator[str]:
    yield from looked.notes
    n, of = rows.num_rows, looked.of
    whole = (
        f"all documents were looked at ({n:,})" if n == of else f"{n:,} of {of:,} documents were looked at: a sample"
    )
    how = "their scores are those in the workspace" if looked.about["scores"] == "stored" else "they were scored now"
    yield f"{whole}; {how}"
    if n < LEAST:
        yield "documents are few: read the intervals, not the numbers"
    for name in ("language", "host"):
        if missing := rows[name].null_count:
            yield f"no {name} is known of {missing:,} of {n:,} documents"
    if len(calibration) == 1:
        yield "the documents have no labels: the calibration is that of the texts held out in training"
    elif calibration[1]["auc"] is None:
        yield "too few labels: two positives and two negatives are needed at least"
    else:
        yield "labelled texts that the model was trained on flatter it; use texts that it has not seen"
    if calibration[0]["reliability"] is None:
        yield "the model is of a former version and kept no reliability table: train it again for one"

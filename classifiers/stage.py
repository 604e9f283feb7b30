"""The `classify` stage: predictions a shard, then ranks over all of a source's tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa

from classifiers import ranks
from classifiers.artefact import PREDICTIONS, Classifier, load, score
from pipeline.table import schema
from pipeline.table.shards import (
    Group,
    Identity,
    Index,
    Part,
    PartWriter,
    RowMap,
    Tally,
    Work,
    aligned,
    made_from,
    made_from_texts,
    read_batches,
)
from pipeline.table.stages import (
    Context,
    Mapped,
    PartJob,
    Progress,
    Publish,
    Stage,
    Totals,
    Wanted,
    make_rows,
    plan_row_maps,
)

VERSION = "classify_v1"


def classifier(path: str) -> Classifier:
    """Return a trained classifier, read once for all sources and plans of a process; retrained, it is read again.

    Raises: InputError.
    """
    try:
        trained_ns = os.stat(path).st_mtime_ns
    except OSError:
        trained_ns = 0  # reading it tells what is wrong
    return _read(path, trained_ns)


@lru_cache(maxsize=8)
def _read(path: str, trained_ns: int) -> Classifier:
    return load(path)


@dataclass(frozen=True)
class Ranked:
    """One classifier's predictions for a source, the tokens that weigh them, and where scores go."""

    name: str
    predictions: Group
    tokens: Group
    token_column: str
    scores: Group

    def parts(self) -> list[tuple[Part, Part]]:
        """Return the parts of predictions and of tokens that belong together."""
        tokens = {part.stem: part for part in self.tokens.parts()}
        return [(part, tokens[part.stem]) for part in self.predictions.parts() if part.stem in tokens]

    def key(self) -> str:
        """Return the identity of the scores: every part that the ranks depend on."""
        inputs = [made_from(part) for pair in self.parts() for part in pair]
        return Identity("ranks", VERSION, {"classifier": self.name, "tokens": self.token_column}).key(inputs)


def classify_stage(context: Context, source: str, models: Mapping[str, str], counted: bool) -> Stage[PartJob, Mapped]:
    """Return the scores of one source that are missing, by each classifier; no row drops.

    `models` are the classifiers' folders by name; ranks weigh documents by tokens where they are `counted`, else bytes.
    """
    folder, column = ("signals/tokens", "token_count") if counted else ("signals/text_stats", "text_bytes")
    tokens = context.group(source, folder)
    predictions = {name: context.group(source, f"predictions/{name}") for name in models}
    ranked = [
        Ranked(name, predictions[name], tokens, column, context.group(source, f"scores/{name}")) for name in models
    ]
    trained = {name: classifier(path) for name, path in models.items()}

    def row_maps(part: Part) -> list[RowMap]:
        maps = []
        for name, model in trained.items():
            identity = Identity("predictions", VERSION, {"model": model.content_hash})
            work = Work(part.stem, identity, (made_from_texts(part),))
            columns = (schema.DOC_ID, schema.TEXT)
            maps.append(RowMap(predictions[name], work, PREDICTIONS, columns, partial(score, classifier=model)))
        return maps

    maps = plan_row_maps(context.group(source, "documents"), list(predictions.values()), row_maps)
    stale = [item for item in ranked if maps.jobs or not item.scores.is_complete(item.key())]

    def complete(results: Sequence[Mapped], publish: Publish, progress: Progress) -> Totals:
        maps.publish("classify", results, publish)
        for item in stale:
            context.check()
            doubts = trained[item.name].artefact.training.measured.doubts()
            for doubt in doubts:
                context.reporter.line(f"warning: {source} classify {item.name}: {doubt}")
            _rank(item, doubts, publish)
        return Totals(maps.rows, maps.rows)

    def wanted() -> Iterator[Wanted]:
        for item in stale:
            index = item.scores.index()
            yield Wanted(None if index is None else {"inputs": index.key}, {"inputs": item.key()})

    done = maps.shards_done + len(ranked) - len(stale)  # each classifier's ranks are one more shard of work
    return Stage(source, "classify", maps.jobs, done, complete, make_rows, len(stale), maps.rows_to_do, wanted=wanted)


def _rank(item: Ranked, doubts: Sequence[str], publish: Publish) -> None:
    """Write a source's scores with their ranks and publish them; the index says what speaks against the classifier."""
    key = item.key()
    thresholds = ranks.rank_thresholds(partial(_weighted, item))
    parts = []
    for predictions, _ in item.parts():
        work = Work(predictions.stem, Identity("scores", VERSION, {"ranks": key}), (made_from(predictions),))
        with PartWriter(item.scores, work, schema.SCORES) as writer:
            for table in read_batches(item.predictions, predictions.name):
                rank = ranks.apply_thresholds(table["score"], thresholds)
                writer.write(table.append_column("rank", rank).cast(schema.SCORES))
        parts.append(writer.finish(Tally(rows_in=predictions.rows)))
    found = [float(value) if value < float("inf") else None for value in thresholds]
    details = {"rank_thresholds": found, "doubts": list(doubts)}
    publish(item.scores, parts, Index(stage="classify", key=key, details=details))


def _weighted(item: Ranked) -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
    """Yield the scores of each part and the tokens of the same documents."""
    for predictions, tokens in item.parts():
        scored = pa.concat_tables(read_batches(item.predictions, predictions.name, [schema.DOC_ID, "score"]))
        weights = pa.concat_tables(read_batches(item.tokens, tokens.name, [schema.DOC_ID, item.token_column]))
        aligned(scored, weights, f"{item.predictions.folder}/{predictions.name}")
        yield scored["score"], weights[item.token_column]

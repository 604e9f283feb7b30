"""The `classify` stage of a run: predictions a shard, then ranks over all of a source's tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa

from classifiers.artefact import Classifier, load
from classifiers.score import PREDICTIONS, ClassifierScorer
from flows.progress import StageReport
from flows.runs import Run
from flows.stages import MapPlan, Plan, execute_map, plan_map
from pipeline.signals import ranks
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


def plan_classify(run: Run, sources: Sequence[str]) -> Plan:
    """Plan the scores of one source by every configured classifier."""
    (source,) = sources
    ranked = [_ranked(run, source, name) for name in run.config.settings(source).classify]
    plan = _plan_predictions(run, source)
    stale = [item for item in ranked if plan.jobs or not item.scores.is_complete(item.key())]
    to_do = len(plan.jobs) + len(stale)  # each classifier's ranks are one more shard of work
    done = len(plan.parts) - len(plan.jobs) + len(ranked) - len(stale)

    def execute() -> StageReport:
        started = time.monotonic()
        execute_map(run, source, "classify", plan)
        for item in stale:
            run.check()
            _rank(item)
        return StageReport(source, "classify", to_do, done, plan.rows, plan.rows, time.monotonic() - started)

    return Plan(source, "classify", to_do, done, execute)


def _plan_predictions(run: Run, source: str) -> MapPlan:
    scorers = {
        name: ClassifierScorer(classifier(use.model)) for name, use in run.config.settings(source).classify.items()
    }
    targets = {name: run.group(source, f"predictions/{name}") for name in scorers}
    columns = (schema.DOC_ID, schema.TEXT)

    def row_maps(part: Part) -> list[RowMap]:
        return [
            RowMap(
                targets[name],
                Work(part.stem, Identity("predictions", VERSION, {"model": s.content_hash}), (made_from_texts(part),)),
                PREDICTIONS,
                columns,
                s.score,
            )
            for name, s in scorers.items()
        ]

    return plan_map(run, source, list(targets.values()), row_maps)


def _ranked(run: Run, source: str, name: str) -> Ranked:
    counted = run.config.settings(source).annotate.tokenizer is not None
    folder, column = ("signals/tokens", "token_count") if counted else ("signals/text_stats", "text_bytes")
    return Ranked(
        name,
        run.group(source, f"predictions/{name}"),
        run.group(source, folder),
        column,
        run.group(source, f"scores/{name}"),
    )


def _rank(item: Ranked) -> None:
    """Write a source's scores with their ranks and complete the group."""
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
    details = {"rank_thresholds": [float(value) if value < float("inf") else None for value in thresholds]}
    item.scores.complete(parts, Index(stage="classify", key=key, details=details))


def _weighted(item: Ranked) -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
    """Yield the scores of each part and the tokens of the same documents."""
    for predictions, tokens in item.parts():
        scored = pa.concat_tables(read_batches(item.predictions, predictions.name, [schema.DOC_ID, "score"]))
        weights = pa.concat_tables(read_batches(item.tokens, tokens.name, [schema.DOC_ID, item.token_column]))
        aligned(scored, weights, f"{item.predictions.folder}/{predictions.name}")
        yield scored["score"], weights[item.token_column]

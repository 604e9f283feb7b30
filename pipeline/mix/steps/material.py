"""What a mix is made of: slices as token stores, their limits at the target, the suite's tasks as tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.config import MAX_SLICES, HeldOutConfig, MixConfig, ModelName
from pipeline.mix.material.build import (
    BuiltSlice,
    SharedText,
    SliceRequest,
    build_slices,
    kept_slices,
    shared_text,
    slice_table,
)
from pipeline.mix.material.slices import chosen_documents, resolve_slices
from pipeline.mix.material.suites import Suite, held_out_task, load_suite, tokenise_task
from pipeline.mix.material.tokenizer import MixTokenizer, kept_tokenizer, slices_tokenizer
from pipeline.mix.steps.workspace import OpenMix, stage_mixture
from pipeline.mix.types import ChosenDocuments, Floats, ProxyData, ResolvedSlice, RunSpec, Task, TokenTask
from pipeline.mix.weights.mixture import load_mixture
from pipeline.mix.weights.space import (
    Bounds,
    Constraints,
    constraints_of,
    natural_weights,
    pool_tokens,
    weight_bounds,
    whole_documents,
)
from pipeline.table.errors import ConfigError, InputError, MissingDependencyError, nearest
from pipeline.table.format import text_table
from pipeline.table.shards import digest
from pipeline.table.sql import Session, connect

LEAST_MIXTURES, LEAST_MIXTURES_OF_TREES = 3, 20
"""What a regression can be told apart from: a tree's leaf holds five runs, and folds leave a part of the runs out."""
STEPS_THAT_TRAIN = ("train", "fit", "propose", "verify", "sample", "run")


@dataclass(frozen=True)
class Material:
    """Everything that the later steps of a mix need to know of its data.

    `natural` (k,): shares of all training tokens. `bounds`: at target scale. `tasks`: those of the suite first, then
    those that are only measured along. `left_out`: items of a task that kept proxies may have seen. `excluded`: for
    each slice the documents that share text with them, which no shard gets.
    """

    names: tuple[str, ...]
    slices: tuple[ResolvedSlice, ...]
    built: tuple[BuiltSlice, ...]
    rows: tuple[Mapping[str, Any], ...]
    tokenizer: MixTokenizer
    natural: Floats
    bounds: Bounds
    constraints: Constraints
    data: ProxyData
    suite: Suite
    suite_hash: str
    tasks: tuple[TokenTask, ...]
    left_out: Mapping[str, int]
    excluded: tuple[frozenset[str], ...]

    @property
    def data_keys(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.built)

    @property
    def suite_tasks(self) -> tuple[str, ...]:
        """The names of the suite's own tasks."""
        return tuple(self.suite.config.weights())


def material(mix: OpenMix) -> Material:
    """Return a mix's material, made where it is not there yet.

    Raises: UsageError for what is wrong with configuration, suite or workspace.
    """
    config = mix.config

    def tell(built: BuiltSlice, made: bool) -> None:
        if not made:
            return
        parts = [f"{built.tokens.n_documents:,} to train on"]
        parts += [f"{built.held_out:,} held out"] if built.held_out else []
        parts += [f"{built.contaminated:,} share text with the suite"] if built.contaminated else []
        said = f"slice {built.name}: {built.documents_in:,} documents = {' + '.join(parts)}"
        mix.desk.line(f"{said}; {built.tokens.n_tokens:,} tokens")

    suites, tasks = _suites(config)
    with connect(mix.storage) as session:
        slices, documents = _slices(session, config, suites)
        tokenizer = slices_tokenizer(session, config.tokenizer, documents, config.held_out, mix.folder.slices)
        built = build_slices(session, _request(mix, slices, documents, tokenizer, tasks), tell)
        words = config.contamination_words
        shared = [shared_text(session, each, tasks, words, mix.folder.slices) for each in built]
    mix.folder.publish("slices")
    return _material(mix, suites, slices, tokenizer, built, shared)


def kept_material(mix: OpenMix) -> Material | None:
    """Return a mix's material as far as it is there; None where a tokenizer or a slice is to be made. Writes nothing.

    What late tasks share with the slices is not looked for, so that no item is left out of them.

    Raises: UsageError, as `material` does.
    """
    config = mix.config
    suites, tasks = _suites(config)
    with connect(mix.storage) as session:
        slices, documents = _slices(session, config, suites)
        tokenizer = kept_tokenizer(session, config.tokenizer, documents, config.held_out, mix.folder.slices)
        built = None
        if tokenizer is not None:
            built = kept_slices(session, _request(mix, slices, documents, tokenizer, tasks))
    if tokenizer is None or built is None:
        return None
    return _material(mix, suites, slices, tokenizer, built, [{} for _ in built])


def refuse_early(config: MixConfig, step: str) -> None:
    """Refuse what a step would fail at after hours: extras, device, mixtures that others should have made.

    Raises: UsageError.
    """
    if config.swarm.reuse is not None:
        load_mixture(Path(config.swarm.reuse.mixture))
    if step not in STEPS_THAT_TRAIN:
        return
    if config.proxy.kind == "transformer":
        from pipeline.mix.proxies.transformer.proxy import chosen_device, require_torch

        require_torch()
        chosen_device(config.proxy)
    corners = (MAX_SLICES if any(s.by for s in config.slices.values()) else len(config.slices)) * config.swarm.corners
    _require_mixtures(config.fit.model, config.swarm.runs + corners + len(("natural", "uniform", "unimax")))
    if step == "train":
        return
    if config.fit.model == "lightgbm" and "lightgbm" not in sys.modules and find_spec("lightgbm") is None:
        raise MissingDependencyError(
            "fit.model: lightgbm needs an extra: pip install 'gristmill[lightgbm]', or choose another model"
        )
    if step != "fit":
        for stage in config.stages:
            stage_mixture(stage)


def require_runs(model: ModelName, runs: Sequence[RunSpec]) -> None:
    """Refuse a swarm that is too small for a regression, before it is trained.

    Raises: ConfigError.
    """
    _require_mixtures(model, len(np.unique(np.round([run.weights for run in runs], 9), axis=0)))


def _require_mixtures(model: ModelName, count: int) -> None:
    least = LEAST_MIXTURES_OF_TREES if model == "lightgbm" else LEAST_MIXTURES
    if count < least:
        raise ConfigError(
            f"fit.model: {model} needs {least} different mixtures, and the swarm has {count}; raise swarm.runs"
            + (", choose another model" if model == "lightgbm" else "")
            + ", or loosen the slices' bounds"
        )


def _suites(config: MixConfig) -> tuple[list[Suite], list[Task]]:
    """Return the suites, the one to optimise first, and the tasks of all that have files."""
    suites = [load_suite(config.suite), *(load_suite(name) for name in config.measure)]
    return suites, _distinct([task for suite in suites for task in suite.tasks])


def _slices(
    session: Session, config: MixConfig, suites: Sequence[Suite]
) -> tuple[tuple[ResolvedSlice, ...], ChosenDocuments]:
    """Return the slices and their documents, once suites and bounds are known to fit them."""
    slices = tuple(resolve_slices(session, config))
    if len(slices) < 2:
        raise ConfigError(f"slices: {slices[0].name!r} is the only one, so there is nothing to mix; add another")
    if _held_out_configs(suites, [each.name for each in slices]) and config.held_out == 0:
        raise ConfigError("held_out: 0 leaves no held-out text, but a suite measures it; raise `held_out`")
    configs = {each.name: each.config for each in slices}
    constraints_of(configs, dict.fromkeys(configs, 1.0), config.propose.groups).require_choice()
    return slices, chosen_documents(session, slices)


def _request(
    mix: OpenMix,
    slices: tuple[ResolvedSlice, ...],
    documents: ChosenDocuments,
    tokenizer: MixTokenizer,
    tasks: Sequence[Task],
) -> SliceRequest:
    config, folder = mix.config, mix.folder.slices
    words = config.contamination_words
    return SliceRequest(folder, slices, documents, tokenizer, config.held_out, words, tuple(tasks), keep_filtered=True)


def _material(
    mix: OpenMix,
    suites: Sequence[Suite],
    slices: tuple[ResolvedSlice, ...],
    tokenizer: MixTokenizer,
    built: Sequence[BuiltSlice],
    shared: Sequence[Mapping[str, SharedText]],
) -> Material:
    config = mix.config
    by_name = {each.name: each for each in built}
    held_out = _held_out_configs(suites, list(by_name))
    tasks = _distinct([task for suite in suites for task in suite.tasks])
    tasks += [held_out_task(each, by_name[each.slice].held_out_path) for each in held_out]
    items = {
        task.name: sorted({i for each in shared if task.name in each for i in each[task.name].items}) for task in tasks
    }
    rows = tuple(slice_table(built, slices, config.budget_tokens))
    configs = {each.name: each.config for each in slices}
    counts = [each.tokens.n_tokens for each in built]
    bounds = weight_bounds(configs, counts, config.budget_tokens)
    main = {task.name: task for task in tasks}
    own = suites[0].config.weights()
    ordered = [main[name] for name in own] + [task for task in tasks if task.name not in own]
    return Material(
        names=tuple(configs),
        slices=slices,
        built=tuple(built),
        rows=rows,
        tokenizer=tokenizer,
        natural=natural_weights(counts),
        bounds=bounds,
        constraints=constraints_of(configs, {r["slice"]: float(r["cap"]) for r in rows}, config.propose.groups),
        data=_data(mix, built, tokenizer),
        suite=suites[0],
        suite_hash=suites[0].hash_with([main[each.name] for each in suites[0].config.held_out]),
        tasks=tuple(_token_task(task, items[task.name], tokenizer) for task in ordered),
        left_out={name: len(positions) for name, positions in items.items() if positions},
        excluded=tuple(frozenset(i for found in each.values() for i in found.documents) for each in shared),
    )


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks once each. Raises: ConfigError when two of one name are not the same."""
    by_name: dict[str, Task] = {}
    for task in tasks:
        if by_name.setdefault(task.name, task).key != task.key:
            raise ConfigError(
                f"measure: task {task.name!r} has other items than the suite's task of that name; rename it"
            )
    return list(by_name.values())


def _held_out_configs(suites: Sequence[Suite], names: Sequence[str]) -> list[HeldOutConfig]:
    by_name: dict[str, HeldOutConfig] = {}
    for suite in suites:
        for each in suite.config.held_out:
            if each.slice not in names:
                hint = nearest(each.slice, names) or f"; slices: {', '.join(names)}"
                raise ConfigError(f"{suite.path}: held_out: no slice is named {each.slice!r}{hint}")
            by_name.setdefault(each.name, each)
    return list(by_name.values())


def _token_task(task: Task, left_out: Sequence[int], tokenizer: MixTokenizer) -> TokenTask:
    """Return a task as tokens, without the items that training may have seen."""
    tokens = tokenise_task(task, tokenizer)
    if not left_out:
        return tokens
    hit = set(left_out)
    kept = tuple(item for position, item in enumerate(tokens.items) if position not in hit)
    if not kept:
        raise InputError(
            f"task {task.name!r}: all {len(tokens.items)} items share text with the training slices, so measuring them "
            "says nothing; leave the task out, or delete the mix's `slices` folder to keep its text out and train anew"
        )
    return replace(tokens, key=digest([task.key, list(left_out)]), items=kept)


def _data(mix: OpenMix, built: Sequence[BuiltSlice], tokenizer: MixTokenizer) -> ProxyData:
    stores = tuple(each.tokens for each in built)
    counts = [store.n_tokens for store in stores]
    match = mix.config.swarm.match_target_epochs
    pools = whole_documents(stores, pool_tokens(counts, mix.config.budget_tokens, mix.config.proxy.tokens, match))
    return ProxyData(stores, np.asarray(pools, np.int64), tokenizer.vocabulary, tokenizer.eos)


def slices_text(found: Material) -> str:
    """Return the table of slices that a person wants to see."""
    rows = [
        {
            **{name: row[name] for name in ("slice", "documents", "tokens", "bytes")},
            "natural": f"{row['proportion']:.4f}",
            "cap": f"{row['cap']:.4f}",
            "held_out": row["held_out"],
            "contaminated": row["contaminated"],
        }
        for row in found.rows
    ]
    return text_table(rows)

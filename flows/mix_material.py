"""What a mix is made of: slices as token stores, their limits at the target, the suite's tasks as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flows.mix_open import OpenMix
from pipeline.mix.config import HeldOutConfig
from pipeline.mix.constraints import Constraints, constraints_of
from pipeline.mix.late_tasks import shared_text
from pipeline.mix.slice_build import BuiltSlice, SliceRequest, build_slices, slice_table
from pipeline.mix.slices import ResolvedSlice, chosen_documents, resolve_slices
from pipeline.mix.suites import Suite, held_out_task, load_suite, tokenise_task
from pipeline.mix.swarm_space import Bounds, natural_weights, pool_tokens, weight_bounds, whole_documents
from pipeline.mix.tokenizer import MixTokenizer
from pipeline.mix.tokenizer_sample import slices_tokenizer
from pipeline.mix.types import Floats, ProxyData, Task, TokenTask
from pipeline.table.errors import ConfigError, InputError, nearest
from pipeline.table.shards import digest
from pipeline.table.sql import connect


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
    suites = [load_suite(config.suite), *(load_suite(name) for name in config.measure)]
    file_tasks = _distinct([task for suite in suites for task in suite.tasks])
    with connect(mix.storage) as session:
        slices = tuple(resolve_slices(session, config))
        held_out = _held_out_configs(suites, [each.name for each in slices])
        documents = chosen_documents(session, slices)
        tokenizer = slices_tokenizer(session, config.tokenizer, documents, config.held_out, mix.folder.slices)
        request = SliceRequest(
            mix.folder.slices,
            slices,
            documents,
            tokenizer,
            config.held_out,
            config.contamination_words,
            tuple(file_tasks),
            keep_filtered=True,
        )
        built = tuple(build_slices(session, request, mix.tell_slice))
        shared = [
            shared_text(session, each, file_tasks, config.contamination_words, mix.folder.slices) for each in built
        ]
    by_name = {each.name: each for each in built}
    tasks = [*file_tasks, *(held_out_task(each, by_name[each.slice].held_out_path) for each in held_out)]
    items = {
        task.name: sorted({i for each in shared if task.name in each for i in each[task.name].items}) for task in tasks
    }
    rows = tuple(slice_table(built, slices, config.budget_tokens))
    configs = {each.name: each.config for each in slices}
    counts = [each.tokens.n_tokens for each in built]
    bounds = weight_bounds(configs, counts, config.budget_tokens)
    caps = {row["slice"]: float(row["cap"]) for row in rows}
    main = {task.name: task for task in tasks}
    return Material(
        names=tuple(configs),
        slices=slices,
        built=built,
        rows=rows,
        tokenizer=tokenizer,
        natural=natural_weights(counts),
        bounds=bounds,
        constraints=constraints_of(configs, caps, config.propose.groups),
        data=_data(mix, built, tokenizer),
        suite=suites[0],
        suite_hash=suites[0].hash_with([main[each.name] for each in suites[0].config.held_out]),
        tasks=tuple(_token_task(task, items[task.name], tokenizer) for task in _suite_first(suites[0], tasks)),
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


def _suite_first(suite: Suite, tasks: Sequence[Task]) -> list[Task]:
    own = suite.config.weights()
    by_name = {task.name: task for task in tasks}
    return [by_name[name] for name in own] + [task for task in tasks if task.name not in own]


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

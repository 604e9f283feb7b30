"""What a mix is made of: slices as token stores, their limits at the target, the suite's tasks as tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.config import MAX_SLICES, HeldOutConfig, MixConfig, ResolvedSlice, Suite
from pipeline.mix.material.build import SharedText, SliceRequest, build_slices, kept_slices, shared_text
from pipeline.mix.material.slices import chosen_documents, resolve_slices
from pipeline.mix.material.suites import held_out_task, load_suite, suite_hash, tokenise_task
from pipeline.mix.material.tokenizer import MixTokenizer, kept_tokenizer, slices_tokenizer
from pipeline.mix.proxies.transformer.proxy import chosen_device, require_torch
from pipeline.mix.steps.train import require_mixtures
from pipeline.mix.steps.types import Material, OpenMix
from pipeline.mix.steps.workspace import stage_mixture
from pipeline.mix.types import BuiltSlice, ChosenDocuments, ProxyData, Task, TokenTask
from pipeline.mix.weights.mixture import load_mixture
from pipeline.mix.weights.space import constraints_of, natural_weights, pool_tokens, weight_bounds, whole_documents
from pipeline.table.errors import ConfigError, InputError, MissingDependencyError, nearest
from pipeline.table.format import text_table
from pipeline.table.shards import digest
from pipeline.table.sql import Session, connect

STEPS_THAT_TRAIN = ("train", "fit", "propose", "verify", "sample", "run")


def material(mix: OpenMix) -> Material:
    """Return a mix's material, made where it is not there yet.

    Raises: UsageError for what is wrong with configuration, suite or workspace.
    """
    found = _material(mix, make=True)
    assert found is not None
    mix.folder.publish("slices")
    return found


def kept_material(mix: OpenMix) -> Material | None:
    """Return a mix's material as far as it is there; None where a tokenizer or a slice is to be made. Writes nothing.

    What late tasks share with the slices is not looked for, so that no item is left out of them.

    Raises: UsageError, as `material` does.
    """
    return _material(mix, make=False)


def refuse_early(config: MixConfig, step: str) -> None:
    """Refuse what a step would fail at after hours: extras, device, mixtures that others should have made.

    Raises: UsageError.
    """
    if config.swarm.reuse is not None:
        load_mixture(Path(config.swarm.reuse.mixture))
    if step not in STEPS_THAT_TRAIN:
        return
    if config.proxy.kind == "transformer":
        require_torch()
        chosen_device(config.proxy)
    corners = (MAX_SLICES if any(s.by for s in config.slices.values()) else len(config.slices)) * config.swarm.corners
    require_mixtures(config.fit.model, config.swarm.runs + corners + len(("natural", "uniform", "unimax")))
    if step == "train":
        return
    if config.fit.model == "lightgbm" and "lightgbm" not in sys.modules and find_spec("lightgbm") is None:
        raise MissingDependencyError(
            "fit.model: lightgbm needs an extra: pip install 'gristmill[lightgbm]', or choose another model"
        )
    if step != "fit":
        for stage in config.stages:
            stage_mixture(stage)


def _material(mix: OpenMix, make: bool) -> Material | None:
    config, folder = mix.config, mix.folder.slices
    suites = [load_suite(config.suite), *(load_suite(name) for name in config.measure)]
    tasks = _distinct([task for suite in suites for task in suite.tasks])
    with connect(mix.storage) as session:
        slices, documents = _slices(session, config, suites)
        tokenizer_of = slices_tokenizer if make else kept_tokenizer
        tokenizer = tokenizer_of(session, config.tokenizer, documents, config.held_out, folder)
        if tokenizer is None:
            return None
        words = config.contamination_words
        request = SliceRequest(folder, slices, documents, tokenizer, config.held_out, words, tuple(tasks))
        built = build_slices(session, request, lambda made: _tell(mix, made)) if make else kept_slices(session, request)
        if built is None:
            return None
        shared = [shared_text(session, each, tasks, words, folder) if make else {} for each in built]
    return _found(mix, suites, slices, tokenizer, built, shared)


def _tell(mix: OpenMix, made: BuiltSlice) -> None:
    parts = [f"{made.tokens.n_documents:,} to train on"]
    parts += [f"{made.held_out:,} held out"] if made.held_out else []
    parts += [f"{made.contaminated:,} share text with the suite"] if made.contaminated else []
    said = f"slice {made.name}: {made.documents_in:,} documents = {' + '.join(parts)}"
    mix.desk.line(f"{said}; {made.tokens.n_tokens:,} tokens")


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


def _found(
    mix: OpenMix,
    suites: Sequence[Suite],
    slices: tuple[ResolvedSlice, ...],
    tokenizer: MixTokenizer,
    built: Sequence[BuiltSlice],
    shared: Sequence[Mapping[str, SharedText]],
) -> Material:
    config = mix.config
    stores = tuple(each.tokens for each in built)
    paths = {each.name: each.held_out_path for each in built}
    held_out = [held_out_task(each, paths[each.slice]) for each in _held_out_configs(suites, list(paths))]
    tasks = {task.name: task for task in (*_distinct([t for suite in suites for t in suite.tasks]), *held_out)}
    own = suites[0].config.weights()
    ordered = [tasks[name] for name in (*own, *(name for name in tasks if name not in own))]
    items = {name: sorted({i for each in shared if name in each for i in each[name].items}) for name in tasks}
    configs = {each.name: each.config for each in slices}
    counts = [store.n_tokens for store in stores]
    natural = natural_weights(counts)
    constraints = weight_bounds(configs, counts, config.budget_tokens, config.propose.groups)
    rows: tuple[dict[str, Any], ...] = tuple(
        {
            "slice": each.name,
            "documents": each.tokens.n_documents,
            "tokens": each.tokens.n_tokens,
            "bytes": each.tokens.n_bytes,
            "proportion": float(share),
            "cap": min(1.0, configs[each.name].max_epochs * each.tokens.n_tokens / config.budget_tokens),
            "held_out": each.held_out,
            "contaminated": each.contaminated,
        }
        for each, share in zip(built, natural, strict=True)
    )
    match = config.swarm.match_target_epochs
    pools = whole_documents(stores, pool_tokens(counts, config.budget_tokens, config.proxy.tokens, match))
    return Material(
        names=tuple(configs),
        slices=slices,
        built=tuple(built),
        rows=rows,
        tokenizer_hash=tokenizer.content_hash,
        natural=natural,
        constraints=constraints,
        data=ProxyData(stores, np.asarray(pools, np.int64), tokenizer.vocabulary, tokenizer.eos),
        suite=suites[0],
        suite_hash=suite_hash(suites[0].config, [tasks[name] for name in own]),
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

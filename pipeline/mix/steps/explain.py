"""`gristmill mix explain`: why a slice has the weight that it has, and what changed since the last proposal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.mix.steps.types import OpenMix
from pipeline.mix.steps.workspace import stored_config
from pipeline.mix.types import from_json
from pipeline.mix.weights.mixture import Mixture, load_mixture
from pipeline.mix.weights.proposal import Proposal
from pipeline.table.errors import UsageError, nearest
from pipeline.table.format import Answer, text_table
from pipeline.table.kept import as_written, read_json


def explain_mixture(mix: OpenMix, slice_name: str | None) -> Answer:
    """Return what pulls slices up and down in a proposal: all of them, or one at length. Reads files alone.

    Raises: UsageError when nothing was proposed yet, or no slice has that name.
    """
    if mix.proposal is None:  # the one that this configuration led to
        written = [name for name in mix.folder.history() if mix.folder.proposal(name).config.is_file()]
        mine = [name for name in written if stored_config(mix.folder, name, mix.config) == mix.config]
        mix = replace(mix, proposal=mine[-1] if mine else None)
    if mix.proposal is None:
        raise UsageError(f"mix explain: nothing is proposed yet; make it with {mix.command_of('propose')}")
    folder = mix.folder.proposal(mix.proposal)
    value = read_json(folder.proposal)
    if not isinstance(value, dict) or not folder.mixture.is_file():
        raise UsageError(f"mix explain: {folder.path} is not finished; make it with {mix.command_of('propose')}")
    with as_written(folder.proposal):
        proposal = from_json(Proposal, value["proposal"], str(folder.proposal), "propose")
    mixture = load_mixture(folder.mixture)
    if slice_name is not None and slice_name not in mixture.weights:
        raise UsageError(f"mix explain: no slice is named {slice_name!r}{nearest(slice_name, mixture.weights)}")
    names = [slice_name] if slice_name else sorted(mixture.weights, key=lambda name: -mixture.weights[name])
    before = _before(mix, mixture)
    rows = [_row(proposal, mixture, before, name) for name in names]
    lines = _one(proposal, mixture, rows[0], before) if slice_name else _all(proposal, mixture, rows, before)
    return Answer(rows, "\n".join(lines))


def _before(mix: OpenMix, mixture: Mixture) -> Mixture | None:
    history = mix.folder.history()
    while history and history[-1] != mix.proposal:  # an earlier proposal was asked for
        history.pop()
    path = mix.folder.proposal(history[-2]).mixture if len(history) > 1 else None
    return load_mixture(path) if path and path.is_file() else None


def _row(proposal: Proposal, mixture: Mixture, before: Mixture | None, name: str) -> dict[str, Any]:
    """Return one slice: its weight with interval, what five points more or less cost, and each task's part of it."""
    answer, known = proposal.slices[name], mixture.slices[name]
    return {
        "slice": name,
        "weight": mixture.weights[name],
        "low": known.low,
        "high": known.high,
        "natural": known.natural,
        "before": before.weights.get(name) if before else None,
        "five_points_more": answer.more,
        "five_points_less": answer.less,
        "bound": next((active.kind for active in proposal.active if active.name == name), None),
        "tasks": dict(sorted(answer.pulls.items(), key=lambda item: item[1])),
    }


def _all(proposal: Proposal, mixture: Mixture, rows: Sequence[dict[str, Any]], before: Mixture | None) -> list[str]:
    shown = []
    for row in rows:
        up, down = [t for t, v in row["tasks"].items() if v < 0], [t for t, v in row["tasks"].items() if v > 0]
        shown.append(
            {
                "slice": row["slice"],
                "natural": f"{row['natural']:.1%}",
                **({"before": _share(row["before"])} if before else {}),
                "now": f"{row['weight']:.1%}",
                "90 %": f"{row['low']:.1%} to {row['high']:.1%}",
                "+5 points": _signed(row["five_points_more"]),
                "pulled up by": f"{up[0]} ({_signed(row['tasks'][up[0]])})" if up else "-",
                "pulled down by": f"{down[-1]} ({_signed(row['tasks'][down[-1]])})" if down else "-",
            }
        )
    return [_heading(mixture), text_table(shown), *_changed(mixture, before), _UNITS]


def _one(proposal: Proposal, mixture: Mixture, row: dict[str, Any], before: Mixture | None) -> list[str]:
    name = row["slice"]
    lines = [
        _heading(mixture),
        f"{name}: {row['weight']:.2%} (90 % {row['low']:.2%} to {row['high']:.2%}), natural {row['natural']:.2%}"
        + (f", before {_share(row['before'])}" if before else ""),
        f"five points more: {_signed(row['five_points_more'])}; five points less: {_signed(row['five_points_less'])}",
    ]
    if row["bound"]:
        lines.append(f"held by a bound: {row['bound']}")
    tasks = [
        {"task": task, "through it, +5 points": _signed(value), "asks for": "more" if value < 0 else "less"}
        for task, value in row["tasks"].items()
    ]
    return [*lines, text_table(tasks), *_changed(mixture, before), _UNITS]


_UNITS = "Changes of the suite's metric (below zero is better), by the regression; the other slices keep their ratios."


def _heading(mixture: Mixture) -> str:
    known = mixture.provenance
    said = f", proposal {known.proposal}, suite {known.suite}, KL weight {known.kl:g}" if known else ""
    return f"mix {mixture.name}{said}; written: {mixture.verified.uses or 'proposal'}, evidence: {mixture.evidence}"


def _changed(mixture: Mixture, before: Mixture | None) -> list[str]:
    """Return what is different from the proposal that was written before: its settings, then its weights."""
    now, then = mixture.provenance, before.provenance if before else None
    if before is None or now is None or then is None:
        return ["No other proposal was written before this one."]
    pairs = {
        "suite": (then.suite, now.suite),
        "task weights": (then.task_weights, now.task_weights),
        "runs": (then.runs, now.runs),
        "objective": (then.objective, now.objective),
        "KL weight": (then.kl, now.kl),
    }
    told = [f"{what} {_brief(old)} -> {_brief(new)}" for what, (old, new) in pairs.items() if old != new]
    moved = sorted(mixture.weights, key=lambda name: -abs(mixture.weights[name] - before.weights.get(name, 0.0)))
    shifts = [f"{n} {100 * (mixture.weights[n] - before.weights.get(n, 0.0)):+.1f}" for n in moved[:5]]
    return [f"Since proposal {then.proposal}: {'; '.join(told) or 'the same settings'}. Points: {', '.join(shifts)}."]


def _brief(value: object) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.5f}"

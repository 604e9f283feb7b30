"""`mixture.yaml`: the weights to train with, what they rest on, and what is known of them. Made to be read by people.

A file that holds a name and weights alone is a mixture too, so one can be written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import ConfigDict, Field, model_validator

from pipeline.mix.config import Kind, Name
from pipeline.mix.types import Difference, Estimate, Evidence, Floats
from pipeline.table.config import StageConfig, validate
from pipeline.table.errors import ConfigError, nearest
from pipeline.table.kept import read_yaml, write_file

SUM_TOLERANCE = 1e-9

Share = Annotated[float, Field(ge=0, le=1)]
Weights = dict[str, Share]


class MixtureConfig(StageConfig):
    """Base of what a mixture file holds: every number is finite, those of the dataclasses in it among them.

    Dataclasses take the rules of the model that holds them, and are checked as well when they come ready made.
    """

    model_config = ConfigDict(allow_inf_nan=False, revalidate_instances="always")


class MixedSlice(MixtureConfig):
    """What is known of one slice of a mixture."""

    natural: Share = Field(description="its share of the slices' tokens")
    cap: float = Field(ge=0, description="the weight at which the budget repeats it `max_epochs` times, at most 1")
    tokens: int = Field(ge=0, description="its training tokens")
    epochs: float = Field(ge=0, description="how often the budget repeats it with the weight that is written")
    max_epochs: float = Field(gt=0, description="how often it may be repeated at most")
    low: Share = Field(description="from here to `high` the best weight lies, 90 %; that which is written lies inside")
    high: Share = Field(description="the end of the interval that begins with `low`")


class Expected(MixtureConfig):
    """What is expected of a new run with the weights: by the regression, or by it and verification together."""

    metric: Estimate = Field(description="the suite's weighted metric, `optimism` taken off; `low` to `high`: 90 %")
    natural: Estimate = Field(description="that of the natural mixture")
    improvement: Estimate = Field(description="what is gained over the natural mixture: above 0 it is better")
    optimism: float = Field(
        0.0, ge=0, description="what choosing the best of many predictions flatters the proposal by"
    )
    tasks: dict[str, Estimate] = Field(description="each task's metric")


class VerifiedSize(MixtureConfig):
    """What fresh runs of one size measured."""

    size: float = Field(gt=0, description="multiple of the proxies' parameters and tokens")
    seeds: int = Field(ge=1, description="fresh seeds of each candidate")
    seed_sd: float = Field(ge=0, description="pooled standard deviation of a single run over seeds")
    metric: dict[str, float] = Field(description="each candidate's weighted metric, the mean over the seeds")
    expected: dict[str, float] = Field(
        default_factory=dict, description="what is expected of each, by the regression and these runs together"
    )


class Verified(MixtureConfig):
    """What fresh proxies said."""

    uses: str | None = Field(
        None,
        description="whose weights are written: `proposal`, `natural`, `uniform` or `best_seen`; null: not verified",
    )
    why: str = Field("", description="why that one, in words")
    sizes: tuple[VerifiedSize, ...] = ()
    differences: dict[str, Difference] = Field(
        default_factory=dict,
        description="the metric of `uses` less that of each other candidate, paired by seed, at the size that decides: "
        "below 0 it is better",
    )
    tasks_inside: str = Field("", description="how many predictions of the proposal held")
    proposed: Weights | None = Field(None, description="the proposal's weights, where others are written")


class MixtureStage(MixtureConfig):
    """A stage of the target run: a share of its tokens, with its own suite and weights."""

    name: Name = Field(description="name of the stage")
    share: float = Field(gt=0, le=1, description="share of `budget_tokens`")
    tokens: int = Field(ge=0, description="tokens of the stage")
    suite: str = Field(description="the suite that its weights were chosen for")
    suite_hash: str = Field(description="hash of that suite's tasks")
    weights: Weights = Field(description="weights by the slices' names, which sum to 1")


class ProxyInfo(MixtureConfig):
    """Which small models the mixture comes from."""

    kind: Kind = Field(description="as `proxy.kind` of the mix")
    parameters: int = Field(ge=0, description="parameters, embeddings not counted; 0 for n-grams")
    tokens: int = Field(ge=0, description="training tokens of one run")


class Provenance(MixtureConfig):
    """Everything that the weights follow from."""

    proposal: str = Field("", description="its folder under `proposals`")
    suite: str = Field(description="the suite's file or preset")
    suite_hash: str = Field(description="hash of its tasks")
    task_weights: dict[str, float] = Field(description="each task's weight; below 0 where larger is better")
    tokenizer_hash: str = Field(description="hash of the tokenizer")
    slice_keys: dict[str, str] = Field(description="of each slice a hash of all that decides its tokens")
    runs: int = Field(ge=0, description="proxy runs that were fitted")
    proxy: ProxyInfo
    models: dict[str, str] = Field(description="regression of each metric")
    objective: Literal["expected", "upper"] = Field(description="as `propose.objective` of the mix")
    kl: float = Field(ge=0, description="weight of KL(mixture || natural) that was used")
    seeds: dict[str, int] = Field(default_factory=dict, description="seeds of the swarm, the proxies and the fit")
    versions: dict[str, str] = Field(default_factory=dict, description="Gristmill and the libraries that computed it")


class Mixture(MixtureConfig):
    """A mixture: weights by the slices' names, which sum to 1."""

    name: Name = Field(description="name of the mix")
    budget_tokens: int | None = Field(None, ge=1, description="tokens of the target run")
    weights: Weights = Field(min_length=1, description="shares of the tokens by the slices' names; they sum to 1")
    slices: dict[str, MixedSlice] = Field(default_factory=dict, description="what is known of each slice")
    predicted: Expected | None = None
    evidence: Evidence | None = Field(
        None, description="how sure it is that it is better than the natural mixture; not verified: `none`"
    )
    verified: Verified = Verified()
    stages: tuple[MixtureStage, ...] = ()
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Mixture:
        _check_sum("weights", self.weights)
        for name in self.slices:
            if name not in self.weights:
                raise ValueError(f"slices.{name}: no weight has that name{nearest(name, self.weights)}")
        for stage in self.stages:
            _check_sum("stages", stage.weights)
        shares = math.fsum(stage.share for stage in self.stages)
        if self.stages and abs(shares - 1) > SUM_TOLERANCE:
            raise ValueError(f"stages: their shares add up to {shares:.10g}, not 1")
        return self

    @property
    def vector(self) -> Floats:
        """The weights in the file's order, float64 (k,)."""
        return np.array(list(self.weights.values()), np.float64)


def _check_sum(key: str, weights: Mapping[str, float]) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"{key}: they add up to {total:.10g}, not 1; change one by {1 - total:+.10g}")


def short(value: float) -> float:
    """Return a number to six digits: more would say more than is known."""
    return float(f"{value:.6g}")


def write_mixture(path: Path, mixture: Mixture) -> None:
    """Write a mixture file, atomically."""
    write_file(path, mixture_text(mixture).encode())


def mixture_text(mixture: Mixture) -> str:
    """Return a mixture file's text; `load_mixture` reads back an equal mixture."""
    value = mixture.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    parts = [f"# The mixture {mixture.name}: {len(mixture.weights)} slices{_budget(mixture)}.\n# {_state(mixture)}\n"]
    parts.append(f"name: {_key(mixture.name)}\n")
    if mixture.budget_tokens:
        parts.append(f"budget_tokens: {mixture.budget_tokens}\n")
    parts += ["\nweights:  # shares of the tokens; they sum to exactly 1\n", _weight_lines(mixture)]
    comments = {
        "slices": "low to high: where the best weight lies (90 %); cap: the weight that max_epochs allows",
        "predicted": "of a new run with these weights: suite metric and tasks in bits per byte (90 %)",
        "evidence": "that they are better than the natural mixture: confirmed, likely or none",
        "verified": "fresh proxies of all candidates, compared seed by seed: this minus the others",
        "stages": "of the target run",
        "provenance": "what the weights follow from",
    }
    for key, comment in comments.items():
        if value.get(key):
            shown = _dump({key: value[key]}) if isinstance(value[key], (dict, list)) else f"{key}: {value[key]}\n"
            parts.append(f"\n# {comment}\n{shown}")
    return "".join(parts)


def _weight_lines(mixture: Mixture) -> str:
    names = {name: _key(name) for name in mixture.weights}
    width = max(len(name) for name in names.values())
    lines = []
    for name, weight in mixture.weights.items():
        line = f"  {names[name]}:{' ' * (width - len(names[name]))} {_plain(weight)}"
        if name in mixture.slices:
            s = mixture.slices[name]
            line = f"{line:<{width + 14}}# natural {s.natural:.4g}; {s.epochs:.3g} of {s.max_epochs:.3g} epochs"
        lines.append(line + "\n")
    return "".join(lines)


def _key(name: str) -> str:
    """Return a name as YAML takes it for text: `no` and `null` need quotes."""
    return str(yaml.safe_dump({name: 0}, default_flow_style=False, allow_unicode=True, width=1000)).rsplit(":", 1)[0]


def _plain(value: float) -> str:
    """Return the shortest decimal that is read back as `value`, without an exponent (YAML takes 1e-05 for text)."""
    return format(Decimal(repr(value)), "f")


def _budget(mixture: Mixture) -> str:
    return f" for {mixture.budget_tokens:,} tokens" if mixture.budget_tokens else ""


def _state(mixture: Mixture) -> str:
    uses = mixture.verified.uses
    if uses is None:
        return "Not verified: what it is expected to gain is a regression's prediction."
    return f"Verified with fresh proxies: {uses} is expected to be best; evidence: {mixture.evidence}."


def _dump(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(value), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True))


def load_mixture(path: Path) -> Mixture:
    """Return the mixture of a file.

    Raises: ConfigError, with one line that names file, line and key, when it is absent or no mixture, or when its
    weights do not sum to 1 within 1e-9.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist; `gristmill mix propose` writes a mixture")
    value, lines = read_yaml(path)
    return validate(Mixture, value, str(path), lines)

"""What a mix configuration and an evaluation suite can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.mix.types import Task
from pipeline.table.config import Address, StageConfig

Kind = Literal["ngram", "transformer"]
ModelName = Literal["auto", "linear", "log_linear", "effective_data", "gp", "lightgbm"]
Objective = Literal["expected", "upper"]
Direction = Literal["lower", "higher"]
"""Which way a metric is better."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
MAX_SLICES = 512


def _identifier(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be an identifier in lower case")
    return name


Name = Annotated[str, AfterValidator(_identifier)]


class SliceConfig(StageConfig):
    """One thing that is mixed: kept documents that a predicate chooses."""

    where: str = Field(min_length=1, description="SQL predicate over the kept rows of `main.everything`")
    by: tuple[str, ...] = Field((), description="SQL expressions; each combination of their values is a slice")
    max_epochs: float = Field(4.0, gt=0, le=1000, description="how often the target run may repeat it at most")
    min_weight: float = Field(0.0, ge=0, lt=1, description="least weight")
    max_weight: float = Field(1.0, gt=0, le=1, description="largest weight")
    weight: float | None = Field(None, ge=0, lt=1, description="fixed weight")
    group: str | None = Field(None, description="name that `propose.groups` bounds together")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> SliceConfig:
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight {self.min_weight} is larger than max_weight {self.max_weight}")
        return self


@dataclass(frozen=True)
class ResolvedSlice:
    """A slice whose predicate is known to work, and how many kept documents it chooses."""

    name: str
    where: str
    """SQL; for one that `by` gave with the values that it stands for."""
    config: SliceConfig
    documents: int


class TokenizerTraining(StageConfig):
    """A byte-level BPE tokenizer trained on the slices."""

    vocabulary: int = Field(4096, ge=260, le=1 << 20, description="tokens, the end-of-document token among them")


class TokenizerConfig(StageConfig):
    """Which tokenizer counts, trains and writes tokens: one of the two."""

    train: TokenizerTraining | None = Field(
        None, description="a byte-level BPE tokenizer trained on the slices: what is done unless `file` is given"
    )
    file: Address | None = Field(None, description="a tokenizers file (.json)")
    end_of_document: str | None = Field(None, description="token of `file` that ends a document; null: it is found")

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizerConfig:
        if (self.train is None) == (self.file is None):
            raise ValueError("give either `train` or `file`")
        return self


class Reuse(StageConfig):
    """An earlier mixture whose ratios stay frozen while new slices are added."""

    mixture: str = Field(
        description="mixture.yaml of an earlier mix: the ratios of its slices stay frozen, and only the weight of "
        "the block and of new slices is sought"
    )
    frozen: tuple[Name, ...] = Field((), description="slices of that mixture that keep their ratios; empty: all")


class SwarmConfig(StageConfig):
    """Which mixtures the proxies train on."""

    runs: int = Field(64, ge=2, le=100_000, description="mixtures drawn; baselines and replicates come on top")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="seed of the drawing, and the first one of the proxies")
    strengths: tuple[float, float] = Field(
        (0.1, 5.0), description="least and largest Dirichlet strength, drawn evenly on a log scale"
    )
    temperatures: tuple[float, ...] = Field(
        (1.0, 0.5), min_length=1, description="the centre is natural ** temperature: 1 natural, 0 uniform"
    )
    min_weight: float = Field(0.002, ge=0, lt=0.5, description="smaller weights become zero")
    candidates: int = Field(32, ge=1, le=1024, description="drawn for each mixture that is kept, evenly spread")
    corners: bool = Field(True, description="one run on each slice alone, within its cap")
    replicates: int = Field(
        8,
        ge=2,
        le=64,
        description="seeds that runs are dealt over in turn; the natural mixture is trained with each, uniform and "
        "two corners with two",
    )
    match_target_epochs: bool = Field(
        True, description="proxies see a slice as often as the target would: they draw from a share of its documents"
    )
    reuse: Reuse | None = None


class EarlyStopping(StageConfig):
    """Ends proxy runs that will not be among the best. Their wider uncertainty stays in the fit."""

    best_share: float = Field(0.2, gt=0, lt=1, description="the best share of the runs is what is looked for")
    threshold: float = Field(0.02, gt=0, lt=1, description="a run less likely than this to be among them stops")
    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 0.75), min_length=1, description="shares of the tokens to look at"
    )


class ProxyConfig(StageConfig):
    """The small models that stand for the large one."""

    kind: Kind = Field(
        "ngram",
        description="`ngram` counts, thousands of mixtures a minute; `transformer` trains small decoders (extra "
        "`proxy`)",
    )
    parameters: int = Field(
        1_000_000, ge=1_000, le=10**10, description="parameters of a transformer, about so many, embeddings not counted"
    )
    tokens: int = Field(10_000_000, ge=1_000, le=10**13, description="training tokens of one run")
    workers: int = Field(1, ge=1, le=1024, description="training processes, each on one core")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where transformers train; `auto` takes a GPU where there is one"
    )
    seed: int = Field(1, ge=0, le=2**31 - 1, description="seed of initial weights and order of documents")
    context: int = Field(256, ge=16, le=65_536, description="tokens a model sees at once")
    batch_tokens: int = Field(8_192, ge=16, le=1 << 24, description="tokens of one step")
    learning_rate: float | None = Field(None, gt=0, le=1, description="learning rate at its peak; null: by size")
    early_stopping: EarlyStopping | None = None


class FitConfig(StageConfig):
    """Which regression maps a mixture to each metric."""

    model: ModelName = Field(
        "auto",
        description="regression model; `auto` takes the effective-data law, a Gaussian process on what it leaves, or "
        "`linear`, as they predict; `lightgbm` needs its extra",
    )
    bootstrap: int = Field(64, ge=8, le=10_000, description="refits that intervals rest on")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="seed of the refits")


class GroupBounds(StageConfig):
    """Bounds on the sum of the weights of the slices of a group."""

    min_weight: float = Field(0.0, ge=0, le=1, description="least sum of the weights of a group's slices")
    max_weight: float = Field(1.0, ge=0, le=1, description="largest sum of the weights of a group's slices")


class ProposeConfig(StageConfig):
    """What the proposed mixture optimises."""

    objective: Objective = Field(
        "expected", description="what is least: the `expected` metric, or the `upper` end of its 90 % interval"
    )
    kl: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="weight of KL(mixture || natural) in the objective; null: measured on halves of the runs",
    )
    groups: dict[str, GroupBounds] = Field(
        default_factory=dict, description="bounds on groups of slices, by the names that `slices.NAME.group` gives them"
    )


class VerifyConfig(StageConfig):
    """How a proposal is held against the baselines with fresh proxies."""

    seeds: int = Field(3, ge=2, le=64, description="fresh seeds of each mixture")
    larger: float | None = Field(None, gt=1, le=1000, description="also at this multiple of parameters and tokens")
    rounds: int = Field(0, ge=0, le=10, description="active rounds: verified runs join the fit, which proposes again")


class SampleConfig(StageConfig):
    """How token shards are written."""

    format: Literal["npy", "megatron", "parquet"] = Field(
        "npy", description="`npy` as OLMo-core reads it, `megatron` (.bin and .idx) or `parquet`"
    )
    shard_tokens: int = Field(100_000_000, ge=1_000, le=10**12, description="tokens a shard holds at most")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="seed of the order of documents")


class TargetStage(StageConfig):
    """A later stage of the target run, with its own suite and slices: another mix configuration."""

    name: Name = Field(description="name of the stage, an identifier")
    config: str = Field(description="mix configuration of this stage, made first")
    share: float = Field(gt=0, lt=1, description="share of `budget_tokens`")


class MixConfig(StageConfig):
    """A whole mix, as `gristmill mix run` reads it."""

    workspace: Address = Field(
        min_length=1,
        description="the workspace whose curated documents are mixed, and where the mix lies: a local path or a URL, "
        "which is worked on in a copy in the user's cache",
    )
    name: Name | None = Field(None, description="folder under `<workspace>/mix`; null is the file's name")
    slices: dict[Name, SliceConfig] = Field(min_length=1, description="what is mixed, by names of your own")
    suite: Address = Field(description="a suite's file, or the name of a preset")
    measure: tuple[str, ...] = Field((), description="more suites whose tasks the proxies are measured on")
    budget_tokens: int = Field(ge=1_000, le=10**15, description="tokens of the target run")
    tokenizer: TokenizerConfig = TokenizerConfig(train=TokenizerTraining())
    held_out: float = Field(0.01, ge=0, le=0.5, description="share of each slice's documents never trained on")
    contamination_words: int = Field(13, ge=5, le=100, description="a shared run of so many words is contamination")
    swarm: SwarmConfig = SwarmConfig()
    proxy: ProxyConfig = ProxyConfig()
    fit: FitConfig = FitConfig()
    propose: ProposeConfig = ProposeConfig()
    verify: VerifyConfig = VerifyConfig()
    sample: SampleConfig = SampleConfig()
    stages: tuple[TargetStage, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> MixConfig:
        for group in self.propose.groups:
            if group not in {s.group for s in self.slices.values()}:
                raise ValueError(f"propose.groups.{group}: no slice has `group: {group}`")
        fixed = sum(s.weight or 0.0 for s in self.slices.values())
        if fixed >= 1:
            raise ValueError(f"slices: fixed weights add up to {fixed:g}; leave something to choose")
        if sum(stage.share for stage in self.stages) >= 1:
            raise ValueError("stages: their shares leave nothing for the first stage")
        return self


class TaskConfig(StageConfig):
    """One task of a suite: JSON lines with `prompt` and `continuation`."""

    name: Name = Field(description="name of the task, an identifier")
    path: str = Field(min_length=1, description=".jsonl, .jsonl.gz or .jsonl.zst with `id`, `prompt`, `continuation`")
    metric: Literal["bits_per_byte"] = Field(
        "bits_per_byte",
        description="what is measured: bits per UTF-8 byte of the gold continuations, the only metric yet",
    )
    direction: Direction = Field(
        "lower", description="which way is better; `higher`: such as the loss on text that a model shall not learn"
    )
    weight: float = Field(1.0, ge=0, le=1e6, description="share of the weighted metric, after all are normalised")
    group: str = Field("all", description="group in the Pareto front and the report")
    limit: int | None = Field(None, ge=1, description="only the first so many items")
    origin: str | None = Field(None, description="where the items come from; said where `path` is missing")


class HeldOutConfig(StageConfig):
    """A slice's held-out documents as a task."""

    slice: Name = Field(description="a slice of the mix whose held-out documents are a task")
    direction: Direction = Field("lower", description="which way is better, as for tasks")
    weight: float = Field(1.0, ge=0, le=1e6, description="share of the weighted metric, as for tasks")
    group: str = Field("held_out", description="group in the Pareto front and the report")

    @property
    def name(self) -> str:
        return f"held_out_{self.slice}"


class SuiteConfig(StageConfig):
    """What the mixture shall be good at."""

    folder: str | None = Field(None, description="folder that relative task paths start from")
    tasks: tuple[TaskConfig, ...] = ()
    held_out: tuple[HeldOutConfig, ...] = ()

    @model_validator(mode="after")
    def _named_once(self) -> SuiteConfig:
        names = [task.name for task in self.all()]
        if not names:
            raise ValueError("tasks: a suite needs at least one task, or held-out text")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tasks: two are named {name!r}; give each its own name")
        if not any(task.weight > 0 for task in self.all()):
            raise ValueError("tasks: all weights are zero; nothing would be optimised")
        return self

    def all(self) -> tuple[TaskConfig | HeldOutConfig, ...]:
        """Return every task, those of held-out text last."""
        return (*self.tasks, *self.held_out)

    def weights(self) -> dict[str, float]:
        """Return each task's weight, below zero where larger is better; what is computed from them normalises them."""
        return {task.name: task.weight if task.direction == "lower" else -task.weight for task in self.all()}

    def groups(self) -> dict[str, str]:
        """Return each task's group."""
        return {task.name: task.group for task in self.all()}


@dataclass(frozen=True)
class Suite:
    """A suite as it was read: its configuration, and the items of the tasks that have files."""

    path: Path
    config: SuiteConfig
    tasks: tuple[Task, ...]


def default_name(path: str) -> str:
    """Return the mix name that a configuration's file name gives."""
    return re.sub(r"[^a-z0-9_]+", "_", Path(path).stem.lower()).strip("_") or "mix"

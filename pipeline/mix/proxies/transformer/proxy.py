"""The transformer as a `Proxy`: what decides its models, training and measuring. Torch waits for the first model."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer import data as files
from pipeline.mix.proxies.transformer import worker
from pipeline.mix.proxies.transformer.data import CHECKPOINT, MODEL, MixStream, RunProgress, checked_weights
from pipeline.mix.proxies.transformer.shape import Schedule, Shape, layout, shape_for
from pipeline.mix.types import Done, Job, Measure, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.table.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from pipeline.mix.proxies.transformer.training import RunPlan

VERSION = "1"
"""Raised when the same settings give another model."""
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


class TransformerProxy:
    """Small decoders on the mixtures of some slices."""

    is_quick = False

    def __init__(self, config: ProxyConfig, data: ProxyData) -> None:
        """Choose shape and schedule.

        Raises: MissingDependencyError when torch is not installed.
        """
        require_torch()
        self.config, self.data = config, data
        self.shape: Shape = shape_for(config.parameters, data.vocabulary, config.context)
        self.schedule: Schedule = schedule_for(config, self.shape)

    @cached_property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device that models train on; see `chosen_device`."""
        return chosen_device(self.config)

    @cached_property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What matrices are multiplied in: bfloat16 on a GPU and on CPUs with instructions for it (measured faster)."""
        return "bfloat16" if self.device == "cuda" or _cpu_multiplies_bfloat16() else "float32"

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides a model besides run and data, the number type of the machine among it."""
        return {
            "kind": "transformer",
            "version": VERSION,
            "seed": self.config.seed,
            "shape": [self.shape.width, self.shape.depth, self.shape.heads, self.shape.hidden],
            "context": self.shape.context,
            "steps": self.schedule.steps,
            "step_tokens": self.schedule.step_tokens,
            "learning_rate": self.schedule.peak,
            "device": self.device,
            "precision": self.precision,
        }

    def perform(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Done]:
        """Do jobs one after the other in a process of their own; see `worker.perform`."""
        return worker.perform(self.config, self.data, jobs, stop)

    def train(self, run: RunSpec, folder: Path, until: float = 1.0) -> TrainedRun:
        """Train (or resume) a run in its folder up to this share of its tokens; returns once it is durably there.

        Raises: InputError when run, data or `until` cannot be used; ShardError when what the folder holds is damaged.
        """
        if not (math.isfinite(until) and 0 < until <= 1):
            raise InputError(f"run {run.run_id}: cannot train up to a share of {until}; it must be above 0, at most 1")
        known = self.progress(run, folder)
        if known is not None and known.step >= self.schedule.steps_until(until):
            return known.trained()
        from pipeline.mix.proxies.transformer import training

        stream = MixStream(self.data, run, self.config.seed, self.config.context)
        return training.train(self.plan(run), stream, folder, until).trained()

    def measure(self, run: RunSpec, folder: Path, tasks: Sequence[TokenTask]) -> list[Measure]:
        """Measure a run on tasks, in order, as far as it is trained.

        Raises: InputError when it was never trained, or an item does not fit the vocabulary.
        """
        import torch

        from pipeline.mix.proxies.transformer import model, training

        found = self._left(run, folder)
        if found is None:
            raise InputError(f"run {run.run_id}: {folder} holds no model of it; train it first")
        arrays = found[1]
        with training.one_thread():
            flat = torch.empty(layout(self.shape)[-1].stop)
            if "flat" in arrays:
                flat.copy_(torch.from_numpy(arrays["flat"]))
            else:
                for name, weight in model.split(flat, self.shape).items():
                    weight.copy_(torch.from_numpy(arrays[name]))
            return model.measure(flat.to(self.device), self.shape, tasks, self.data.eos)

    def plan(self, run: RunSpec) -> RunPlan:
        """Return all that training a run needs but its data."""
        from pipeline.mix.proxies.transformer.training import RunPlan

        seeds = self.config.seed, run.seed
        return RunPlan(
            run.run_id, self.shape, self.schedule, self.device, self.precision, *seeds, decides=self._decides(run)
        )

    def progress(self, run: RunSpec, folder: Path) -> RunProgress | None:
        """Return how far a run is in its folder, or None.

        Raises: ShardError when what the folder holds is damaged.
        """
        found = self._left(run, folder)
        return None if found is None else found[0]

    def _left(self, run: RunSpec, folder: Path) -> tuple[RunProgress, dict[str, Any]] | None:
        """Return what a run left in its folder: its model, or its last checkpoint."""
        decides = self._decides(run)
        return files.load(folder / MODEL, decides) or files.load(folder / CHECKPOINT, decides)

    def _decides(self, run: RunSpec) -> dict[str, Any]:
        """Everything that the run's weights depend on. A slice that the mixture does not use is no part of it, and
        one that it does stands there by its name, weight and counts: what its tokens are is for the folder's name.
        """
        weights = checked_weights(run, len(self.data.slices)).tolist()
        slices = {
            s.name: [weight, s.n_documents, s.n_tokens, int(pool)]
            for s, pool, weight in zip(self.data.slices, self.data.pool_tokens, weights, strict=True)
            if weight > 0
        }
        return {
            "identity": dict(self.identity),
            "seed": run.seed,
            "vocabulary": self.data.vocabulary,
            "slices": slices,
        }


def schedule_for(config: ProxyConfig, shape: Shape) -> Schedule:
    """Return the steps of a run: `tokens` in whole steps of about `batch_tokens`, at least one.

    The peak rate, when the configuration gives none, is 0.008 at a width of 64 (0.2 million parameters: half and twice
    as much were worse there) and falls with the width's root, which is an assumption: between muP's 1/width and none.
    """
    rows = max(1, config.batch_tokens // config.context)
    steps = max(1, round(config.tokens / (rows * config.context)))
    peak = config.learning_rate or 0.008 * (64 / shape.width) ** 0.5
    return Schedule(steps, rows, config.context, peak)


def require_torch() -> None:
    """Check that the optional dependency is installed, without importing it.

    Raises: MissingDependencyError with the line that installs it.
    """
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("proxy.kind: transformer needs an extra: pip install 'gristmill[proxy]'")


def chosen_device(config: ProxyConfig) -> Literal["cpu", "cuda"]:
    """Return the device; `auto` is the GPU where torch sees one.

    Raises: MissingDependencyError when a GPU was asked for and torch sees none.
    """
    if config.device == "cpu" or (config.device == "auto" and not Path("/dev/nvidiactl").exists()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if config.device == "cuda":
        raise MissingDependencyError("proxy.device: cuda, but torch sees no GPU; set it to cpu or auto")
    return "cpu"


def _cpu_multiplies_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in _BFLOAT16_FLAGS)

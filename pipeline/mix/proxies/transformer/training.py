"""Training one run: steps of AdamW over one flat vector, checkpoints on the way, exact resumption.

A run is a function of its seeds, mixture, data and settings. A checkpoint holds all that the next step depends on, so a
run that was killed anywhere ends in the same bits as one that was not (on the same machine, with one thread).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.mix.proxies.transformer import data, model, shape
from pipeline.mix.proxies.transformer.cpu_gradients import CpuGradients
from pipeline.mix.proxies.transformer.data import CHECKPOINT, MODEL, MixStream, RunProgress
from pipeline.mix.proxies.transformer.shape import Schedule, Shape
from pipeline.table.errors import GristmillError
from pipeline.table.kept import clear_temporary

CHECKPOINT_EVERY_S = 20.0
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class RunPlan:
    """A run's model and steps; `decides` is all that its weights depend on, as JSON."""

    run_id: str
    shape: Shape
    schedule: Schedule
    device: str
    precision: Precision
    seed: int
    run_seed: int
    decides: Mapping[str, Any]


class GpuGradients:
    """Gradients by torch's own differentiation, compiled, in bfloat16 where asked: what a GPU runs."""

    def __init__(self, plan: RunPlan, flat: torch.Tensor) -> None:
        self.gradient = torch.zeros_like(flat)
        self._flat, self._plan = flat, plan
        self._loss: Callable[..., torch.Tensor] = torch.compile(model.loss) if plan.device == "cuda" else model.loss

    def refresh(self) -> None:
        """Start the gradient from zero."""
        self.gradient.zero_()

    def add(self, rows: torch.Tensor) -> float:
        """Add the gradient of these sequences (rows, context + 1); return their summed loss in nats."""
        leaf = self._flat.detach().requires_grad_()
        low = self._plan.precision == "bfloat16"
        with torch.enable_grad(), torch.autocast(self._plan.device, torch.bfloat16, enabled=low):
            loss = self._loss(leaf, self._plan.shape, rows.to(leaf.device))
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.gradient.add_(gradient)
        return float(loss.detach())


class Optimiser:
    """AdamW with the gradient's norm clipped, over one flat vector: a dozen vector operations a step.

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101).
    """

    def __init__(self, flat: torch.Tensor, decayed: int) -> None:
        """`decayed`: so many leading parameters (the layers' matrices) are shrunk by weight decay."""
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self._flat, self._decayed, self._scratch = flat, decayed, torch.empty_like(flat)

    def step(self, gradient: torch.Tensor, number: int, rate: float) -> None:
        """Take step `number`, counted from 1."""
        first, second = shape.BETAS
        norm = float(torch.linalg.vector_norm(gradient))
        gradient.mul_(min(1.0, shape.CLIP / (norm + 1e-6)))
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        torch.sqrt(self.square, out=self._scratch)
        self._scratch.div_((1 - second**number) ** 0.5).add_(shape.EPSILON)
        self._flat[: self._decayed].mul_(1 - rate * shape.WEIGHT_DECAY)
        self._flat.addcdiv_(self.mean, self._scratch, value=-rate / (1 - first**number))


class TrainingRun:
    """A run in memory: parameters, optimiser, position in the data."""

    def __init__(self, plan: RunPlan, stream: MixStream) -> None:
        self.plan, self.stream = plan, stream
        self.progress = RunProgress()
        self.flat = model.initial_weights(plan.shape, plan.seed, plan.run_seed).to(plan.device)
        self.optimiser = Optimiser(self.flat, shape.layout(plan.shape)[-2].start)
        self._state = {"flat": self.flat, "mean": self.optimiser.mean, "square": self.optimiser.square}
        self._gradients: CpuGradients | GpuGradients
        if plan.device == "cpu":
            self._pass_rows = plan.schedule.pass_rows(shape.CPU_PASS_TOKENS)
            self._gradients = CpuGradients(plan.shape, self._pass_rows, self.flat, getattr(torch, plan.precision))
        else:
            self._pass_rows = plan.schedule.pass_rows(shape.GPU_PASS_TOKENS)
            self._gradients = GpuGradients(plan, self.flat)

    def step(self) -> None:
        """Take the next step.

        Raises: GristmillError when the loss is not a number any more.
        """
        plan, progress = self.plan.schedule, self.progress
        rows = torch.from_numpy(self.stream.rows(plan.rows))
        self._gradients.refresh()
        nats = 0.0
        for part in torch.split(rows, self._pass_rows):
            nats += self._gradients.add(part)
        if not 0 <= nats < float("inf"):
            raise GristmillError(
                f"run {self.plan.run_id}: the loss is {nats} at step {progress.step}; "
                f"lower proxy.learning_rate (it was {plan.peak:g})"
            )
        gradient = self._gradients.gradient.div_(plan.step_tokens)
        self.optimiser.step(gradient, progress.step + 1, plan.learning_rate(progress.step))
        progress.step += 1
        progress.tokens += plan.step_tokens
        progress.flops += shape.flops_per_token(self.plan.shape) * plan.step_tokens
        pending = (progress.pending[0] + nats, progress.pending[1] + plan.step_tokens)
        if progress.step % plan.curve_every == 0 or progress.step == plan.steps:
            progress.curve.append((progress.tokens, pending[0] / pending[1]))
            pending = (0.0, 0)
        progress.pending = pending

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        arrays = {name: array.cpu().numpy() for name, array in self._state.items()}
        data.save(path, self.plan.decides, self.progress, arrays | {"counts": self.stream.counts})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of this run, where there is one."""
        loaded = data.load(path, self.plan.decides)
        if loaded is None:
            return
        self.progress, arrays = loaded
        for name, tensor in self._state.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
        self.stream.counts[:] = arrays["counts"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread and without denormals: bits must not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def train(plan: RunPlan, stream: MixStream, folder: Path, until: float) -> RunProgress:
    """Train a run up to this share of its steps, from where its folder says it is, and leave it durably there."""
    goal = plan.schedule.steps_until(until)
    clear_temporary(folder)
    with one_thread(), torch.no_grad():
        training = TrainingRun(plan, stream)
        training.resume(folder / CHECKPOINT)
        saved = training.progress.step
        due, used = time.monotonic() + CHECKPOINT_EVERY_S, time.process_time()
        while training.progress.step < goal:
            training.step()
            now = time.process_time()
            training.progress.cpu_s += now - used
            used = now
            if time.monotonic() > due:
                training.save(folder / CHECKPOINT)
                saved, due = training.progress.step, time.monotonic() + CHECKPOINT_EVERY_S
        if training.progress.step == plan.schedule.steps:
            arrays = {name: w.cpu().numpy() for name, w in model.split(training.flat, plan.shape).items()}
            data.save(folder / MODEL, plan.decides, training.progress, arrays)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        elif saved != training.progress.step:
            training.save(folder / CHECKPOINT)
    return training.progress

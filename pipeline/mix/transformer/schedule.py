"""How a run is cut into steps, and the learning rate of each."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.mix.config import ProxyConfig
from pipeline.mix.transformer.shape import Shape

WARM_UP = 0.02
WARM_UP_STEPS = 10
"""The rate rises over this share of the steps, and over at least so many where the run is not too short for that."""
DECAY = 0.4
"""Share of the steps over which the rate falls to zero in a straight line; before it is constant, so that the curves
of runs that stop early can be extrapolated (warm-up, stable, decay)."""
BETAS = (0.9, 0.95)
EPSILON = 1e-9
WEIGHT_DECAY = 0.1
CLIP = 1.0
CURVE_POINTS = 100
CPU_PASS_TOKENS = 4096
"""Tokens of one forward and backward pass on CPU: few enough for the caches, enough to make calls worth their cost."""
GPU_PASS_TOKENS = 65_536


@dataclass(frozen=True)
class Schedule:
    """Steps of a run, of `rows` sequences each."""

    steps: int
    rows: int
    context: int
    peak: float

    @property
    def step_tokens(self) -> int:
        return self.rows * self.context

    @property
    def curve_every(self) -> int:
        """Steps between two points of the training curve."""
        return max(1, self.steps // CURVE_POINTS)

    def pass_rows(self, tokens: int) -> int:
        """Return the sequences of a pass of at most this many tokens: a divisor of `rows`, so that passes are equal."""
        most = min(self.rows, max(1, tokens // self.context))
        return max(n for n in range(1, most + 1) if self.rows % n == 0)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        warm_up = max(1, round(max(WARM_UP * self.steps, min(WARM_UP_STEPS, self.steps / 5))))
        left = (self.steps - step) / max(1.0, DECAY * self.steps)
        return self.peak * min(1.0, (step + 1) / warm_up, left)

    def steps_until(self, share: float) -> int:
        """Return how many steps make up this share of the run, at least one."""
        return min(self.steps, max(1, round(share * self.steps)))


def schedule_for(config: ProxyConfig, shape: Shape) -> Schedule:
    """Return the steps of a run: `tokens` in whole steps of about `batch_tokens`, at least one.

    The peak rate, when the configuration gives none, is 0.008 at a width of 64 (0.2 million parameters: half and twice
    as much were worse there) and falls with the width's root, which is an assumption: between muP's 1/width and none.
    """
    rows = max(1, config.batch_tokens // config.context)
    steps = max(1, round(config.tokens / (rows * config.context)))
    peak = config.learning_rate or 0.008 * (64 / shape.width) ** 0.5
    return Schedule(steps, rows, config.context, peak)

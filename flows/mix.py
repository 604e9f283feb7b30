"""`gristmill mix`: from slices of curated text to a mixture and its token shards. Each step makes what is missing.

    slices -> swarm -> train -> fit -> propose -> verify -> sample, and report, which shows what there is

A step begins with the steps before it, of which only what is missing or changed is done. So a changed suite measures
its new tasks on the kept proxies, fits and proposes, and trains nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from flows.launch import stopping_on_signals
from flows.mix_material import Material, material
from flows.mix_open import OpenMix, opened_mix
from flows.mix_train import Results, Trainer, train_and_measure
from pipeline.mix.folder import read_json, write_json
from pipeline.mix.mixture import load_mixture
from pipeline.mix.ngram import NgramProxy
from pipeline.mix.swarm import draw_swarm
from pipeline.mix.swarm_space import Space, frozen_space, whole_space
from pipeline.mix.types import Proxy, RunSpec
from pipeline.table.format import aligned

"""The Prefect flows: one a stage, and `curate` for all of them. Importing this imports Prefect.

`gristmill serve` puts `curate` on a schedule; docs/how-to/schedule.md shows how to do so from Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from prefect import Flow, flow
from prefect.artifacts import create_table_artifact
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.config import LAST, RunConfig
from flows.engine import PrefectEngine
from flows.progress import closing_rows
from flows.stages import TABLE, opened, prepared, steps
from pipeline.rephrase.stage import collapse_rows
from pipeline.table.stages import StageReport


def stage_flow(stage: str, workers: int | None = None) -> Flow[Any, StageReport]:
    """Return the flow of one stage, for a source or the sources that it takes together, on so many threads."""

    def body(config: RunConfig, sources: Sequence[str]) -> StageReport:
        with opened(config, f"{stage} flow") as run:
            run.engine = PrefectEngine(run.stop)
            report = run.do(TABLE[stage].make(run, tuple(sources)))
            key = f"{stage}-{'-'.join(sources)}".replace("_", "-")
            create_table_artifact(key=key, table=closing_rows([report]), description=f"{stage} of {', '.join(sources)}")
            alike = collapse_rows(run.storage, config.rephrase) if stage == LAST and config.rephrase else []
            if alike:
                create_table_artifact(key="rephrase-collapse", table=alike, description="How alike the rephrasings are")
            return report

    threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers or os.cpu_count() or 1)
    named = flow(name=stage, flow_run_name=f"{stage} {{sources}}", task_runner=threads, validate_parameters=False)
    return named(body)


def _tell(flow: Any, flow_run: Any, state: Any) -> None:
    """Say in one line why a run that a schedule or a page started failed; `gristmill run` says it itself."""
    if flow_run.deployment_id is not None:
        sys.stderr.write(f"gristmill: run {flow_run.name}: {' '.join(str(state.message).split())}\n")


@flow(name="curate", validate_parameters=False, on_failure=[_tell], on_crashed=[_tell])
def curate(config: RunConfig | str, only: Sequence[str] = (), until: str = LAST) -> list[StageReport]:
    """Bring a workspace up to date: every stage up to `until`, for every source or those in `only`.

    A configuration's path is read and checked as `gristmill run` does.
    """
    wanted, only = prepared(config, (), only, until) if isinstance(config, str) else (config, only)
    with opened(wanted, f"curate flow of {config}" if isinstance(config, str) else "curate flow") as run:
        reports = []
        for stage, sources in steps(run.config, only, until):
            run.check()
            made = TABLE[stage].make(run, sources)
            if made.shards_to_do:
                reports.append(stage_flow(stage, run.workers)(run.config, sources))
            else:  # an index to bring up to date at most: not worth a flow run, half a second each
                reports.append(run.do(made))
        description = "What the run did"
        create_table_artifact(key="curate", table=closing_rows(reports), description=description)
        return reports

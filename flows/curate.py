"""The Prefect flows: one a stage, and `curate` for all of them. Importing this imports Prefect.

To schedule curation on a Prefect server of yours:

    from flows.curate import curate
    curate.serve("nightly-web", cron="0 2 * * *", parameters={"config": "/data/curate.yaml"})
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prefect import Flow, flow
from prefect.artifacts import create_table_artifact
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.config import LAST, STAGES, RunConfig, load
from flows.engine import PrefectEngine
from flows.plans import plan_stage, steps
from flows.progress import StageReport
from flows.rephrase import collapse_rows
from flows.runs import opened

THREADS: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=os.cpu_count() or 1)
"""For a stage's flow that is called by itself; `curate` gives each as many as `engine.workers` says."""


@flow(name="extract", flow_run_name="extract {sources}", task_runner=THREADS, validate_parameters=False)
def extract(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Extract documents from the raw inputs of a source that are not extracted yet."""
    return _stage("extract", config, sources)


@flow(name="annotate", flow_run_name="annotate {sources}", task_runner=THREADS, validate_parameters=False)
def annotate(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Measure language, text statistics and token counts of a source's documents."""
    return _stage("annotate", config, sources)


@flow(name="dedup", flow_run_name="dedup {sources}", task_runner=THREADS, validate_parameters=False)
def dedup(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Find the duplicates within a source, or among the sources of a scope."""
    return _stage("dedup", config, sources)


@flow(name="classify", flow_run_name="classify {sources}", task_runner=THREADS, validate_parameters=False)
def classify(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Score every document of a source with each classifier."""
    return _stage("classify", config, sources)


@flow(name="select", flow_run_name="select {sources}", task_runner=THREADS, validate_parameters=False)
def select(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Decide every document's outcome and write the curated shards."""
    return _stage("select", config, sources)


@flow(name="rephrase", flow_run_name="rephrase {sources}", task_runner=THREADS, validate_parameters=False)
def rephrase(config: RunConfig, sources: Sequence[str]) -> StageReport:
    """Let a language model rephrase what a source kept."""
    report = _stage("rephrase", config, sources)
    rows = collapse_rows(config)
    if rows:
        create_table_artifact(key="rephrase-collapse", table=rows, description="How alike the rephrasings are")
    return report


FLOWS: dict[str, Flow[Any, StageReport]] = {
    "extract": extract,
    "annotate": annotate,
    "dedup": dedup,
    "classify": classify,
    "select": select,
    "rephrase": rephrase,
}
assert tuple(FLOWS) == (*STAGES, LAST)


@flow(name="curate", validate_parameters=False)
def curate(config: RunConfig | str, only: Sequence[str] = (), until: str = LAST) -> list[StageReport]:
    """Bring a workspace up to date: every stage up to `until`, for every source or those in `only`."""
    loaded = load(config) if isinstance(config, str) else config
    with opened(loaded, "curate flow") as run:
        reports = []
        for stage, sources in steps(loaded, only, until):
            run.check()
            plan = plan_stage(stage, run, sources)
            if not plan.shards_to_do:  # an index to bring up to date at most: not worth a flow run, half a second each
                reports.append(plan.execute())
                continue
            threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=loaded.engine.workers)
            bounded = FLOWS[stage].with_options(task_runner=threads)
            reports.append(bounded(loaded, sources))
        create_table_artifact(key="curate", table=[_row(report) for report in reports], description="What the run did")
        return reports


def _stage(stage: str, config: RunConfig, sources: Sequence[str]) -> StageReport:
    with opened(config, f"{stage} flow") as run:
        run.engine = PrefectEngine(run.stop)
        report = plan_stage(stage, run, tuple(sources)).execute()
        key = f"{stage}-{'-'.join(sources)}".replace("_", "-")
        create_table_artifact(key=key, table=[_row(report)], description=f"{stage} of {', '.join(sources)}")
        return report


def _row(report: StageReport) -> dict[str, object]:
    return {
        "source": report.source,
        "stage": report.stage,
        "shards": report.shards,
        "done before": report.shards_done_before,
        "rows in": report.rows_in,
        "rows out": report.rows_out,
        "seconds": round(report.elapsed_s, 1),
        "notes": report.notes,
    }

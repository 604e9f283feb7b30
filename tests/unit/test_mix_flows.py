"""What the flows of a mix decide: what is missing, in how many processes, under Prefect or not, and what counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from flows.mix import MixDesk, is_worth_prefect
from flows.progress import Reporter
from pipeline.mix.config import EarlyStopping, ProxyConfig, SuiteConfig, TaskConfig
from pipeline.mix.folder import MixFolder
from pipeline.mix.proxies.ngram import NgramProxy
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.steps.choose import Fitted, observed, suite_results
from pipeline.mix.steps.train import Trainer, missing, runs_a_process, train_and_measure, train_in_rungs
from pipeline.mix.steps.types import Material, Results
from pipeline.mix.steps.workspace import checked_mix, mix_home
from pipeline.mix.types import Job, Measure, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.mix.weights.space import Constraints, GroupLimit
from pipeline.table.errors import InputError, UsageError
from pipeline.table.interrupts import Stop
from pipeline.table.storage import Storage
from tests.bench.bench_curves import generate
from tests.mix_sample_stores import EOS, make_slice

TASK = TokenTask("a", "0" * 32, ())
OTHER = TokenTask("b", "1" * 32, ())
DONE = TrainedRun(tokens=100, steps=1, cpu_s=0.1, flops=1.0, curve=())
MEASURE = Measure(np.array([1.0]), np.array([4]))


def run(number: int, *weights: float, seed: int = 0) -> RunSpec:
    return RunSpec(f"{number:032x}", "swarm", np.array(weights or (0.5, 0.5)), seed)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer over two slices of a few documents."""
    stores = tuple(make_slice(tmp_path, name, [5, 6, 7]) for name in ("web", "code"))
    data = ProxyData(stores, np.array([each.n_tokens for each in stores]), 500, EOS)
    config = ProxyConfig(kind="ngram", tokens=1_000)
    proxy = NgramProxy(config, data, tmp_path / "counts")
    return Trainer(config, proxy, data, ("k" * 32, "c" * 32), MixFolder(tmp_path), MixDesk(Reporter(), Stop()))


def transformers(trainer: Trainer, tokens: int, workers: int = 2) -> Trainer:
    config = ProxyConfig(kind="transformer", tokens=tokens, workers=workers)
    return replace(trainer, config=config, proxy=TransformerProxy(config, trainer.data))


def finish(trainer: Trainer, spec: RunSpec, *tasks: TokenTask) -> None:
    folder = trainer.at(spec)
    for task in tasks:
        folder.save_measure(task.key, MEASURE)
    folder.finish(spec, ("web", "code"), DONE)


# What is to be done ---------------------------------------------------------------------------------------------------


def test_missing_is_what_is_neither_trained_measured_nor_stopped(trainer: Trainer) -> None:
    fresh, half, whole, ended = (run(number) for number in range(4))
    finish(trainer, half, TASK)
    finish(trainer, whole, TASK, OTHER)
    trainer.at(ended).stop(0.25)
    jobs = missing(trainer, [fresh, half, whole, ended], [TASK, OTHER])
    assert [(job.run.run_id, [task.name for task in job.tasks]) for job in jobs] == [
        (fresh.run_id, ["a", "b"]),
        (half.run_id, ["b"]),
    ]


def test_a_measure_without_its_run_does_not_count(trainer: Trainer) -> None:
    """A run is finished by its manifest; what a killed command measured before is measured again."""
    trainer.at(run(1)).save_measure(TASK.key, MEASURE)
    assert [job.tasks for job in missing(trainer, [run(1)], [TASK])] == [(TASK,)]


def test_a_runs_folder_is_decided_by_its_own_slices_alone(trainer: Trainer) -> None:
    changed = replace(trainer, data_keys=(trainer.data_keys[0], "d" * 32))
    smaller = replace(trainer, data=replace(trainer.data, pool_tokens=trainer.data.pool_tokens - [0, 6]))
    for other in (changed, smaller):
        assert other.at(run(1, 0.5, 0.5)).path != trainer.at(run(1, 0.5, 0.5)).path
        assert other.at(run(1, 1.0, 0.0)).path == trainer.at(run(1, 1.0, 0.0)).path
    assert trainer.at(run(1, seed=0)).path != trainer.at(run(1, seed=1)).path


@pytest.mark.parametrize(
    ("tokens", "workers", "runs", "expected"),
    [
        (20_000, 2, 11, 6),  # a second each: one process a worker
        (400_000, 2, 36, 5),  # twenty seconds each: some chunks a worker
        (10_000_000, 2, 36, 5),
        (100_000, 2, 36, 5),  # five seconds each: two would do, chunks are larger
        (100_000, 4, 6, 2),
        (400_000, 8, 3, 1),
        (20_000, 1, 5, 5),
    ],
)
def test_processes_load_torch_for_seconds_of_work(
    trainer: Trainer, tokens: int, workers: int, runs: int, expected: int
) -> None:
    jobs = [Job(run(number), trainer.folder.root) for number in range(runs)]
    assert runs_a_process(transformers(trainer, tokens, workers), jobs) == expected


def test_measuring_kept_runs_takes_one_process_a_worker(trainer: Trainer) -> None:
    own = transformers(trainer, 10_000_000)
    for number in range(9):
        finish(own, run(number))
    assert runs_a_process(own, [Job(run(number), own.folder.root, (TASK,)) for number in range(9)]) == 5


def test_seconds_of_work_start_no_prefect() -> None:
    transformer = ProxyConfig(kind="transformer", tokens=20_000)
    assert not is_worth_prefect(transformer, 10)
    assert is_worth_prefect(transformer, 11)
    assert not is_worth_prefect(transformer, 0)
    assert not is_worth_prefect(ProxyConfig(kind="ngram", tokens=10**9), 10_000)


def test_a_stopped_run_that_a_later_task_was_not_measured_on_is_left_out(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run(number) for number in range(9)]
    for spec in runs[:8]:
        finish(trainer, spec, TASK)
    trainer.at(runs[8]).save_measure(OTHER.key, MEASURE, 0.25)
    trainer.at(runs[8]).stop(0.25)
    found = train_and_measure(trainer, runs, [TASK], "swarm")
    assert [each.run_id for each in found.runs] == [each.run_id for each in runs[:8]]
    assert found.values.tolist() == [[MEASURE.bits_per_byte]] * 8
    assert found.variances is not None
    assert not found.variances.any()
    assert "1 stopped runs are left out" in capsys.readouterr().err


def test_runs_that_tell_nothing_change_nothing_about_which_others_stop(tmp_path: Path, trainer: Trainer) -> None:
    """Stopped for a suite whose tasks were others, they were never measured on this one's."""
    curves = generate(60, 0.05, 0.15, 0.3, 1)
    runs = [run(number, number / 100, 1 - number / 100) for number in range(64)]
    stopped = []
    for name, others in (("alone", 0), ("with", 4)):
        own = replace(trainer, folder=MixFolder(tmp_path / name))
        for spec, losses in zip(runs[4:], curves.losses, strict=True):
            for share, loss in zip(curves.tokens / curves.final_tokens, losses, strict=True):
                own.at(spec).save_measure(TASK.key, Measure(np.array([loss * np.log(2)]), np.array([1])), share)
        for spec in runs[:others]:
            own.at(spec).stop(0.25)
        train_in_rungs(own, runs[4 - others :], [TASK], {TASK.name: 1.0}, EarlyStopping())
        stopped.append([own.at(spec).stopped_at() for spec in runs[4:]])
    assert stopped[0] == stopped[1]
    assert 20 < sum(each is not None for each in stopped[0]) < 60


@pytest.mark.parametrize(("share", "value"), [(1.0, np.inf), (1.0, np.nan), (0.25, np.inf)])
def test_a_measure_that_is_no_number_names_its_run_and_task(trainer: Trainer, share: float, value: float) -> None:
    runs = [run(number) for number in range(9)]
    for spec in runs:
        finish(trainer, spec, TASK)
    trainer.at(runs[3]).save_measure(TASK.key, Measure(np.array([1.0, value]), np.array([4, 4])), share)
    trainer.at(runs[8]).stop(0.25)
    with pytest.raises(InputError, match=rf"^run {runs[3].run_id}: task a has {value} bits per byte at {share:.0%} of"):
        train_and_measure(trainer, runs, [TASK], "swarm")


# What counts ----------------------------------------------------------------------------------------------------------


CONSTRAINTS = Constraints(("web", "code"), np.zeros(2), np.ones(2), ())


def material(*tasks: str) -> Material:
    """Return as much of a mix's material as choosing reads."""
    suite = SuiteConfig(tasks=tuple(TaskConfig(name=name, path="x") for name in tasks))
    found = SimpleNamespace(
        suite_tasks=tasks, suite=SimpleNamespace(config=suite), constraints=CONSTRAINTS, natural=np.array([0.5, 0.5])
    )
    return cast(Material, found)


def results(values: Any, variances: Any = None) -> Results:
    matrix = np.array(values, np.float64)
    specs = tuple(run(number, 1 - 0.1 * number, 0.1 * number) for number in range(len(matrix)))
    return Results(specs, ("a", "b"), matrix, (DONE,) * len(matrix), variances)


def test_the_suites_own_tasks_keep_their_variances() -> None:
    found = suite_results(material("b"), results([[1, 2], [3, 4]], np.array([[0.0, 0.0], [0.1, 0.2]])))
    assert found.tasks == ("b",)
    assert found.values.tolist() == [[2], [4]]
    assert found.variances is not None
    assert found.variances.tolist() == [[0], [0.2]]
    assert suite_results(material("b"), results([[1, 2]])).variances is None


@pytest.mark.parametrize(("variances", "best"), [(None, 2), ([[0.0, 0], [0, 0], [0.1, 0.2]], 1)])
def test_best_seen_was_seen_to_the_end(variances: list[list[float]] | None, best: int) -> None:
    found = results([[3, 3], [2, 2], [1, 1]], None if variances is None else np.array(variances))
    fitted = cast(Fitted, SimpleNamespace(results=found, weights={"a": 1.0, "b": 1.0}))
    known = observed(material("a", "b"), fitted)
    assert known["best_seen"].tolist() == found.runs[best].weights.tolist()
    assert known["natural"].tolist() == [0.5, 0.5]


def test_every_candidate_keeps_the_bounds_of_groups() -> None:
    found = results([[3, 3], [2, 2], [1, 1]])
    limited = Constraints(("web", "code"), np.zeros(2), np.ones(2), (GroupLimit("g", (1,), 0.0, 0.15),))
    tight = cast(Material, SimpleNamespace(**{**vars(material("a", "b")), "constraints": limited}))
    known = observed(tight, cast(Fitted, SimpleNamespace(results=found, weights={"a": 1.0, "b": 1.0})))
    assert limited.violation(np.stack(list(known.values()))).max() < 1e-9
    assert known["best_seen"].tolist() == [0.9, 0.1]  # the best run of all is outside, so that of those inside


# Opening --------------------------------------------------------------------------------------------------------------


def test_a_mix_lies_in_its_workspace_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    assert mix_home(Storage.at(str(tmp_path / "ws")), "code").root == str(tmp_path / "ws" / "mix" / "code")
    assert mix_home(Storage.at("memory://ws"), "code").url == "memory://ws/mix/code"


def test_checking_a_mix_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "My Mix.yaml"
    path.write_text("workspace: memory://ws\nslices: {a: {where: 'true'}}\nsuite: s\nbudget_tokens: 1000\n")
    with pytest.raises(UsageError, match="memory://ws does not exist"):
        checked_mix(str(path), [])
    with pytest.raises(UsageError, match="none does not exist"):
        checked_mix(str(path), [f"workspace={tmp_path}/none"])
    assert list(tmp_path.iterdir()) == [path]

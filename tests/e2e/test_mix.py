"""`gristmill mix run` from curated documents to shards, again, and after each change that a user makes."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.mix.steps import choose
from pipeline.mix.steps.choose import observed
from tests.bench import bench_mix_decisions
from tests.cli_runs import gristmill, select, snapshot, write_config
from tests.mix_workspace import (
    CODE,
    CONFIG,
    Shards,
    blank,
    contents,
    current,
    done,
    edited,
    first_run,
    here,
    mixed,
    mixture,
    proposal,
    runs,
    store_tokens,
    write_items,
)

MIX = Path("ws/mix/mix")
NAMES = list(CONFIG["slices"])
FRESH = 1_000
"""Seeds from here on are those of verification, which a swarm never has."""


@pytest.fixture(scope="module")
def finished(shared: Path) -> Path:
    """A folder in which the mix was made. For reading only."""
    return mixed(shared)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A test's own copy of `finished`."""
    return shutil.copytree(finished, tmp_path / "copy")


# From nothing ---------------------------------------------------------------------------------------------------------


def test_run_leaves_a_mixture_that_adds_up(finished: Path) -> None:
    found = mixture(finished)
    weights = found["weights"]
    assert list(weights) == NAMES
    assert sum(Decimal(repr(weight)) for weight in weights.values()) == 1
    assert math.fsum(weights.values()) == 1
    assert all(0 <= weight <= 1 for weight in weights.values())
    assert found["provenance"]["runs"] == len(json.loads((finished / MIX / "swarm/swarm.json").read_text()))
    assert found["evidence"] in {"confirmed", "likely", "none"}
    used = proposal(finished) if found["verified"]["uses"] == "proposal" else None
    if used is None:
        assert found["verified"]["proposed"] == pytest.approx(proposal(finished), abs=1e-3)
    else:
        assert weights == pytest.approx(used, abs=1e-3)


def test_the_mixture_gains_where_fresh_proxies_were_measured(finished: Path) -> None:
    """What is chosen is, by what verification measured, not worse than what would have been had for nothing."""
    found = mixture(finished)["verified"]
    measured = found["sizes"][-1]["metric"]
    assert measured[found["uses"]] <= min(measured["natural"], measured["uniform"])


def test_printed_numbers_follow_from_the_files(finished: Path) -> None:
    tokens, found = store_tokens(finished), mixture(finished)
    budget = CONFIG["budget_tokens"]
    for name, row in found["slices"].items():
        epochs = CONFIG["slices"][name].get("max_epochs", 4.0)
        assert row["tokens"] == tokens[name]
        assert row["natural"] == pytest.approx(tokens[name] / sum(tokens.values()), rel=1e-5)
        assert row["cap"] == pytest.approx(min(1.0, epochs * tokens[name] / budget), rel=1e-5)
        assert row["epochs"] == pytest.approx(found["weights"][name] * budget / tokens[name], rel=1e-5)
        assert row["epochs"] <= row["max_epochs"] == epochs
    printed = done(finished, "slices", "mix.yaml").out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in printed[2:]}
    head = printed[0].split()[1:]
    kept = {row["name"]: row["n"] for row in _kept(finished)}
    for name in NAMES:
        row = dict(zip(head, table[name], strict=True))
        assert int(row["tokens"]) == tokens[name]
        assert float(row["natural"]) == pytest.approx(tokens[name] / sum(tokens.values()), abs=6e-5)
        cap = CONFIG["slices"][name].get("max_epochs", 4.0) * tokens[name] / budget
        assert float(row["cap"]) == pytest.approx(min(cap, 1), abs=6e-5)
        assert int(row["documents"]) + int(row["held_out"]) + int(row["contaminated"]) == kept[name]
    summary = first_run(finished).out
    for name in NAMES:
        line = next(line.split() for line in summary.splitlines() if line.startswith(f"{name} "))
        assert float(line[1]) / 100 == pytest.approx(tokens[name] / sum(tokens.values()), abs=6e-4)
        assert float(line[3]) / 100 == pytest.approx(proposal(finished)[name], abs=6e-4)
        assert float(line[-1]) == pytest.approx(proposal(finished)[name] * budget / tokens[name], rel=6e-3)


def _kept(folder: Path) -> list[dict[str, Any]]:
    cases = " ".join(f"WHEN {each['where']} THEN '{name}'" for name, each in CONFIG["slices"].items())
    return select(
        folder / "ws", f"SELECT CASE {cases} END AS name, count(*) AS n FROM outcomes WHERE outcome = 'kept' GROUP BY 1"
    )


def test_shards_hold_the_proportions_that_were_asked(finished: Path) -> None:
    found, shards = mixture(finished), Shards(finished)
    count = shards.counted()
    total = sum(len(tokens) for tokens in shards.tokens)
    assert total == sum(count.values()) == CONFIG["budget_tokens"]
    assert max(len(tokens) for tokens in shards.tokens) <= CONFIG["sample"]["shard_tokens"]
    for name, weight in found["weights"].items():
        assert abs(count[name] / total - weight) < 0.001


def test_every_token_is_its_documents(finished: Path) -> None:
    """Shards, read raw and cut by the trace, decode to the curated texts; none of what is held out is among them."""
    from tokenizers import Tokenizer

    shards = Shards(finished)
    tokenizer = Tokenizer.from_file(str(finished / MIX / "slices/tokenizer.json"))
    texts = {row["doc_id"]: row["text"] for row in select(finished / "ws", "SELECT doc_id, text FROM curated")}
    whole = cut = 0
    for row, tokens in shards.rows():
        if row["cut"]:  # the last document of a slice, to have exactly what was asked; its end is a row of its own
            cut += 1
            continue
        assert tokens[-1] == shards.eos
        decoded = tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False)
        assert decoded == texts[row["doc_id"]]
        whole += 1
    assert whole > 100
    assert cut <= 2 * len(NAMES)
    for name in NAMES:
        held_out = _column(finished / MIX / "slices" / name / "held_out.parquet", "doc_id")
        assert held_out
        assert not shards.doc_ids() & set(held_out)


def _column(path: Path, name: str) -> list[str]:
    import pyarrow.parquet as pq

    values: list[str] = pq.read_table(path)[name].to_pylist()
    return values


def test_swarm_stays_within_the_caps_and_names_its_kinds(finished: Path) -> None:
    tokens, swarm = store_tokens(finished), json.loads((finished / MIX / "swarm/swarm.json").read_text())
    for run in swarm:
        assert math.fsum(run["weights"].values()) == pytest.approx(1, abs=1e-9)
        for name, weight in run["weights"].items():
            epochs = CONFIG["slices"][name].get("max_epochs", 4.0)
            assert weight <= epochs * tokens[name] / CONFIG["budget_tokens"] + 1e-9
    kinds = [run["kind"] for run in swarm]
    assert kinds.count("swarm") == CONFIG["swarm"]["runs"]
    assert kinds.count("natural") == 8
    assert {"corner", "uniform"} < set(kinds)
    natural = next(run["weights"] for run in swarm if run["kind"] == "natural")
    assert natural == pytest.approx({name: count / sum(tokens.values()) for name, count in tokens.items()})


def test_report_is_one_page_with_its_plots(finished: Path) -> None:
    page = (current(finished) / "report/index.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in NAMES:
        assert name in page
    plots = {path.name for path in (current(finished) / "report/plots").iterdir()}
    assert {"weights.png", "verification.png", "sensitivity.png"} <= plots


def test_fit_tables_are_what_mix_fit_and_predict_take(finished: Path, tmp_path: Path) -> None:
    fit = current(finished) / "fit"
    rows = list(csv.DictReader((fit / "metrics.csv").open()))
    assert [name for name in rows[0] if name != "index"] == ["reference", "held_out_prose"]
    _measures_are_in(rows, finished)
    shutil.copytree(fit, tmp_path / "from")
    arguments = ("--ratios", "from/ratios.csv", "--metrics", "from/metrics.csv", "--model", "effective_data", "--json")
    quality = done(tmp_path, "fit", *arguments, "--out", "own").rows()
    assert [row["metric"] for row in quality] == ["reference", "held_out_prose"]
    assert {"model", "runs", "rmse", "mse", "r2", "spearman", "pearson", "coverage"} <= set(quality[0])
    assert {row["runs"] for row in quality} == {len(rows)}
    for folder in ("own", "from"):
        printed = list(
            csv.DictReader(done(tmp_path, "predict", "--fit", folder, "--ratios", "from/ratios.csv").out.splitlines())
        )
        assert [row["index"] for row in printed] == [row["index"] for row in rows]
        for row, known in zip(printed, rows, strict=True):
            for metric in ("reference", "held_out_prose"):
                low, value, high = (float(row[f"{metric}{end}"]) for end in ("_lo", "", "_hi"))
                assert low < value < high
                assert abs(value - float(known[metric])) < 0.5
    assert done(tmp_path, "predict", "--fit", "own", "--ratios", "from/ratios.csv", "--out", "p.csv").out == ""
    assert (tmp_path / "p.csv").exists()


def _measures_are_in(rows: list[dict[str, str]], folder: Path) -> None:
    """Check that each run's row holds bits per byte by the definition: all bits over all bytes."""
    values = {round(float(value), 9) for row in rows for name, value in row.items() if name != "index"}
    seen = set()
    for name, run in runs(folder).items():
        if run["seed"] < FRESH:
            for path in (folder / MIX / "runs" / name / "measures").iterdir():
                with np.load(path) as found:
                    seen.add(round(float(found["nats"].sum() / math.log(2) / found["n_bytes"].sum()), 9))
    assert values <= seen


# Again ----------------------------------------------------------------------------------------------------------------


def test_again_does_nothing(copied: Path) -> None:
    before, same = snapshot(copied / MIX), contents(copied)
    ran = done(copied, "run", "mix.yaml")
    after = snapshot(copied / MIX)
    changed = {name.partition("/")[0] for name in after if before.get(name) != after[name]}
    assert set(after) == set(before)
    assert changed <= {"proposals", "mixture.yaml", "swarm"}
    assert ran.err == ""
    assert _without_paths(ran.out) == _without_paths(first_run(copied).out)
    assert contents(copied) == same


def _without_paths(text: str) -> list[str]:
    return [line for line in text.splitlines() if "/ws/mix/" not in line]


def test_another_folder_and_another_number_of_workers_give_the_same_bytes(
    finished: Path, shared: Path, tmp_path: Path
) -> None:
    folder = blank(shared, tmp_path / "elsewhere")
    done(folder, "run", "mix.yaml", "--set", "proxy.workers=2")
    assert contents(folder) == contents(finished)


def test_dry_run_changes_nothing(shared: Path, tmp_path: Path) -> None:
    folder = blank(shared, tmp_path / "dry")
    before = snapshot(folder)
    ran = done(folder, "run", "mix.yaml", "--dry-run")
    assert "slices are to be built; then the swarm: 16 mixtures and the baselines over 8 seeds" in ran.out
    assert snapshot(folder) == before
    assert not (folder / "ws/mix").exists()


def test_dry_run_says_what_is_to_train_and_why(finished: Path) -> None:
    before = snapshot(finished)
    plan = ("run", "mix.yaml", "--dry-run")
    assert "32 runs, 0 to train" in done(finished, *plan).out
    assert "40 runs, 8 to train" in done(finished, *plan, "--set", "swarm.runs=24").out
    pinned = done(finished, *plan, "--set", "slices.notes.weight=0.2").out
    assert "31 runs, 31 to train" in pinned
    assert "which had 0 of these 31 runs: a pinned weight" in pinned
    assert "notes cannot be judged: its weight is fixed at 0.2" in pinned
    assert "32 of those to train were trained" in done(finished, *plan, "--set", "proxy.tokens=90000").out
    assert here(finished, "mix", *plan, "--set", "budget_tokens=1000000000").code == 2
    assert snapshot(finished) == before


def test_steps_do_what_is_missing_before_them(shared: Path, tmp_path: Path) -> None:
    folder = blank(shared, tmp_path / "steps")
    small = ("mix.yaml", "--set", "swarm.runs=4")
    report = done(folder, "report", *small)
    assert "no proposal yet" in report.out
    assert Path(folder, report.out.split("report: ")[1].strip()).is_file()
    assert runs(folder) == {}
    swarm = done(folder, "swarm", *small).out
    assert swarm.count(" swarm ") == 4
    assert runs(folder) == {}
    trained = done(folder, "train", *small).out
    for task in ("reference", "held_out_prose", "functions", "held_out_modules"):
        assert task in trained
    assert len(runs(folder)) == sum("cannot be judged" not in line for line in swarm.splitlines()) - 2
    assert not (folder / MIX / "proposals").exists()
    assert json.loads(done(folder, "fit", *small[:1], "--json", *small[1:]).out)[0]["metric"] == "reference"
    assert "not verified" in done(folder, "propose", *small).out.lower() or mixture(folder)["verified"] == {}
    assert "verified" not in mixture(folder)
    assert not (current(folder) / "shards").exists()
    done(folder, "sample", *small)
    assert sum(Shards(folder).counted().values()) == CONFIG["budget_tokens"]
    assert "verified" not in mixture(folder)
    done(folder, "verify", *small)
    assert mixture(folder)["evidence"] in {"confirmed", "likely", "none"}


def test_active_rounds_are_found_again(copied: Path) -> None:
    """A round's run joins the fit; later commands find its proposal and verdict again, and train nothing."""
    edited(copied, verify={"seeds": 2, "rounds": 1}, fit={"model": "effective_data", "bootstrap": 8})
    ran = done(copied, "run", "mix.yaml")
    assert "active round 1: 1 of" in ran.err
    swarm = json.loads((copied / MIX / "swarm/swarm.json").read_text())
    assert mixture(copied)["provenance"]["runs"] == len(swarm) + 1
    assert mixture(copied)["evidence"] in {"confirmed", "likely", "none"}
    same = contents(copied)
    assert "to train" not in done(copied, "sample", "mix.yaml").err
    assert contents(copied) == same


# Another suite --------------------------------------------------------------------------------------------------------


def _swarm_runs(folder: Path) -> set[str]:
    return {name for name, run in runs(folder).items() if run["seed"] < FRESH}


def test_another_suite_is_another_mixture_from_the_same_runs(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(copied / "cache"))
    prose, before = proposal(copied), snapshot(copied / MIX / "runs")
    swarm, chosen_from = _swarm_runs(copied), []

    def counted(material: Any, fitted: Any) -> Any:
        chosen_from.append(observed(material, fitted))
        return chosen_from[-1]

    monkeypatch.setattr(choose, "observed", counted)
    ran = done(copied, "run", edited(copied, suite="code.yaml", measure=["prose.yaml"]))
    assert len(chosen_from) == 1  # with many slices rounding them takes seconds
    after = snapshot(copied / MIX / "runs")
    assert {name: after[name] for name in before} == before
    assert _swarm_runs(copied) == swarm
    added = {name.partition("/")[0] for name in after if name not in before}
    assert all(run["seed"] >= FRESH for name, run in runs(copied).items() if name in added)
    assert "swarm: " not in ran.err
    assert "Prefect" not in ran.err
    assert not (copied / "cache" / "gristmill").exists()
    code = proposal(copied)
    assert sum(code[name] for name in CODE) > 2 * sum(prose[name] for name in CODE)
    assert code["prose"] < prose["prose"]
    assert mixture(copied)["provenance"]["suite"] == "code.yaml"
    done(copied, "propose", edited(copied))
    assert proposal(copied) == prose


def test_the_benchmark_of_decisions_measures_a_mix(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    row = bench_mix_decisions.variant("mix.yaml", [], 3)
    assert json.dumps(row)
    assert row["weights"] == mixture(copied)["weights"]
    assert row["gain_told"] == mixture(copied)["predicted"]["improvement"]


def test_report_and_shards_belong_to_the_proposal_that_they_are_of(copied: Path) -> None:
    """Without the earlier `--set`, a report is of the mixture that was written last, and says so; others are named."""
    first = current(copied)
    ran = done(copied, "run", "mix.yaml", "--set", "suite=code.yaml", "--set", "measure=[prose.yaml]")
    second = current(copied)
    assert second != first
    assert mixture(copied)["provenance"]["suite"] == "code.yaml"
    page, other = (second / "report/index.html").read_text(), (first / "report/index.html").read_text()
    assert "functions" in page
    assert "functions" not in other
    told = done(copied, "report", "mix.yaml")
    assert told.out.startswith(f"proposal: {second.name}, suite code.yaml\n")
    assert "mix.yaml has other suite, measure by now" in told.err
    assert (first / "report/index.html").read_text() == other
    done(copied, "sample", "mix.yaml", "--proposal", first.name)
    assert mixture(copied)["provenance"]["proposal"] == first.name
    again = here(copied, "mix", "report", "mix.yaml", "--proposal", "none")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert first.name in again.err
    assert second.name in again.err
    assert f"proposal: {second.name}" in ran.out


def test_explain_says_what_pulls_and_what_changed(copied: Path) -> None:
    alone = done(copied, "explain", "mix.yaml").out
    assert "No other proposal was written before" in alone
    done(copied, "run", "mix.yaml", "--set", "suite=code.yaml", "--set", "measure=[prose.yaml]")
    rows = {row["slice"]: row for row in done(copied, "explain", "mix.yaml", "--json").rows()}
    assert set(rows) == set(NAMES)
    weights = mixture(copied)["weights"]
    for name, row in rows.items():
        assert row["weight"] == weights[name]
        assert row["low"] <= row["weight"] <= row["high"]
        assert set(row["tasks"]) == {"functions", "held_out_modules"}
        if row["five_points_more"] is not None:
            assert sum(row["tasks"].values()) == pytest.approx(row["five_points_more"], abs=1e-9)
    text = done(copied, "explain", "mix.yaml", "modules").out
    assert "suite prose.yaml -> code.yaml" in text
    assert "held_out_modules" in text
    asked = ("--set", "suite=code.yaml", "--set", "measure=[prose.yaml]")
    assert done(copied, "explain", "mix.yaml", "modules", *asked).out == text
    assert done(copied, "explain", "mix.yaml", "--set", "suite=prose.yaml").out == alone
    never = here(copied, "mix", "explain", "mix.yaml", "--set", "suite=code.yaml")
    assert (never.code, "nothing is proposed yet" in never.err) == (2, True)
    wrong = here(copied, "mix", "explain", "mix.yaml", "modles")
    assert (wrong.code, wrong.out) == (2, "")
    assert "nearest: 'modules'" in wrong.err


def test_a_new_task_is_measured_on_the_kept_runs_and_nothing_else(copied: Path) -> None:
    before = snapshot(copied / MIX)
    ran = done(copied, "propose", edited(copied, suite="other.yaml"))
    after = snapshot(copied / MIX)
    swarm = _swarm_runs(copied)
    assert f"swarm: {len(swarm)} kept runs to measure, 1 tasks each" in ran.err
    added = [name for name in after if name not in before and re.match(r"runs/(?!ngram_counts)", name)]
    assert sorted({name.split("/")[1] for name in added}) == sorted(swarm)
    assert len(added) == len(swarm)
    assert all(name.split("/")[2] == "measures" for name in added)
    for name, seen in before.items():
        if name.startswith(("runs/", "slices/")) or "/shards/" in name:
            assert after[name] == seen, name
    assert mixture(copied)["provenance"]["task_weights"].keys() == {"other"}


def test_items_that_training_saw_are_left_out_and_their_documents_too(copied: Path) -> None:
    """A task that comes late: what of it the training text holds says nothing, and new shards do without."""
    text, doc_id = _trained_document(copied)
    known = [json.loads(line) for line in (copied / "eval/other.jsonl").read_text().splitlines()]
    items = [(row["prompt"], row["continuation"]) for row in known]
    write_items(copied / "eval/late.jsonl", [(text[:200], text[200:500]), *items[:8]])
    write_config(copied / "late.yaml", {"tasks": [{"name": "late", "path": "eval/late.jsonl"}]})
    before = snapshot(copied / MIX / "slices")
    ran = done(copied, "propose", edited(copied, suite="late.yaml"))
    done(copied, "sample", "mix.yaml")
    assert "task late: 1 items left out" in ran.err
    after = snapshot(copied / MIX / "slices")
    assert {name: after[name] for name in before} == before
    assert "late: 1 items were not measured" in (current(copied) / "report/index.html").read_text()
    assert doc_id not in Shards(copied).doc_ids()
    assert doc_id in set(_column(copied / MIX / "slices/prose/documents.parquet", "doc_id"))
    write_items(copied / "eval/late.jsonl", [(text[:200], text[200:500])])
    ran = here(copied, "mix", "propose", "mix.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "task 'late': all 1 items share text" in ran.err


def _trained_document(folder: Path) -> tuple[str, str]:
    """Return text and id of a document of the slice `prose` that its shards hold now."""
    trained = set(_column(folder / MIX / "slices/prose/documents.parquet", "doc_id")) & Shards(folder).doc_ids()
    rows = select(folder / "ws", "SELECT doc_id, text FROM curated WHERE source = 'prose' ORDER BY doc_id")
    return next((row["text"], row["doc_id"]) for row in rows if row["doc_id"] in trained)


# Other slices ---------------------------------------------------------------------------------------------------------


def test_reuse_keeps_the_ratios_of_an_earlier_mixture(copied: Path) -> None:
    """A slice is added: the ratios of the others are frozen, in every run and in the answer; going back is free."""
    shutil.copy(copied / MIX / "slices/tokenizer.json", copied / "tokenizer.json")
    tokenizer = {"file": "tokenizer.json"}
    old = {name: CONFIG["slices"][name] for name in NAMES if name != "packages"}
    first = edited(copied, "mix.yaml", name="grown", slices=old, tokenizer=tokenizer)
    done(copied, "run", first)
    earlier = copied / "earlier.yaml"
    shutil.copy(copied / "ws/mix/grown/mixture.yaml", earlier)
    weights = mixture(copied, "grown")["weights"]
    kept = snapshot(copied / "ws/mix/grown/runs")
    stores = snapshot(copied / "ws/mix/grown/slices")
    second = edited(
        copied,
        "second.yaml",
        name="grown",
        tokenizer=tokenizer,
        swarm={"runs": 8, "seed": 7, "reuse": {"mixture": "earlier.yaml"}},
    )
    done(copied, "run", second)
    swarm = json.loads((copied / "ws/mix/grown/swarm/swarm.json").read_text())
    for run in [*swarm, {"weights": proposal(copied, "grown")}]:
        block = sum(run["weights"][name] for name in old)
        for name in old:
            assert run["weights"][name] == pytest.approx(block * weights[name], abs=1e-9)
    after = snapshot(copied / "ws/mix/grown/slices")
    for name, seen in stores.items():
        assert after[name] == seen, name
    ran = done(copied, "run", first)
    assert "to train" not in ran.err
    runs_after = snapshot(copied / "ws/mix/grown/runs")
    assert {name: runs_after[name] for name in kept} == kept
    assert mixture(copied, "grown")["weights"] == weights


def test_stages_are_mixes_of_their_own(copied: Path) -> None:
    done(copied, "propose", edited(copied, "late_stage.yaml", suite="code.yaml", measure=[]))
    late = mixture(copied, "late_stage")["weights"]
    stage = {"name": "mid_training", "config": "late_stage.yaml", "share": 0.25}
    done(copied, "propose", edited(copied, stages=[stage]))
    done(copied, "sample", "mix.yaml")
    found = mixture(copied)["stages"]
    assert [each["name"] for each in found] == ["pretraining", "mid_training"]
    assert [each["share"] for each in found] == [0.75, 0.25]
    assert sum(each["tokens"] for each in found) == CONFIG["budget_tokens"]
    assert found[0]["weights"] == mixture(copied)["weights"]
    assert found[1]["weights"] == late
    assert found[0]["suite_hash"] != found[1]["suite_hash"]
    assert sum(Shards(copied).counted().values()) == 0.75 * CONFIG["budget_tokens"]


# Scaling --------------------------------------------------------------------------------------------------------------


def test_scaling_says_the_same_in_text_and_json(tmp_path: Path) -> None:
    sizes = product((1e6, 4e6, 1.6e7, 6.4e7), (1e8, 4e8, 1.6e9))
    lines = ["parameters,tokens,loss", *(f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28!r}" for n, d in sizes)]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    told = here(tmp_path, "scaling", "fit", "--runs", "runs.csv", "--out", "law", "--bootstrap", "8")
    law = here(tmp_path, "scaling", "fit", "--runs", "runs.csv", "--out", "law", "--bootstrap", "8", "--json").rows()
    assert told.code == 0
    assert law == json.loads((tmp_path / "law/fit.json").read_text())
    assert list((tmp_path / "law").glob("*.png"))
    size = ("--parameters", "1e9", "--tokens", "2e10")
    found = here(tmp_path, "scaling", "predict", "--fit", "law", *size, "--json").rows()
    assert found["loss"] == pytest.approx(1.7 + 400 / 1e9**0.34 + 410 / 2e10**0.28, abs=0.02)
    assert found["run_lo"] <= found["lo"] <= found["loss"] <= found["hi"] <= found["run_hi"]
    assert f"{found['loss']:.4f}" in here(tmp_path, "scaling", "predict", "--fit", "law", *size).out
    flops = ("--flops", "1e21", "--served-tokens", "1e12")
    plans = here(tmp_path, "scaling", "allocate", "--fit", "law", *flops, "--json").rows()
    alone = here(tmp_path, "scaling", "allocate", "--fit", "law", "--flops", "1e21", "--json").rows()
    assert set(alone) < set(plans)
    best = next(iter(alone.values()))
    assert 6 * best["parameters"]["value"] * best["tokens"]["value"] == pytest.approx(1e21, rel=0.01)
    text = here(tmp_path, "scaling", "allocate", "--fit", "law", *flops).out
    for plan in plans.values():
        assert f"{plan['loss']['value']:.4f}" in text


# Times ----------------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.parametrize("edit", ["same", "suite"])
def test_from_kept_runs_in_seconds(copied: Path, edit: str) -> None:
    """One edit of the suite and one command: under 10 s, whatever it takes to start Python among it; and no Prefect."""
    if edit == "suite":
        edited(copied, suite="code.yaml", measure=["prose.yaml"])
    ran = gristmill("mix", "run", "mix.yaml", cwd=copied, XDG_CACHE_HOME=str(copied / "cache"))
    print(f"\n{edit}: {ran.elapsed_s:.2f} s")
    assert ran.code == 0, ran.err
    assert ran.elapsed_s < 10
    assert not (copied / "cache" / "gristmill").exists()

"""The mix report: what it says, that it cannot be made to say anything else, and that it comes out the same twice."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mix.report import PLOTS, MixReport, mix_plots, text_summary, write_mix_report
from pipeline.mix.shards.sample import SampleReport, SliceSample
from pipeline.mix.types import Difference, Estimate, RunKind, RunSpec, TrainedRun
from pipeline.mix.weights.proposal import Active, Kept, ParetoPoint
from pipeline.mix.weights.space import Constraints, whole_space
from pipeline.mix.weights.verify import SizeResult
from pipeline.report import drawing, page
from pipeline.table.errors import WorkspaceError

HOSTILE = "<script>alert('x')</script>\"&$\\frac{$\n\x1b[2J漢字"
DONE = TrainedRun(10_000_000, 100, 340.0, 6e13, ())
VOID = {"meta", "img", "br"}


def parts(**values: Any) -> Any:
    """Return something with these attributes: as much of a step's result as the report reads."""
    return SimpleNamespace(**values)


def after_slices(names: tuple[str, ...] = ("web", "wiki"), natural: Sequence[float] = (0.7, 0.3), name: str = "prose"):
    config = parts(
        budget_tokens=2_000_000_000,
        workspace="ws",
        proxy=parts(kind="transformer", parameters=1_000_000, tokens=10_000_000),
        stages=(),
        propose=parts(objective="expected"),
    )
    free = Constraints(names, np.zeros(len(names)), np.ones(len(names)))
    material = parts(
        names=names,
        natural=np.array(natural),
        rows=[{"documents": 20_000, "tokens": round(1e9 * n), "cap": min(1.0, 2 * n)} for n in natural],
        slices=[parts(config=parts(max_epochs=4)) for _ in names],
        constraints=free,
        suite=parts(
            path="suites/prose.yaml",
            config=parts(groups=lambda: defaultdict(lambda: "maths", arc="knowledge"), weights=lambda: {"arc": 1.0}),
        ),
        suite_hash="3f2a",
        suite_tasks=("arc", "gsm"),
        tokenizer_hash="cd" * 16,
        data=parts(vocabulary=400),
        left_out={},
    )
    return MixReport(parts(name=name, config=config), material)


def with_fit(report: MixReport, tasks: tuple[str, ...] = ("arc", "gsm"), flagged: bool | None = None, **changes: Any):
    """Return a report with four runs and their regression, and with seed noise where `flagged` says of which kind."""
    k, m = len(report.material.names), len(tasks)
    measured = np.arange(4.0)[:, None] / 10 + np.arange(1, m + 1)
    weights = [np.full(k, 1 / k), *np.random.default_rng(1).dirichlet(np.ones(k), 3)]
    curve = ((100_000, 5.0), (1_000_000, 3.0), (10_000_000, 2.5))
    kinds: tuple[RunKind, ...] = ("natural", "swarm", "swarm", "swarm")
    results = parts(
        runs=[RunSpec(f"{i:032x}", kinds[i], weights[i], 1) for i in range(4)],
        tasks=tasks,
        values=measured,
        variances=None,
        trained=[TrainedRun(10_000_000, 100, 340.0 - i, 6e13, curve) for i in range(4)],
    )
    told = {"runs": 4, "r2": 0.93, "spearman": 0.98, "rmse": 0.012, "coverage": 0.9}
    metrics = [{"metric": tasks[0], "model": "gp", **told}, {"metric": tasks[-1], "model": "linear"}]
    held = parts(mean=measured + 0.01, low=measured - 0.05, high=measured + 0.06)
    noise = [
        {"metric": tasks[0], "signal_std": 0.08, "seed_std": 0.01, "ratio": 8.0, "flagged": False, "factor": 1.0},
        {"metric": tasks[1], "signal_std": 0.02, "seed_std": 0.01, "ratio": 2.0, "flagged": flagged, "factor": 0.5},
    ]
    fitted = {
        "results": parts(**vars(results) | changes.pop("results", {})),
        "fit": parts(**{"held_out": held, "report": {"metrics": metrics}} | changes.pop("fit", {})),
        "noise": parts(rows=lambda: noise if flagged is not None else []),
        "weights": dict.fromkeys(tasks, 1.0),
        "space": whole_space(report.material.names),
        "folder": parts(name="bb16c63e"),
    }
    return replace(report, fitted=parts(**fitted | changes))


def after_fit() -> MixReport:
    return with_fit(after_slices())


def size(best: str = "proposal") -> SizeResult:
    return SizeResult(
        size=1.0,
        seeds={best: (1, 2, 3), "natural": (1, 2, 3)},
        mean={best: 1.38, "natural": 1.42},
        pooled_sd=0.0045,
        degrees_of_freedom=4,
        expected={best: Estimate(1.38, 1.37, 1.39), "natural": Estimate(1.42, 1.41, 1.43)},
        best=best,
        differences={"natural": Difference(-0.04, -0.05, -0.03, -8.9)},
    )


def with_choice(report: MixReport, weights: Sequence[float] = (0.4, 0.6), **changes: Any) -> MixReport:
    """Return a report with a proposal and its verdict, which `proposal` and `verdict` change."""
    names, groups = report.material.names, ("knowledge", "maths")
    answer = parts(
        less=0.01,
        more=None,
        flat_low=0.5,
        flat_high=0.65,
        pulls={"arc": -0.01, "gsm": 0.002},
    )
    front = ((1.1, 1.3), (1.15, 1.25), (1.2, 1.2))
    proposal = {
        "names": names,
        "vector": np.array(weights),
        "metric": Estimate(1.381, 1.36, 1.40),
        "improvement": Estimate(0.031, 0.018, 0.045),
        "baselines": {"natural": Estimate(1.4, 1.3, 1.5)},
        "groups": dict(zip(groups, (1.15, 1.25), strict=True)),
        "natural_groups": dict(zip(groups, (1.2, 1.26), strict=True)),
        "slices": dict.fromkeys(names, answer),
        "tasks": dict.fromkeys(("arc", "gsm")),
        "halves": (Kept(0.0, 0.05, 0.01), Kept(0.02, 0.04, 0.02)),
        "kl": 0.02,
        "optimism": 0.0072,
        "notes": (),
        "active": (Active("trust_region", "", 0.1),),
        "pareto": [ParetoPoint({}, {}, dict(zip(groups, point, strict=True))) for point in front],
    } | changes.get("proposal", {})
    verdict = {"mixture": "proposal", "evidence": "confirmed", "why": "It beats natural by 8.9 sd.", "sizes": [size()]}
    mixture = parts(
        vector=np.array(weights),
        verified=parts(uses=None),
        slices={name: parts(low=w - 0.1, high=w + 0.1) for name, w in zip(names, weights, strict=True)},
    )
    said = changes.get("verdict", {})
    verification = None if said is None else parts(**verdict | said)
    others = dict.fromkeys(("natural", "uniform", "best_seen"), np.full(len(names), 1 / len(names)))
    candidates = {"proposal": np.array(weights)} | others
    made = parts(proposal=parts(**proposal), verification=verification, mixture=mixture, candidates=candidates)
    return replace(report, choice=made)


def with_sample(report: MixReport, *rows: tuple[int, float]) -> MixReport:
    """Return a report with token shards; a row is a slice's tokens, and the share that was asked for."""
    slices = [
        SliceSample(name, asked, 0, tokens, 0.0, 0, 0.0, 4.0)
        for name, (tokens, asked) in zip(report.material.names, rows, strict=True)
    ]
    return replace(report, sampled=SampleReport("shards", "k", True, 1, 1, 1, tuple(slices)))


def whole_report() -> MixReport:
    """Return a report with every part, of two slices and two groups."""
    report = with_choice(with_fit(after_slices(), flagged=True))
    return with_sample(report, (800_000_100, 0.4), (1_199_999_900, 0.6))


def hostile_report() -> MixReport:
    """Return the whole report with every text from data replaced by one that no page or plot should obey."""
    bad = HOSTILE
    report = with_fit(after_slices((bad, "wiki"), name=bad), (bad, "gsm"), flagged=True, weights={bad: 1.0, "gsm": 1.0})
    report.material.left_out[bad] = 1
    groups = {bad: 1.0, "maths": 1.0}
    return with_choice(
        report,
        proposal={"groups": groups, "natural_groups": groups, "pareto": [], "notes": (bad,), "tasks": {bad: None}},
        verdict={"mixture": bad, "why": bad, "evidence": "none", "sizes": [size(bad)]},
    )


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails where tags do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.handlers: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.links += [value for key in ("src", "href", "action", "srcset") if (value := values.get(key))]
        self.handlers += [key for key in values if key.startswith("on")]
        self.anchors |= {values["id"]} if values.get("id") else set()  # type: ignore[arg-type]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mix_report(whole_report(), tmp_path_factory.mktemp("report"))


def test_page_needs_no_other_file_and_embeds_the_plots_beside_it(written: Path):
    shown = Page(written.read_text("utf-8"))
    assert shown.tags.isdisjoint({"script", "link", "iframe", "object"})
    images = [link for link in shown.links if link.startswith("data:image/png;base64,")]
    rest = [link for link in shown.links if link not in images]
    assert {link.removeprefix("#") for link in rest} <= shown.anchors
    assert "url(" not in written.read_text("utf-8")
    assert "@import" not in written.read_text("utf-8")
    files = {path.read_bytes() for path in (written.parent / "plots").glob("*.png")}
    assert {base64.b64decode(image.partition(",")[2]) for image in images} == files
    assert len(files) == len(PLOTS)


def test_only_the_page_and_the_plots_are_left_in_the_folder(written: Path):
    names = {str(path.relative_to(written.parent)) for path in written.parent.rglob("*") if path.is_file()}
    assert names == {"index.html", *(f"plots/{name}.png" for name in PLOTS)}


def test_page_says_what_was_found_with_its_uncertainty(written: Path):
    said = Page(written.read_text("utf-8")).text
    for expected in (
        "60.0 %",
        "50.0 % to 70.0 %",
        "700,000,000",
        "−0.031 (−0.045 to −0.018)",
        "1.3800 ± 0.0045",
        "1.381 (1.360 to 1.400)",
        "It beats natural by 8.9 sd.",
        "mostly noise",
        "0.01000",
        "0.40000",
        "suites/prose.yaml",
    ):
        assert expected in said


def test_same_report_gives_same_bytes_whatever_the_users_matplotlib_settings(written: Path, tmp_path: Path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 50, "axes.facecolor": "red", "text.parse_math": True}):
        again = write_mix_report(whole_report(), tmp_path)
        assert matplotlib.rcParams["font.size"] == 20
    assert again.read_bytes() == written.read_bytes()


def test_plots_hold_no_metadata(written: Path):
    for path in (written.parent / "plots").glob("*.png"):
        data, kinds, at = path.read_bytes(), set(), 8
        while at < len(data):
            kinds.add(data[at + 4 : at + 8])
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        assert kinds <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_names_are_neither_markup_nor_terminal_commands(tmp_path: Path):
    source = write_mix_report(hostile_report(), tmp_path).read_text("utf-8")
    shown = Page(source)
    assert "script" not in shown.tags
    assert shown.handlers == []
    assert "\x1b" not in source
    assert "<script>alert('x')</script>\"&$\\frac{$ \\u001b[2J漢字" in shown.text
    assert "\x1b" not in text_summary(hostile_report())


@pytest.mark.parametrize(
    ("report", "drawn", "missing"),
    [
        (after_slices(), set(), "predicted gain, which tasks pull which slice, verification"),
        (after_fit(), {"predicted", "curves", "compute"}, "verification, signal and seed noise"),
        (
            with_fit(after_slices(), fit={"held_out": None}, results={"trained": [DONE] * 4}),
            {"compute"},
            "training curves",
        ),
    ],
)
def test_report_of_an_unfinished_mix_names_what_is_missing(
    tmp_path: Path, report: MixReport, drawn: set[str], missing: str
):
    said = Page(write_mix_report(report, tmp_path).read_text("utf-8")).text
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == drawn
    assert missing in said
    assert "Nothing is proposed yet" in said
    assert "nothing is proposed yet" in text_summary(report)


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path):
    write_mix_report(after_fit(), tmp_path)
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    write_mix_report(after_slices(), tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["mine.png"]


def test_warnings_that_follow_from_the_values_cannot_be_forgotten():
    report = with_sample(with_choice(whole_report(), (0.3, 0.7), verdict=None), (500, 0.3), (500, 0.7))
    edge = "The proposal lies at the edge of what the swarm sampled; more runs there might move it."
    assert report.warnings()[-5:] == [
        edge,
        "The proposal is not verified: every gain below is a prediction of the regression.",
        "Mostly seed noise, and weighted down: gsm.",
        "The proposal repeats more often than max_epochs allows: wiki.",
        "Sampled proportions are up to 0.2000 away from those asked for.",
    ]
    lost = with_choice(whole_report(), verdict={"evidence": "none", "mixture": "natural"}).warnings()
    assert "At the proxies' own size: no evidence that it is better than the natural mixture; see verification." in lost
    assert "The mixture file holds natural, not the proposal." in lost
    assert "Seed noise was not measured: small differences between mixtures may be chance." in after_fit().warnings()
    assert any(said.startswith("The runs cannot judge the slice web: 4 of 4 runs") for said in lost)


def test_summary_for_the_terminal():
    said = text_summary(whole_report())
    assert said.partition("\n\n")[0].splitlines()[-2:] == [
        "! The proposal lies at the edge of what the swarm sampled; more runs there might move it.",
        "! Mostly seed noise, and weighted down: gsm.",
    ]
    assert said.partition("\n\n")[2] == (
        "Mix prose\n"
        "slice  natural  proposed      90% interval  epochs at target\n"
        "wiki    30.0 %    60.0 %  50.0 % to 70.0 %              4.00\n"
        "web     70.0 %    40.0 %  30.0 % to 50.0 %              1.14\n"
        "\n"
        "predicted against natural  change in bits per byte (less is better)\n"
        "suite                                     -0.031 (-0.045 to -0.018)\n"
        "knowledge                                                  -0.05000\n"
        "maths                                                      -0.01000\n"
        "taken off for the optimism of an optimum: 0.0072; KL weight 0.02\n"
        "\n"
        "Confirmed. At the proxies' own size: it beats natural by 8.9 sd.\n"
    )


def test_summary_of_many_slices_counts_those_it_leaves_out():
    weights = [0.5] + [0.5 / 99] * 99
    names = tuple(f"topic_{i}" for i in range(100))
    said = text_summary(with_choice(after_slices(names, weights), weights))
    assert "... and 60 more slices with 30.3 % in all" in said
    assert len(said.splitlines()) < 60


def test_values_that_are_no_numbers_are_dashes_and_are_not_drawn(tmp_path: Path):
    bad, good = np.array([np.nan, 1.0, np.inf, 1.2]), np.array([1.0, 1.1, 1.2, 1.3])
    held = parts(mean=np.stack([bad, good], 1), low=np.stack([bad, bad], 1), high=np.stack([bad + np.inf] * 2, 1))
    metrics = [{"metric": "arc", "model": "linear", "runs": 4, "r2": np.nan, "rmse": np.inf, "coverage": np.nan}]
    curve = ((0, np.nan), (10, 1.0), (20, np.inf), (30, 1.2))
    report = with_fit(
        after_slices(),
        flagged=False,
        results={"values": np.stack([good, bad * np.nan], 1), "trained": [replace(DONE, curve=curve)] * 4},
        fit={"held_out": held, "report": {"metrics": metrics}},
    )
    answer = parts(less=np.inf, more=np.nan, flat_low=0, flat_high=1, pulls={})
    changes = {"improvement": Estimate(np.nan, np.nan, 1.0), "slices": {"web": answer, "wiki": answer}}
    report = with_choice(report, proposal=changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = Page(write_mix_report(report, tmp_path).read_text("utf-8")).text
    assert re.search(r"\b(nan|inf)\b", said) is None


def test_many_slices_metrics_groups_and_runs_are_drawn_within_bounds():
    k, count = 80, 400
    names = tuple(f"web_topic_{i:02d}_education_and_reference_works_q{i % 4}" for i in range(k))
    groups = [f"group_{i}" for i in range(5)]
    report = with_fit(after_slices(names, [1 / k] * k), tuple(f"metric_{i}" for i in range(30)))
    assert report.fitted is not None
    runs = {"runs": report.fitted.results.runs[1:2] * count, "trained": report.fitted.results.trained[:1] * count}
    runs["values"] = np.ones((count, 30)) + np.arange(30)
    held = parts(**dict.fromkeys(("mean", "low", "high"), runs["values"]))
    report = with_fit(report, report.fitted.results.tasks, results=runs, fit={"held_out": held})
    metrics = dict.fromkeys(groups, 1.0)
    front = [ParetoPoint({}, {}, dict(zip(groups, np.arange(5.0) + i, strict=True))) for i in range(4)]
    changes = {"groups": metrics, "natural_groups": metrics, "pareto": front}
    report = with_choice(report, [1 / k] * k, proposal=changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = mix_plots(report)
    heights = {name: int.from_bytes(plot.png[20:24], "big") for name, plot in drawn.items()}
    assert max(heights.values()) <= 25 * drawing.DPI
    assert "Not drawn: 20 slices of smaller weight." in drawn["weights"].caption
    assert "Not drawn: 6 metrics, which are in the table." in drawn["predicted"].caption
    assert "Not drawn: 4 pairs of groups." in drawn["pareto"].caption
    assert "Not drawn: 100 runs." in drawn["curves"].caption


def test_long_names_are_cut_in_their_middle_to_stay_apart():
    assert drawing.short("web_topic_07_education_and_reference_q3", 20) == "web_topic_0…rence_q3"
    assert drawing.short("web", 20) == "web"
    assert drawing.display_width(drawing.short("漢" * 40, 20)) <= 28


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1.23456, "1.235"),
        (-0.0123456, "−0.01235"),
        (1234567.8, "1,234,568"),
        (6e13, "60,000,000,000,000"),
        (1.5e-9, "1.500e-09"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, said: str):
    assert page.number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((0.12345, 0.1, 0.15), "0.123 (0.100 to 0.150)"),
        ((1234.5, 1000, 1500), "1,234 (1,000 to 1,500)"),
        ((2.0, 2.0, 2.0), "2.0000 (2.0000 to 2.0000)"),
        ((0.5, 0.4, np.nan), "0.5000"),
    ],
)
def test_estimates_and_their_intervals_have_the_same_decimals(value: tuple[float, float, float], said: str):
    assert page.estimate(*value) == said


@given(st.floats(), st.floats(), st.floats())
def test_every_float_can_be_written(value: float, low: float, high: float):
    assert page.estimate(value, low, high)
    assert page.number(value)
    assert page.percent(value)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WorkspaceError, match=r"cannot write .*taken"):
        write_mix_report(after_slices(), tmp_path / "taken")


def test_reports_do_not_import_matplotlib_before_they_draw():
    code = "import sys, pipeline.mix.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

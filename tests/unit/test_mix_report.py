"""The mix report: what it says, that it cannot be made to say anything else, and that it comes out the same twice."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import drawing, html, plots
from pipeline.report.mix import text_summary, write_report
from pipeline.report.values import (
    Change,
    Cost,
    Curve,
    Estimate,
    FitQuality,
    MixReport,
    Mixture,
    Pareto,
    Predicted,
    Sampled,
    Sensitivity,
    SignalToNoise,
    Slice,
    Task,
    Verification,
    Verified,
    all_warnings,
)
from pipeline.table.errors import WorkspaceError

HOSTILE = "<script>alert('x')</script>\"&$\\frac{$\n\x1b[2J漢字"
VOID = {"meta", "img", "br"}


def after_slices() -> MixReport:
    return MixReport("prose", [Slice("web", 0.7), Slice("wiki", 0.3)])


def after_fit() -> MixReport:
    measured = np.array([1.1, 1.3, 1.2, 1.4])
    predicted = Predicted("arc", measured, measured + 0.01, measured - 0.05, measured + 0.06)
    quality = [FitQuality("arc", "effective_data", 4, 0.93, 0.98, 0.012, 0.9)]
    return replace(after_slices(), predictions=[predicted], quality=quality)


def whole_report() -> MixReport:
    """Return a report with every part, of two slices and two groups."""
    verified = [
        Verified("proposal", 3, 1.38, 0.004, Estimate(1.381, 1.36, 1.40)),
        Verified("natural", 3, 1.42, 0.005, Estimate(1.418, 1.40, 1.44)),
    ]
    costs = [Cost("r0", "natural", 340.0, 10_000_000, 6e13), Cost("r1", "swarm", 150.0, 5_000_000, 3e13)]
    tokens = np.array([1e5, 1e6, 1e7])
    return replace(
        after_fit(),
        slices=[Slice("web", 0.7, 1_000_000, 700_000_000, 4, 1.0), Slice("wiki", 0.3, 20_000, 300_000_000, 4, 0.6)],
        basis={"suite": "suites/prose.yaml", "suite hash": "3f2a"},
        tasks=[Task("arc", "knowledge", 2, "gp"), Task("gsm", "maths", 1, "linear")],
        budget_tokens=2_000_000_000,
        runs=66,
        proposal=Mixture("proposal", np.array([0.4, 0.6]), np.array([0.3, 0.5]), np.array([0.5, 0.7])),
        baselines=[Mixture("uniform", np.array([0.5, 0.5]))],
        changes=[
            Change("suite", Estimate(-0.031, -0.045, -0.018), 1.4),
            Change("knowledge", Estimate(-0.05, np.nan, np.nan)),
            Change("arc", Estimate(-0.07, np.nan, np.nan)),
        ],
        verifications=[Verification("At proxy size", verified, "It beats natural by 8.9 sd.", "confirmed", 0.0045)],
        noise=[SignalToNoise("arc", 0.08, 0.01, 8.0, False, 1.0), SignalToNoise("gsm", 0.02, 0.01, 2.0, True, 0.5)],
        sensitivity=[Sensitivity("wiki", Estimate(0.01, 0.0, 0.02), Estimate(0.003, np.nan, np.nan), (0.5, 0.65))],
        pareto=Pareto(["knowledge", "maths"], np.array([[1.1, 1.3], [1.2, 1.2]]), np.array([1.15, 1.25])),
        curves=[
            Curve("r0", "natural", tokens, np.array([5.0, 3.0, 2.5])),
            Curve("r1", "swarm", tokens, tokens * 0 + 3),
        ],
        costs=costs,
        sampled=Sampled(np.array([800_000_100.0, 1_199_999_900.0]), np.array([0.4, 0.6])),
        warnings=["The proposal lies at the edge of the sampled support."],
    )


def hostile_report() -> MixReport:
    """Return the whole report with every text replaced by one that no page or plot should obey."""
    full = whole_report()
    bad = HOSTILE
    verified = [replace(v, mixture=bad) for v in full.verifications[0].mixtures]
    return replace(
        full,
        name=bad,
        slices=[replace(full.slices[0], name=bad), full.slices[1]],
        basis={bad: bad},
        tasks=[Task(bad, bad, 1, bad)],
        baselines=[Mixture(bad, np.array([0.5, 0.5]))],
        changes=[Change(bad, Estimate(-0.1, -0.2, 0.1), 1.0)],
        verifications=[Verification(bad, verified, bad, "none")],
        predictions=[replace(full.predictions[0], metric=bad)],
        quality=[FitQuality(bad, bad, 3)],
        noise=[SignalToNoise(bad, 1, 1, 1, True)],
        sensitivity=[Sensitivity(bad, Estimate(0.1, np.nan, np.nan))],
        pareto=replace(full.pareto, groups=[bad, bad]) if full.pareto else None,
        curves=[replace(full.curves[0], run=bad, kind=bad)],
        costs=[replace(full.costs[0], run=bad, kind=bad)],
        warnings=[bad],
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
    return write_report(whole_report(), tmp_path_factory.mktemp("report"))


def test_page_needs_no_other_file_and_embeds_the_plots_beside_it(written: Path):
    page = Page(written.read_text("utf-8"))
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    images = [link for link in page.links if link.startswith("data:image/png;base64,")]
    rest = [link for link in page.links if link not in images]
    assert {link.removeprefix("#") for link in rest} <= page.anchors
    assert "url(" not in written.read_text("utf-8")
    assert "@import" not in written.read_text("utf-8")
    files = {path.read_bytes() for path in (written.parent / "plots").glob("*.png")}
    assert {base64.b64decode(image.partition(",")[2]) for image in images} == files
    assert len(files) == len(plots.NAMES)


def test_only_the_page_and_the_plots_are_left_in_the_folder(written: Path):
    names = {str(path.relative_to(written.parent)) for path in written.parent.rglob("*") if path.is_file()}
    assert names == {"index.html", *(f"plots/{name}.png" for name in plots.NAMES)}


def test_page_says_what_was_found_with_its_uncertainty(written: Path):
    said = Page(written.read_text("utf-8")).text
    for expected in (
        "60.0 %",
        "50.0 % to 70.0 %",
        "700,000,000",
        "−0.031 (−0.045 to −0.018)",
        "1.3800 ± 0.0040",
        "1.381 (1.360 to 1.400)",
        "It beats natural by 8.9 sd.",
        "mostly noise",
        "0.010 (0.000 to 0.020)",
        "0.40000",
        "suites/prose.yaml",
    ):
        assert expected in said


def test_same_report_gives_same_bytes_whatever_the_users_matplotlib_settings(written: Path, tmp_path: Path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 50, "axes.facecolor": "red", "text.parse_math": True}):
        again = write_report(whole_report(), tmp_path)
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
    source = write_report(hostile_report(), tmp_path).read_text("utf-8")
    page = Page(source)
    assert "script" not in page.tags
    assert page.handlers == []
    assert "\x1b" not in source
    assert "<script>alert('x')</script>\"&$\\frac{$ \\u001b[2J漢字" in page.text
    assert "\x1b" not in text_summary(hostile_report())


@pytest.mark.parametrize(
    ("report", "drawn", "missing"),
    [
        (after_slices(), set(), "predicted gain, which tasks pull which slice, verification"),
        (after_fit(), {"predicted"}, "verification, signal and seed noise"),
        (replace(after_fit(), predictions=[], quality=[]), set(), "how well metrics are predicted"),
    ],
)
def test_report_of_an_unfinished_mix_names_what_is_missing(
    tmp_path: Path, report: MixReport, drawn: set[str], missing: str
):
    said = Page(write_report(report, tmp_path).read_text("utf-8")).text
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == drawn
    assert missing in said
    assert "Nothing is proposed yet" in said
    assert "nothing is proposed yet" in text_summary(report)


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path):
    write_report(after_fit(), tmp_path)
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    write_report(after_slices(), tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["mine.png"]


def test_warnings_that_follow_from_the_values_cannot_be_forgotten():
    report = replace(
        whole_report(),
        verifications=[],
        proposal=Mixture("proposal", np.array([0.3, 0.7])),
        sampled=Sampled(np.array([500.0, 500.0]), np.array([0.3, 0.7])),
    )
    assert all_warnings(report) == [
        "The proposal lies at the edge of the sampled support.",
        "The proposal is not verified: every gain below is a prediction of the regression.",
        "Mostly seed noise, and weighted down: gsm.",
        "The proposal repeats more often than max_epochs allows: wiki.",
        "Sampled proportions are up to 0.2000 away from those asked for.",
    ]
    lost = replace(whole_report().verifications[0], evidence="none")
    assert "At proxy size: no evidence that it is better than the natural mixture; see verification." in all_warnings(
        replace(whole_report(), verifications=[lost])
    )
    assert "Seed noise was not measured: small differences between mixtures may be chance." in all_warnings(after_fit())


def test_summary_for_the_terminal():
    assert text_summary(whole_report()) == (
        "! The proposal lies at the edge of the sampled support.\n"
        "! Mostly seed noise, and weighted down: gsm.\n"
        "\n"
        "Mix prose\n"
        "slice  natural  proposed      90% interval  epochs at target\n"
        "wiki    30.0 %    60.0 %  50.0 % to 70.0 %              4.00\n"
        "web     70.0 %    40.0 %  30.0 % to 50.0 %              1.14\n"
        "\n"
        "predicted against natural  change in bits per byte (less is better)\n"
        "suite                                     -0.031 (-0.045 to -0.018)\n"
        "knowledge                                                  -0.05000\n"
        "\n"
        "Confirmed. At proxy size: It beats natural by 8.9 sd.\n"
    )


def test_summary_of_many_slices_counts_those_it_leaves_out():
    weights = np.array([0.5] + [0.5 / 99] * 99)
    slices = [Slice(f"topic_{i}", w) for i, w in enumerate(weights)]
    said = text_summary(MixReport("topics", slices, proposal=Mixture("proposal", weights)))
    assert "... and 60 more slices with 30.3 % in all" in said
    assert len(said.splitlines()) < 50


def test_values_that_are_no_numbers_are_dashes_and_are_not_drawn(tmp_path: Path):
    bad, good = np.array([np.nan, 1.0, np.inf, 1.2]), np.array([1.0, 1.1, 1.2, 1.3])
    report = replace(
        whole_report(),
        predictions=[Predicted("arc", good, bad, bad, bad + np.inf), Predicted("gsm", bad * np.nan, good)],
        quality=[FitQuality("arc", "linear", 4, np.nan, None, np.inf, np.nan)],
        noise=[SignalToNoise("arc", 0.1, 0.0, np.inf, False)],
        changes=[Change("suite", Estimate(np.nan, np.nan, 1.0))],
        curves=[Curve("r0", "swarm", np.array([0.0, 10.0, 20.0, 30.0]), bad)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = Page(write_report(report, tmp_path).read_text("utf-8")).text
    assert re.search(r"\b(nan|inf)\b", said) is None


def test_many_slices_metrics_groups_and_runs_are_drawn_within_bounds():
    k, count = 80, 400
    weights = np.full(k, 1 / k)
    tokens = np.linspace(1e4, 1e6, 50)
    report = MixReport(
        "wide",
        [Slice(f"web_topic_{i:02d}_education_and_reference_works_q{i % 4}", 1 / k, max_weight=0.1) for i in range(k)],
        proposal=Mixture("proposal", weights, weights / 2, weights * 2),
        predictions=[Predicted(f"metric_{i}", np.ones(4) + i, np.ones(4) + i) for i in range(30)],
        pareto=Pareto([f"group_{i}" for i in range(5)], np.arange(20.0).reshape(4, 5)),
        curves=[Curve(f"r{i}", "swarm", tokens, 3 + i / tokens) for i in range(count)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = plots.draw(report)
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
    assert html.number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Estimate(0.12345, 0.1, 0.15), "0.123 (0.100 to 0.150)"),
        (Estimate(1234.5, 1000, 1500), "1,234 (1,000 to 1,500)"),
        (Estimate(2.0, 2.0, 2.0), "2.0000 (2.0000 to 2.0000)"),
        (Estimate(0.5, 0.4, np.nan), "0.5000"),
        (None, "–"),
    ],
)
def test_estimates_and_their_intervals_have_the_same_decimals(value: Estimate | None, said: str):
    assert html.estimate(value) == said


@given(st.floats(), st.floats(), st.floats())
def test_every_float_can_be_written(value: float, low: float, high: float):
    assert html.estimate(Estimate(value, low, high))
    assert html.number(value)
    assert html.percent(value)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WorkspaceError, match=r"cannot write .*taken"):
        write_report(after_slices(), tmp_path / "taken")


def test_reports_do_not_import_matplotlib_before_they_draw():
    code = "import sys, pipeline.report.mix; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

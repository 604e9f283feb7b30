"""What counts as a near duplicate: texts, through signatures and bands, to components, as the defaults decide."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dedup.components import Components, ComponentSettings, SignaturePart, find_components
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import Numbers, permutations, sign_table
from pipeline.kernels.minhash import shingle_hashes
from pipeline.table.errors import ConservationError

DEFAULT = DedupConfig()
PROBLEM = (
    "Tom has {a} apples and buys {b} more at the market on the corner. How many apples has Tom now? He has {c} apples."
)
WEATHER = (
    "Weather for station {a} on day {b}: the temperature is {c} degrees, the wind blows with {d} knots "
    "from {e} degrees and the pressure is {f} hectopascals."
)
PRODUCT = "Steel bolt M{a} x {b} mm, pack of {c}, price {d} EUR, weight {e} g, stock {f}, there in {a} to {b} days."
FORM = "Form {a} page {b} of {c}: name, address, date of birth, signature. Return before {d} {e} {f} to office {a}."
LOG = "Version {a}.{b}.{c} fixes issue {d} and issue {e} and closes pull request {f} of milestone {a} and release {b}."
HAN = "第{a}站今天气温{b}度，风速每秒{c}米，湿度百分之{d}，气压{e}百帕，明天最高{f}度。"
CODE = "def f{a}(x):\n    y = x * {b} + {c}\n    z = y ** {d} - {e}\n    return y if z > {f} else {a}\n"
FILLER = "This page belongs to the archive of the county and may be copied for any purpose if its source is named. "


def parts(texts: list[str], config: DedupConfig, cuts: tuple[int, ...] = ()) -> list[SignaturePart]:
    perms = permutations(config.num_perm, config.seed)
    made = []
    for number, (begin, end) in enumerate(itertools.pairwise([0, *cuts, len(texts)])):
        own = texts[begin:end]
        documents = pa.table({"doc_id": [f"{i:032x}" for i in range(begin, end)], "text": pa.array(own, pa.string())})
        signed = sign_table(
            documents, config.num_bands, config.rows_per_band, config.shingle_words, perms, config.numbers
        )
        made.append(
            SignaturePart(
                f"p{number}",
                len(own),
                lambda signed=signed: [signed],  # type: ignore[misc]
                lambda rows, own=own: [pa.array([own[i] for i in rows])],  # type: ignore[misc]
            )
        )
    return made


def find(made: list[SignaturePart], config: DedupConfig, folder: Path, memory_mb: int = 64) -> Components:
    settings = ComponentSettings(
        config.num_bands,
        config.rows_per_band,
        verify=config.verify,
        memory_mb=memory_mb,
        shingle_words=config.shingle_words,
        numbers=config.numbers,
    )
    return find_components(made, settings, folder)


def groups(found: Components, order: list[int] | None = None) -> set[frozenset[int]]:
    names = order or list(range(found.documents))
    return {frozenset(names[i] for i in np.flatnonzero(found.roots == root)) for root in set(found.roots.tolist())}


def filled(template: str, count: int) -> list[str]:
    """Return texts that differ in their six numbers alone."""
    draw = random.Random(template)
    return [template.format(**{name: draw.randrange(2, 9999) for name in "abcdef"}) for _ in range(count)]


@pytest.mark.parametrize("template", [PROBLEM, WEATHER, PRODUCT, FORM, LOG, HAN, CODE])
@pytest.mark.parametrize("verify", [0.7, 0.95])
def test_texts_whose_information_is_their_numbers_stay(tmp_path: Path, template: str, verify: float) -> None:
    texts = filled(template, 150)
    config = DedupConfig(verify=verify)
    assert find(parts(texts, config), config, tmp_path).components == 150


@pytest.mark.parametrize(
    ("verify", "numbers", "components"),
    [(0.7, "exact", 200), (0.95, "exact", 200), (None, "exact", 29), (0.95, "any", 1)],
)
def test_arithmetic_problems(tmp_path: Path, verify: float | None, numbers: Numbers, components: int) -> None:
    """Problems of one template are 0.6 alike at most: a shared band joins them, and verification parts them."""
    texts = [PROBLEM.format(a=a, b=b, c=a + b) for a in range(3, 23) for b in range(5, 15)]
    config = DedupConfig(verify=verify, numbers=numbers)
    assert find(parts(texts, config), config, tmp_path).components == components


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ("", "", False),
        ("?!", "...", False),
        ("page not found", "Page NOT found!", True),
        ("page not found", "page was found", False),
        ("12", "13", False),
        ("four words are short", "four words are shorter", False),
        ("今日", "今日", True),
        ("今日", "明日", False),
        (FILLER, FILLER + "And more.", True),
        (FILLER, FILLER + "It was written in 1921 by a clerk whose name nobody in the office could remember.", False),
        # A repeated sentence counts once: of these the difference is an eleventh.
        ("我们今天去公园看花。" * 9 + "一", "我们今天去公园看花。" * 9 + "二", True),
        # A number is one word among many: 18 of 24 shingles are shared.
        (FILLER + "Volume 7 of 12", FILLER + "Volume 8 of 12", True),
        (FILLER + "Volume 7 of 12 of 2021", FILLER + "Volume 8 of 14 of 2022", False),
        (FILLER + HAN, FILLER + HAN + "。", True),
    ],
)
def test_pairs(tmp_path: Path, left: str, right: str, joined: bool) -> None:
    found = find(parts([left, right], DEFAULT), DEFAULT, tmp_path)
    assert (found.components == 1) is joined


def around_the_threshold(count: int) -> list[str]:
    """Return pairs of neighbours with a similarity between about 0.5 and 0.9."""
    draw = random.Random(3)
    texts = []
    for _ in range(count):
        words = [f"w{draw.randrange(10**6)}" for _ in range(draw.choice((40, 120)))]
        other = [f"v{draw.randrange(10**6)}" if draw.random() < 0.035 else word for word in words]
        texts += [" ".join(words), " ".join(other)]
    return texts


def similarity(left: str, right: str, config: DedupConfig = DEFAULT) -> float:
    first, second = (set(shingle_hashes(text.encode(), config.shingle_words).tolist()) for text in (left, right))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("verify", [0.7, 0.8, 1.0])
def test_shingles_decide_close_pairs(tmp_path: Path, verify: float) -> None:
    """With 28 bands of 4 rows nearly every pair meets; then the exact similarity decides, whatever the estimate."""
    texts = around_the_threshold(300)
    config = DedupConfig(num_bands=28, rows_per_band=4, verify=verify)
    loose = DedupConfig(num_bands=28, rows_per_band=4, verify=None)
    met = find(parts(texts, loose), loose, tmp_path)
    found = find(parts(texts, config, (7, 8, 301)), config, tmp_path)
    expected = [similarity(*texts[i : i + 2]) >= verify for i in range(0, 600, 2)]
    together = [met.roots[i] == met.roots[i + 1] for i in range(0, 600, 2)]
    assert sum(together) > 250
    joined = [found.roots[i] == found.roots[i + 1] for i in range(0, 600, 2)]
    assert joined == [a and b for a, b in zip(expected, together, strict=True)]
    assert found.close_pairs > 0 or verify == 1.0
    assert not list(tmp_path.iterdir())


def test_order_parts_and_memory_do_not_matter(tmp_path: Path) -> None:
    """Templated pages with more or less of their own, so that buckets are large and pairs are close."""
    draw = random.Random(5)
    template = " ".join(f"t{i}" for i in range(100))
    own = [" ".join(f"w{draw.randrange(10**6)}" for _ in range(draw.randrange(10, 25))) for _ in range(2500)]
    texts = [f"{template} {words}" for words in own]
    before = find(parts(texts, DEFAULT), DEFAULT, tmp_path)
    assert before.capped > 0
    assert before.close_pairs > 0
    assert 1 < before.components < 2500
    order = list(range(2500))
    draw.shuffle(order)
    after = find(parts([texts[i] for i in order], DEFAULT, (3, 1200)), DEFAULT, tmp_path, memory_mb=16)
    assert groups(after, order) == groups(before)
    counts = ("candidate_pairs", "close_pairs", "exact_pairs", "capped")
    assert [getattr(after, name) for name in counts] == [getattr(before, name) for name in counts]


def test_only_texts_of_close_pairs_are_read(tmp_path: Path) -> None:
    close = around_the_threshold(40)
    far = [" ".join(f"x{i}y{j}" for j in range(50)) for i in range(100)]
    config = DedupConfig(num_bands=28, rows_per_band=4)
    read: list[int] = []
    made = parts(close + far, config, (80,))
    watched = [
        SignaturePart(
            part.name,
            part.rows,
            part.read,
            lambda rows, part=part: (read.append(len(rows)), part.texts(rows))[1],  # type: ignore[misc]
        )
        for part in made
    ]
    find(watched, config, tmp_path)
    assert len(read) == 1
    assert 0 < read[0] < 80


def test_texts_that_are_not_those_that_were_signed_are_refused(tmp_path: Path) -> None:
    texts = around_the_threshold(40)
    config = DedupConfig(num_bands=28, rows_per_band=4)
    (part,) = parts(texts, config)
    other = SignaturePart(part.name, part.rows, part.read, lambda rows: [pa.array(["another text"] * len(rows))])
    with pytest.raises(ConservationError, match="not those that were signed"):
        find([other], config, tmp_path)
    short = SignaturePart(part.name, part.rows, part.read, lambda rows: [])
    with pytest.raises(ConservationError, match="p0: 0 texts of"):
        find([short], config, tmp_path)
    assert not list(tmp_path.iterdir())

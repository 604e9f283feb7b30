"""What each rule of fidelity adds on summaries that people judged: every function and table of the package in turn is
switched off.

    python tests/bench/ablate_fidelity.py PAIRS.jsonl.gz [NAME ...]

Each line of the file has `source`, `rephrased` and `faithful`. Prints how many verdicts change when a rule finds
nothing, supports nothing, or a table is empty: unfaithful pairs that are found no more (or anew), faithful ones that
are doubted anew (or no more). A rule that changes nothing here, on planted changes and on the pairs written by hand
is not worth its lines.
"""

from __future__ import annotations

import gzip
import importlib
import json
from types import FunctionType, ModuleType
from typing import Any

from pipeline.rephrase.fidelity import check, tokens
from tests.bench.tables import Table, bench_parser

MODULES = "lexicon quantity tokens text names grammar support".split()  # noqa: SIM905
EMPTY: dict[str, Any] = {
    "bool": False,
    "str | None": None,
    "list[Finding]": [],
    "set[int]": set(),
    "list[str]": [],
    "int": 0,
}


def verdicts(pairs: list[dict[str, Any]]) -> list[bool]:
    """Return whether each pair is found unfaithful, with nothing known from before."""
    check._analysed.cache_clear()
    tokens._KNOWN.clear()
    tokens._CHUNKS.clear()
    return [bool(check.check(pair["source"], pair["rephrased"]).found) for pair in pairs]


def switched_off(value: object) -> Any:
    """Return what stands for `value` when it is off; None where it has no off."""
    if isinstance(value, FunctionType) and value.__annotations__.get("return") in EMPTY:
        answer = EMPTY[value.__annotations__["return"]]
        return lambda *_: answer
    return type(value)() if type(value) in (frozenset, dict, tuple) else None


def main() -> None:
    """Add a row for each rule whose absence changes a verdict or fails, and print the names of all others."""
    parser = bench_parser(__doc__)
    parser.add_argument("pairs")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    columns = "rule unfaithful_lost unfaithful_found faithful_doubted faithful_cleared error"
    table = Table("fidelity-ablation", given.csv, columns)
    with gzip.open(given.pairs, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    modules: list[ModuleType] = [importlib.import_module(f"pipeline.rephrase.fidelity.{name}") for name in MODULES]
    before = verdicts(pairs)
    idle: list[str] = []
    for module in modules:
        for name, value in list(vars(module).items()):
            off = switched_off(value)
            if off is None or name.startswith("__") or (given.names and name not in given.names):
                continue
            holders = [each for each in modules if vars(each).get(name) is value]
            if holders[0] is not module:
                continue
            for each in holders:
                setattr(each, name, off)
            try:
                after = verdicts(pairs)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                table.row(name, None, None, None, None, type(error).__name__)
                after = before
            for each in holders:
                setattr(each, name, value)
            changed = [
                (now, pair["faithful"]) for pair, was, now in zip(pairs, before, after, strict=True) if was != now
            ]
            if changed:
                kinds = (False, False), (True, False), (True, True), (False, True)
                table.row(name, *map(changed.count, kinds), None)
            else:
                idle.append(name)
    print("no verdict changes without:", " ".join(idle))


if __name__ == "__main__":
    main()

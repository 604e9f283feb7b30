"""One phenomenon a case: what a faithful rephrasing may change, and what it may not."""

from __future__ import annotations

import pytest

from pipeline.rephrase.fidelity.check import check
from tests.unit.fidelity_cases import FAITHFUL, UNFAITHFUL


@pytest.mark.parametrize(("source", "rephrased"), FAITHFUL)
def test_faithful(source: str, rephrased: str) -> None:
    assert check(source, rephrased).found == ()


@pytest.mark.parametrize(("kind", "source", "rephrased"), UNFAITHFUL)
def test_unfaithful(kind: str, source: str, rephrased: str) -> None:
    found = check(source, rephrased).found
    assert kind in {finding.kind for finding in found}, found


@pytest.mark.parametrize("text", [source for source, _ in FAITHFUL] + [source for _, source, _ in UNFAITHFUL])
def test_a_text_is_faithful_to_itself(text: str) -> None:
    assert check(text, text).found == ()

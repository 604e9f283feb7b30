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


@pytest.mark.parametrize(
    ("source", "sound", "wrong"),
    [
        ("The rate was 2.5 percent.", "The rate was two point five percent.", "The rate was two point six percent."),
        ("It costs two point five dollars.", "It costs 2.5 dollars.", "It costs 2.4 dollars."),
        ("It grew by 3.6 million.", "It grew by three point six million.", "It grew by three point six billion."),
        ("The USSR fell in 1991.", "The Soviet Union fell in 1991.", "The European Union fell in 1991."),
        ("She flew to the UAE.", "She flew to the United Arab Emirates.", "She flew to Mexico."),
        (
            "Engineers at NASA built it.",
            "Engineers at the National Aeronautics and Space Administration built it.",
            "Engineers at the National Oceanic Administration built it.",
        ),
        ("President William Clinton spoke.", "President Bill Clinton spoke.", "President Bob Clinton spoke."),
        ("Elizabeth Warren won.", "Liz Warren won.", "Susan Warren won."),
        ("Darwin wrote of finches.", "The Darwinian account is of finches.", "The Freudian account is of finches."),
        ("A Cuban doctor came.", "A doctor from Cuba came.", "A doctor from Mexico came."),
        ("It was held on 4 July 2022.", "It was held on Monday, 4 July 2022.", "It was held on Sunday, 4 July 2022."),
        ("It was on June 1 and 2, 2019.", "It was on 1 June 2019 and 2 June 2019.", "It was on 3 June 2019."),
        (
            "Anna and Ben put forth the five-stage model of problem solving.",
            "The five-stage model of problem solving was put forth by two people, Anna and Ben.",
            "Anna and Ben put forth the two-stage model of problem solving.",
        ),
        ("Both brothers left.", "The two brothers left.", "The three brothers left."),
        ("The centenary was held.", "The 100th anniversary was held.", "The 200th anniversary was held."),
        ("Output tripled.", "Output rose by a factor of three.", "Output rose by a factor of four."),
        ("It took two and a half hours.", "It took two hours and a half.", "It took three hours and a half."),
        ("It was the hundredth time.", "It was the 100th time.", "It was the 1000th time."),
        ("He was a singer and a dancer.", "He was not only a singer but also a dancer.", "He was not a singer."),
        (
            "It rained in Rome.",
            "There is no doubt that it rained in Rome.",
            "There was no rain: it rained not in Rome.",
        ),
        ("More than 10 people came.", "No fewer than 10 people came.", "No people came."),
    ],
)
def test_a_rewording_of_its_kind_passes_and_a_change_does_not(source: str, sound: str, wrong: str) -> None:
    assert check(source, sound).found == ()
    assert check(source, wrong).found


@pytest.mark.parametrize("text", [source for source, _ in FAITHFUL] + [source for _, source, _ in UNFAITHFUL])
def test_a_text_is_faithful_to_itself(text: str) -> None:
    assert check(text, text).found == ()

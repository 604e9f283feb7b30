"""Whatever the texts: no error, the same answer twice, and a text is faithful to itself."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rephrase.fidelity.check import check
from pipeline.rephrase.fidelity.text import analyse
from pipeline.rephrase.verify import SCHEMA, Pair, verdict_row, verdict_table, verify
from tests.fidelity_plants import spell

ODD = st.text(max_size=200) | st.text(alphabet="0123456789.,:/-$% \nIVXA'apm½ndo", max_size=80)
WORDS = st.lists(
    st.sampled_from(
        """The of not never no 12 March 1998 km miles two hundred and thirds half a Smith Paris who beat by 3:30 pm $5
        million % is was larger than from to - , . : ; ( ) 1990s 21st dozen between 1/2 5'10 20°C U.S. Dr. XIV
        1998-03-12 o'clock don't un-named nineteen eighty-four point five""".split()  # noqa: SIM905
    ),
    max_size=40,
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(ODD | WORDS, ODD | WORDS)
def test_any_two_texts_have_verdicts_and_always_the_same(source: str, rephrased: str) -> None:
    first = verify(source, rephrased)
    assert verify(source, rephrased) == first
    assert verdict_table([Pair(source, rephrased)]).schema.equals(SCHEMA)
    assert set(verdict_row(first)) == set(SCHEMA.names)
    assert 0 <= first.copied_8gram_share <= 1
    assert 0 <= first.repeated_8gram_share <= 1


@settings(max_examples=150, deadline=None)
@given(ODD | WORDS)
def test_a_text_supports_itself(text: str) -> None:
    assert check(text, text).found == ()


@given(st.permutations(range(12)))
def test_of_sentences_that_share_as_much_the_earlier_ones_come_first(order: list[int]) -> None:
    words = "apple bridge candle dragon engine forest guitar hammer island jacket kitten ladder".split()  # noqa: SIM905
    text = analyse(". ".join(f"The {words[k]}" for k in order) + ".")
    stems = frozenset().union(*[sentence.stems for sentence in text.sentences])
    assert [k for _, k in text.aligned(stems)] == [0, 1, 2, 3]


@given(st.integers(2, 999_999))
def test_numbers_in_words_are_numbers(number: int) -> None:
    assert check(f"There were {number} ships.", f"There were {spell(number)} ships.").found == ()
    assert check(f"There were {spell(number)} ships.", f"There were {number:,} ships.").found == ()


@given(st.integers(2, 99_999), st.integers(2, 99_999))
def test_another_number_is_found(number: int, other: int) -> None:
    found = check(f"There were {number} ships.", f"There were {spell(other)} ships.").found
    assert bool(found) == (number != other)


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "unit", ["a ", "1 ", "One. ", "A\n", "1/2-", "not ", "Smith ", "12 March ", "- ", "(", "1.1.1.1.", "and a half "]
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    """Ten times the text takes far less than a hundred times as long."""

    def seconds(text: str) -> float:
        start = time.process_time()
        check(text + " ", text)
        return time.process_time() - start

    seconds(unit * 100)
    assert seconds(unit * (30_000 // len(unit))) < 40 * seconds(unit * (3_000 // len(unit))) + 0.5

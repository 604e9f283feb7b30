"""Which numbers, dates and units of a rephrased text its source supports: as they are, rounded, converted, counted."""

from __future__ import annotations

from itertools import accumulate, combinations, pairwise

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.quantity import Date, Quantity, Unit, comparable, converted
from pipeline.rephrase.fidelity.text import Finding, Kind, NumberIndex, Text
from pipeline.rephrase.fidelity.tokens import NUMERIC, Sentence, Token

_OVER = lex.words("over more above exceeding beyond least upwards >")
_UNDER = lex.words("nearly almost under less below most virtually fewer <")
_MAX_PAIRED = 40
_MAX_RIVALS = 60
_FEW = 30  # numbers of which none is cut off by the other limits: what is copied supports itself
_LATER = frozenset({"later", "earlier", "after", "before", "following", "previously"})
_YEARS = {"year": 1, "decade": 10, "century": 100}
_MAX_JUDGED = 300
_VERBATIM = 0.7
_MAX_NUMBERS = 25


def unsupported_numbers(source: Text, rephrased: Text) -> list[Finding]:
    """Return the numbers, dates and units of `rephrased` that `source` does not support, in order."""
    found: list[Finding] = []
    numeric = [k for k, sentence in enumerate(rephrased.sentences) if sentence.flags & NUMERIC]
    if not numeric:
        return found
    copied = rephrased.copied(source)
    if all(copied[k] for k in numeric) and sum(map(_count_numbers, source.sentences)) <= _FEW:
        return found  # every number stands in a copied sentence
    index = source.index
    few = len(index.all) <= _FEW
    odd = 0
    for k in numeric:
        if few and copied[k]:
            continue
        sentence = rephrased.sentences[k]
        numbers = rephrased.numbers(k)
        for quantity in numbers.quantities:
            odd += quantity.value not in index.by_value
            if odd > _MAX_JUDGED and quantity.value not in index.by_value:
                continue  # more odd numbers than a text has: the first few hundred are enough to doubt it
            if (kind := _judge(quantity, sentence, index)) is not None:
                found.append(Finding(kind, _shown(sentence, quantity.start, quantity.end)))
        wrong = [m for m in numbers.moments if not any(_date_supported(date, index) for date in m.dates)]
        found.extend(Finding("date", _shown(sentence, moment.start, moment.end)) for moment in wrong)
        for day, at in numbers.weekdays:
            if day not in index.weekdays:
                found.append(Finding("date", sentence.tokens[at].shown))
        for season, at in numbers.seasons:
            if index.seasons and season not in index.seasons:
                found.append(Finding("date", sentence.tokens[at].shown))
    return found


def _count_numbers(sentence: Sentence) -> int:
    return sum([token.number for token in sentence.tokens]) if sentence.flags & NUMERIC else 0


def _shown(sentence: Sentence, start: int, end: int) -> str:
    return " ".join(token.shown for token in sentence.tokens[start : min(end + 1, len(sentence.tokens))])


# --- dates


def _date_supported(date: Date, index: NumberIndex) -> bool:
    if date in index.partial or date in index.yearless:
        return True
    # The year may stand apart from the rest: "In 1998 ... on 12 March".
    return date[0] in index.years and (None, *date[1:]) in index.yearless


# --- numbers


def _judge(quantity: Quantity, sentence: Sentence, index: NumberIndex) -> Kind | None:
    """Return the kind of what is wrong with `quantity`, or None when the source supports it."""
    if quantity.kind == "opaque":
        return None if quantity.opaque in index.opaque or quantity.opaque in index.text.text.lower() else "number"
    if quantity.kind == "clock":
        return None if _clock_supported(quantity, index) else "date"
    if quantity.kind == "vague":
        return None if _vague_supported(quantity, index) else "number"
    if quantity.kind in ("decade", "century"):
        return None if _period_supported(quantity, index) else "date"
    readings = [quantity.parts] if quantity.parts else [(value,) for value in quantity.values]
    worst: Kind | None = None
    for values in readings:
        kinds = [_judge_value(value, quantity, sentence, index) for value in values]
        wrong = [kind for kind in kinds if kind is not None]
        if not wrong:
            return None
        worst = worst or wrong[0]
    return worst


def _judge_value(value: float, quantity: Quantity, sentence: Sentence, index: NumberIndex) -> Kind | None:
    same = index.by_value.get(round(value, 9), [])[:_MAX_RIVALS]
    if same:
        if not _unit_agrees(quantity, same, index):
            return None if _converted_supported(value, quantity, index) else "unit"
        if not _moved(value, quantity, same, sentence, index):
            return None
        return "date" if quantity.kind == "year" else "number"
    if quantity.kind == "year":
        if int(value) in index.years or _years_later(value, index) or _rounded_supported(value, quantity, index):
            return None
        return "date"
    if quantity.unit is not None and _converted_supported(value, quantity, index):
        return None
    if _rounded_supported(value, quantity, index):
        return None
    if quantity.weak or value in index.implied or _calendar_number(value, index):
        return None
    if _calculated(value, quantity, sentence, index):
        return None
    counted = value == int(value) and 2 <= value <= 30 and quantity.unit is None and int(value) in index.list_counts
    return (
        None
        if counted and not _rivalled(value, quantity, index.by_noun.get(quantity.noun, []), sentence, index)
        else "number"
    )


def _calendar_number(value: float, index: NumberIndex) -> bool:
    return value == int(value) and (
        (1 <= value <= 31 and any(date[2] == value for date in index.dates)) or int(value) in index.years
    )


def _unit_agrees(quantity: Quantity, same: list[Quantity], index: NumberIndex) -> bool:
    """Whether one mention of the same value has the unit, or none and the text knows the unit."""
    unit = quantity.unit
    if unit is None or (unit.dimension == "ratio" and unit.factor == 1.0):
        return True
    lows = index.text.lows
    for other in same:
        if other.unit is None:
            if unit.dimension == "time" or unit.dimension in index.by_dimension or lows & {unit.name, unit.name + "s"}:
                return True
        elif (
            (comparable(unit, other.unit) and abs(converted(1.0, other.unit, unit) - 1.0) < 1e-6)
            or {unit.dimension, other.unit.dimension} in ({"pound", "gbp"}, {"degree", "temperature"})
            or (unit.dimension in other.unit.dimension.split("/") and abs(unit.factor - other.unit.factor) < 1e-9)
            or (other.unit.dimension == unit.dimension.split("/")[0] and "/" in unit.dimension)
        ):
            return True
    return False


def _converted_supported(value: float, quantity: Quantity, index: NumberIndex) -> bool:
    unit = quantity.unit
    if unit is None:
        return False
    is_share = unit.dimension == "ratio"
    for other in index.scanned:
        if other.unit is None or not comparable(unit, other.unit) or (other.unit.name == unit.name and not is_share):
            continue
        for known in (*other.values, *other.parts):
            exact = converted(known, other.unit, unit)
            if abs(value - exact) <= _tolerance(exact, quantity, unit, other, other.unit):
                return True
    if is_share:  # of a number, or of what it grew or shrank by: 1.5 times, 50 % more
        share = value * unit.factor
        return any(
            (known <= 1 and abs(share - known) < 1e-6) or (0 < known < 2 and abs(abs(known - 1) - share) < 1e-6)
            for known, _ in index.values
            if known != 1
        )
    # Two measures side by side add up: 5 feet 10 inches, an hour and 20 minutes.
    for first, second in pairwise(index.scanned):
        if first.unit is None or second.unit is None or first.sentence != second.sentence:
            continue
        if second.start - first.end <= 1 and first.unit.dimension == second.unit.dimension == unit.dimension:
            total = converted(first.value, first.unit, unit) + converted(second.value, second.unit, unit)
            if abs(total - value) <= 0.01 * abs(total) + 1e-9:
                return True
    return False


def _tolerance(exact: float, quantity: Quantity, unit: Unit, other: Quantity, known: Unit) -> float:
    """Return how far a converted value may be off: half its last digit, and a little for rounded factors."""
    rough = bool(quantity.approximate)
    steps = 0.55 * quantity.place
    if unit.dimension == "ratio":
        worded = unit.factor == 1.0 or known.factor == 1.0
        return (0.04 if rough or other.approximate else 0.012 if worded else 1e-6) / unit.factor
    if unit.dimension == "temperature":
        return max(steps, 3.0 if rough else 0.6)
    floor = 0.02 if unit.dimension == "time" else 0.005
    return max(min(steps, (0.1 if rough else 0.05) * abs(exact)), floor * abs(exact))


def _rounded_supported(value: float, quantity: Quantity, index: NumberIndex) -> bool:
    """Whether it is a number of the source with fewer digits."""
    return any(
        _rounds(value, known, quantity, other)
        for known, others in index.values
        if known and 0.8 <= value / known <= 1.25
        for other in others
        if "ordinal" not in (quantity.kind, other.kind)
        and (quantity.unit is None or other.unit is None or quantity.unit.name == other.unit.name)
    )


def _rounds(value: float, known: float, quantity: Quantity, other: Quantity) -> bool:
    """Whether `value` is `known` with fewer digits: any near number when marked as rough, the nearest otherwise."""
    digits, difference = abs(value) / quantity.place, abs(value - known)
    if quantity.place <= other.place:
        return False
    if quantity.approximate and quantity.kind != "year":
        if difference > (0.1 if digits < 10 else 0.05 if digits < 100 else 0.02) * abs(known):
            return False
        above, below = quantity.approximate in _OVER, quantity.approximate in _UNDER
        return not (above and known < value * 0.999) and not (below and known > value * 1.001)
    fractional = other.place < 1 or (quantity.spelled and quantity.place >= 1e4) or quantity.place >= 1e5
    return fractional and digits >= 2 and difference <= 0.5 * quantity.place * (1 + 1e-9)


def _clock_supported(quantity: Quantity, index: NumberIndex) -> bool:
    minutes = quantity.value
    if quantity.parts and all(part in index.by_value for part in quantity.parts):
        return True  # a time taken: 2:24:11 is 2 hours, 24 minutes and 11 seconds
    return any(
        other.value == minutes
        or ((quantity.afternoon is None or other.afternoon is None) and other.value % 720 == minutes % 720)
        for other in index.scanned
        if other.kind == "clock"
    )


def _vague_supported(quantity: Quantity, index: NumberIndex) -> bool:
    low, high = quantity.value, quantity.value * (10 if quantity.value >= 100 else 20)
    return any(low <= other.value < high and other.kind != "year" for other in index.scanned if other.values)


def _period_supported(quantity: Quantity, index: NumberIndex) -> bool:
    """Whether the source has a year of the decade or the century, or the period itself, perhaps as a number alone."""
    for value in quantity.values:
        start, end = (value, value + 10) if quantity.kind == "decade" else (100 * (value - 1), 100 * value + 1)
        if any(start <= year < end for year in index.years):
            return True
        if any(value in other.values and other.kind not in ("clock", "year") for other in index.scanned):
            return True
    return False


# --- derived numbers


def _calculated(value: float, quantity: Quantity, sentence: Sentence, index: NumberIndex) -> bool:
    """Whether it is a sum, a difference, a share or a span of years that the sentence says it is."""
    unit = quantity.unit
    if unit is not None and unit.name in _YEARS and _years_apart(value, _YEARS[unit.name], quantity, index):
        return True
    words = {token.low for token in sentence.tokens}
    total, difference = not lex.TOTALS.isdisjoint(words), not lex.DIFFERENCES.isdisjoint(words)
    factor = unit.factor if unit is not None and unit.dimension == "ratio" else 0.0
    if not (total or difference or factor):
        return False
    allowed = 0.04 if quantity.approximate else 0.006
    known = [q for q in index.scanned if q.values and q.kind in ("cardinal", "year")][: 4 * _MAX_PAIRED]
    for i, first in enumerate(known):
        run = [q.value for q in known[i : i + 12] if q.sentence == first.sentence]
        if total and any(_near(each, value) for each in accumulate(run)):
            return True
        for second in known[i + 1 : i + 8]:
            low, high = sorted((first.value, second.value))
            if second.sentence - first.sentence > 1:
                break
            if (total and _near(low + high, value)) or (difference and _near(high - low, value)):
                return True
            if factor and low > 0:
                change = difference and abs((high - low) / low - value * factor) <= allowed
                if change or abs(low / high - value * factor) <= allowed:
                    return True
    return False


def _near(exact: float, value: float) -> bool:
    return abs(exact - value) <= 1e-6 * max(1.0, abs(exact))


def _years_later(value: float, index: NumberIndex) -> bool:
    """Whether the source has a year, and a number of years before or after it, that make this one."""
    if index.text.lows.isdisjoint(_LATER):
        return False
    times = index.by_dimension.get("time", ())[:_MAX_RIVALS]
    spans = {q.value for q in times if q.unit is not None and q.unit.name == "year"}
    return any(abs(value - year) in spans for year in sorted(index.years)[:_MAX_PAIRED])


def _years_apart(value: float, span: int, quantity: Quantity, index: NumberIndex) -> bool:
    years = sorted(index.years)[:_MAX_PAIRED]
    slack = (1.0 if span == 1 else 0.35) if quantity.approximate else (0.0 if span == 1 else 0.1)
    return any(abs((b - a) / span - value) <= slack for a, b in combinations(years, 2))


# --- numbers that belong elsewhere


def _moved(
    value: float,
    quantity: Quantity,
    same: list[Quantity],
    sentence: Sentence,
    index: NumberIndex,
) -> bool:
    """Whether a number of the source now counts something that the source counts with another number."""
    if quantity.weak or quantity.kind not in ("cardinal", "year", "ordinal"):
        return False
    if not quantity.before or quantity.noun or not all(q.before for q in same):
        return False
    return _rivalled(value, quantity, index.by_before.get(quantity.before, []), sentence, index)


def _rivalled(value: float, quantity: Quantity, others: list[Quantity], sentence: Sentence, index: NumberIndex) -> bool:
    """Whether `others`, which stand by the same word in the source, all have other values, one in a like sentence."""
    rivals = [q for q in others[:_MAX_RIVALS] if q.kind == quantity.kind and q.unit == quantity.unit]
    if not rivals or any(value in q.values for q in rivals):
        return False
    aligned = {k for share, k in index.text.aligned(sentence.stems) if share >= 0.4}
    return any(q.sentence in aligned for q in rivals)


def replaced_numbers(source: Text, rephrased: Text) -> list[Finding]:
    """Return numbers of `rephrased` that the source has, but not in the place where it has another number."""
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & NUMERIC or copied[n]:
            continue
        aligned = matches[n]
        if not aligned or aligned[0][0] < _VERBATIM:
            continue
        quantities = rephrased.numbers(n).quantities
        if len(quantities) > _MAX_NUMBERS:
            continue
        for quantity in quantities:
            if not quantity.values or quantity.kind in ("clock", "vague"):
                continue
            around = _around(sentence.tokens, quantity)
            if not _telling(*around):
                continue
            rivals = [
                other
                for _, k in aligned
                for other in source.numbers(k).quantities[:_MAX_NUMBERS]
                if other.values and other.unit == quantity.unit and _around(source.sentences[k].tokens, other) == around
            ]
            if rivals and not any(_equal(quantity, other) for other in rivals):
                shown = " ".join(token.shown for token in sentence.tokens[quantity.start : quantity.end + 1])
                found.append(Finding("date" if quantity.kind == "year" else "number", shown))
    return found


def _equal(quantity: Quantity, other: Quantity) -> bool:
    if not set(other.values).isdisjoint(quantity.values) or _share(other) == _share(quantity):
        return True
    return bool(other.ambiguous_scale) and other.value * other.ambiguous_scale == quantity.value


def _share(quantity: Quantity) -> float:
    factor = quantity.unit.factor if quantity.unit is not None else 1.0
    return round(quantity.value * factor, 6)


def _telling(before: str, after: str) -> bool:
    """Whether the neighbours of a number say where it stands: one of them is more than punctuation."""
    return (len(before) > 2 and len(after) > 2) or (
        (len(before) > 3 or len(after) > 3) and bool(before) and bool(after)
    )


def _around(tokens: list[Token], quantity: Quantity) -> tuple[str, str]:
    before = tokens[quantity.start - 1].low if quantity.start else ""
    after = tokens[quantity.end].low if quantity.end < len(tokens) else ""
    return before, after

"""Names of a rephrased text that its source does not have, whole, shortened, as an adjective or by its initials, and
names that stand where it has others.
"""

from __future__ import annotations

import weakref
from functools import cached_property
from operator import attrgetter

from pipeline.rephrase.fidelity import lexicon as lex
from pipeline.rephrase.fidelity.text import Finding, Text, roman
from pipeline.rephrase.fidelity.tokens import CAPITAL, WORD, Sentence, Token, low_at

_PLACES = """
afghanistan afghan afghans | albania albanian albanians | algeria algerian | argentina argentine argentinian
argentinians
| armenia armenian armenians | australia australian australians aussie aussies | austria austrian austrians
| azerbaijan azerbaijani azeri | bangladesh bangladeshi | belarus belarusian | belgium belgian belgians
| bolivia bolivian | bosnia bosnian | brazil brazilian brazilians | bulgaria bulgarian bulgarians | burma burmese
myanmar
| cambodia cambodian khmer | cameroon cameroonian | canada canadian canadians | chile chilean chileans
| china chinese prc | colombia colombian colombians | congo congolese | croatia croatian croat croats | cuba cuban
cubans
| cyprus cypriot | czech czechs czechia | denmark danish dane danes | ecuador ecuadorian | egypt egyptian egyptians
| england english englishman englishmen | estonia estonian | ethiopia ethiopian | europe european europeans eu
| finland finnish finn finns | france french frenchman frenchmen | georgia georgian | germany german germans
| ghana ghanaian | greece greek greeks hellenic | guatemala guatemalan | haiti haitian | hungary hungarian
hungarians magyar
| iceland icelandic icelander icelanders | india indian indians | indonesia indonesian indonesians
| iran iranian iranians persia persian persians | iraq iraqi iraqis | ireland irish irishman irishmen
| israel israeli israelis | italy italian italians | jamaica jamaican | japan japanese | jordan jordanian
| kazakhstan kazakh | kenya kenyan kenyans | korea korean koreans | kuwait kuwaiti | laos laotian lao
| latvia latvian latvians | lebanon lebanese | libya libyan | lithuania lithuanian lithuanians | malaysia malaysian
malay
| malta maltese | mexico mexican mexicans | moldova moldovan | mongolia mongolian mongol mongols | morocco moroccan
| nepal nepalese nepali | netherlands dutch holland dutchman | zealand kiwi zealander zealanders nz
| nigeria nigerian nigerians | niger nigerien | norway norwegian norwegians | pakistan pakistani pakistanis
| palestine palestinian palestinians | peru peruvian | philippines filipino filipinos philippine | poland polish
pole poles
| portugal portuguese | prussia prussian prussians | romania romanian romanians | russia russian russians
| soviet soviets ussr | rwanda rwandan | saudi saudis | scotland scottish scots scot scotsman | senegal senegalese
| serbia serbian serb serbs | singapore singaporean | slovakia slovak slovaks | slovenia slovenian slovene
| somalia somali | spain spanish spaniard spaniards | sudan sudanese | sweden swedish swede swedes
| switzerland swiss | syria syrian syrians | taiwan taiwanese | thailand thai thais siam siamese | tibet tibetan
tibetans
| tunisia tunisian | turkey turkish turk turks | uganda ugandan | ukraine ukrainian ukrainians
| britain british uk briton britons kingdom gb | america american americans us usa states united
| uruguay uruguayan | venezuela venezuelan | vietnam vietnamese viet | wales welsh welshman | yugoslavia yugoslav
| zimbabwe zimbabwean rhodesia | africa african africans | asia asian asians | rome roman romans | athens athenian
athenians
| sparta spartan spartans | venice venetian venetians | florence florentine | naples neapolitan | milan milanese
| paris parisian parisians | london londoner londoners | vienna viennese | moscow muscovite | byzantium byzantine
| norman normans normandy | viking vikings norse | aztec aztecs | inca incas incan | maya mayan mayans
| catholic catholics catholicism | protestant protestants protestantism | islam islamic muslim muslims moslem
| jew jews jewish judaism | christian christians christianity | buddhist buddhists buddhism buddha | hindu hindus
hinduism
| bavaria bavarian | catalonia catalan catalans | texas texan texans | california californian californians ca
| hawaii hawaiian | quebec quebecois | flanders flemish | brittany breton | saxony saxon saxons | sicily sicilian
| democrat democrats democratic | republican republicans gop | nazi nazis nazism | marxist marxism marx
| victoria victorian | elizabeth elizabethan | arctic antarctic antarctica | atlantic transatlantic | alps alpine
| mediterranean | baltic baltics | balkan balkans | scandinavia scandinavian | manhattan | ottoman ottomans
| czechoslovakia czechoslovak | argentina argentines | arab arabs arabia arabian arabic | latin
| nyc york ny | la angeles | dc washington | un nations | kgb | fbi | cia | nasa | nato | wwi wwii ww2 ww1
| covid coronavirus | television tv | dvd | internet | phd ph | mit | ucla | bbc | google | ai
"""
_CITIES = """
france: nice lyon marseille bordeaux toulouse strasbourg lille cannes paris normandy provence | spain: seville
madrid barcelona valencia granada bilbao malaga toledo catalonia | italy: rome milan naples venice florence turin
genoa bologna palermo sicily pisa | germany: berlin munich hamburg cologne frankfurt dresden leipzig stuttgart bonn
bremen bavaria saxony | austria: vienna graz salzburg linz innsbruck | ireland: dublin cork limerick galway |
britain: london edinburgh glasgow manchester liverpool birmingham leeds bristol oxford cambridge cardiff belfast
york | england: london manchester liverpool birmingham leeds bristol oxford cambridge york | scotland: edinburgh
glasgow aberdeen dundee | japan: tokyo osaka kyoto nagoya hiroshima nagasaki yokohama | china: beijing shanghai
guangzhou shenzhen wuhan nanjing | india: mumbai delhi kolkata calcutta bombay chennai bangalore | russia: moscow
petersburg leningrad kazan siberia | america: york chicago boston texas washington philadelphia detroit houston
dallas california florida denver seattle miami atlanta ohio louisiana omaha virginia | canada: toronto montreal
vancouver ottawa quebec ontario | australia: sydney melbourne brisbane perth queensland | egypt: cairo alexandria |
turkey: istanbul ankara | greece: athens thessaloniki crete | portugal: lisbon porto | netherlands: amsterdam
rotterdam utrecht hague | belgium: brussels antwerp ghent bruges | switzerland: zurich geneva basel bern | sweden:
stockholm gothenburg malmo | norway: oslo bergen | denmark: copenhagen | finland: helsinki | poland: warsaw krakow
gdansk | hungary: budapest | brazil: rio brasilia paulo | argentina: buenos | mexico: cancun oaxaca | israel:
jerusalem haifa | nigeria: lagos abuja | kenya: nairobi | indonesia: jakarta java bali sumatra | thailand: bangkok |
vietnam: hanoi saigon | korea: seoul busan | pakistan: karachi lahore | iran: tehran | iraq: baghdad | ukraine: kyiv
kiev odessa
"""

PLACES: dict[str, set[int]] = {}
"""For each spelling of a place, a people or a faith, the numbers of what it may stand for."""
for _number, _entry in enumerate(_PLACES.split("|")):
    for _name in _entry.split():
        PLACES.setdefault(_name, set()).add(_number)
COUNTRIES: dict[str, set[int]] = {}
"""The numbers in `PLACES` of the countries that a city lies in: a city supports its country, never the reverse."""
for _entry in _CITIES.split("|"):
    _country, _, _cities = _entry.partition(":")
    for _city in _cities.split():
        COUNTRIES.setdefault(_city, set()).update(PLACES[_country.strip()])

EXPANSIONS = {
    "la": "los angeles", "dc": "washington", "ww2": "world war", "wwii": "world war", "wwi": "world war",
    "ww1": "world war",
    "tv": "television", "ai": "artificial intelligence", "phd": "doctorate", "ceo": "chief executive",
    "gop": "republican", "mps": "members parliament", "mp": "member parliament", "dna": "deoxyribonucleic",
    "ad": "", "bc": "", "bce": "", "ce": "", "am": "", "pm": "", "ok": "", "faq": "", "ii": "", "vs": "", "tldr": "",
    "qa": "", "id": "identity",
}  # fmt: skip
"""Acronyms and what they abbreviate; an empty text means that the acronym needs no support."""

TOLERATED = lex.words(
    """i earth internet web god lord bible english latin dr mr mrs ms jr sr st sun moon european western eastern
    northern southern westerner yes no true false ok okay ad bc ce bce i'm north south east west anno domini etc vs
    christmas easter renaissance biblical celsius fahrenheit wikipedia roman q a faq b c d e"""
)
"""Words with a capital that an honest rephrasing may bring along."""

_OPENERS = frozenset(('"', "'", "(", "[", ":", "*", "-", "#", "|", "/", "_", ">", ";", "=", "“"))


class Names:
    """What the source has to support names with; the rarely needed parts are worked out on demand."""

    def __init__(self, source: Text) -> None:
        """Prepare to answer for `source`."""
        self.source: Text = weakref.proxy(source)  # which keeps this: no cycle
        self.lows = source.lows
        self.stems = source.stems

    @cached_property
    def capitals(self) -> frozenset[str]:
        """All words with a capital, in lower case."""
        return frozenset([t.low for s in self.source.sentences if s.flags & CAPITAL for t in s.tokens if t.cap])

    @cached_property
    def places(self) -> frozenset[int]:
        """The numbers of the places that the source's words may stand for."""
        return frozenset().union(*[table[low] for table in (PLACES, COUNTRIES) for low in self.lows & table.keys()])

    @cached_property
    def squeezed(self) -> str:
        """All words without what stands between them."""
        return "".join([t.low for s in self.source.sentences for t in s.tokens if t.kind == WORD])

    @cached_property
    def initials(self) -> tuple[str, str, str]:
        """The first letters of all words, of the content words, and of the words with a capital, in order."""
        words = [t for s in self.source.sentences for t in s.tokens if t.kind == WORD or t.low == "-"]
        every = "".join(t.low[0] for t in words)
        content = "".join(t.low[0] if t.content else "" if t.kind == WORD else " " for t in words)
        capital = "".join(t.low[0] if t.cap else "" if not t.content else " " for t in words)
        return every, content, capital

    @cached_property
    def bigrams(self) -> dict[str, set[str]]:
        """For each capitalised word, the capitalised words that follow it at once or after an initial."""
        following: dict[str, set[str]] = {}
        for sentence in self.source.sentences:
            tokens = sentence.tokens
            if not sentence.flags & CAPITAL:
                continue
            for k in [k for k, token in enumerate(tokens) if token.cap]:
                for other in tokens[k + 1 : k + 4]:
                    if other.cap:
                        following.setdefault(tokens[k].low, set()).add(other.low)
                    elif other.low not in _WITHIN_NAMES:
                        break
        return following


_NONE: frozenset[int] = frozenset()
_WITHIN_NAMES = frozenset({".", "-", "'", "de", "of", "the", "van", "von", "la", "and", "&"})


def names_of(source: Text) -> Names:
    """Return the names of `source`, which keeps them for its next rephrasing."""
    kept = source.kept.get("names")
    if not isinstance(kept, Names):
        kept = source.kept["names"] = Names(source)
    return kept


def unsupported_names(source: Text, rephrased: Text) -> list[Finding]:
    """Return the names of `rephrased` that `source` does not support, each run of words once, in order."""
    names = names_of(source)
    lows, stems = names.lows, names.stems
    found: list[Finding] = []
    seen: set[str] = set()
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & CAPITAL or copied[n]:
            continue
        tokens = sentence.tokens
        capitals = [k for k, token in enumerate(tokens) if token.cap]
        last = -2
        for k in capitals:
            token = tokens[k]
            if token.low in lows or token.stem in stems:
                continue
            if not _is_name(sentence, k) or _supported(token, names) or token.low in seen:
                continue
            seen.add(token.low)
            if last == k - 1 and found:
                found[-1] = Finding("name", f"{found[-1].value} {token.shown}")
            else:
                found.append(Finding("name", token.shown))
            last = k
        if len(capitals) > 1:
            found.extend(_crossed([tokens[k : k + 2] for k in capitals[:-1] if tokens[k + 1].cap], names, seen))
    return found


def _is_name(sentence: Sentence, k: int) -> bool:
    """Whether the capital of token `k` marks a name rather than a beginning, a heading or an emphasis."""
    token = sentence.tokens[k]
    low = token.low
    if token.number or low in TOLERATED or low in lex.FUNCTION_WORDS or low in lex.NEGATIONS:
        return False
    first = k == 0 or sentence.tokens[k - 1].shown in _OPENERS or sentence.tokens[k - 1].low in (".", "!", "?")
    if token.acronym and (len(low) <= 5 or not token.common):
        return not token.common or len(low) <= 4
    if token.common:
        if low in lex.NAMELIKE and not sentence.heading:
            return not first or _looks_like_person(sentence.tokens, k)
        return False
    if low in lex.HONORIFICS:
        return False
    return not (first and low.endswith(("ing", "ly", "tion", "tions", "ment", "ness", "ization", "isation", "ology")))


def _looks_like_person(tokens: list[Token], k: int) -> bool:
    if k + 1 >= len(tokens):
        return False
    after = tokens[k + 1]
    return (
        (after.cap and not after.common)
        or after.low in ("was", "had", "'s", "is")
        or (after.content and (lex.is_irregular(after.low) or after.low.endswith("ed")))
    )


def _supported(token: Token, names: Names) -> bool:
    low = token.low
    if low in PLACES:
        if not PLACES[low].isdisjoint(names.places):
            return True
        if low not in EXPANSIONS:
            return False
    if token.acronym and _acronym_supported(token, names):
        return True
    if (value := roman(token.shown)) and (value in names.source.index.by_value or value in names.source.index.implied):
        return True
    if len(low) == 1:  # an initial
        return any(name.startswith(low) for name in names.capitals)
    return len(low) >= 5 and low in names.squeezed


def _acronym_supported(token: Token, names: Names) -> bool:
    low = token.low
    expansion = EXPANSIONS.get(low)
    if expansion is not None and all(word in names.lows for word in expansion.split()):
        return True
    letters = low[:-1] if low.endswith("s") and token.shown[-1] == "s" else low
    if not letters.isalpha() or len(letters) < 2:
        return False
    every, content, capital = names.initials
    if len(letters) == 2:
        return letters in capital
    return letters in every or letters in content or letters in capital


def _crossed(neighbours: list[list[Token]], names: Names, seen: set[str]) -> list[Finding]:
    """Return names put together of the parts of two: John Jones, where the source has John Smith and Mary Jones."""
    found: list[Finding] = []
    for first, second in neighbours:
        if first.common or second.common or first.number or second.number:
            continue
        a, b = first.low, second.low
        if a not in names.capitals or b not in names.capitals or a in PLACES or b in PLACES or a in lex.HONORIFICS:
            continue
        following = names.bigrams.get(a, set())
        if not following or b in following or a in names.bigrams.get(b, set()):
            continue
        if (a + b) not in seen and any(b in others for others in names.bigrams.values()):
            seen.add(a + b)
            found.append(Finding("name", f"{first.shown} {second.shown}"))
    return found


# --- in the place of others


_ALIGNED = 0.5
_LOW = attrgetter("low")


def replaced_names(source: Text, rephrased: Text) -> list[Finding]:
    """Return names of `rephrased` that stand where the source, in the sentence they were made of, has another name."""
    names: Names | None = None
    found: list[Finding] = []
    matches = rephrased.matches(source)
    copied = rephrased.copied(source)
    for n, sentence in enumerate(rephrased.sentences):
        if not sentence.flags & CAPITAL:
            continue
        aligned = matches[n]
        if not aligned or aligned[0][0] < _ALIGNED or copied[n]:
            continue
        best, tokens = source.sentences[aligned[0][1]], sentence.tokens
        positions = [k for k, token in enumerate(tokens) if token.cap and k]
        if not positions and not (tokens[0].cap and not tokens[0].common):
            continue
        lows = set(map(_LOW, best.tokens))
        extra = [k for k in (0, *positions) if _may_be_name(tokens[k], k) and tokens[k].low not in lows]
        if extra and len(aligned) > 1:
            near = {
                t.low for share, k in aligned[1:] if share >= 0.7 * aligned[0][0] for t in source.sentences[k].tokens
            }
            extra = [k for k in extra if tokens[k].low not in near]
        if not extra:
            continue
        names = names or names_of(source)
        own = set(map(_LOW, tokens))
        missing = [k for k, token in enumerate(best.tokens) if _may_be_name(token, k) and token.low not in own]
        for k in extra:
            token, low = tokens[k], tokens[k].low
            if low in lex.FUNCTION_WORDS or low in lex.HONORIFICS or tokens[k - 1].shown in ('"', ":", "(", "'"):
                continue
            known = low in names.capitals
            if not known and (not token.common or token.acronym or sentence.heading or low in names.lows):
                continue  # reported as unsupported, if it is a name
            if any(_same_place(sentence, k, best, j, both=not known) for j in missing):
                found.append(Finding("name", token.shown))
                break
    return found


def _may_be_name(token: Token, k: int) -> bool:
    if not token.cap or token.number or len(token.low) < 2 or token.low in lex.HONORIFICS:
        return False
    return k > 0 or not token.common


def _same_place(sentence: Sentence, k: int, other: Sentence, j: int, both: bool) -> bool:
    """Whether the two names have a neighbouring content word in common on one side, or `both` neighbouring words."""
    if both:
        return (
            j > 0
            and low_at(sentence.tokens, k - 1) == low_at(other.tokens, j - 1)
            and low_at(sentence.tokens, k + 1) == low_at(other.tokens, j + 1)
        )
    return any(
        (mine := _neighbour(sentence.tokens, k, step)) is not None and mine == _neighbour(other.tokens, j, step)
        for step in (-1, 1)
    )


def _neighbour(tokens: list[Token], k: int, step: int) -> str | None:
    at = k + step
    while 0 <= at < len(tokens) and abs(at - k) <= 4:
        token = tokens[at]
        if token.content and not (token.cap and not token.common):
            return token.stem
        if token.low in (",", ";", ":", "and", "or"):
            return None
        at += step
    return None

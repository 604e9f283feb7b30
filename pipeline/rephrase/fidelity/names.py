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
afghanistan afghan | argentina argentine argentinian | australia australian aussie | austria austrian | azerbaijan
azerbaijani azeri | bangladesh bangladeshi | belarus belarusian | belgium belgian | brazil brazilian | burma burmese
myanmar | cambodia cambodian khmer | cameroon cameroonian | canada canadian | chile chilean | china chinese prc |
congo congolese | croatia croatian croat | cyprus cypriot | czech czechia | denmark danish dane | ecuador ecuadorian |
egypt egyptian | england english englishman englishmen | europe european eu | finland finnish finn | france french
frenchman frenchmen | germany german | ghana ghanaian | greece greek hellenic | haiti haitian | hungary hungarian
magyar | iceland icelandic icelander | india indian | indonesia indonesian | iran iranian persia persian | iraq iraqi
| ireland irish irishman irishmen | israel israeli | italy italian | japan japanese | jordan jordanian | kazakhstan
kazakh | kenya kenyan | korea korean | kuwait kuwaiti | laotian lao | lebanon lebanese | malaysia malaysian malay |
malta maltese | mexico mexican | mongolia mongolian mongol | morocco moroccan | nepal nepalese nepali | netherlands
dutch holland dutchman | zealand kiwi zealander nz | nigeria nigerian | niger nigerien | norway norwegian | pakistan
pakistani | palestine palestinian | peru peruvian | filipino philippine | poland polish pole | portugal portuguese |
russia russian | soviet ussr | saudi | scotland scottish scot scotsman | senegal senegalese | serbia serbian serb |
singapore singaporean | slovakia slovak | slovenia slovenian slovene | somalia somali | spain spanish spaniard | sudan
sudanese | sweden swedish swede | switzerland swiss | taiwan taiwanese | thailand thai siam siamese | tibet tibetan |
turkey turkish turk | ukraine ukrainian | britain british uk briton kingdom gb | america american us usa states united
| uruguay uruguayan | vietnam vietnamese viet | wales welsh welshman | yugoslavia yugoslav | zimbabwe zimbabwean
rhodesia | rome roman | athens athenian | venice venetian | florence florentine | naples neapolitan | milan milanese |
paris parisian | london londoner | vienna viennese | moscow muscovite | byzantium byzantine | norman normandy | viking
norse | aztec | catholic catholicism | protestant protestantism | islam islamic muslim moslem | jew jewish judaism |
christian christianity | buddhist buddhism buddha | hindu hinduism | catalonia catalan | texas texan | california
californian ca | hawaii hawaiian | quebec quebecois | flanders flemish | brittany breton | saxony saxon | sicily
sicilian | democrat democratic | republican gop | nazi nazism | marxist marxism marx | elizabeth elizabethan | arctic
antarctic antarctica | atlantic transatlantic | alps alpine | mediterranean | baltic | balkan | manhattan | ottoman |
czechoslovakia czechoslovak | argentina argentines | arab arabia arabian arabic | latin | nyc york ny | la angeles |
dc washington | un nations | kgb | fbi | cia | nasa | nato | wwi wwii ww2 ww1 | covid coronavirus | television tv |
dvd | internet | phd ph | mit | ucla | bbc | google | ai
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
_NICKNAMES = """
william will bill billy willie liam | robert rob bob bobby robbie | richard rick dick ricky rich | james jim jimmy jamie
| john johnny jack jon | joseph joe joey | thomas tom tommy | charles charlie chuck | edward ed eddie ted teddy ned
| michael mike mick micky | david dave davy | daniel dan danny | matthew matt | christopher chris | anthony tony
| andrew andy drew | steven stephen steve | kenneth ken kenny | ronald ron ronnie | timothy tim timmy
| benjamin ben benny | samuel sam sammy samantha | alexander alex alexandra sandy | nicholas nick nicky nicolas
| gregory greg | jeffrey jeff | lawrence laurence larry | raymond ray | peter pete | patrick pat paddy patricia
| francis frank frances fran | frederick fred freddie | henry harry hank | george georgie | leonard len lenny
| elizabeth liz beth betty eliza lizzie | katherine catherine kate katie kathy cathy | margaret maggie meg peggy
| mary molly polly | jennifer jen jenny | susan sue susie | rebecca becky | deborah debbie | jessica jess jessie
| victoria vicky | anne ann annie anna | abraham abe | theodore theo | donald don donny | philip phil phillip
| eugene gene | albert al bert | arthur art | walter walt | zachary zach | joshua josh | jonathan nathan
| isabella isabel bella | vincent vince | maximilian max | jacob jake
"""


def _groups(table: str, first: int) -> dict[str, set[int]]:
    groups: dict[str, set[int]] = {}
    for number, entry in enumerate(table.split("|"), first):
        for name in entry.split():
            groups.setdefault(name, set()).add(number)
    return groups


PLACES = _groups(_PLACES, 0)
"""For each spelling of a place, a people or a faith, the numbers of what it may stand for."""
NICKNAMES = _groups(_NICKNAMES, 1000)
COUNTRIES: dict[str, set[int]] = {}
"""The numbers in `PLACES` of the countries that a city lies in: a city supports its country, never the reverse."""
for _entry in _CITIES.split("|"):
    _country, _, _cities = _entry.partition(":")
    for _city in _cities.split():
        COUNTRIES.setdefault(_city, set()).update(PLACES[_country.strip()])

EXPANSIONS = {
    "us": "united states", "usa": "united states america", "uk": "united kingdom", "eu": "european union",
    "un": "united nations", "nyc": "new york city", "uae": "united arab emirates", "ussr": "soviet union",
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

_DERIVED = ("n", "ns", "an", "ans", "ian", "ians", "ean", "eans", "ist", "ists", "ism")
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
        """The numbers of the places and first names that the source's words may stand for."""
        cities = [COUNTRIES[low] for low in self.lows & COUNTRIES.keys()]
        first_names = [NICKNAMES[low] for low in self.capitals & NICKNAMES.keys()]
        return frozenset().union(*map(_place, self.lows), *cities, *first_names)

    @cached_property
    def acronyms(self) -> frozenset[str]:
        """The acronyms, in lower case."""
        return frozenset([t.low for s in self.source.sentences if s.flags & CAPITAL for t in s.tokens if t.acronym])

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


_MAX_RUN = 8
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
            if not _is_name(sentence, k) or _supported(tokens, k, names) or token.low in seen:
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


def _place(low: str) -> set[int]:
    """Return the numbers of the places that a word, perhaps in the plural, may stand for."""
    return PLACES[low] if low in PLACES else PLACES.get(low.removesuffix("s"), set())


def _supported(tokens: list[Token], k: int, names: Names) -> bool:
    token, low = tokens[k], tokens[k].low
    known = _place(low) | NICKNAMES.get(low, set())
    if not known.isdisjoint(names.places):
        return True
    if _derived(low, names) or (names.acronyms and _spelled_out(tokens, k, names.acronyms)):
        return True
    if known and low not in EXPANSIONS:
        return False
    if token.acronym and _acronym_supported(token, names):
        return True
    if (value := roman(token.shown)) and (value in names.source.index.by_value or value in names.source.index.implied):
        return True
    if len(low) == 1:  # an initial
        return any(name.startswith(low) for name in names.capitals)
    return len(low) >= 5 and low in names.squeezed


def _derived(low: str, names: Names) -> bool:
    """Whether it is a name of the source with an ending, or without: Darwinian, Darwin, Libyans, Libya."""
    forms = [low[: -len(ending)] for ending in _DERIVED if low.endswith(ending)] + [low + ending for ending in _DERIVED]
    return any(min(len(form), len(low)) >= 4 for form in names.capitals.intersection(forms))


def _spelled_out(tokens: list[Token], k: int, acronyms: frozenset[str]) -> bool:
    """Whether the capitalised words around `k` are what an acronym of the source stands for, or have its letters."""
    around = {token.low for token in tokens[max(0, k - _MAX_RUN) : k + _MAX_RUN]}
    meanings = [EXPANSIONS[low].split() for low in acronyms & EXPANSIONS.keys()]
    if any(tokens[k].low in meaning and around.issuperset(meaning) for meaning in meanings):
        return True
    first = last = k
    while first and (tokens[first - 1].cap or tokens[first - 1].low in ("of", "for", "and", "the")):
        first -= 1
    while last + 1 < len(tokens) and (tokens[last + 1].cap or tokens[last + 1].low in ("of", "for", "and", "the")):
        last += 1
    run = list(range(max(first, k - _MAX_RUN), min(last, k + _MAX_RUN) + 1))
    for places in (run, [j for j in run if tokens[j].cap]):
        letters, at = "".join(tokens[j].low[0] for j in places), places.index(k)
        ends = range(max(at + 1, 3), len(letters) + 1)
        if any(letters[start:end] in acronyms for end in ends for start in range(min(at, end - 3) + 1)):
            return True
    return False


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
            groups = NICKNAMES.get(low, set())
            others = [j for j in missing if groups.isdisjoint(NICKNAMES.get(best.tokens[j].low, ()))]
            if any(_same_place(sentence, k, best, j, both=not known) for j in others):
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

"""What the rules know of English: a light stemmer, and closed lists of function words, numbers, negation, opposites.

`common_words.txt` holds words that running English text writes in lower case more often than with a capital, counted
over openly licensed web pages, encyclopaedia articles, books and discussions: a capital on one of them names nothing.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


def words(text: str) -> frozenset[str]:
    """Return the words of `text`."""
    return frozenset(text.split())


# --- a light stemmer: enough that `completed`, `completing`, `completion` and `completes` meet

_IRREGULAR = {
    form: base
    for line in """be am is are was were been being|have has had having|do does did done|go goes went gone|make made
    |take took taken|give gave given|get got gotten|come came|become became|see saw seen|know knew known|think thought
    |say said|tell told|find found|lose lost loss losses|win won winning winner|beat beaten|build built|buy bought
    |sell sold sale sales|send sent|spend spent|lend lent|leave left|feel felt|keep kept|sleep slept|meet met|lead led
    |read|hold held|stand stood|understand understood|bring brought|fight fought|catch caught|teach taught|seek sought
    |write wrote written|ride rode ridden|drive drove driven|rise rose risen|speak spoke spoken|break broke broken
    |choose chose chosen choice|steal stole stolen|wear wore worn|tear tore torn|bear bore borne|grow grew grown growth
    |throw threw thrown|fly flew flown flight flights|draw drew drawn|show shown|begin began begun|drink drank drunk
    |sing sang sung|swim swam swum|run ran|ring rang rung|sink sank sunk|eat ate eaten|fall fell fallen|bite bit bitten
    |hide hid hidden|forget forgot forgotten|forbid forbade forbidden|shoot shot|hit|put|set|cut|let|shut|pay paid
    |lay laid|hear heard|lie lay lain|strike struck|stick stuck|hang hung|dig dug|feed fed|bleed bled|flee fled|swear
    swore sworn|shake shook shaken|wake woke woken|freeze froze frozen|man men|woman women|child children|foot feet
    |tooth teeth|mouse mice|person people persons|life lives|wife wives|knife knives|leaf leaves|half halves|die
died dies
    dying death deaths|kill killed killing|mean meant|deal dealt|bind bound|wind wound|grind ground|overcome overcame
    |withdraw withdrew withdrawn|undergo underwent|arise arose arisen|analysis analyses|datum data|fail failure failed
    |refuse refusal|arrive arrival|discover discovery|destroy destruction|decide decision|produce production
    |reduce reduction|receive reception|marry marriage|bury burial|born birth|high height|long length|deep depth
    |wide width|strong strength|prove proof proven|succeed success succeeded successful successfully
    |unable inability|lack lacking|absent absence|present presence|move movement|use used uses using|age aged
ages|sign signature""".replace("\n", " ").split("|")
    for base, *forms in [line.split()]
    for form in [base, *forms]
}  # fmt: skip
_VOWELS = frozenset("aeiouy")


def is_irregular(low: str) -> bool:
    """Whether it is a form of an irregular word, most of which are verbs."""
    return low in _IRREGULAR


def stem(low: str) -> str:
    """Return the stem of the lower-case word `low`; words of three letters and fewer stand for themselves."""
    known = _IRREGULAR.get(low)
    if known is not None:
        return known
    if len(low) <= 3 or not low.isascii():
        return low[:-1] + "i" if len(low) == 3 and low[2] == "y" else low
    return _spelling(_suffix(_plural(low)))


def _plural(low: str) -> str:
    if low.endswith("ies") and len(low) > 4:
        return low[:-3] + "y"
    if low.endswith(("sses", "xes", "ches", "shes", "zzes", "oes")):
        return low[:-2]
    if low.endswith("s") and not low.endswith(("ss", "us", "is")):
        return _IRREGULAR.get(low[:-1], low[:-1])
    return low


# An ending, the least length of a word that has it, and the letters that go.
_SUFFIXES = (("ally", 7, 4), ("ly", 6, 2), ("tion", 7, 3), ("sion", 7, 3), ("ment", 8, 4), ("ness", 7, 4))


def _suffix(low: str) -> str:
    if low.endswith("ied") and len(low) > 4:
        return low[:-3] + "y"
    for ending in ("ed", "ing"):
        root = low[: -len(ending)]
        if low.endswith(ending) and len(root) >= 3 and not low.endswith("eed") and not _VOWELS.isdisjoint(root):
            if root[-1] == root[-2] and root[-1] not in "lsz":
                root = root[:-1]
            return _IRREGULAR.get(root, root)
    for ending, least, dropped in _SUFFIXES:
        if low.endswith(ending) and len(low) >= least:
            return low[:-dropped]
    return low


def _spelling(root: str) -> str:
    if root.endswith("our") and len(root) > 4:
        root = root[:-3] + "or"
    elif root.endswith(("tre", "bre")):
        root = root[:-2] + "er"
    if root.endswith("e") and len(root) > 3:
        root = root[:-1]
    if root.endswith("ll") and len(root) > 4:
        root = root[:-1]
    if root.endswith(("is", "ys")) and len(root) > 5:
        return root[:-1] + "z"
    if root.endswith(("isat", "izat")):
        return root[:-4] + "iz"
    if root.endswith("y"):
        return root[:-1] + "i"
    return root


# --- lists


FUNCTION_WORDS = words(
    """a an the this that these those some any each every all both either such same other another own much many more
    most less least few several enough i me my mine myself you your yours yourself he him his himself she her hers
    herself it its itself we us our ours ourselves they them their theirs themselves who whom whose which what when
    where why how whether if then else than as at by for from in into of off on onto out over per since through
    throughout till to toward towards under until up upon via with within about above across after again against
    along also although among amongst and are be because been before being below beneath beside besides between
    beyond but can could did do does doing done down during even ever except had has have having here is was were am
    just may might must need nor not now once only or ought quite rather shall should so still there therefore
    thus too very well while will would yet yes let get got went one's s t d ll re ve m however indeed thereby hence
    therein thereof whereas one 'm 're 've 'll 'd"""
)

ENGLISH_MARKS = words("the of and to in is was that for with on as by are this from be it")


def _counted(text: str, first: int = 0, step: int = 1) -> dict[str, int]:
    """Return the number of each word, from `first` on; words joined by `=` have the same."""
    return {word: step * k for k, group in enumerate(text.split(), first) for word in group.split("=")}


MONTHS = _counted(
    """january=jan february=feb march=mar april=apr may june=jun july=jul august=aug september=sept=sep october=oct
    november=nov december=dec""",
    1,
)
AMBIGUOUS_MONTHS = words("may march mar august jan dec sep")
WEEKDAYS = _counted("monday=mon tuesday=tue=tues wednesday=wed thursday=thu=thurs friday=fri saturday sunday", 1)
SEASONS = {"spring": "spring", "summer": "summer", "autumn": "autumn", "fall": "autumn", "winter": "winter"}
CARDINALS = _counted(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
) | _counted("twenty thirty forty=fourty fifty sixty seventy eighty ninety", 2, 10)
ORDINALS = _counted(
    """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth""",
    1,
) | _counted("twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth", 2, 10)
ORDINALS["thousandth"] = 1000
SCALES = {
    "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0,
    "lakh": 1e5, "crore": 1e7, "mn": 1e6, "bn": 1e9, "tn": 1e12,
}  # fmt: skip
VAGUE = {f"{word}s": SCALES[word] for word in ("dozen", "hundred", "thousand", "million", "billion", "trillion")}
DECADES = _counted("twenties thirties forties fifties sixties seventies eighties nineties", 2, 10)
FRACTIONS = _counted(
    """half=halves third=thirds quarter=quarters=fourth=fourths fifth=fifths sixth=sixths seventh=sevenths
    eighth=eighths ninth=ninths tenth=tenths""",
    2,
) | {"hundredths": 100}
_IMPLIED = {
    1: "single sole solo alone unique once",
    2: "both couple pair pairs twin twins twice double doubled doubling doubles dual duo either neither bilateral",
    3: "trio triple tripled triplets thrice trilogy triangle threefold",
    4: "quadruple quadrupled quartet tetralogy fourfold",
    5: "quintet quintuple fivefold",
    7: "weekly",
    10: "tenfold",
    12: "monthly",
    100: "centenary centennial",
    200: "bicentennial bicentenary",
    1000: "millennium",
}
IMPLIED = {word: float(value) for value, said in _IMPLIED.items() for word in said.split()}
"""Words that imply a number without saying it. They support one; they are never held to need support."""
COUNTING = CARDINALS.keys() | ORDINALS.keys() | SCALES.keys()
"""Words that a number in words is put together of."""
NUMBER_WORDS = (
    COUNTING | VAGUE.keys() | DECADES.keys() | FRACTIONS.keys() | MONTHS.keys() | WEEKDAYS.keys() | SEASONS.keys()
    | words("noon midday midnight")
)  # fmt: skip
APPROXIMATE = words(
    """about around approximately approx circa roughly nearly almost some over under more less than above below close
    near just exceeding beyond upwards least most estimated estimate estimates ca ~ ≈ > < + so odd or plus virtually
    slightly fewer up"""
)
TOTALS = words("total totals totalling totaling combined altogether together overall sum all collectively")
DIFFERENCES = words(
    """difference gap margin more less fewer increase increased increases decrease decreased rise rose risen rising
    fell fall fallen drop dropped grew grown growth gain gained lost loss later earlier after before younger older
    longer shorter higher lower decline declined extra additional remaining remain remained left"""
)
HONORIFICS = words(
    """mr mrs ms miss dr prof professor sir lord lady dame st saint rev reverend president king queen prince princess
    duke captain capt colonel col general gen lieutenant lt major maj sergeant sgt judge justice senator sen
    representative rep governor gov mayor minister chancellor pope father mother brother sister doctor madam baron
    count countess emperor empress sheriff detective inspector officer chief"""
)
NAMELIKE = words(
    """brown smith king white young baker mark will grace hill rose cook hunter jack john bill black green gray grey
    stone wood woods bell carter cooper fisher fox page price reed rice rich sharp short swift taylor turner walker
    ward wells west wolf ford bush banks bishop booth brooks burns butler carpenter chase church clay cole cross day
    dean drew duke earl east faith field fields fleming flowers forest foster frank fry gardener gates gill glass
    golden goodman hale hall hand hardy harper hart hawk hayes heath holly hope hood horn house hunt ivy jade
    jasmine jay joy june kay knight lake lamb lane law lee little long love lily marsh mason mercy miles mill miller
    mills moon moody moody moss myers nash noble north olive park parker parks pearl penny piper pitt pond poole
    pope porter potter power pratt ray robin rod rowan ruby rush sage sandy savage shepherd singer skip small snow
    south sparks spencer steel storm summers sterling thorn tucker victor victoria violet wade walls warden waters
    watts weaver webb webber wheeler wilder winter winters wise worth wright rob sue art gene don ken pat dale dean
    max guy hugh amber april august autumn basil bob carol chad chuck cliff dawn dick dot drake eve fern flora gale
    glen hazel heather heath herb iris jean jimmy josh lance laurel marina marshall may melody nick norm paige poppy
    raven reese rusty scarlet stew sunny ted terry tiffany tim tom tony troy wade warren china turkey chile jordan
    georgia reading bath mobile nice phoenix orange apple amazon shell target oracle delta dove visa mercury mars
    saturn jupiter venus pluto neptune cork limerick buffalo lincoln bologna java cuba guinea panama jersey"""
)
"""Common words that are also names: a capital in mid-sentence makes one a name."""

_OPPOSITES = """open:closed shut close|accept:reject refuse decline|succeed:fail|success:failure|allow:forbid
prohibit ban disallow|permit:forbid prohibit|legal:illegal|possible:impossible|increase:decrease reduce|rise:fall
decline drop|grow:shrink|expand:contract shrink|safe:dangerous unsafe|dangerous:harmless|true:false untrue
|correct:incorrect wrong|guilty:innocent|alive:dead|present:absent|include:exclude omit|presence:absence
|agree:disagree|approve:disapprove reject|support:oppose|public:private secret|known:unknown|common:rare uncommon
|frequent:rare infrequent|frequently:rarely seldom|often:rarely seldom|always:never|early:late
|large:small|big:small|high:low|long:short|strong:weak
|good:bad poor|easy:difficult hard|simple:complex complicated|cheap:expensive
|hot:cold|warm:cool|wet:dry|full:empty|fast:slow|begin:end|start:finish stop
end|arrive:depart|remember:forget|love:hate|like:dislike|appear:disappear vanish|connect:disconnect|enable:disable
|active:inactive|effective:ineffective|efficient:inefficient|sufficient:insufficient|adequate:inadequate
|complete:incomplete|accurate:inaccurate|visible:invisible|valid:invalid|regular:irregular|relevant:irrelevant
|direct:indirect|formal:informal|dependent:independent|honest:dishonest|continue:discontinue stop cease
|confirm:deny refute|prove:disprove|pass:fail|positive:negative|major:minor
|rich:poor|healthy:sick unhealthy|useful:useless|harmful:harmless|married:unmarried|finished:unfinished
|available:unavailable|able:unable|likely:unlikely|similar:different dissimilar|significant:insignificant negligible
|important:unimportant|consistent:inconsistent|stable:unstable|certain:uncertain|clear:unclear|aware:unaware
ignorant|necessary:unnecessary|expected:unexpected|popular:unpopular|successful:unsuccessful|free:captive
|present:absent|moral:immoral|perfect:imperfect|patient:impatient|polite:impolite|mature:immature|literate:illiterate
|logical:illogical|responsible:irresponsible|reversible:irreversible|resistant:susceptible vulnerable
|maximum:minimum|majority:minority|encourage:discourage|hire:fire|build:demolish destroy|attach:detach|trust:distrust
|obey:disobey|awake:asleep|permanent:temporary|occupied:vacant|willing:reluctant
unwilling|northern:southern|eastern:western|inside:outside|internal:external|urban:rural
|ancient:modern|solid:liquid|deep:shallow|thick:thin|bright:dim|loud:quiet|dense:sparse|edible:inedible
|drinkable:undrinkable|deny:admit|employed:unemployed|identical:different|optimistic:pessimistic
|improve:worsen|strengthen:weaken|lengthen:shorten|raise:lower|ascend:descend|create:destroy|legalise:outlaw"""

FLIPPERS = frozenset(
    stem(word)
    for word in words(
        "fail refuse lack unable without decline absence neglect incapable reluctant failure unwilling refusal devoid"
    )
)
"""Stems of words that deny what follows, like `not`."""

BLURS = frozenset(
    stem(word)
    for word in words(
        """hardly rarely seldom barely scarcely few little only until unless except deny doubt unlikely avoid prevent
    prohibit forbid ban exclude stop cease reject impossible instead almost nearly longer miss omit lest otherwise rid
    cancel abandon halt despite"""
    )
)
"""Stems of words around which the polarity of a sentence is not judged where it differs."""

NEGATIONS = words("not n't never no none neither nor nobody nothing nowhere cannot cant wont dont didnt")


@cache
def common_words() -> frozenset[str]:
    """Return the words that English writes in lower case."""
    path = resources.files("pipeline.rephrase.fidelity").joinpath("common_words.txt")
    return frozenset(path.read_text(encoding="ascii").split())


@cache
def opposites() -> dict[str, tuple[str, int]]:
    """Return, for each stem of a word with a listed opposite, the stem that it is judged by and its sign."""
    signs: dict[str, tuple[str, int]] = {}
    for entry in _OPPOSITES.replace("\n", " ").split("|"):
        base, _, others = entry.strip().partition(":")
        base = base.strip()
        base, sign = signs.setdefault(base, (base, 1))
        for other in others.split():
            signs.setdefault(other, (base, -sign))
    return {stem(word): (stem(base), sign) for word, (base, sign) in signs.items()}

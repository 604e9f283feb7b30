"""A light English stemmer: enough that `completed`, `completing`, `completion` and `completes` meet."""

from __future__ import annotations

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


def _suffix(low: str) -> str:
    if low.endswith("ied") and len(low) > 4:
        return low[:-3] + "y"
    for ending in ("ed", "ing"):
        root = low[: -len(ending)]
        if low.endswith(ending) and len(root) >= 3 and not low.endswith("eed") and not _VOWELS.isdisjoint(root):
            if root[-1] == root[-2] and root[-1] not in "lsz":
                root = root[:-1]
            return _IRREGULAR.get(root, root)
    if low.endswith("ally") and len(low) > 6:
        return low[:-4]
    if low.endswith("ly") and len(low) > 5:
        return low[:-2]
    if low.endswith(("tion", "sion")) and len(low) > 6:
        return low[:-3]
    if low.endswith("ment") and len(low) > 7:
        return low[:-4]
    if low.endswith("ness") and len(low) > 6:
        return low[:-4]
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
    if root.endswith("isat"):
        return root[:-4] + "iz"
    if root.endswith("izat"):
        return root[:-2]
    if root.endswith("y"):
        return root[:-1] + "i"
    return root

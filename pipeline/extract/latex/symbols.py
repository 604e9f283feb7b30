"""What the control words of LaTeX stand for that are no structure: letters, accents, and arguments that say nothing.

The letters and signs are pylatexenc's; what is listed here is what a document's text needs beyond them.
"""

from __future__ import annotations

from functools import cache

from pylatexenc.latex2text import get_default_latex_context_db

ACCENTS = {
    "`": "\u0300",
    "'": "\u0301",
    "^": "\u0302",
    "~": "\u0303",
    "=": "\u0304",
    "u": "\u0306",
    ".": "\u0307",
    '"': "\u0308",
    "r": "\u030a",
    "H": "\u030b",
    "v": "\u030c",
    "d": "\u0323",
    "c": "\u0327",
    "k": "\u0328",
    "b": "\u0331",
    "t": "\u0361",
}
"""Combining characters by the control sequences that put them over or under a letter."""
ESCAPES = {
    **{character: character for character in "%$#&_{}"},
    **dict.fromkeys(" ,;:>\n\t", " "),
    **dict.fromkeys("/-!@*)]+<", ""),
    "|": "\u2016",
}
"""What a backslash before one character gives; accents, mathematics and line breaks are not among them."""
_SIGNS = """
    quad=_ qquad=_ enspace=_ enskip=_ thinspace=_ space=_ hfill=_ hfil=_ hss=_ nobreakspace=_ TeX=TeX LaTeX=LaTeX
    LaTeXe=LaTeX2e BibTeX=BibTeX XeTeX=XeTeX LuaTeX=LuaTeX pdfTeX=pdfTeX ldots=… dots=… textellipsis=… dotfill=…
    slash=/ textbackslash=\\ ss=ß textquotesingle=' textquotedbl=" textbar=| textless=< textgreater=> lq=‘ rq=’ i=ı
    j=ȷ aa=å AA=Å textasciitilde=~ textasciicircum=^ lbrack=[ rbrack=] textdegree=° degree=° celsius=°C textmu=µ
    texteuro=€ euro=€ S=§ P=¶ pounds=£ textsterling=£ textregistered=® texttrademark=™ copyright=© textcopyright=©
    checkmark=✓ cmark=✓ xmark=✗ dag=† ddag=‡ textdagger=† textdaggerdbl=‡ bullet=• textbullet=• qed=∎ qedsymbol=∎
    ie=i.e. eg=e.g. percent=% textpercent=% lbrace={ rbrace=} textbraceleft={ textbraceright=} textnumero=№
    textexclamdown=¡ textquestiondown=¿ textvisiblespace=␣ guillemotleft=« guillemotright=» og=« fg=» glqq=„ grqq=“
    flqq=« frqq=» glq=‚ grq=‘ figurename=Figure tablename=Table abstractname=Abstract refname=References
    proofname=Proof quotedblbase=„ textunderscore=# nodata=… hyp=- fshyp=/ bshyp=\\ dothyp=. colonhyp=:
"""
_UNITS = """
    meter=m metre=m gram=g second=s ampere=A kelvin=K mole=mol hertz=Hz newton=N pascal=Pa joule=J watt=W volt=V
    ohm=Ω tesla=T electronvolt=eV percent=% degree=° celsius=°C degreeCelsius=°C liter=L litre=L hour=h minute=min
    day=d byte=B bit=bit decibel=dB angstrom=Å eV=eV per=/ kilo=k mega=M giga=G tera=T milli=m micro=µ nano=n pico=p
    centi=c squared=² cubed=³ cubicd=³ kilogram=kg farad=F radian=rad keV=keV MeV=MeV GeV=GeV TeV=TeV barn=b year=yr
"""
_ARGUMENTS = {
    "": """hline toprule midrule bottomrule listoffigures listoftables maketitle noindent centering
        raggedright clearpage newpage hfill bigskip medskip smallskip appendix twocolumn onecolumn frontmatter
        mainmatter backmatter protect""",
    "m": """foreignquote hyphenquote typeout message label pagestyle thispagestyle bibliographystyle pagenumbering
        markright usetikzlibrary hyphenation graphicspath DeclareGraphicsExtensions PassOptionsToPackage
        includeonly excludecomment includecomment stepcounter refstepcounter newsavebox newlength theoremstyle
        hypersetup geometry newgeometry captionsetup floatstyle lstset nocite restylefloat index glossary phantom
        hphantom vphantom setcitestyle tikzset pgfplotsset sisetup addbibresource selectlanguage thanksref
        homepage collaboration preprint pacs subjclass titlerunning authorrunning tocauthor toctitle shorttitle
        shortauthors runninghead lhead chead rhead lfoot cfoot rfoot fancyhf linespread received accepted
        published authorinfo copyrightyear acmYear acmConference acmBooktitle acmDOI acmISBN acmPrice acmJournal
        acmVolume acmNumber acmArticle acmMonth setcopyright mathversion cline urlstyle altaffilmark tablenotemark
        tablewidth tabletypesize tablecolumns tablenum tablefirsthead tabletail tablelasttail
        hypertarget thanks orcid orcidlink epsfig psfig epsfbox fontfamily fontseries fontshape titlenote
        subtitlenote ead emailAdd eads extrafloats
        column usetheme usecolortheme usefonttheme useinnertheme useoutertheme metroset usepgfplotslibrary
        setbeamercovered Opensolutionfile Closesolutionfile noalign institute inst reportnumber authornotemark
        citestyle usebox pagecolor journal journalname""",
    "mm": """addtocontents markboth numberwithin counterwithin setkeys setlength addtolength setcounter addtocounter
        settowidth resizebox altaffiltext fontsize providecolor icmlauthor icmlcorrespondingauthor""",
    "mmm": "DeclarePairedDelimiter newlist renewlist definecolor addcontentsline crefname Crefname newfloat",
    "mmmm": "titlespacing",
    "mmmmm": "DeclareFixedFont DeclareMathAlphabet",
    "om": """setmainlanguage setdefaultlanguage setotherlanguage setlist textcolor colorbox scalebox foreignlanguage
        hyperlink adjustbox includepdf todo author affil address affiliation date email documentclass documentstyle
        rowcolor cellcolor columncolor arrayrulecolor cortext tnotetext fntext psfrag fancyhead fancyfoot color
        ccsdesc additionalaffil correspondingauthor""",
    "omo": "usepackage RequirePackage rotatebox",
    "moo": "raisebox",
    "ooom": "parbox",
    "oo": "makebox framebox blockquote",
    "o": "tableofcontents footnotemark linebreak pagebreak nopagebreak nolinebreak printbibliography listoftodos",
    "oom": "includegraphics",
    "omm": "rule fcolorbox",
    "ommm": "rowcolors",
    "omomo": "multirow",
    "opm": "cmidrule",
    "p": "put",
    "mommmm": "titleformat",
    "mmmmmmmmm": "newtheoremstyle",
    "mo": "newcounter",
    "mog": "setbeamertemplate",
    "mmo": "setbeamercolor setbeamerfont setbeamersize",
}
"""Arguments by their kinds: m(andatory), o(ptional), p(arenthesised), g(roup, where there is one)."""


def _pairs(listed: str) -> dict[str, str]:
    found = dict(pair.split("=", 1) for pair in listed.split())
    return {name: {"_": " ", "#": "_"}.get(sign, sign) for name, sign in found.items()}


@cache
def symbols() -> dict[str, str]:
    """Return the text that control words stand for."""
    found: dict[str, str] = {}
    for spec in get_default_latex_context_db().iter_macro_specs():
        said = getattr(spec, "simplify_repl", None)
        if isinstance(said, str) and 0 < len(said.strip()) < 4 and "%" not in said and spec.macroname.isalpha():
            found[spec.macroname] = said
    return found | _pairs(_SIGNS)


@cache
def units() -> dict[str, str]:
    """Return the signs of siunitx's units."""
    return symbols() | _pairs(_UNITS)


@cache
def silent() -> dict[str, str]:
    """Return the arguments that go with a control word which says nothing; what follows them is text."""
    return {name: kinds for kinds, names in _ARGUMENTS.items() for name in names.split()}

"""LaTeX to text: what each construct becomes, and what a hostile source costs."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from pipeline.extract.conversion import RefusedError
from pipeline.extract.latex.convert import convert

CASES = [
    # letters, signs, spaces
    (r"\'e \`a \^o \"{u} \~n \c{c} \c s \v{s} \H{o} \k a \=a \.z \u g \'\i \"{\i}", "é à ô ü ñ ç ş š ő ą ā ż ğ í ï"),
    (r"\ss{} \ae\ \o \L{}\aa\ \S 3 \pounds5 \textendash", "ß æ øŁå §3 £5 –"),
    ("A---B--C ``q'' `s' !`H! 5\\% \\$5 \\& \\# \\_ \\{a\\} a~b", "A—B–C “q” ‘s’ ¡H! 5% $5 & # _ {a} a b"),
    (
        r"\LaTeX{} \TeX\ x\ldots{} 10\textsuperscript{-3} H\textsubscript{2}O 1\textsuperscript{st}",
        "LaTeX TeX x… 10⁻³ H₂O 1st",
    ),
    (r"\SI{5}{\kilo\meter} \num{3} \qty{2}{\square\meter}", "5 km 3 2 m²"),
    ('\\usepackage[ngerman]{babel}"uber Stra"se "`so"\' Auf"-lage', "über Straße „so“ Auflage"),
    # comments, paragraphs, breaks
    ("one% note\ntwo % note\n\nthree\\\\four\\par five", "onetwo\n\nthree\nfour\n\nfive"),
    ("% note\n  % note\na %\n\n% note\n\nb", "a\n\nb"),
    # mathematics
    (r"$a$ \(b\) $$c$$ \[d\]", "$a$ $b$\n\n$$c$$\n\n$$d$$"),
    (
        "\\begin{align}\na &= b \\\\ % note\nc\\label{x}\n\\end{align}",
        "$$\\begin{align}\na &= b \\\\\nc\n\\end{align}$$",
    ),
    (r"\begin{equation}\label{e} \left( x \right) \nonumber\end{equation}", r"$$\left( x \right)$$"),
    (r"$\text{if $y$ ok} \{ \$ \}$ \ensuremath{\alpha}", r"$\text{if \(y\) ok} \{ \$ \}$ $\alpha$"),
    ("a $lost\n\nb $c$", "a lost\n\nb $c$"),
    # macros
    (r"\newcommand{\R}{\mathbb{R}}\newcommand{\f}[2][x]{#1^{#2}}$\R \f{2} \f[y]3$ \R", "$\\mathbb{R} x^{2} y^{3}$ R"),
    (r"\def\be{\begin{equation}}\def\ee{\end{equation}}\def\v#1{\mathbf#1}\be \v x \ee \v", "$$\\mathbf x$$"),
    (r"\DeclareMathOperator*{\argmax}{arg\,max}$\argmax x$", r"$\operatorname*{arg\,max} x$"),
    (r"\newcommand{\us}{CI/CD\xspace}\us pipeline, \us. \newcommand{\b}[1]{<#1>}\b{z}", "CI/CD pipeline, CI/CD. <z>"),
    (r"\let\x\alpha $\x$ \newenvironment{e}[1]{[#1:}{]}\begin{e}{n}c\end{e}", r"$\alpha$ [n:c]"),
    (r"\def\a{\a b}\a c \def\c#1.#2;{no}\csname x\endcsname d", "c d"),
    # conditions
    (r"A\iffalse no \ifx a b \fi no \fi B\if0 no\fi C\iftrue yes\else no\fi", "ABCyes"),
    (r"\newif\ifd \ifd a\else b\fi \dtrue \ifd c\fi \iffalse", "bc"),
    # structure
    (r"\section{A $x$}\label{a}\subsection*{B}\paragraph{C} d", "## A $x$\n\n### B\n\n##### C\n\nd"),
    (r"\chapter{A}\section[s]{B \emph{c}}", "## A\n\n### B c"),
    (
        r"\begin{abstract}a\end{abstract}\footnote{n}. \href{http://a.b/\%20}{t} \url{u_~%1}",
        "## Abstract\n\na\n\n(n). [t](http://a.b/%20) u_~%1",
    ),
    (r"\textbf{b \emph{e}} {\bf o} \texttt{t} \textcolor{red}{r} \unknown{u}{v} \mbox{m}", "b e o t r u v m"),
    (r"x \cite{a,b} \citep[see][p.~5]{c}, \ref{d} \eqref{e}", "x [a, b] [c, see, p. 5], [d] ([e])"),
    (r"\newtheorem{t}{Theorem}\begin{t}[N]s\end{t}\begin{proof}p\end{proof}", "Theorem (N). s\n\nProof. p"),
    (
        r"\begin{enumerate}\item a\begin{itemize}\item[--] b\item c\end{itemize}\item d\end{enumerate}",
        "1. a\n   - b\n   - c\n2. d",
    ),
    (r"\begin{description}\item[T] d\item[U:] e\end{description}", "- T: d\n- U: e"),
    (r"\begin{quote}a\par b\end{quote}", "> a\n> b"),
    (
        r"\begin{table}\caption{C}\begin{tabular}{|l|c|}\hline A & B\\ \multicolumn{2}{c}{w}\\ \cline{1-2} $|x|$ &"
        r"\multirow{2}{*}{m}\\ \end{tabular}\end{table}",
        "| A | B |\n| --- | --- |\n| w | |\n| $|x|$ | m |\n\nTable: C",
    ),
    (r"\begin{figure}\includegraphics[width=1cm]{a}junk\caption[s]{A.}\label{f}\end{figure}b", "Figure: A.\n\nb"),
    (
        r"\begin{figure}\begin{subfigure}{1cm}\caption{a}\end{subfigure}\subfloat[b]{x}\caption{c}\end{figure}",
        "Figure: a\n\nFigure: b\n\nFigure: c",
    ),
    (r"\begin{tikzpicture}\draw(0,0);\end{tikzpicture}\begin{comment}no\end{comment}a", "a"),
    # code
    ("\\verb|\\a{$|, \\lstinline!x%y!", "`\\a{$`, `x%y`"),
    ("\\begin{verbatim}\n \\section{x} % y\n\\end{verbatim}b", "```\n \\section{x} % y\n```\n\nb"),
    ("\\begin{lstlisting}[language=C]\nint a; /* $b$ */\n\\end{lstlisting}", "```\nint a; /* $b$ */\n```"),
    # dimensions, and what says nothing
    (
        r"a\hspace*{1cm}b\hskip 1em plus 2pt c\kern2pt \setlength{\x}{1pt}\parskip=3pt d\penalty10 e\noindent f",
        "a b cdef",
    ),
    (r"\usepackage{x}\pagestyle{empty}\bibliography{x}\thispagestyle{y}\newpage a", "a"),
]


def text(source: str, **files: str) -> str:
    sources = {"m.tex": source, **{f"{name}.tex": data for name, data in files.items()}}
    return convert("m.tex", sources, bibliography=False, citations=True).text


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_what_a_construct_becomes(source: str, expected: str) -> None:
    assert text(source) == expected


def test_a_document_begins_and_ends_where_it_says() -> None:
    source = (
        r"\documentclass{a}noise\newcommand{\x}{X}\title{T\\U\thanks{n}}\begin{document}\maketitle \x\end{document}no"
    )
    assert text(source) == "# T U\n\nX"


def test_files_are_read_where_they_are_named() -> None:
    assert text(r"a \input{b} \include c \input{none}", b=r"B\endinput no", c=r"\input{m}C") == "a B C"
    source = r"\documentclass{x}\begin{document}a \subfile{s}\end{document}"
    assert text(source, s=r"\documentclass{y}\begin{document}S\end{document}no") == "a S"


def test_references_are_optional() -> None:
    files = {
        "m.tex": r"a \cite{k}\bibliography{x}",
        "m.bbl": r"\begin{thebibliography}{9}\bibitem{k} Title.\end{thebibliography}",
    }
    with_them = convert("m.tex", files, bibliography=True, citations=True).text
    assert with_them == "a [k]\n\n## References\n\n[k] Title."
    assert convert("m.tex", files, bibliography=False, citations=False).text == "a"


def test_the_papers_control_characters_are_none_of_ours() -> None:
    assert text("a\x020\x03 \x1d\x1c$x$\x01\x7f") == "a0 $x$"


HOSTILE = {
    "braces": "{" * 100_000,
    "lists": r"\begin{itemize}\item " * 100_000,
    "footnotes": r"\footnote{" * 100_000,
    "doubling": "".join(
        rf"\def\{a}{{\{b}\{b}}}" for a, b in zip("abcdefghijklmnopqrstuvwx", "bcdefghijklmnopqrstuvwxy", strict=True)
    )
    + r"\a$\a$",
    "recursion": r"\def\a{\b x}\def\b{\a y}\a $\a$",
    "copies": r"\newcommand{\a}[1]{#1#1#1#1#1#1#1#1}" + r"\a{" * 60 + "x" + "}" * 60,
    "brackets": r"\\[" * 100_000,
    "conditions": r"\ifx ab " * 100_000,
    "comments": r"\begin{comment}" * 100_000,
    "formulas": r"$\frac{" * 100_000,
    "cells": r"\begin{tabular}{l}" + "&" * 3000 + r"\\x" * 3000,
    "spaces": "\n \t" * 300_000,
    "input": r"\input{m}" * 100_000,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_source_costs_itself(source: str) -> None:
    began = time.process_time()
    with suppress(RefusedError):
        text(source)
    assert time.process_time() - began < 10

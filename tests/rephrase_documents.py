"""Documents, and what a model that was trained on them answers in each style: for the end-to-end tests of rephrasing.

Long documents get the styles `qa` and `distill`, short ones `wikipedia`. Among the answers are one that is nearly its
document again, one that says a wrong number, and one that refuses.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONG_WORDS = 45
ROUTES = [
    {"where": f"word_count >= {LONG_WORDS}", "styles": ["qa", "distill"]},
    {"where": f"word_count < {LONG_WORDS}", "styles": ["wikipedia"]},
]


@dataclass(frozen=True)
class Told:
    """A document and its answers by style."""

    name: str
    licence: str | None
    text: str
    answers: dict[str, str]

    def row(self) -> dict[str, Any]:
        """Return the document as a row of a corpus."""
        url = f"https://example.org/{self.name}"
        return {"text": self.text, "url": url, "title": f"The {self.name}", "licence": self.licence}


TOLD = (
    Told(
        "lighthouse",
        "CC-BY-SA-4.0",
        "The lighthouse on Gull Island was built in 1874 from grey granite. It stands 31 metres above the sea, and on"
        " clear nights its lamp can be seen from a distance of 29 kilometres. Two keepers lived there with their"
        " families until the lamp was made automatic in 1982. Today the tower is open to visitors in summer.",
        {
            "qa": "Questions and answers:\n\n"
            "Question: When was the lighthouse on Gull Island built?\n"
            "Answer: It was built in 1874.\n\n"
            "Question: What is the tower made of?\n"
            "Answer: It is made of grey granite.\n\n"
            "Question: From how far away can the lamp be seen on clear nights?\n"
            "Answer: It can be seen from a distance of 29 kilometres.\n\n"
            "Question: Until when did keepers live there with their families?\n"
            "Answer: They lived there until the lamp was made automatic in 1982.",
            "distill": "Condensed text: The granite lighthouse of Gull Island dates from 1874. Its lamp, 31 metres"
            " above the sea, is visible for 29 kilometres and has been automatic since 1982.",
        },
    ),
    Told(
        "mill",
        "CC0-1.0",
        "A water mill turns the flow of a river into motion. The stream is led through a narrow channel on to the"
        " paddles of a large wheel, whose axle drives heavy stones inside the building. Grain falls between the stones"
        " and leaves them as flour. When the river was low in late summer, the miller had to wait for rain.",
        {
            "qa": "Questions and answers:\n\n"
            "Question: What does a water mill do with the flow of a river?\n"
            "Answer: It turns the flow into motion.\n\n"
            "Question: Where does the stream go after the narrow channel?\n"
            "Answer: It goes on to the paddles of a large wheel.\n\n"
            "Question: What does the axle drive?\n"
            "Answer: It drives heavy stones inside the building.\n\n"
            "Question: Why did the miller have to wait in late summer?\n"
            "Answer: The river was low, and rain was needed.",
            # Its document again, but for the last two words: dropped beside its parent.
            "distill": "Condensed text: A water mill turns the flow of a river into motion. The stream is led through a"
            " narrow channel on to the paddles of a large wheel, whose axle drives heavy stones inside the building."
            " Grain falls between the stones and leaves them as flour. When the river was low in late summer, the"
            " miller had to wait.",
        },
    ),
    Told(
        "bees",
        None,
        "Honey bees store food for the winter. Each worker visits up to 100 flowers on one flight and carries the"
        " nectar home in a special stomach. In the hive other workers fan it with their wings until most of the water"
        " is gone, and then close the full cells with wax. A strong hive holds about 60,000 bees in June.",
        {
            "qa": "Questions and answers:\n\n"
            "Question: Why do honey bees store food?\n"
            "Answer: They store it for the winter.\n\n"
            "Question: How many flowers does a worker visit on one flight?\n"
            "Answer: It visits up to 100 flowers.\n\n"
            "Question: What do other workers do in the hive?\n"
            "Answer: They fan the nectar with their wings until most of the water is gone.\n\n"
            "Question: What closes the full cells?\n"
            "Answer: The workers close them with wax.",
            # A number that its document does not have.
            "distill": "Condensed text: Workers gather nectar from up to 100 flowers a flight, fan it dry and seal it"
            " with wax for the winter. In June a strong hive has about 85,000 bees.",
        },
    ),
    Told(
        "paper",
        "CC-BY-4.0",
        "so paper, yes, you make it from rags or wood. they beat the stuff in water till its a pulp, then dip a sieve,"
        " and what stays on the sieve is a sheet, you press it and hang it up to dry.",
        {
            "wikipedia": "Article: Paper is made from rags or wood. The material is beaten in water to a pulp, into"
            " which a sieve is dipped. The layer that remains on the sieve is a sheet, which is pressed and hung up to"
            " dry.",
        },
    ),
    Told(
        "tides",
        "MIT",
        "tides, ok, the moon pulls the sea and the water rises, and twice a day mostly it comes up on the beach and"
        " goes away again, so keep your stuff off the sand.",
        {
            "wikipedia": "Article: The tides follow the pull of the moon on the sea. In most places the water rises"
            " twice a day and falls again, so things should be kept off the sand of a beach.",
        },
    ),
    Told(
        "clock",
        None,
        "the old clock in our hall has a long pendulum, it swings one time each second, and if its too hot the rod gets"
        " longer and the clock is late, thats why they use wood.",
        {"wikipedia": "Article: I'm sorry, but I can't help with that request."},
    ),
)
TOO_SHORT = {"text": "Nothing here yet.", "url": "https://example.org/empty", "title": None, "licence": None}
"""Dropped by a rule, so never rephrased."""
COPY = {**TOLD[0].row(), "url": "https://example.org/copy"}
"""Dropped as a copy, so never rephrased."""


def pairs() -> list[dict[str, Any]]:
    """Return every conversation that a model must know: the messages that the stage sends, and the answer."""
    from pipeline.rephrase.styles import load_style, render_prompt

    return [
        {"messages": render_prompt(load_style(style), "chat", told.text, f"The {told.name}"), "answer": answer}
        for told in TOLD
        for style, answer in told.answers.items()
    ]


def corpus() -> list[dict[str, Any]]:
    """Return the rows of the source: six that are kept, one too short, one copy."""
    return [*(told.row() for told in TOLD), TOO_SHORT, COPY]


def listed(workspace: Path, source: str) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every part that a source's indexes list, by group."""
    found: dict[str, dict[str, str]] = {}
    manifests = workspace / source / "_manifests"
    for index in sorted(manifests.rglob("_index.json")):
        group = str(index.parent.relative_to(manifests))
        names = [part["name"] for part in json.loads(index.read_text())["parts"]]
        files = {name: workspace / source / group / f"{name}.parquet" for name in names}
        found[group] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return found

"""What will be asked: exactly one request for each (document, segment, style, sample), in an order that never changes.

The order is that of the rows to come: by parent's id, segment, style's name and sample. It does not depend on how the
source was cut into parts, and a budget admits requests in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from pipeline.llm.config import EndpointConfig
from pipeline.llm.types import Parameters, Request, make_request, sent_parameters
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.licence import inherit
from pipeline.rephrase.segments import Segment, split
from pipeline.rephrase.styles import Style, check_kind, load_styles, render_prompt
from pipeline.table.errors import ConservationError


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A kept document, its text as curated, and the numbers of the routes whose predicate it meets."""

    doc_id: str
    text: str
    routes: tuple[int, ...]
    title: str | None = None
    licence: str | None = None
    date: datetime | None = None
    language: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that decides requests besides the documents."""

    source: str
    output: str
    routes: tuple[tuple[Style, ...], ...]
    endpoint: EndpointConfig  # the first; all serve the same model
    model_licence: str | None  # the strictest of the endpoints'
    parameters: Mapping[str, Parameters]  # by style's name, without a seed
    seed: int | None
    samples: int

    @property
    def file(self) -> str:
        """The name under which all rows have their origin: stable, whatever the parents' parts are."""
        return f"{self.source}/curated"

    @property
    def styles(self) -> dict[str, Style]:
        """Every style, by name, in the order of the routes."""
        return {style.name: style for route in self.routes for style in route}

    def parameters_of(self, style: Style, sample: int) -> Parameters:
        """Return the sampling parameters of one request."""
        parameters = self.parameters[style.name]
        return parameters if self.seed is None else parameters.model_copy(update={"seed": self.seed + sample})

    def sent(self, style: Style, sample: int) -> dict[str, Any]:
        """Return the parameters that a request carries, as JSON knows them."""
        return sent_parameters(self.endpoint, self.parameters_of(style, sample))

    def identity(self) -> dict[str, Any]:
        """Return what decides the requests and rows, for manifests: without keys, addresses and patience."""
        return {
            "source": self.source,
            "output": self.output,
            "model": self.endpoint.model,
            "kind": self.endpoint.kind,
            "revision": self.endpoint.revision,
            "max_tokens_as": self.endpoint.max_tokens_as,
            "omit": self.endpoint.omit,
            "prefill": self.endpoint.prefill,
            "model_licence": self.model_licence,
            "routes": [[style.name for style in route] for route in self.routes],
            "styles": {name: style.content_hash for name, style in sorted(self.styles.items())},
            "parameters": {name: p.model_dump(mode="json") for name, p in sorted(self.parameters.items())},
            "seed": self.seed,
            "samples": self.samples,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """One request and where its answer will stand."""

    parent: SourceDocument
    segment: Segment
    style: Style
    sample: int
    request: Request

    @property
    def segment_text(self) -> str:
        """What of the parent is rephrased; a style that appends puts its answer after it."""
        return self.parent.text[self.segment.start : self.segment.end]

    @property
    def record_id(self) -> str:
        """`<parent>:<segment>:<style>:<sample>`: unique in the new source."""
        return f"{self.parent.doc_id}:{self.segment.index}:{self.style.name}:{self.sample}"


def make_plan(config: RephraseConfig) -> Plan:
    """Return the plan of a configuration: styles loaded and checked, sampling parameters resolved.

    Raises: ConfigError for an unknown style, a bad style file, or a style that the endpoint's kind does not take.
    """
    styles = load_styles(config.style_names, config.prompts)
    endpoint = config.endpoint[0]
    for style in styles.values():
        check_kind(style, endpoint)
    strictest = None
    for licence in [e.licence for e in config.endpoint if e.licence is not None]:
        strictest = licence if strictest is None else inherit(strictest, licence).licence
    return Plan(
        source=config.source,
        output=config.output_source,
        routes=tuple(tuple(styles[name] for name in route.styles) for route in config.routes),
        endpoint=endpoint,
        model_licence=strictest,
        parameters={name: _parameters(style, config) for name, style in styles.items()},
        seed=config.seed,
        samples=config.samples,
    )


def plan_requests(documents: Iterable[SourceDocument], plan: Plan) -> Iterator[Planned]:
    """Yield every planned request in order; documents must come in the order of their ids, each once.

    A document has the union of the styles of the routes that it meets, each once. One without text, or that meets no
    route, has no request. A document is held until its requests are made.

    Raises: ConservationError when a document is out of order or comes twice.
    """
    last = ""
    for document in documents:
        if document.doc_id <= last:
            raise ConservationError(f"{plan.source}: document {document.doc_id} comes after {last}; sort by doc_id")
        last = document.doc_id
        for segment, style in _tasks(document, plan):
            for sample in range(plan.samples):
                yield Planned(document, segment, style, sample, _request(document, segment, style, sample, plan))


def count_requests(documents: Iterable[SourceDocument], plan: Plan) -> int:
    """Return how many requests `plan_requests` would yield, without making them."""
    return sum(len(_tasks(document, plan)) for document in documents) * plan.samples


def requests(planned: Iterable[Planned]) -> Iterator[Request]:
    """Yield the requests alone, as the client takes them."""
    return (each.request for each in planned)


def styles_of(document: SourceDocument, plan: Plan) -> list[Style]:
    """Return the styles of a document: those of its routes in their order, each once."""
    return list({style.name: style for route in document.routes for style in plan.routes[route]}.values())


def _tasks(document: SourceDocument, plan: Plan) -> list[tuple[Segment, Style]]:
    if not document.text or document.text.isspace():
        return []
    by_budget: dict[int, list[Segment]] = {}
    tasks: list[tuple[Segment, Style]] = []
    for style in styles_of(document, plan):
        segments = by_budget.get(style.input_tokens)
        if segments is None:
            segments = by_budget[style.input_tokens] = split(document.text, style.input_tokens)
        tasks += [(segment, style) for segment in segments]
    return sorted(tasks, key=lambda task: (task[0].index, task[1].name))


def _request(document: SourceDocument, segment: Segment, style: Style, sample: int, plan: Plan) -> Request:
    text = document.text[segment.start : segment.end]
    prompt = render_prompt(style, plan.endpoint.kind, text, document.title, plan.endpoint.prefill)
    # A space sorts before every character of a name, so these strings sort as their parts do.
    order = f"{document.doc_id} {segment.index:08d} {style.name} {sample:04d}"
    return make_request(
        plan.endpoint, prompt, plan.parameters_of(style, sample), prompt_hash=style.prompt_hash, order=order
    )


def _parameters(style: Style, config: RephraseConfig) -> Parameters:
    sampling = config.sampling.over(style.sampling)
    endpoint, extra = config.endpoint[0], sampling.extra
    if style.prefill and endpoint.kind == "chat" and endpoint.prefill == "continue_final_message":
        extra = {**extra, "continue_final_message": True, "add_generation_prompt": False}
    return Parameters(
        max_tokens=style.output_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=sampling.stop,
        extra=extra,
    )


@dataclass(slots=True)
class StyleEstimate:
    """What the requests of one style come to."""

    requests: int = 0
    input_tokens: int = 0
    max_input_tokens: int = 0
    output_tokens: int = 0
    max_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PlanEstimate:
    """What a plan comes to, for a dry run. Typical numbers are estimates, `max_*` are never exceeded by one attempt.

    `input_tokens` counts four bytes a token; `max_input_tokens` one byte, as no tokenizer makes more.
    `output_tokens` expects the middle of a style's usual lengths; `max_output_tokens` is what the requests allow.
    Money is None where an endpoint has no prices; of several endpoints the dearest counts.
    """

    documents: int
    segments: int
    requests: int
    input_tokens: int
    max_input_tokens: int
    output_tokens: int
    max_output_tokens: int
    money: float | None
    max_money: float | None
    admitted_requests: int  # of `requests`, those that the budget's `requests` admits
    exceeds_tokens: bool  # whether the typical tokens are more than the budget's `tokens`
    licence_conflicts: int  # requests whose answers could not be passed on
    styles: Mapping[str, StyleEstimate] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the estimate as a dict of what JSON knows."""
        return asdict(self)


def estimate(planned: Iterable[Planned], config: RephraseConfig, model_licence: str | None = None) -> PlanEstimate:
    """Return what the requests of a plan come to, as if none had been asked before. Nothing is held but counts."""
    styles: dict[str, StyleEstimate] = {}
    documents = segments = conflicts = 0
    last = ""
    places: set[tuple[int, int]] = set()  # of one document
    for each in planned:
        counted = styles.setdefault(each.style.name, StyleEstimate())
        counted.requests += 1
        counted.input_tokens += each.request.estimated_prompt_tokens
        counted.max_input_tokens += each.request.reserved_tokens - each.request.max_tokens
        low, high = each.style.length_ratio
        typical = math.ceil(each.segment.tokens * (math.sqrt(low * high) or high / 2))
        counted.output_tokens += min(each.request.max_tokens, typical)
        counted.max_output_tokens += each.request.max_tokens
        if each.parent.doc_id != last:
            documents, segments, last, places = documents + 1, segments + len(places), each.parent.doc_id, set()
        places.add((each.segment.start, each.segment.end))
        conflicts += inherit(each.parent.licence, model_licence).conflict is not None
    names = [each.name for each in fields(StyleEstimate)]
    total = {name: sum(getattr(each, name) for each in styles.values()) for name in names}
    budget, typical = config.budget, total["input_tokens"] + total["output_tokens"]
    return PlanEstimate(
        documents=documents,
        segments=segments + len(places),
        **total,
        money=_money(config.endpoint, total["input_tokens"], total["output_tokens"]),
        max_money=_money(config.endpoint, total["max_input_tokens"], total["max_output_tokens"]),
        admitted_requests=min(total["requests"], budget.requests) if budget.requests is not None else total["requests"],
        exceeds_tokens=budget.tokens is not None and typical > budget.tokens,
        licence_conflicts=conflicts,
        styles=dict(sorted(styles.items())),
    )


def _money(endpoints: Sequence[EndpointConfig], input_tokens: int, output_tokens: int) -> float | None:
    """Return what so many tokens cost at the dearest endpoint; None where one has no prices."""
    costs = [endpoint.money(input_tokens, output_tokens) for endpoint in endpoints]
    known = [cost for cost in costs if cost is not None]
    return max(known) if len(known) == len(costs) else None

"""What the `rephrase` stage can be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.llm.config import BudgetConfig, ClientConfig, EndpointConfig, check_endpoints
from pipeline.rephrase.styles import SamplingConfig
from pipeline.table.config import StageConfig
from pipeline.table.errors import ConfigError
from pipeline.table.schema import RESERVED_SOURCES

MAX_SAMPLES = 1000
_SOURCE = re.compile(r"[a-z][a-z0-9_]*")


def _source_name(name: str) -> str:
    if not _SOURCE.fullmatch(name):
        raise ValueError(f"source name {name!r} must be an identifier in lower case: it becomes an SQL schema")
    if name in RESERVED_SOURCES:
        raise ValueError(f"source name {name!r} is reserved; choose another")
    return name


SourceName = Annotated[str, AfterValidator(_source_name)]


class RouteConfig(StageConfig):
    """Which kept documents get which styles."""

    where: str = Field("true", min_length=1, description="SQL over the kept rows of `<source>.everything`")
    styles: tuple[str, ...] = Field(
        min_length=1,
        description="one style for these documents or a list: `wikipedia`, `qa`, `distill`, `extract`, `list`, "
        "`summary`, `rewrite`, or your own",
    )

    @field_validator("styles", mode="before")
    @classmethod
    def _one_style_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("styles")
    @classmethod
    def _styles_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"style {name!r} is given twice; for several answers a segment set `samples`")
        return value


class RephraseConfig(StageConfig):
    """Which documents are rephrased how, by which model, for how much."""

    source: SourceName = Field(description="whose curated documents go in")
    output: SourceName | None = Field(None, description="the new source; null is `<source>_rephrased`")
    endpoint: tuple[EndpointConfig, ...] = Field(min_length=1, description="one server, or a list of equal ones")
    routes: tuple[RouteConfig, ...] = Field(min_length=1, description="which kept documents get which styles")
    budget: BudgetConfig = BudgetConfig()
    client: ClientConfig = ClientConfig()
    seed: int | None = Field(1, ge=0, lt=1 << 62, description="sample i is asked with seed + i; null sends none")
    samples: int = Field(1, ge=1, le=MAX_SAMPLES, description="answers for each segment and style")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="laid over every style's own")
    prompts: str | None = Field(None, description="folder of your own styles, searched before the shipped ones")
    part_requests: int = Field(8192, ge=1, le=1 << 20, description="planned requests whose rows become one part")

    @field_validator("endpoint", mode="before")
    @classmethod
    def _one_endpoint_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (Mapping, EndpointConfig)) else value

    @field_validator("endpoint")
    @classmethod
    def _endpoints_are_equal(cls, value: tuple[EndpointConfig, ...]) -> tuple[EndpointConfig, ...]:
        try:
            check_endpoints(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> RephraseConfig:
        if self.output == self.source:
            raise ValueError(f"output {self.output!r} is the source itself; choose another name")
        if self.samples > 1 and self.seed is None:
            raise ValueError("samples above 1 need a seed: without one they would be the same request")
        if self.samples > 1 and "seed" in self.endpoint[0].omit:
            raise ValueError("samples above 1 need a seed, which endpoint.omit leaves out: they would be one request")
        return self

    @property
    def output_source(self) -> str:
        """The name of the new source."""
        return self.output or f"{self.source}_rephrased"

    @property
    def style_names(self) -> tuple[str, ...]:
        """Every style that a route names, in the order of the routes, once."""
        return tuple(dict.fromkeys(name for route in self.routes for name in route.styles))

"""What is asked: each (document, segment, style, sample) once, in an order that never changes, under a stable key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.rephrase.plan import Planned, SourceDocument, estimate, make_plan, plan_requests, requests
from pipeline.table.errors import ConfigError, ConservationError
from tests.unit.rephrase_plans import STYLES, configure, document

TEXT = "\n\n".join(f"Paragraph number {n} says a few words." for n in range(6))


def planned(folder: Path, *documents: SourceDocument, **values: Any) -> list[Planned]:
    return list(plan_requests(documents, make_plan(configure(folder, **values))))


def test_routes_are_united_each_style_once(tmp_path: Path) -> None:
    made = planned(tmp_path, document(1, "One.", (0, 1)), document(2, "Two.", (1,)), document(3, "Three.", ()))
    assert [(p.parent.doc_id[-1], p.style.name) for p in made] == [
        ("1", "long"),
        ("1", "pairs"),
        ("1", "short"),
        ("2", "long"),
        ("2", "short"),
    ]


def test_every_segment_style_and_sample_is_planned_once_in_the_order_of_rows(tmp_path: Path) -> None:
    made = planned(tmp_path, document(1, TEXT, (0, 1)), document(2, TEXT + "!", (0,)), samples=3)
    places = [(p.parent.doc_id, p.segment.index, p.style.name, p.sample) for p in made]
    assert places == sorted(set(places))
    assert {p.style.name: p.segment.index for p in made if p.parent.doc_id.endswith("1")} == {
        "long": 0,
        "pairs": 1,
        "short": 2,
    }
    orders = [request.order for request in requests(made)]
    assert orders == sorted(orders)
    first = [p.request.key for p in made if p.parent.doc_id.endswith("1")]
    assert len(set(first)) == len(first)
    for name in STYLES:
        rejoined = "".join(
            p.segment_text for p in made if (p.parent.doc_id[-1], p.style.name, p.sample) == ("1", name, 0)
        )
        assert rejoined == TEXT


def test_the_order_of_names_is_that_of_strings(tmp_path: Path) -> None:
    for name in ("qa", "qa2", "qa_x"):
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / f"{name}.yaml").write_text(json.dumps({"name": name, **STYLES["long"]}))
    config = configure(tmp_path / "x", routes=[{"styles": ["qa_x", "qa2", "qa"]}])
    config = config.model_copy(update={"prompts": str(tmp_path / "more")})
    made = list(plan_requests([document(1, "Text.")], make_plan(config)))
    assert [p.style.name for p in made] == ["qa", "qa2", "qa_x"]
    assert [p.request.order for p in made] == sorted(p.request.order for p in made)


def test_a_beginning_is_sent_as_the_endpoint_takes_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "begun.yaml").write_text(json.dumps({"name": "begun", **STYLES["long"], "prefill": "Again:"}))
    (own / "plain.yaml").write_text(json.dumps({"name": "plain", **STYLES["long"]}))

    def sent(**endpoint: str) -> list[dict[str, Any]]:
        config = configure(
            tmp_path / "x",
            routes=[{"styles": ["begun", "plain"]}],
            endpoint={"base_url": "http://127.0.0.1:1/v1", "model": "m", **endpoint},
        ).model_copy(update={"prompts": str(own)})
        return [json.loads(each.request.body) for each in plan_requests([document(1, "Text.")], make_plan(config))]

    for endpoint, flags in (("message", {}), ("continue_final_message", {"continue_final_message": True})):
        begun, plain = sent(prefill=endpoint)
        assert begun["messages"][-1] == {"role": "assistant", "content": "Again:"}
        assert {name: begun[name] for name in begun if name == "continue_final_message"} == flags
        assert begun.get("add_generation_prompt", True) is not bool(flags)
        assert (plain["messages"][-1]["role"], "continue_final_message" in plain) == ("user", False)
    assert [each["messages"][-1]["role"] for each in sent()] == ["user", "user"]
    assert sent(kind="completions", prefill="message")[0]["prompt"].endswith("Text.\n\nAgain:")


def test_what_is_sent(tmp_path: Path) -> None:
    first, second = planned(
        tmp_path, document(1, " Text. ", title="T"), routes=[{"styles": "short"}], samples=2, seed=5
    )
    assert json.loads(first.request.body) == {
        "model": "m",
        "stream": False,
        "max_tokens": 10,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 5,
        "messages": [{"role": "user", "content": "T: Text."}],
    }
    assert json.loads(second.request.body)["seed"] == 6
    assert first.record_id == f"{1:032x}:0:short:0"


def test_completions_and_no_seed(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://a/v1", "model": "m", "kind": "completions"}
    (only,) = planned(tmp_path, document(1, "Text."), endpoint=endpoint, routes=[{"styles": "long"}], seed=None)
    assert json.loads(only.request.body) == {
        "model": "m",
        "stream": False,
        "max_tokens": 100,
        "prompt": "Again: Text.\n\n",
    }


def test_sampling_of_the_configuration_wins(tmp_path: Path) -> None:
    made = planned(tmp_path, document(1, "Text."), routes=[{"styles": "short"}], sampling={"temperature": 0})
    body = json.loads(made[0].request.body)
    assert (body["temperature"], body["top_p"]) == (0, 0.9)


def test_the_key_follows_what_decides_the_answer_and_nothing_else(tmp_path: Path) -> None:
    def key(name: str, text: str = "Text.", number: int = 1, **values: Any) -> bytes:
        return planned(tmp_path / name, document(number, text), routes=[{"styles": "long"}], **values)[0].request.key

    base = key("a")
    same: list[dict[str, Any]] = [
        {"budget": {"requests": 1}},
        {"output": "other"},
        {"part_requests": 3},
        {"endpoint": {"base_url": "http://elsewhere/v1", "model": "m", "max_concurrency": 2, "licence": "MIT"}},
    ]
    assert all(key("b", **values) == base for values in same)
    assert key("b", number=2) == base, "equal texts are asked once"
    different: list[dict[str, Any]] = [
        {"seed": 2},
        {"text": "Text!"},
        {"sampling": {"temperature": 0.1}},
        {"endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "n"}},
        {"endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m", "revision": "r2"}},
    ]
    assert len({base, *(key("c", **values) for values in different)}) == len(different) + 1
    (tmp_path / "d").mkdir()
    config = configure(tmp_path / "d", routes=[{"styles": "long"}])
    (tmp_path / "d" / "long.yaml").write_text(json.dumps({"name": "long", "version": 2, **STYLES["long"]}))
    (other,) = plan_requests([document(1, "Text.")], make_plan(config))
    assert other.request.key != base, "a new version of the prompt file asks again"


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1)])
def test_documents_out_of_order_are_refused(tmp_path: Path, numbers: tuple[int, int]) -> None:
    with pytest.raises(ConservationError, match="comes after"):
        planned(tmp_path, *(document(number, "Text.") for number in numbers))


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_blank_document_asks_nothing(tmp_path: Path, text: str) -> None:
    assert planned(tmp_path, document(1, text)) == []


def test_an_unknown_style_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no style is named 'lng' \(nearest: 'long'\)"):
        make_plan(configure(tmp_path, routes=[{"styles": "lng"}]))


def test_an_estimate_counts_and_prices(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://a/v1", "model": "m", "price_input": 2.0, "price_output": 10.0}
    config = configure(tmp_path, endpoint=endpoint, budget={"requests": 3, "tokens": 50}, samples=2)
    documents = [document(1, TEXT, (0, 1)), document(2, "Short.", (0,), licence="CC-BY-ND-4.0")]
    made = list(plan_requests(documents, make_plan(config)))
    counted = estimate(iter(made), config)
    assert (counted.documents, counted.requests, counted.admitted_requests) == (2, len(made), 3)
    assert counted.segments == len({(p.parent.doc_id, p.segment.start, p.segment.end) for p in made})
    assert counted.input_tokens == sum(p.request.estimated_prompt_tokens for p in made)
    assert counted.max_output_tokens == sum(p.request.max_tokens for p in made)
    assert counted.output_tokens <= counted.max_output_tokens
    assert counted.input_tokens < counted.max_input_tokens
    assert counted.money == pytest.approx((2 * counted.input_tokens + 10 * counted.output_tokens) / 1e6)
    assert counted.exceeds_tokens
    assert counted.licence_conflicts == sum(p.parent.doc_id.endswith("2") for p in made)
    assert sum(style.requests for style in counted.styles.values()) == len(made)
    assert json.loads(json.dumps(counted.row()))["requests"] == len(made)


def test_without_prices_there_is_no_money(tmp_path: Path) -> None:
    config = configure(tmp_path)
    counted = estimate(plan_requests([], make_plan(config)), config)
    assert (counted.requests, counted.money, counted.max_money, counted.exceeds_tokens) == (0, None, None, False)


def test_the_strictest_of_several_endpoints_licences_counts(tmp_path: Path) -> None:
    endpoints = [{"base_url": f"http://{n}/v1", "model": "m", "licence": x} for n, x in enumerate(("MIT", "CC-BY-4.0"))]
    assert make_plan(configure(tmp_path, endpoint=endpoints)).model_licence == "CC-BY-4.0"
    assert make_plan(configure(tmp_path)).model_licence is None

"""``score``: log-likelihoods equal those of a plain forward pass, and of ``generate``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import ImageFeatures, Query
from pvit_ext.hosts.find import host_of
from pvit_ext.regions.region import RegionError
from tests.hosts.test_asking import CHOSEN
from tests.hosts.test_shared_images import BOTH, mixed
from tests.hosts.tiny_hosts import BOX, ON_EVERY_FAMILY, WIDE, Parts, TinyHost, logits

ASKED = Query(WIDE, "what is in <region> ?", [BOX])
TEXTS = ["a dog", "a cat and a dog on the sofa"]


def plainly(parts: Parts, query: Query, text: str) -> tuple[float, int]:
    """The sum over one prompt with the answer behind it, without padding, by the model's own forward."""
    chat = host_of(parts.model).chat(*parts, None, None)
    prompt = chat.prompt(query, "query")
    batch: dict[str, Any] = chat.batch([query], [prompt])
    ids = chat.answer_ids(prompt, text)
    first = batch.pop("inputs", batch.get("input_ids"))
    batch = {key: value for key, value in batch.items() if key != "labels"}
    for key, value in batch.items():
        if isinstance(value, torch.Tensor) and value.shape == first.shape and key != "input_ids":
            batch[key] = torch.cat([value, value.new_full((1, len(ids)), int(key == "attention_mask"))], 1)
    batch["input_ids"] = torch.cat([first, first.new_tensor([ids])], 1)
    found = logits(parts.model, batch)[0, -len(ids) - 1 : -1].log_softmax(-1)  # (n, V)
    return float(found.gather(1, torch.tensor(ids)[:, None]).sum()), len(ids)


def check_scores(host: TinyHost) -> None:
    parts, queries = host.talking(CHOSEN), mixed(host)
    many = pvit_ext.score(*parts, queries, [TEXTS] * len(queries), batch_size=5, features=ImageFeatures(1 << 30))
    for query, own in zip(queries, many, strict=True):
        assert [one.text for one in own] == TEXTS
        alone = pvit_ext.score(*parts, [query], [TEXTS], batch_size=1)[0]
        for one, other in zip(own, alone, strict=True):
            assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)
            assert one.tokens == other.tokens
    expected = [plainly(parts, ASKED, text) for text in TEXTS]
    assert [(one.log_likelihood, one.tokens) for one in many[0]] == [
        (pytest.approx(value, abs=1e-4), tokens) for value, tokens in expected
    ]


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_a_placeholder_that_nothing_reads_is_named(host: TinyHost) -> None:
    with pytest.raises(RegionError, match=r"^query 1: '<bbox>' in its question is text that no encoder reads"):
        pvit_ext.score(*host.talking(CHOSEN), [ASKED, Query(WIDE, "what is <bbox> ?")], [TEXTS] * 2)


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_scores_are_those_of_a_plain_forward(host: TinyHost) -> None:
    check_scores(host)


@pytest.mark.slow
@ON_EVERY_FAMILY
def test_scores_on_every_family(host: TinyHost) -> None:
    if "paligemma" in getattr(host, "family", ""):
        pytest.skip("types of its answer's tokens are not those of its prompt: see the test with generate")
    check_scores(host)


@pytest.mark.slow
@ON_EVERY_FAMILY
def test_scores_are_those_of_generate(host: TinyHost) -> None:
    parts = host.talking(CHOSEN)
    chat = host_of(parts.model).chat(*parts, None, None)
    batch = chat.batch([ASKED], [chat.prompt(ASKED, "query")])
    options = {"do_sample": False, "max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    made = parts.model.generate(**batch, **options)
    written = made.sequences[0][-len(made.logits) :]
    expected = [row[0].float().log_softmax(-1)[token] for row, token in zip(made.logits, written, strict=True)]
    (found,) = chat.log_probs(batch, [written.tolist()])
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", BOTH[:1], indirect=True)
def test_texts_belong_to_queries(host: TinyHost) -> None:
    parts = host.talking(CHOSEN)
    with pytest.raises(ValueError, match="a list of texts for each of the 1 queries"):
        pvit_ext.score(*parts, [ASKED], ["a dog"])  # type: ignore[list-item]
    (found,) = pvit_ext.score(*parts, [ASKED], [[""]])
    assert (found[0].log_likelihood, found[0].tokens, found[0].per_token) == (0, 0, 0)


@pytest.mark.parametrize("host", BOTH[:1], indirect=True)
@pytest.mark.parametrize(
    ("texts", "size", "said"),
    [
        ([["a"], ["b"], ["c"]], 2, "sample 0 is query 0"),
        ([["a", "b"], ["c"], ["d"]], 3, "samples are of queries 0, 0, 1"),
        ([["a"], ["", "b"], [""]], 2, "sample 0 is query 0"),
        ([["a", "b"], ["c"], ["d"]], 2, "batch of query 0"),
    ],
)
def test_errors_name_the_queries_of_the_choices(
    texts: list[list[str]], size: int, said: str, host: TinyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = host.talking(CHOSEN)

    def fail(*_: Any) -> Any:
        raise RegionError("sample 1: no pixels")

    monkeypatch.setattr(type(host_of(parts.model).chat(*parts, None, None)), "log_probs", fail)
    with pytest.raises(RegionError, match=f"{said}: sample 1"):
        pvit_ext.score(*parts, [ASKED] * 3, texts, batch_size=size)

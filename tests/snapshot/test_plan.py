"""Plans: in order, each deployment once, bounded; and what bounds their cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.admission.budget import set_aside
from shared.admission.estimate import Quote, dearer, quote
from shared.domain.catalogue import Model
from shared.domain.failure import FailureClass
from shared.domain.money import MTOK, Price
from shared.routing.plan import CURABLE, MOST_ATTEMPTS, chain_of
from shared.snapshot.snapshot import build
from tests.snapshot.test_snapshot import PROVIDERS, configuration, connection


def test_accounts_first_then_the_chain_each_once() -> None:
    one, two = connection("one"), connection("two")
    other, mine = connection("other", prefix="other"), connection("mine", prefix="mine", organisation_id="org")
    fallbacks = {"lab/known": ("other/a", "lab/known", "mine/b", "nobody/c", "other/a"), "*": ("other/z",)}
    made = build(configuration(connections=(one, two, other, mine), fallbacks=fallbacks, aliases={"x": "lab/known"}), PROVIDERS)

    def names(asked: str, organisation: str = "org") -> list[str]:
        return [f"{each.connection.name}:{each.name}" for each in made.plan(asked, organisation)]

    assert names("lab/known") == ["one:lab/known", "two:lab/known", "other:other/a", "mine:mine/b"]
    assert names("x") == names("lab/known")
    assert names("lab/known", "else") == ["one:lab/known", "two:lab/known", "other:other/a"]
    assert names("lab/free") == ["one:lab/free", "two:lab/free", "other:other/z"]
    assert names("nobody/x") == []
    many = build(configuration(connections=tuple(connection(str(at)) for at in range(9))), PROVIDERS)
    assert len(many.plan("lab/known", "org")) == MOST_ATTEMPTS


def test_a_chain_of_its_own_goes_before_the_common_one() -> None:
    assert chain_of("a/b", {"a/b": ("c/d",), "*": ("e/f",)}) == ("c/d",)
    assert chain_of("x/y", {"a/b": ("c/d",), "*": ("e/f",)}) == ("e/f",)
    assert chain_of("x/y", {}) == ()


def test_a_clients_fault_a_filter_and_the_calls_own_deadline_are_cured_by_nobody() -> None:
    assert set(FailureClass) - CURABLE == {"client_fault", "content_filter", "deadline"}


prices = st.builds(
    Price, input_nano_per_mtok=st.integers(0, 10**11), output_nano_per_mtok=st.integers(0, 10**12), version=st.just("v"),
    request_nano=st.integers(0, 10**9),
)  # fmt: skip
models = st.builds(Model, model_id=st.just("m"), max_output_tokens=st.integers(1, 10**6), price=prices)


def quoted(model: Model, max_tokens: int | None, choices: int) -> Quote:
    return quote(
        body_bytes=1000, messages=3, media_urls=0, model=model, max_tokens=max_tokens, choices=choices, typical_output_tokens=99
    )


@given(models, models, st.none() | st.integers(1, 10**6), st.integers(1, 4), st.integers(0, 10**13))
def test_what_is_set_aside_covers_whichever_answers(
    one: Model, other: Model, max_tokens: int | None, choices: int, left: int
) -> None:
    quotes = [quoted(model, max_tokens, choices) for model in (one, other)]
    both = dearer(*quotes)
    assert both.bound.full_nano_usd >= max(each.bound.full_nano_usd for each in quotes)
    reserved = set_aside(both.bound, left)
    if reserved is None:
        return
    for model, each in zip((one, other), quotes, strict=True):
        assert model.price is not None
        cap = min(reserved.output_cap or 0, each.bound.output_cap or 0)
        worst = each.bound.fixed_nano_usd + -(-cap * choices * model.price.dearest_output_nano_per_mtok // MTOK)
        assert worst <= reserved.reserved_nano_usd


def test_what_is_unpriced_of_one_is_unpriced_of_both() -> None:
    priced = quoted(
        Model(model_id="m", max_output_tokens=5, price=Price(input_nano_per_mtok=1, output_nano_per_mtok=1, version="v")), 5, 1
    )
    unpriced = quoted(Model(model_id="m"), 5, 1)
    assert not dearer(priced, unpriced).priced
    assert not dearer(unpriced, priced).priced

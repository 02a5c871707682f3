"""Terms and objectives of a user's own: what is loaded, what is refused, what they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.small_pair import CONFIG, SPEC, batch, differing, everything
from helpers.terms import CONFIG as PLAIN
from torch import Tensor, nn

from fastinfogan.errors import UserError
from fastinfogan.terms import Extra, Seen, Term
from fastinfogan.terms.protocol import Address
from fastinfogan.terms.user import load_objective, load_terms, text_of
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = """
from dataclasses import dataclass
from fastinfogan.terms import Term

@dataclass(frozen=True)
class Bright(Term):
    weight: float = 1.0
    start: int = 0
    name = "bright"

    def active(self, step):
        return step >= self.start

    def loss(self, seen):
        value = seen.q.square().mean()
        return self.weight * value, value

class Nameless(Term):
    def loss(self, seen):
        return seen.q.sum(), None

class Lossless(Term):
    name = "lossless"

class NoTerm:
    pass

def squares():
    def g(fake, real):
        return (fake - real).square().mean()
    g.needs_real = True
    return lambda real, fake: (real - 1).square().mean() + fake.square().mean(), g

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("mode", ["alternating", "reused", "shared"])
def test_a_term_by_its_path_trains_d_and_logs_its_value_from_its_start(cpu_ranks, mode):
    text = "own_parts:Bright weight=0.5 start=1"
    plain = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks())
    step = Step(CONFIG.with_options(step=mode, term=(text,)), SPEC, cpu_ranks())
    assert plain(0, batch(0)).d.terms == step(0, batch(0)).d.terms == {}
    assert not differing(everything(plain), everything(step))
    record = step(1, batch(1))
    plain(1, batch(1))
    assert float(record.d.terms["bright"]) > 0
    assert differing(everything(plain), everything(step))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_parts", "expected module.path:Class"),
        ("no_such_module:Bright", "no module no_such_module"),
        ("own_parts:Brigth", "has no Brigth.*Bright"),
        ("own_parts:Bright wieght=1", "unexpected keyword argument 'wieght'"),
        ("own_parts:NoTerm", "expected a subclass of fastinfogan.terms.Term, got NoTerm"),
        ("own_parts:Nameless", "expected a class attribute `name`"),
        ("own_parts:Lossless", r"expected a method `loss\(self, seen\)`"),
    ],
)
def test_a_wrong_term_is_one_line_that_says_what_is_missing(text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_terms([text])
    assert "\n" not in str(caught.value)


def test_two_terms_of_one_name_are_refused(cpu_ranks):
    config = CONFIG.with_options(term=("own_parts:Bright", "own_parts:Bright weight=2"))
    with pytest.raises(UserError, match="two loss terms are named 'bright'"):
        Step(config, SPEC, cpu_ranks())


@dataclass(frozen=True)
class Noisy:
    """A recipe of a user's own."""

    scale: float

    def __call__(self, real: Tensor, at: Address) -> Extra:
        return Extra((real + self.scale,))


class Steady(Term):
    """A term with a recipe and a network of its own, which is no dataclass."""

    name = "steady"

    def __init__(self, weight: float) -> None:
        self.weight, self.recipe = weight, Noisy(0.1)
        self.network = nn.Linear(SPEC.q_dim, 1)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"steady": self.network}

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        first, second = (self.of(seen, q) for q in (seen.q, seen.q_extra[0]))
        return self.weight * (first - second).square().mean(), None

    @staticmethod
    def of(seen: Seen, q: Tensor) -> Tensor:
        network = seen.modules["steady"]  # in the dtype that is computed in
        out: Tensor = network(q.to(next(network.parameters()).dtype)).float()
        return out


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_terms_own_network_is_trained_by_its_player_and_kept(cpu_ranks, player):
    class OfPlayer(Steady):
        def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
            if player == "discriminator":
                return super().loss(seen)
            return self.weight * self.of(seen, seen.q_fake).square().mean(), None

    OfPlayer.player = player
    term = OfPlayer(2.0)
    step = Step(CONFIG.with_options(term=(text_of(term),)), SPEC, cpu_ranks("bf16"))
    assert step.modules()["steady"] is term.network
    before = {name: p.clone() for name, p in term.network.named_parameters()}
    record = step(0, batch(0))
    side = record.d if player == "discriminator" else record.g
    assert float(side.terms["steady"]) > 0
    moved = dict(term.network.named_parameters())
    assert not torch.equal(before["weight"], moved["weight"])
    own = step.d if player == "discriminator" else step.g
    assert any(p is term.network.weight for p in own.flat.params)


def test_an_object_is_recorded_by_its_class_and_its_fields():
    from own_parts import Bright  # type: ignore[import-not-found]

    term = Bright(weight=0.25)
    text = text_of(term)
    assert text == "own_parts:Bright weight=0.25 start=0"
    assert load_terms([text]) == (term,)
    assert text_of("a:B x=1") == "a:B x=1"
    with pytest.raises(UserError, match=r"terms: expected objects of fastinfogan\.terms\.Term"):
        text_of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["alternating", "shared"])
def test_an_objective_by_its_path_is_trained(cpu_ranks, mode):
    config = PLAIN.with_options(objective="own_parts:squares", step=mode)
    step = Step(config, config.spec(), cpu_ranks())
    other = Step(PLAIN.with_options(step=mode), PLAIN.spec(), cpu_ranks())
    assert step.objective.needs_real
    first, second = step(0, batch(0)), other(0, batch(0))
    assert float(first.d.loss) != float(second.d.loss)
    assert differing(everything(step), everything(other))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_parts:nothing", r"expected a pair of functions \(d_loss, g_loss\), got None"),
        ("own_parts:sqares", "has no sqares"),
        ("own_parts:NoTerm", "expected a pair of functions"),
    ],
)
def test_a_wrong_objective_is_one_line_that_says_what_is_missing(path, message):
    with pytest.raises(UserError, match=message):
        load_objective(path)

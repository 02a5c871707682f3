"""Updates before the game (`--gan-start`): what moves, what does not, and what follows them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import assert_same_run, command, records, write_images
from helpers.small_pair import CONFIG, MODES, PRECISIONS, SPEC, batch, differing, everything
from helpers.terms import SPEC as TERM_SPEC
from helpers.terms import d_gradients, fp64_networks, random_images
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastinfogan import train
from fastinfogan.config import TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.options import register
from fastinfogan.terms import Seen, Term
from fastinfogan.terms.invariance import Invariance
from fastinfogan.terms.protocol import Address, TermSet
from fastinfogan.terms.vat import Probes, VirtualAdversarial
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.gradients import real_grads
from fastinfogan.training.policy import Policy
from fastinfogan.training.selfcheck import check_layers
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

START = 3
TERMS: dict[str, Any] = {"real_info": 3.0, "follow": 3.0, "vat": 1.0, "vat_start": 1}


def with_start(mode: str = "alternating", **changes: Any) -> TrainConfig:
    return CONFIG.with_options(step=mode, gan_start=START, **{**TERMS, **changes})


def of_g(name: str) -> bool:
    return name.startswith(("generator", "adam_g"))


def test_the_gradients_are_those_that_the_terms_add_in_a_full_update():
    real, *_ = random_images(1)
    real = real.float().double()
    warped = WarpedCopies(Warp(rotate=20, scale=0.15), 0.0)
    categories = slice(1, 4)
    terms = (
        Invariance(3.0, categories, warped),
        VirtualAdversarial(2.0, categories, recipe=Probes()),
    )
    extras = [term.recipe(real, Address(0, 1, 0)) for term in terms]
    networks = fp64_networks()
    params = networks.split("openai")[0]
    actual, logged = real_grads(
        networks, TERM_SPEC, params, real, terms=TermSet(terms), extras=extras
    )
    others, full, record = d_gradients("alternating", real, terms, extras)
    _, without, _ = d_gradients("alternating", real)
    for g, a, b in zip(actual, full, without, strict=True):
        torch.testing.assert_close(g, a - b, atol=1e-11, rtol=1e-9)
    assert logged.keys() == record.terms.keys()
    for name, value in logged.items():
        torch.testing.assert_close(value, record.terms[name], atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(networks, others, strict=True):
        for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-12, msg=name)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
def test_until_then_d_learns_and_g_stays_as_it_is(cpu_ranks, mode, precision, monkeypatch):
    step = Step(with_start(mode), SPEC, cpu_ranks(precision))
    before = everything(step)
    forward = step.working.generator.forward

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("images are generated, or latents drawn")

    monkeypatch.setattr(step.working.generator, "forward", fail)
    latents = step.latents
    monkeypatch.setattr(step, "latents", fail)
    for n in range(START):
        record = step(n, batch(n))
        assert record.d.terms.keys() == {"invariance", "follow", *(["vat"] if n else [])}
        assert record.g.terms == {}
    moved = differing(before, everything(step))
    head = {f"discriminator.head.{name}" for name in ("weight", "bias")}
    assert moved >= {n for n in before if n.startswith("discriminator.")} - head
    assert not any(of_g(name) or name in head for name in moved)
    assert step.optimizer_tensors()["adam_d.step"] == START
    monkeypatch.setattr(step.working.generator, "forward", forward)
    monkeypatch.setattr(step, "latents", latents)
    before = everything(step)
    step(START, batch(START))
    assert differing(before, everything(step)) == set(before)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
def test_from_then_on_an_update_is_the_one_of_a_run_without_such_a_start(
    cpu_ranks, mode, precision
):
    """With Adam begun anew, and the average's decay, which counts G's updates, out of the way."""
    changes = {"ema": 0.0, "info_start": 1, "info_ramp": 6, "decay_start": 4, "decay_steps": 3}
    config, ranks = with_start(mode, **changes), cpu_ranks(precision)
    step, plain = Step(config, SPEC, ranks), Step(config.with_options(gan_start=0), SPEC, ranks)
    for n in range(START):
        step(n, batch(n))
    for name, module in plain.modules().items():
        module.load_state_dict(step.modules()[name].state_dict())
    plain.refresh()
    for n in range(START, START + 3):
        ours, theirs = step(n, batch(n)), plain(n, batch(n))
        pairs = zip(tree_leaves(ours), tree_leaves(theirs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not differing(everything(step), everything(plain))
    assert step.optimizer_tensors()["adam_d.step"] == 3


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_fixed_trunk_of_q_learns_until_then_and_never_after(cpu_ranks, mode, precision):
    step = Step(with_start(mode, q_trunk="fixed"), SPEC, cpu_ranks(precision))
    trunk = ("discriminator.q_conv.", "discriminator.q_trunk_fc.")
    weights = {
        name
        for name, _ in step.networks.discriminator.named_parameters(prefix="discriminator")
        if name.startswith(trunk)
    }
    before = everything(step)
    for n in range(START):
        step(n, batch(n))
    assert weights <= differing(before, everything(step))
    before = everything(step)
    for n in range(START, START + 3):
        step(n, batch(n))
    moved = differing(before, everything(step))
    assert not weights & moved
    others = {n for n in before if n.startswith("discriminator.") and not n.startswith(trunk)}
    assert others <= moved


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [0.1, 0.1, 0.1, 0.02, 0.02]),
        ({"lr_start_decay": 1}, [0.1, 0.1, 0.05, 0.02, 0.02]),
        ({"decay_start": 3, "decay_steps": 2}, [0.1, 0.1, 0.1, 0.02, 0.01]),
    ],
)
def test_d_has_a_rate_of_its_own_until_then(cpu_ranks, changes, rates):
    config = with_start(lr_d=0.02, lr_g=0.03, lr_start=0.1, **changes)
    step = Step(config, SPEC, cpu_ranks())
    for n, rate in enumerate(rates):
        step(n, batch(n))
        assert float(step.d.optimizer.param_groups[0]["lr"]) == pytest.approx(rate)
        falls = "decay_steps" in changes and n == 4
        expected = 0.015 if falls else 0.03
        assert float(step.g.optimizer.param_groups[0]["lr"]) == pytest.approx(expected)


def test_the_average_of_g_counts_g_s_updates(cpu_ranks):
    step = Step(with_start(), SPEC, cpu_ranks())
    for n in range(START + 1):
        step(n, batch(n))
    first = Step(CONFIG, SPEC, cpu_ranks()).g.flat.value.detach()
    value, average = (flat.value.detach() for flat in (step.g.flat, step.ema.flat))
    size = len(average)
    torch.testing.assert_close(average, first[:size].lerp(value[:size], 0.9))


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("at", "mode"),
    [(START - 1 + (i + j) % 3, mode) for j in range(3) for i, mode in enumerate(MODES)],
)
def test_an_update_is_the_same_after_all_was_written_into_another(cpu_ranks, mode, at):
    config, ranks = with_start(mode), cpu_ranks("bf16")
    first, second = Step(config, SPEC, ranks), Step(config, SPEC, ranks)
    for n in range(at):
        first(n, batch(n))
    for name, module in second.modules().items():
        module.load_state_dict(first.modules()[name].state_dict())
    for name, tensor in second.optimizer_tensors().items():
        tensor.copy_(first.optimizer_tensors()[name])
    second.refresh()
    for n in range(at, START + 2):
        first(n, batch(n)), second(n, batch(n))
    assert not differing(everything(first), everything(second))


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_read_back_to_the_host_and_the_number_may_be_a_tensor(
    cpu_ranks, no_host_read, mode, precision
):
    one, other = (Step(with_start(mode), SPEC, cpu_ranks(precision)) for _ in range(2))
    for n in range(START + 2):
        if n == START:
            other.d.restart()
        number, real = torch.tensor(n), batch(n)
        with no_host_read():
            one(n, real)
            other._update(number, real, other.active(n))
    assert not differing(everything(one), everything(other))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_compiled_it_is_the_eager_run(cpu_ranks, mode, monkeypatch):
    from fastinfogan.losses import functional
    from fastinfogan.training import compiler

    monkeypatch.setattr(compiler, "COMPILER", "aot_eager")
    monkeypatch.setattr(functional, "applies", lambda *args: False)
    torch._dynamo.reset()
    config, ranks = with_start(mode, steps=6), cpu_ranks("no")
    eager, other = Step(config, SPEC, ranks), Step(config, SPEC, ranks, Policy(compile=True))
    before = everything(other)
    assert other.prepare(batch(9)) == []
    assert not differing(before, everything(other))
    with torch.compiler.set_stance("fail_on_recompile"):
        for n in range(6):
            eager(n, batch(n)), other(n, batch(n))
    assert not differing(everything(eager), everything(other))
    torch._dynamo.reset()


def test_the_first_check_of_the_layers_takes_such_an_update_too(cpu_ranks, monkeypatch):
    seen: list[int] = []
    step = Step(with_start(), SPEC, cpu_ranks("bf16"))
    inner = step.eager_work

    def eager_work(terms: Any) -> Any:
        work = inner(terms)

        def real_grads(*args: Any) -> Any:
            seen.append(len(args[0]))
            return work.real_grads(*args)

        return work._replace(real_grads=real_grads)

    monkeypatch.setattr(step, "eager_work", eager_work)
    before = everything(step)
    assert check_layers(step) == ""
    assert seen == [8]
    assert not differing(before, everything(step))


class Bright(Term):
    """Q's output on real images should be small."""

    name = "bright"
    real_only = True

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return the mean square."""
        rows = [len(x) for x in (seen.fake, *seen.latents, seen.q_fake, seen.logits_fake)]
        assert set(rows) in ({0}, {len(seen.real)})
        return seen.q.square().mean(), None


class Dark(Bright):
    name = "dark"
    real_only = False


class TestOwnTerms:
    def test_a_term_that_says_that_it_needs_no_generated_images_acts(self, cpu_ranks):
        config = CONFIG.with_options(gan_start=2, term=(register(Bright), register(Dark)))
        step = Step(config, SPEC, cpu_ranks())
        reported = [step(n, batch(n)).d.terms.keys() for n in range(3)]
        assert reported == [{"bright"}, {"bright"}, {"bright", "dark"}]

    @pytest.mark.parametrize(
        ("changes", "update"),
        [({"term": (register(Dark),)}, 0), ({"vat": 1.0, "vat_stop": 1}, 1)],
    )
    def test_an_update_without_any_term_is_refused_in_one_line(self, cpu_ranks, changes, update):
        with pytest.raises(
            UserError, match=f"^--gan-start 2: .* update {update} .from 0. has none; .*real_only"
        ) as caught:
            Step(CONFIG.with_options(gan_start=2, **changes), SPEC, cpu_ranks())
        assert "\n" not in str(caught.value)


# Whole runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture
def run(data, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    threads = torch.get_num_threads()

    def run(out: Path, steps: int, *more: str) -> None:
        AcceleratorState._reset_state(True)
        options = ("--steps", str(steps), "--log-every", "2", *more)
        assert train.main(command(data, out, *options)) == 0

    yield run
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


GAME = ("d_loss", "g_loss", "d_real", "d_fake")


def test_a_run_resumes_bit_for_bit_before_and_after_and_logs_null_until_then(run, tmp_path, capsys):
    start = ("--gan-start", "5", "--info-start", "0")
    run(tmp_path / "whole", 9, *start)
    output = capsys.readouterr()
    assert "updates 1 to 5 train D and Q on real images alone" in output.out
    lines = [line for line in output.err.splitlines() if "images/s" in line]
    assert [("real images alone to update 5: invariance" in line) for line in lines] == [
        *(True, True),
        *(False, False, False),
    ]
    assert "left" not in lines[1]
    assert "left" in lines[2]
    for at in (3, 6):
        parts = tmp_path / f"parts-{at}"
        run(parts, 6, *start, "--checkpoint-every", str(at))
        if at < 6:
            shutil.rmtree(parts / "checkpoints" / "step-00000006")
        run(parts, 9, *start)
        assert_same_run(tmp_path / "whole", parts, 9)
    held = records(tmp_path / "whole")
    assert [r["step"] for r in held] == [2, 4, 6, 8, 9]
    for record, none in zip(held, [True, True, False, False, False], strict=True):
        values = [record[name] for name in GAME]
        values += itertools.chain(
            *(record[n].values() for n in ("nll", "information", "information_calibrated"))
        )
        assert [value is None for value in values] == [none] * 10
        assert record["invariance"] > 0
    assert 0 < held[2]["d_real"] < 1  # of one update, not of two

"""The compiled gradients against the eager ones, and how often they are compiled."""

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.variables.builtin import BuiltinVariable
from torch._dynamo.variables.lists import BaseListVariable
from torch._dynamo.variables.tensor import TensorVariable
from torch.utils._pytree import tree_leaves

from fastinfogan.config import Routing, StepMode, TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.latents import LatentBatch
from fastinfogan.losses import functional
from fastinfogan.networks import convolution as layers
from fastinfogan.training import compiler
from fastinfogan.training.compiler import compile_whole
from fastinfogan.training.gradients import Networks, Objective, d_grads, g_grads, shared_grads
from fastinfogan.training.policy import Policy
from fastinfogan.training.step import Step, build

pytestmark = pytest.mark.usefixtures("one_thread", "_compiler")

CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="cat3*0.5,uniform*2,bernoulli*1.5,gaussian2:learned"
)
SPEC = CONFIG.spec()
PHOTOGRAPHS: dict[str, Any] = {
    "real_info": 1.0,
    "invariance_logits": "centred",
    "q_trunk": "own",
    "instances_weight": 1.0,
    "pseudo_labels_weight": 1.0,
    "pseudo_labels_threshold": 0.5,
    "photo_surround": 0.5,
    "photo_invert": 0.5,
}
# what the `mnist` preset adds, its schedules at work within a few updates
RECIPE: dict[str, Any] = {
    "real_info": 3.0,
    "follow": 3.0,
    "vat": 1.0,
    "vat_start": 1,
    "info_start": 1,
    "info_ramp": 2,
    "decay_start": 2,
    "decay_steps": 2,
}
WEIGHTS = torch.tensor([0.5, 2.0, 1.5, 0.25], dtype=torch.float64)


@pytest.fixture
def _compiler(monkeypatch):
    """Trace as for Inductor, and run by PyTorch's own operators."""
    monkeypatch.setattr(compiler, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(n: int) -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def problem() -> tuple[Networks, Tensor, LatentBatch]:
    networks = build(CONFIG, SPEC)
    for network in networks:
        network.double()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    c = SPEC.sample(8, seed=0)
    return networks, batch(0).double(), LatentBatch(c.input.double(), *c[1:])


def functions(networks: Networks, routing: Routing):
    goal = Objective(SPEC, WEIGHTS, routing)
    d_params, g_params = networks.split(routing)
    return (
        lambda real, c: d_grads(networks, goal, d_params, real, c),
        lambda real, c: g_grads(networks, goal, g_params, c),
        lambda real, c: shared_grads(networks, goal, d_params, g_params, real, c),
    )


def flat(result) -> list[Tensor]:
    return tree_leaves(result)


class TestGradients:
    @pytest.mark.parametrize(
        "routing",
        ["openai", *(pytest.param(r, marks=pytest.mark.slow) for r in ("head", "generator-step"))],
    )
    def test_traced_they_are_the_eager_ones_bit_for_bit(self, routing, monkeypatch):
        """With the same information loss in both: eagerly it has a faster form on a CPU."""
        monkeypatch.setattr(functional, "applies", lambda *args: False)
        networks, real, c = problem()
        for eager in functions(networks, routing):
            expected = flat(eager(real, c))
            actual = flat(compile_whole(eager)(real, c))
            assert len(actual) == len(expected)
            assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))

    @pytest.mark.slow
    def test_compiled_as_for_a_gpu_with_folded_convolutions_they_are_the_eager_ones(
        self, monkeypatch
    ):
        monkeypatch.setattr(layers, "FOLDING", ("cpu",))
        networks, real, c = problem()
        for eager in functions(networks, "openai"):
            for a, b in zip(flat(compile_whole(eager)(real, c)), flat(eager(real, c)), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * float(b.abs().max()))

    @pytest.mark.slow
    def test_batchnorms_buffers_move_alike(self):
        for i in range(3):
            plain, other = problem(), problem()
            functions(plain[0], "openai")[i](*plain[1:])
            compile_whole(functions(other[0], "openai")[i])(*other[1:])
            for a, b in zip(plain[0], other[0], strict=True):
                for x, y in zip(a.buffers(), b.buffers(), strict=True):
                    assert torch.equal(x, y)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own compiler
    def test_by_inductor_they_agree_in_fp64(self, monkeypatch):
        monkeypatch.setattr(compiler, "COMPILER", "inductor")
        networks, real, c = problem()
        for eager in functions(networks, "openai"):
            for a, b in zip(flat(compile_whole(eager)(real, c)), flat(eager(real, c)), strict=True):
                # sums in another order, through BatchNorm: as the textbook's in test_step
                torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * float(b.abs().max()))


def everything(s: Step) -> list[Tensor]:
    return [t.clone() for t in s._state()]


def broken(graph: object, inputs: object) -> None:
    raise RuntimeError("no compiler here\nand much more")


class TestStep:
    def test_a_compiler_that_fails_under_auto_leaves_the_step_eager_and_says_so(
        self, cpu_ranks, monkeypatch
    ):
        monkeypatch.setattr(compiler, "COMPILER", broken)
        ranks = cpu_ranks("no")
        s = Step(CONFIG, SPEC, ranks, Policy(compile=True))
        before = everything(s)
        (line,) = s.prepare(batch(0))
        assert line.startswith("the update is not compiled: ")
        assert "no compiler here" in line
        assert "\n" not in line
        assert not s.policy.compile
        assert s.policy.reason.startswith("not compiled: ")
        assert all(torch.equal(a, b) for a, b in zip(before, everything(s), strict=True))
        eager = Step(CONFIG, SPEC, ranks, Policy())
        for n in range(2):
            s(n, batch(n)), eager(n, batch(n))
        assert all(torch.equal(a, b) for a, b in zip(everything(eager), everything(s), strict=True))

    def test_a_requested_compilation_that_fails_is_an_error_of_one_line(
        self, cpu_ranks, monkeypatch
    ):
        monkeypatch.setattr(compiler, "COMPILER", broken)
        s = Step(CONFIG.with_options(compile="on"), SPEC, cpu_ranks("no"))
        with pytest.raises(UserError, match=r"^torch.compile failed, use --compile off: .+$"):
            s.prepare(batch(0))

    @pytest.mark.parametrize(
        ("options", "mode"),
        [
            pytest.param(RECIPE, "alternating", id="recipe-alternating", marks=pytest.mark.slow),
            pytest.param(RECIPE, "shared", id="recipe-shared", marks=pytest.mark.slow),
            pytest.param({}, "alternating", id="plain-alternating", marks=pytest.mark.slow),
            pytest.param({}, "shared", id="plain-shared", marks=pytest.mark.slow),
        ],
    )
    def test_it_is_compiled_once_for_two_hundred_updates(
        self, cpu_ranks, mode: StepMode, options: dict[str, Any]
    ):
        config = CONFIG.with_options(compile="on", step=mode, **options)
        s = Step(config, SPEC, cpu_ranks("bf16"))
        s.prepare(batch(0))
        with torch.compiler.set_stance("fail_on_recompile"):
            for n in range(200):
                s(n, batch(n % 7))

    @pytest.mark.quick_cases(1)
    @pytest.mark.parametrize(
        "mode", ["alternating", pytest.param("reused", marks=pytest.mark.slow), "shared"]
    )
    def test_preparing_it_leaves_no_trace(self, cpu_ranks, mode: StepMode):
        config = CONFIG.with_options(compile="on", step=mode)
        warmed, cold = (Step(config, SPEC, cpu_ranks("bf16")) for _ in range(2))
        before = everything(warmed)
        assert warmed.prepare(batch(5)) == []
        assert all(torch.equal(a, b) for a, b in zip(everything(warmed), before, strict=True))
        warmed(0, batch(0)), cold(0, batch(0))
        pairs = zip(everything(warmed), everything(cold), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    @pytest.mark.quick_cases(1)
    @pytest.mark.parametrize(
        "mode",
        ["alternating", *(pytest.param(m, marks=pytest.mark.slow) for m in ("reused", "shared"))],
    )
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"objective": "relativistic", "contrastive": 1.0, "balance_codes": 0.9},
            RECIPE,
            pytest.param({"upright": 1.0}, marks=pytest.mark.slow),
            PHOTOGRAPHS,
            {"follow": 3.0, "gan_start": 2, "q_trunk": "fixed"},
        ],
        ids=["plain", "more", "recipe", "upright", "photographs", "fixed trunk"],
    )
    def test_step_by_step_it_agrees_with_the_eager_one(
        self, cpu_ranks, mode: StepMode, options: dict[str, Any], monkeypatch
    ):
        """Each update from the same weights: over many, the game itself multiplies a last bit."""
        ranks, config = cpu_ranks("no"), CONFIG.with_options(step=mode, **options)
        eager = Step(config, SPEC, ranks)
        other = Step(config.with_options(compile="on"), SPEC, ranks)
        monkeypatch.setattr(functional, "applies", lambda *args: False)
        for n in range(5):
            eager(n, batch(n)), other(n, batch(n))
            pairs = zip(everything(eager), everything(other), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own compiler
    def test_it_takes_either_memory_format(self, cpu_ranks, monkeypatch):
        monkeypatch.setattr(compiler, "COMPILER", "inductor")
        config = CONFIG.with_options(compile="on", memory_format="contiguous")
        s = Step(config, SPEC, cpu_ranks("bf16"))
        s(0, batch(0))
        assert s.working.discriminator.get_parameter("conv2.weight").is_contiguous()

    def test_no_graph_takes_a_list_s_truth_which_torch_2_11_cannot_trace(
        self, cpu_ranks, monkeypatch
    ):
        call = BuiltinVariable.call_function

        def refuse(self, tx, args, kwargs):
            if self.fn is bool and isinstance(args[0], BaseListVariable):
                raise NotImplementedError("bool of a list or tuple within a graph")
            return call(self, tx, args, kwargs)

        monkeypatch.setattr(BuiltinVariable, "call_function", refuse)
        config = CONFIG.with_options(compile="on", **RECIPE)
        assert Step(config, SPEC, cpu_ranks("no")).prepare(batch(0)) == []

    @pytest.mark.slow
    def test_no_graph_sets_requires_grad_which_torch_before_2_13_cannot_trace(
        self, cpu_ranks, monkeypatch
    ):
        def refuse(*_: object) -> None:
            raise NotImplementedError("requires_grad_ within a graph")

        monkeypatch.setattr(TensorVariable, "method_requires_grad_", refuse)
        config = CONFIG.with_options(compile="on", step="shared", balance_codes=0.9, **RECIPE)
        assert Step(config, SPEC, cpu_ranks("no")).prepare(batch(0)) == []

    def test_a_torch_that_cannot_trace_gradients_is_refused(self, cpu_ranks, monkeypatch):
        monkeypatch.setattr(torch._dynamo, "config", object())
        with pytest.raises(UserError, match="--compile on: this torch cannot trace"):
            Step(CONFIG.with_options(compile="on"), SPEC, cpu_ranks())

"""Convolutions of their own in bf16 against PyTorch's, both held to fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.networks import convolution as layers
from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.networks.convolution import Conv, Same, Up, convolve, lrelu, only_grads_of, patches

pytestmark = pytest.mark.usefixtures("one_thread")

BF16 = torch.bfloat16
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
KINDS: dict[str, type[Conv] | type[Up]] = {"conv": Conv, "up": Up}
Layer = Conv | Up


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer_of(kind: str, inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> Layer:
    layer = KINDS[kind](inputs, outputs, bias)
    for i, p in enumerate(layer.parameters()):
        p.data = normal(*p.shape, seed=seed + 100 + i, dtype=torch.float32)
    return layer.to(BF16)


def problem(kind: str, inputs=6, outputs=8, batch=3, rows=4, columns=6, bias=True, seed=0):
    """Return a bf16 layer, its input of `rows` x `columns` outputs, and the output's gradient."""
    sides = [(2 * rows, 2 * columns), (rows, columns)]
    before, after = sides if kind == "conv" else sides[::-1]
    layer = layer_of(kind, inputs, outputs, bias, seed)
    x = normal(batch, inputs, *before, seed=seed)
    return layer, x, normal(batch, outputs, *after, seed=seed + 1)


def plain(kind: str) -> Callable[..., Tensor]:
    """Return PyTorch's own result."""
    function = F.conv2d if kind == "conv" else F.conv_transpose2d
    return lambda x, w, bias=None: function(x, w, bias, stride=2, padding=1)


def run(function: Callable[..., Tensor], dy: Tensor, *leaves: Tensor) -> list[Tensor]:
    """Return the function's value and its gradients in all of its leaves."""
    own = [t.detach().requires_grad_() for t in leaves]
    y = function(*own)
    return [y.detach(), *torch.autograd.grad(y, own, dy)]


def run_layer(layer: Layer, dy: Tensor, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)]


def wide(tensors: list[Tensor]) -> list[Tensor]:
    return [t.double() for t in tensors]


NAMES = ("output", "input", "weight", "bias")


def assert_near(ours: list[Tensor], theirs: list[Tensor], truth: list[Tensor]) -> None:
    """Check that the error is PyTorch's in the same dtype, up to a second rounding to bf16."""
    for name, a, b, t in zip(NAMES[: len(truth)], ours, theirs, truth, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        error, allowed = (a.double() - t).norm(), (b.double() - t).norm()
        assert error <= 2 * allowed + 2**-8 * t.norm(), (name, error, allowed, t.norm())


def check(kind: str, layer: Layer, x: Tensor, dy: Tensor) -> None:
    leaves = [x, *(p.detach() for p in layer.parameters())]
    assert_near(
        run_layer(layer, dy, x),
        run(plain(kind), dy, *leaves),
        run(plain(kind), dy.double(), *wide(leaves)),
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[str, Layer, Tensor, Tensor]:
    # 1 to 5: about the 4 from which on a convolution is wide; 16: as wide as it gets
    channels = st.sampled_from([1, 2, 3, 4, 5, 16])
    sides = st.integers(1, 5)
    kind = draw(st.sampled_from(sorted(KINDS)))
    layer, x, dy = problem(
        kind,
        draw(channels),
        draw(channels),
        draw(st.integers(1, 9)),
        draw(sides),
        draw(sides),
        draw(st.booleans()),
        draw(st.integers(0, 2**20)),
    )
    formats = st.sampled_from(sorted(FORMATS))
    layer.to(memory_format=FORMATS[draw(formats)])
    x = x.contiguous(memory_format=FORMATS[draw(formats)])
    return kind, layer, x, dy.contiguous(memory_format=FORMATS[draw(formats)])


class TestValues:
    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(problems(), st.sampled_from([2, 4, 128]))
    def test_output_and_gradients_are_as_near_the_truth_as_pytorchs(self, given_problem, chunk):
        """At any width, side, batch and memory format, and however many chunks a batch makes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "CHUNK", chunk)
            check(*given_problem)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("images", [layers.CHUNK, layers.CHUNK + 1, 2 * layers.CHUNK + 3])
    def test_a_batch_of_more_than_one_chunk_loses_no_image(self, kind, images):
        check(kind, *problem(kind, batch=images, rows=2, columns=2))

    @pytest.mark.parametrize("few", [1, 8])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "strided",
        [
            lambda dy: dy[:1, :, :1, :1].expand_as(dy),  # as a sum's backward pass gives it
            lambda dy: dy.transpose(2, 3).contiguous().transpose(2, 3),
            lambda dy: torch.stack((dy, dy), -1)[..., 0],
            lambda dy: torch.cat((dy, dy), 1)[:, : dy.shape[1]],
        ],
        ids=["stride 0", "transposed", "every second", "part of a wider one"],
    )
    def test_a_gradient_may_lie_in_memory_as_it_likes(self, kind, few, strided):
        image = {"inputs": few} if kind == "conv" else {"outputs": few}
        layer, x, dy = problem(kind, **image)
        given_dy = strided(dy)
        assert not given_dy.is_contiguous()
        check(kind, layer, x, given_dy)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_input_may_be_part_of_a_wider_one(self, kind):
        layer, x, dy = problem(kind)
        check(kind, layer, torch.cat((x, x), 1)[:, : x.shape[1]], dy)

    @pytest.mark.parametrize("few", [1, 8])
    @pytest.mark.parametrize("kind", KINDS)
    def test_two_applications_in_one_graph_keep_their_inputs_apart(self, kind, few):
        """The patches of both go through the same memory."""
        image = {"inputs": few} if kind == "conv" else {"outputs": few}
        layer, x, dy = problem(kind, **image)
        other_x, other_dy = normal(*x.shape, seed=8), normal(*dy.shape, seed=9)
        alone = run_layer(layer, dy, x), run_layer(layer, other_dy, other_x)
        xs = [t.detach().requires_grad_() for t in (x, other_x)]
        ys = [layer(t) for t in xs]
        params = list(layer.parameters())
        gradients = torch.autograd.grad(ys, [*xs, *params], [dy, other_dy])
        for i in range(2):
            assert torch.equal(ys[i], alone[i][0])
            assert torch.equal(gradients[i], alone[i][1])
        for actual, one, two in zip(gradients[2:], alone[0][2:], alone[1][2:], strict=True):
            assert torch.equal(actual, one + two)  # autograd adds them up in bf16

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", KINDS)
    def test_in_another_dtype_they_are_pytorchs_own(self, kind, dtype):
        layer, x, dy = problem(kind)
        layer, x, dy = layer.to(dtype), x.to(dtype), dy.to(dtype)
        leaves = [x, *(p.detach() for p in layer.parameters())]
        for a, b in zip(run_layer(layer, dy, x), run(plain(kind), dy, *leaves), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("inputs", [1, 6])
def test_an_odd_side_is_left_to_pytorch(inputs):
    layer = layer_of("conv", inputs, 8)
    x = normal(2, inputs, 7, 9)
    actual = run_layer(layer, normal(2, 8, 3, 4), x)
    expected = run(plain("conv"), normal(2, 8, 3, 4), x, *layer.parameters())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


class TestPatches:
    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_they_are_what_a_convolution_sees_in_the_order_row_column_channel(self, memory_format):
        for seed in range(3):  # through the same memory: nothing of the last stays
            x = normal(2, 3, 6, 10, seed=seed)
            seen = F.unfold(x, 4, padding=1, stride=2)  # channel, row, column
            expected = seen.view(2, 3, 16, 15).permute(0, 3, 2, 1).reshape(30, 48)
            given_x = x.contiguous(memory_format=FORMATS[memory_format])
            assert torch.equal(patches(given_x), expected)

    def test_shapes_have_memory_of_their_own(self):
        first = patches(normal(2, 3, 4, 4))
        kept = first.clone()
        for shape in ((2, 3, 4, 8), (3, 2, 4, 4), (1, 6, 4, 4)):
            patches(normal(*shape, seed=5))
        patches(normal(2, 3, 4, 4, seed=6).float())
        assert torch.equal(first, kept)


class Work(TorchDispatchMode):
    """The counts of a backward pass: convolutions' gradients, products, convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.done: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            names = zip(args[-1], ("of input", "of weight", "of bias"), strict=True)
            self.done |= {name for needed, name in names if needed}
        elif func is torch.ops.aten.mm.default:
            self.done.add("of weight")
        elif func is torch.ops.aten.sum.dim_IntList:
            self.done.add("of bias")
        elif func is torch.ops.aten.convolution.default:
            self.done.add("of input")
        return func(*args, **(kwargs or {}))


# Both ways that each layer has: few channels on the image's side, and many.
BOTH_WAYS = pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("conv", {"inputs": 1}),
        ("conv", {"inputs": 8}),
        ("up", {"outputs": 1}),
        ("up", {"outputs": 8}),
    ],
)


@BOTH_WAYS
class TestAsking:
    @staticmethod
    def backward(kind: str, sizes: dict[str, int], what: Any, leaf: bool = True):
        """Return (gradients of input, weight, bias, what was computed, all gradients)."""
        layer, x, dy = problem(kind, **sizes)
        x.requires_grad_()
        used = x if leaf else x * 1
        needed = [used, *layer.parameters()]
        everything = torch.autograd.grad(layer(used), needed, dy)
        y = layer(used)
        with only_grads_of(what), Work() as work:
            actual = torch.autograd.grad(y, needed, dy, allow_unused=True)
        return actual, work.done, everything

    def test_for_inputs_no_gradient_of_a_weight_is_computed(self, kind, sizes):
        actual, done, everything = self.backward(kind, sizes, "inputs")
        assert actual[1:] == (None, None)
        assert torch.equal(actual[0], everything[0])
        assert done == {"of input"}

    def test_for_weights_no_gradient_of_a_leaf_is_computed(self, kind, sizes):
        actual, done, everything = self.backward(kind, sizes, "weights")
        assert actual[0] is None
        assert all(torch.equal(a, b) for a, b in zip(actual[1:], everything[1:], strict=True))
        assert done == {"of weight", "of bias"}

    def test_for_weights_what_comes_from_other_layers_has_its_gradient(self, kind, sizes):
        actual, done, everything = self.backward(kind, sizes, "weights", leaf=False)
        assert all(torch.equal(a, b) for a, b in zip(actual, everything, strict=True))
        assert done == {"of input", "of weight", "of bias"}

    @pytest.mark.parametrize("trained", range(8))
    def test_unneeded_gradients_are_not_computed(self, kind, sizes, trained):
        layer, x, dy = problem(kind, **sizes)
        everything = run_layer(layer, dy, x)[1:]
        leaves = [x, *layer.parameters()]
        flags = [bool(trained >> i & 1) for i in range(3)]
        for leaf, flag in zip(leaves, flags, strict=True):
            leaf.requires_grad_(flag)
        y = layer(x)
        assert y.requires_grad is any(flags)
        if not any(flags):
            return
        needed = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
        with Work() as work:
            actual = torch.autograd.grad(y, needed, dy)
        expected = [g for g, flag in zip(everything, flags, strict=True) if flag]
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        names = ("of input", "of weight", "of bias")
        assert work.done == {name for name, flag in zip(names, flags, strict=True) if flag}

    def test_after_the_block_every_gradient_is_computed_again(self, kind, sizes):
        layer, x, dy = problem(kind, **sizes)
        expected = run_layer(layer, dy, x)
        with pytest.raises(KeyError), only_grads_of("weights"), only_grads_of("inputs"):
            raise KeyError
        again = run_layer(layer, dy, x)
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@BOTH_WAYS
def test_gradients_can_be_differentiated_again(monkeypatch, kind, sizes):
    """A penalty on the gradients of input and weight, as R1's, in all that they depend on."""
    monkeypatch.setattr(layers, "CHUNK", 2)  # patches written twice over within one graph

    def penalty(function, dy, *leaves):
        own = [t.detach().requires_grad_() for t in (dy, *leaves)]
        y = function(*own[1:])
        first = torch.autograd.grad(y, own[1:], own[0], create_graph=True)
        total = sum((g.double().square().sum() for g in first), start=torch.zeros(()).double())
        return torch.autograd.grad(total, own[:3])  # of dy, x, w: bias is in no gradient

    layer, x, dy = problem(kind, batch=4, **sizes)

    def ours(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": w, "bias": bias}, x)

    leaves = [x, *(p.detach() for p in layer.parameters())]
    actual, theirs = penalty(ours, dy, *leaves), penalty(plain(kind), dy, *leaves)
    truth = penalty(plain(kind), dy.double(), *wide(leaves))
    for a, b, t in zip(actual, theirs, truth, strict=True):
        assert t.norm() > 0
        error, allowed = (a.double() - t).norm(), (b.double() - t).norm()
        assert error <= 2 * allowed + 2**-8 * t.norm()


@BOTH_WAYS
def test_in_a_compiled_graph_they_are_pytorchs_own(kind, sizes):
    """One graph without a break, and in it the convolution by its name."""
    layer, x, dy = problem(kind, **sizes)
    called: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def plan(x: Tensor) -> Tensor:
        with only_grads_of("inputs"):  # which such a graph does not need
            return layer(x)

    torch._dynamo.reset()
    with torch.random.fork_rng():
        compiled = torch.compile(plan, fullgraph=True, backend=look)
        own = x.detach().requires_grad_()
        y = compiled(own)
        actual = [y.detach(), *torch.autograd.grad(y, [own, *layer.parameters()], dy)]
    torch._dynamo.reset()
    assert len(called) == 1
    assert ("conv2d" if kind == "conv" else "conv_transpose2d") in called[0]
    leaves = [x, *(p.detach() for p in layer.parameters())]
    for a, b in zip(actual, run(plain(kind), dy, *leaves), strict=True):
        assert torch.equal(a, b)


FOLDED = pytest.mark.parametrize(
    ("kind", "inputs", "outputs"), [("conv", 1, 6), ("conv", 3, 5), ("up", 6, 1), ("up", 5, 4)]
)


class TestFolded:
    """Few channels in a graph that is compiled for a GPU, here for a CPU."""

    @FOLDED
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (7, 7)])
    def test_output_and_gradients_are_pytorchs(self, kind, inputs, outputs, bias, rows, columns):
        of = {"rows": rows, "columns": columns, "bias": bias}
        layer, x, dy = problem(kind, inputs, outputs, **of)
        leaves = wide([x, *(p.detach() for p in layer.parameters())])
        ours = layers._of_patches if kind == "conv" else layers._to_patches
        result = run(lambda x, w, bias=None: ours(x, w, bias), dy.double(), *leaves)
        for a, b in zip(result, run(plain(kind), dy.double(), *leaves), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    @FOLDED
    def test_a_graph_for_such_a_device_has_no_convolution(self, monkeypatch, kind, inputs, outputs):
        layer, x, _ = problem(kind, inputs, outputs)
        seen: list[str] = []

        def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            seen.extend(str(node.target) for node in graph.graph.nodes)
            return graph.forward

        for devices in (("cuda",), ("cuda", "cpu")):
            monkeypatch.setattr(layers, "FOLDING", devices)
            torch._dynamo.reset()
            seen.clear()
            y = torch.compile(layer, fullgraph=True, backend=look)(x)
            assert any("conv" in name for name in seen) == ("cpu" not in devices)
            error = (y - layer(x)).double().norm() / y.double().norm()
            assert error < 2**-6
        torch._dynamo.reset()


class TestLeakyReLU:
    def test_it_writes_over_its_argument(self):
        x = torch.tensor([-1.0, 2.0])
        y = lrelu(x)
        assert y.data_ptr() == x.data_ptr()
        assert x.tolist() == pytest.approx([-0.1, 2.0])

    @pytest.mark.parametrize("before", ["conv", "norm"])
    def test_in_place_behind_a_layer_it_has_the_gradient_of_a_copy(self, before):
        """Neither layer looks at its output again."""
        layer: nn.Module = layer_of("conv", 8, 5) if before == "conv" else BatchNorm(8).train()
        x = normal(4, 8, 4, 4).requires_grad_()

        def gradients(activation: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
            y = activation(layer(x))
            return torch.autograd.grad(y, [x, *layer.parameters()], normal(*y.shape, seed=3))

        expected = gradients(lambda y: F.leaky_relu(y, 0.1))
        assert all(torch.equal(a, b) for a, b in zip(gradients(lrelu), expected, strict=True))


class TestSame:
    """The 4×4 convolution of stride 1."""

    @pytest.mark.parametrize("side", [1, 2, 5, 8])
    @pytest.mark.parametrize("dtype", [torch.float32, BF16])
    def test_it_keeps_the_side(self, side, dtype):
        x = normal(3, 5, side, side + 1, dtype=dtype)
        assert Same(5, 7).to(dtype)(x).shape == (3, 7, side, side + 1)

    def test_a_pixel_sees_one_row_and_column_before_it_and_two_behind(self):
        layer = Same(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        x = torch.zeros(1, 1, 9, 9)
        x[0, 0, 4, 5] = 1  # is seen by rows 2 to 5 and columns 3 to 6
        seen = layer(x)[0, 0].detach().nonzero().tolist()
        assert seen == [[row, column] for row in range(2, 6) for column in range(3, 7)]

    def test_it_is_a_transposed_convolution_of_stride_1_with_its_weight_turned_round(self):
        layer = Same(5, 7).double()
        x = normal(3, 5, 6, 6, dtype=torch.float64)
        turned = layer.weight.detach().flip(2, 3).transpose(0, 1)
        whole = F.conv_transpose2d(x, turned, layer.bias)  # side 6 + 3
        torch.testing.assert_close(layer(x), whole[:, :, 2:-1, 2:-1])


def test_a_convolution_takes_a_weight_that_is_not_its_own():
    """One computed from another, as in spectral normalisation, by products or not."""
    weight, x = normal(8, 6, 4, 4).requires_grad_(), normal(3, 6, 8, 8)
    dy = normal(3, 8, 4, 4, seed=1)
    for factor in (1, 2):
        y = convolve(x, weight * factor, None)
        (actual,) = torch.autograd.grad(y, weight, dy)
        truth = run(plain("conv"), wide([dy])[0], x.double(), weight.detach().double() * factor)
        assert (y.double() - truth[0]).norm() < 2**-7 * truth[0].norm()
        assert (actual.double() - factor * truth[2]).norm() < 2**-7 * factor * truth[2].norm()


class Convolutions(TorchDispatchMode):
    """A record of each stride-2 convolution's dtype and of the width of its image."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default and 2 in args[3] and not args[6]:
            self.seen.append((args[0].dtype, args[0].shape[3]))
        if func is torch.ops.aten.convolution_backward.default and 2 in args[4]:
            self.seen.append((args[0].dtype, args[0 if args[7] else 1].shape[3]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [1, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_no_bf16_convolution_on_a_cpu_reads_an_image_two_pixels_wide(kind, inputs, bias, columns):
    """oneDNN returns uninitialised memory for some of them on CPUs with AMX."""
    layer, x, dy = problem(kind, inputs, 16, rows=3, columns=columns, bias=bias)
    with Convolutions() as convolutions:
        run_layer(layer, dy, x)
    assert convolutions.seen
    assert (BF16, 2) not in convolutions.seen
    assert (columns == 1) == (BF16 not in {dtype for dtype, _ in convolutions.seen})

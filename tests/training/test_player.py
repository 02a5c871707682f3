"""A player's parameters in one buffer, and the networks on their working copies."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastinfogan.networks import MnistDiscriminator, MnistGenerator, initialise
from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.parallel import Pending, Ranks
from fastinfogan.training.player import ALIGN, Flat, Player, working_copies, working_network

pytestmark = pytest.mark.usefixtures("one_thread")

BF16 = torch.bfloat16
modest = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def laid_out(tensor: Tensor, order: int) -> Tensor:
    """Return the same values in another dense format: contiguous, channels_last, transposed."""
    if order == 1 and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if order == 2 and tensor.ndim >= 2:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor


@st.composite
def parameters(draw: st.DrawFn) -> list[nn.Parameter]:
    """Return a few, of any shape and dense layout, some of them as long as the alignment."""
    sides = st.integers(1, 5)
    shapes = st.one_of(
        st.sampled_from([(), (1,), (ALIGN,), (ALIGN - 1,), (ALIGN + 1,), (8, ALIGN // 8)]),
        st.lists(sides, min_size=1, max_size=4).map(tuple),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return [
        nn.Parameter(laid_out(torch.randn(shape, generator=generator), draw(st.integers(0, 2))))
        for shape in draw(st.lists(shapes, min_size=1, max_size=6))
    ]


def padding(flat: Flat, buffer: Tensor) -> Tensor:
    """Return the part of a buffer that no parameter has."""
    own = torch.zeros_like(flat.value.data, dtype=torch.bool)
    for view in flat.views(own):
        view.fill_(True)
    assert int(own.sum()) == sum(p.numel() for p in flat.params)  # none overlaps another
    return buffer.detach()[~own]


class TestFlat:
    @modest
    @given(parameters())
    def test_making_it_changes_no_value_no_shape_and_no_memory_format(self, params):
        before = [(p.detach().clone(), p.shape, p.stride()) for p in params]
        Flat(params)
        for p, (value, shape, stride) in zip(params, before, strict=True):
            assert torch.equal(p, value)
            assert (p.shape, p.stride()) == (shape, stride)

    @modest
    @given(parameters())
    def test_parameters_and_buffer_are_the_same_memory(self, params):
        flat = Flat(params)
        start = flat.value.data_ptr()
        with torch.no_grad():
            flat.value.copy_(torch.arange(1.0, flat.value.numel() + 1))
            for p, view in zip(params, flat.views(flat.value), strict=True):
                assert torch.equal(p, view)
                p.neg_()
        assert int((flat.value < 0).sum()) == sum(p.numel() for p in params)
        for p in params:
            # on a cache line of its own, relative to the buffer
            assert (p.data_ptr() - start) % (ALIGN * p.element_size()) == 0
            assert start <= p.data_ptr() < start + flat.value.numel() * p.element_size()

    @modest
    @given(parameters(), st.sampled_from([torch.float32, BF16, torch.float64]))
    def test_gradients_are_collected_from_any_dtype_and_strides(self, params, dtype):
        flat = Flat(params)
        for n in range(2):  # the second time over the first
            grads = []
            for i, p in enumerate(params):
                draw = torch.Generator().manual_seed(100 * n + i)
                g = torch.randn(p.shape, generator=draw).to(dtype)
                strided = [laid_out(g, (i + n) % 3), torch.stack((g, -g), -1)[..., 0]]
                grads.append(strided[(i + n) % 2])
            flat.collect(grads)
            assert flat.value.grad is flat.grad
            assert flat.grad.dtype == torch.float32
            for view, g in zip(flat.views(flat.grad), grads, strict=True):
                assert torch.equal(view, g.float())
            assert (padding(flat, flat.grad) == 0).all()

    @modest
    @given(parameters())
    def test_a_gradient_of_one_value_for_all_is_written_everywhere(self, params):
        flat = Flat(params)
        flat.collect([torch.ones(()).expand(p.shape) for p in params])
        assert all((view == 1).all() for view in flat.views(flat.grad))

    def test_the_gradient_keeps_its_address(self):
        flat = Flat([nn.Parameter(torch.ones(3))])
        address = flat.grad.data_ptr()
        for _ in range(2):
            flat.collect([torch.ones(3)])
            assert flat.grad.data_ptr() == address
            assert flat.value.grad is flat.grad

    @modest
    @given(parameters(), st.sampled_from([None, BF16]))
    def test_adam_leaves_the_padding_zero_and_moves_each_parameter_as_adam_alone(
        self, params, dtype
    ):
        alone = [nn.Parameter(p.detach().clone()) for p in params]
        flat = Flat(params, dtype)
        optimizer = torch.optim.Adam([flat.value], lr=0.1, fused=True)
        reference = torch.optim.Adam(alone, lr=0.1, foreach=False)
        for n in range(3):
            draw = torch.Generator().manual_seed(n)
            grads = [torch.randn(p.shape, generator=draw) for p in params]
            flat.collect(grads)
            for p, g in zip(alone, grads, strict=True):
                p.grad = g
            optimizer.step()
            reference.step()
            flat.refresh()
        for p, expected in zip(params, alone, strict=True):
            # three fp32 roundings of values up to 5
            torch.testing.assert_close(p, expected, rtol=0, atol=3 * 5 * 2**-23)
        kept = [flat.value, *(t for t in optimizer.state[flat.value].values() if t.ndim)]
        kept += [] if flat.working is None else [flat.working]
        assert all((padding(flat, buffer) == 0).all() for buffer in kept)

    def test_a_second_flat_of_the_same_parameters_takes_them_over(self):
        params = [nn.Parameter(torch.ones(3))]
        first, second = Flat(params), Flat(params)
        with torch.no_grad():
            second.value.fill_(2)
        assert params[0].tolist() == [2, 2, 2]
        assert first.value[:3].tolist() == [1, 1, 1]


class TestWorkingCopies:
    @modest
    @given(parameters())
    def test_they_are_the_rounded_parameters_when_made_and_after_refresh(self, params):
        flat = Flat(params, BF16)
        copies = working_copies([flat])
        for n in range(2):
            for p in params:
                copied = copies[p]
                assert copied.requires_grad
                assert copied.is_leaf
                assert copied.dtype == BF16
                assert copied.stride() == p.stride()
                assert torch.equal(copied, p.to(BF16)), n
            with torch.no_grad():
                flat.value.mul_(-math.pi)
                if flat.value.any():
                    assert not all(torch.equal(copies[p], p.to(BF16)) for p in params)
            flat.refresh()

    @pytest.mark.parametrize("dtype", [None, torch.float32])
    def test_in_the_same_dtype_a_parameter_is_its_own_copy(self, dtype):
        params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
        flat = Flat(params, dtype)
        flat.refresh()
        assert flat.working is None
        copies = working_copies([flat])
        assert all(copies[p] is p for p in params)

    def test_those_of_several_players_stand_in_one_table(self):
        one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
        copies = working_copies([Flat([one], BF16), Flat([two])])
        assert copies[one].shape == (3,)
        assert copies[two] is two


NETWORKS = {
    "generator": lambda: MnistGenerator(9, 8),
    "discriminator": lambda: MnistDiscriminator(5, 8),
}


@pytest.fixture(params=NETWORKS)
def network(request) -> nn.Module:
    network = NETWORKS[request.param]()
    initialise(network, torch.Generator().manual_seed(0))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def inputs(network: nn.Module) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    shape = (8, 9) if isinstance(network, MnistGenerator) else (8, 1, 8, 8)
    return torch.rand(shape, generator=draw)


class TestWorkingNetwork:
    def test_batchnorms_tensors_and_all_buffers_are_shared_and_nothing_else(self, network):
        flat = Flat(network.parameters(), BF16)
        working = working_network(network, working_copies([flat]))
        of_norms = 0
        for name, module in network.named_modules():
            twin = working.get_submodule(name)
            for key, p in module.named_parameters(recurse=False):
                if isinstance(module, BatchNorm):
                    assert twin.get_parameter(key) is p
                    of_norms += 1
                else:
                    assert twin.get_parameter(key).data_ptr() != p.data_ptr()
            for key, buffer in module.named_buffers(recurse=False):
                assert twin.get_buffer(key) is buffer
        assert of_norms == 2 * sum(isinstance(m, BatchNorm) for m in network.modules())

    def test_it_computes_in_the_working_dtype_with_the_weights_of_the_flat(self, network):
        before = copy.deepcopy(network)
        flat = Flat(network.parameters(), BF16)
        working = working_network(network, working_copies([flat]))
        first = working(inputs(network), "batch")
        expected = before(inputs(network), "batch")
        for actual, value in zip(
            *((t,) if isinstance(t, Tensor) else t for t in (first, expected)), strict=True
        ):
            assert actual.dtype == BF16
            assert (actual - value).norm() < 0.1 * value.norm()
        with torch.no_grad():
            flat.value.zero_()
        flat.refresh()
        again = working(inputs(network), "batch")
        again = again if isinstance(again, Tensor) else again[0]
        assert (again == again.flatten()[0]).all()  # no weight is left that tells inputs apart

    def test_its_pass_moves_the_buffers_of_the_network_in_fp32(self, network):
        working = working_network(network, working_copies([Flat(network.parameters(), BF16)]))
        before = [b.clone() for b in network.buffers()]
        working(inputs(network), "update")
        for b, was in zip(network.buffers(), before, strict=True):
            assert b.dtype == torch.float32
            assert not torch.equal(b, was)

    @pytest.mark.parametrize("dtype", [torch.float32, BF16])
    def test_names_and_their_order_stay(self, network, dtype):
        names = list(network.state_dict())
        order = [name for name, _ in network.named_parameters()]
        working = working_network(network, working_copies([Flat(network.parameters(), dtype)]))
        for either in (network, working):
            assert list(either.state_dict()) == names
            assert [name for name, _ in either.named_parameters()] == order

    def test_in_the_same_dtype_it_has_the_networks_own_weights(self, network):
        working = working_network(network, working_copies([Flat(network.parameters())]))
        for p, w in zip(network.parameters(), working.parameters(), strict=True):
            assert w is p

    def test_loading_a_state_writes_into_the_flat(self, network):
        flat = Flat(network.parameters(), BF16)
        state = {key: torch.full_like(t, 0.5) for key, t in network.state_dict().items()}
        network.load_state_dict(state)
        assert all((view == 0.5).all() for view in flat.views(flat.value))
        assert (padding(flat, flat.value) == 0).all()


def test_gradients_that_are_sent_in_bf16_come_back_averaged_in_fp32(cpu_ranks, monkeypatch):
    param = nn.Parameter(torch.zeros(3))
    ranks: Ranks = cpu_ranks()
    player = Player("g", [param], torch.float32, 0.1, (0.5, 0.9), ranks, torch.bfloat16)

    def halve(sent: Tensor) -> None:
        sent.div_(2)

    def start_average(sent: Tensor) -> Pending:
        assert sent.dtype == torch.bfloat16
        return Pending(lambda: halve(sent))

    monkeypatch.setattr(ranks, "start_average", start_average)
    player.start_average([torch.tensor([2.0, 4.0, 1.0 + 2.0**-10])]).wait()
    assert player.flat.grad.dtype == torch.float32
    assert player.flat.grad[:3].tolist() == [1.0, 2.0, 0.5]

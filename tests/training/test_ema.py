"""The averaged generator."""

import pytest
import torch
from torch import nn

from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.training.ema import Ema
from fastinfogan.training.player import Flat


def network(value: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), BatchNorm(3))
    fill(net, value)
    return net


def fill(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(value)


def laid_out(ema: Ema, source: nn.Module) -> torch.Tensor:
    """Return the source's parameters in the layout of the generator's player."""
    buffer = torch.zeros_like(ema.flat.value.detach())
    for view, p in zip(ema.flat.views(buffer), source.parameters(), strict=True):
        view.copy_(p.detach())
    return buffer


@pytest.mark.parametrize(
    ("n", "decay", "expected"),
    [
        (0, 0.999, 1 / 10),  # (1 + n) / (10 + n) while that is less
        (1, 0.999, 2 / 11),
        (90, 0.999, 91 / 100),
        (100_000, 0.999, 0.999),
        (90, 0.5, 0.5),
        (0, 0.05, 0.05),
    ],
)
def test_an_update_keeps_the_decays_share_of_the_average(n, decay, expected):
    source = network(1.0)
    ema = Ema(source, decay)
    fill(source, 3.0)
    ema.update(n, laid_out(ema, source))
    for parameter in ema.module.parameters():
        # one fp32 rounding of a value up to 3
        assert parameter.flatten().tolist() == pytest.approx(
            [expected * 1.0 + (1 - expected) * 3.0] * parameter.numel(), rel=1e-6
        )


def test_many_updates_follow_the_recursion():
    source = network(0.0)
    ema = Ema(source, 0.9)
    average = 0.0
    for n in range(200):
        value = float(torch.sin(torch.tensor(n / 10.0)))
        fill(source, value)
        ema.update(n, laid_out(ema, source))
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    weight = next(ema.module.parameters())
    # each of the last ten-odd updates rounds a value up to 1 once in fp32
    assert weight.flatten().tolist() == pytest.approx([average] * 6, abs=1e-6)


def test_the_warm_up_never_decreases_and_ends_at_the_decay():
    source = network(0.0)
    kept = []
    for n in range(0, 20_000, 500):
        fill(source, 1.0)
        ema = Ema(source, 0.999)
        fill(source, 0.0)
        ema.update(n, laid_out(ema, source))
        kept.append(float(next(ema.module.parameters()).flatten()[0]))
    assert kept == sorted(kept)
    assert kept[0] == pytest.approx(0.1)
    assert kept[-1] == pytest.approx(0.999)


def test_buffers_are_copied_not_averaged():
    source = network(1.0)
    ema = Ema(source, 0.999)
    fill(source, 3.0)
    ema.update(10, laid_out(ema, source))
    assert all((b == 3.0).all() for b in ema.module.buffers())


def test_decay_0_copies_the_weights_exactly():
    source = network(1.0)
    ema = Ema(source, 0.0)
    for n in (0, 5, 10_000):
        for p in source.parameters():
            nn.init.normal_(p)
        ema.update(n, laid_out(ema, source))
        for ours, theirs in zip(ema.module.parameters(), source.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_the_average_is_in_eval_mode_without_gradients_and_the_source_is_untouched():
    source = network(1.0)
    ema = Ema(source, 0.9)
    fill(source, 3.0)
    ema.update(0, laid_out(ema, source))
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert source.training
    assert all((p == 3.0).all() and p.requires_grad for p in source.parameters())


def test_an_update_reads_nothing_on_the_host(no_host_read):
    source = network(1.0)
    ema = Ema(source, 0.9)
    with no_host_read():
        ema.update(3, laid_out(ema, source))


def sources() -> tuple[nn.Module, Flat]:
    """Return a network that lies in a flat, before a parameter of another."""
    draw = torch.Generator().manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 5, 4), BatchNorm(5), nn.Linear(7, 70))
    source.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for p in source.parameters():
        nn.init.normal_(p, generator=draw)
    flat = Flat([*source.parameters(), nn.Parameter(torch.ones(100))])
    return source, flat


def move(flat: Flat, n: int) -> None:
    with torch.no_grad():
        flat.value.add_(torch.randn(flat.value.shape, generator=torch.Generator().manual_seed(n)))


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_the_number_of_an_update_may_be_a_tensor(decay):
    """The same bits: a captured update, which counts on the device, equals an eager one."""
    source, flat = sources()
    by_int, by_tensor = Ema(source, decay), Ema(source, decay)
    for n in (0, 1, 2, 7, 40, 100, 12_345, 10**9):
        move(flat, n)
        value = flat.value.detach()
        by_int.update(n, value)
        by_tensor.update(torch.tensor(n), value)
        for a, b in zip(by_int.module.parameters(), by_tensor.module.parameters(), strict=True):
            assert torch.equal(a, b), n


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_of_a_flat_is_that_of_its_parameters(decay):
    """The same bits, whatever else lies behind them."""
    source, flat = sources()
    together, one_by_one = Ema(source, decay), Ema(source, decay)
    for n in range(20):
        move(flat, n)
        for b in source.buffers():
            b.add_(1)
        together.update(n, flat.value.detach())
        one_by_one.update(n, laid_out(one_by_one, source))
        ours, theirs = together.module.state_dict(), one_by_one.module.state_dict()
        assert list(ours) == list(source.state_dict())
        for key, a in ours.items():
            assert torch.equal(a, theirs[key]), (n, key)


def test_an_update_by_a_tensor_reads_nothing_on_the_host(no_host_read):
    source, flat = sources()
    ema = Ema(source, 0.9)
    n = torch.tensor(3)
    with no_host_read():
        ema.update(n, flat.value.detach())

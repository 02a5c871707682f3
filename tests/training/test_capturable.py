"""The conditions of a CUDA graph on the step, shown on a CPU."""

import gc

import pytest
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastinfogan.config import TrainConfig
from fastinfogan.training.metrics import Metrics
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="cat3,uniform,bernoulli"
)
SPEC = CONFIG.spec()
RECIPE = CONFIG.with_options(  # what the `mnist` preset adds
    real_info=3.0,
    follow=3.0,
    followed="slant",
    vat=1.0,
    vat_start=1,
    info_start=1,
    info_ramp=2,
    decay_start=1,
    decay_steps=3,
)


def batch(n: int) -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def storages(tensors) -> dict[int, int]:
    """Return address and size of each memory that the tensors lie in."""
    result = (t.untyped_storage() for t in tensors)
    return {s.data_ptr(): s.nbytes() for s in result if s.nbytes()}


def living() -> dict[int, int]:
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) in (Tensor, Parameter)]
    # Wrappers that another test's torch.func left behind have no memory of their own.
    return storages(t for t in tensors if not is_functorch_wrapped_tensor(t))


class Touched(TorchDispatchMode):
    """A record of the earlier memory that an update's operations see, in order."""

    def __init__(self, known: dict[int, int]) -> None:
        super().__init__()
        self.known = known
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                place = leaf.untyped_storage().data_ptr()
                if place in self.known:
                    self.seen.append((str(func), place))
        return func(*args, **(kwargs or {}))


PHOTOGRAPHS = CONFIG.with_options(
    codes="cat3,gaussian2*0",
    real_info=1.0,
    invariance_logits="centred",
    q_trunk="own",
    instances_weight=1.0,
    pseudo_labels_weight=1.0,
    pseudo_labels_threshold=0.5,
    photo_surround=0.5,
    photo_invert=0.5,
)
UPRIGHT = RECIPE.with_options(real_info=0.0, upright=2.0)  # what comes of `dsprites` with shapes


CASES = [(CONFIG, "reused"), (UPRIGHT, "alternating"), (PHOTOGRAPHS, "alternating")]
CASES += [(c, m) for c in (CONFIG, RECIPE) for m in ("alternating", "shared")]


@pytest.fixture(params=CASES)
def warm(request, cpu_ranks) -> tuple[Step, Metrics, Tensor, Tensor]:
    """Return a step after two updates, with the inputs that a graph would have."""
    ranks, (config, mode) = cpu_ranks("bf16"), request.param
    step = Step(config.with_options(step=mode), config.spec(), ranks)
    metrics = Metrics(config.spec(), ranks, [term.name for term in step.terms])
    real, number = batch(0), torch.zeros((), dtype=torch.int64)
    for _ in range(2):
        update(step, metrics, real, number)
    return step, metrics, real, number


def update(step: Step, metrics: Metrics, real: Tensor, number: Tensor) -> None:
    metrics.add(1, *step._update(number, real, step.active(1)))


@pytest.mark.quick_cases(1)
def test_an_update_touches_the_same_memory_in_the_same_order_every_time(warm):
    step, metrics, real, number = warm
    seen = []
    for n in range(3):
        number.fill_(n)
        with Touched(living()) as touched:
            update(step, metrics, real, number)
        seen.append(touched.seen)
    assert len(seen[0]) > 100
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.quick_cases(1)
def test_an_update_allocates_nothing_that_outlives_it(warm):
    step, metrics, real, number = warm
    before = living()
    for _ in range(3):
        update(step, metrics, real, number)
    assert living() == before


@pytest.mark.parametrize("mode", ["alternating", "shared"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_updates_number_may_be_a_tensor(cpu_ranks, mode, precision):
    """Latents and the average's decay are then made of it on the device, to the last bit alike."""
    ranks = cpu_ranks(precision)
    one, other = (Step(CONFIG.with_options(step=mode), SPEC, ranks) for _ in range(2))
    for n in range(4):
        one(n, batch(n)), other._update(torch.tensor(n), batch(n), other.active(n))
        pairs = zip(one._state(), other._state(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_with_its_number_on_the_device_nothing_is_read_back(
    cpu_ranks, no_host_read, warm, precision
):
    step, metrics, real, number = warm
    with no_host_read():
        update(step, metrics, real, number)

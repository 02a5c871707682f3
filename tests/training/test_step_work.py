"""The work that one update does not do."""

import pytest
from helpers.small_pair import BATCH, CONFIG, SPEC, Work, batch, of_both, of_d, of_g, pair

from fastinfogan.training.step import Active, Step

pytestmark = pytest.mark.usefixtures("one_thread")


def test_gs_step_computes_no_gradient_of_ds_weights():
    """Asking autograd for G's parameters alone is what freezes D: the work is not done."""
    networks = pair()
    with Work() as work:
        of_g(networks, "openai")
    assert sorted(work.gradients) == ["input", "input", "input weight", "input weight"]
    matrices = {
        name: [p for p in network.parameters() if p.ndim == 2]
        for name, network in networks._asdict().items()
    }
    for weight in matrices["generator"]:
        assert work.products.count(sorted(weight.shape)) == 1
    others = [sorted(p.shape) for p in matrices["discriminator"]]
    shared = [sorted(p.shape) for p in matrices["generator"]]  # fc3 is as large as G's fc2
    assert len([shape for shape in others if shape in shared]) == 1
    assert not [shape for shape in others if shape in work.products and shape not in shared]


def test_ds_step_computes_no_gradient_of_images():
    with Work() as work:
        of_d(pair(), "openai")
    assert sorted(work.gradients) == ["input weight", "weight"]  # conv2's, conv1's


def test_the_shared_step_computes_no_gradient_of_images_for_d_nor_of_ds_weights_for_g():
    with Work() as work:
        of_both(pair(), "openai")
    ds = ["weight", "weight", "input weight", "input weight"]  # on real images and on fakes
    gs = ["input", "input", "input weight", "input weight"]  # the first two are D's layers
    assert sorted(work.gradients) == sorted([*ds, *gs])


# In bf16 the gradient of conv2's weight and of up3's is a product of this shape; so is q_fc1's.
PRODUCT = [128, 16 * 64]


@pytest.mark.parametrize(
    ("step", "gradients", "products", "convolutions"),
    [
        # conv2 before conv1: its input, and conv1's weight with no more. 4 forward passes.
        ("d", ["input", "weight"], ["conv2", "q_fc1"], 4),
        # conv2, up3, up4. 4 forward passes, and conv1's input, which is a convolution too.
        ("g", ["input", "input", "input weight"], ["up3"], 5),
        # D's on two batches, G's. G's 2 forward passes, D's 4, conv1's input once.
        (
            "shared",
            ["input", "input", "weight", "weight", "input", "input", "input weight"],
            ["conv2", "conv2", "q_fc1", "up3"],
            7,
        ),
    ],
)
def test_in_bf16_no_more_is_computed_either(cpu_ranks, step, gradients, products, convolutions):
    trained = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    real, c = batch(0), SPEC.sample(BATCH, seed=0)
    with Work() as work:
        if step == "d":
            trained.work(Active(())).d_grads(real, c, ())
        elif step == "g":
            trained.work(Active(())).g_grads(c, (), None, real)
        else:
            trained.work(Active(())).shared_grads(real, c, (), ())
    assert sorted(work.gradients) == sorted(gradients)
    assert work.products.count(PRODUCT) == len(products)
    assert work.convolutions == convolutions

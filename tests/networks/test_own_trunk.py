"""--q-trunk own: Q reads features that no loss of D's logit moves."""

import pytest
import torch
from helpers.terms import MODES, SPEC, d_gradients, fp64_networks, random_images

from fastinfogan.config import check
from fastinfogan.errors import UserError
from fastinfogan.networks import initialise, pair
from fastinfogan.networks.tables import TableDiscriminator
from fastinfogan.presets import PRESETS
from fastinfogan.terms.invariance import SHARPNESS, Invariance, mutual_information
from fastinfogan.terms.protocol import Address, TermSet
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.gradients import Objective, d_grads, g_grads, shared_grads

NETWORKS = ("mnist", "svhn", "faces", "chairs", "dsprites")
IMAGES = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def discriminator(networks, **options):
    network = pair(networks, 10, 5, 32, 1, **options)[1]
    initialise(network, torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("networks", NETWORKS)
class TestOwnTrunk:
    def test_the_logit_moves_none_of_qs_weights_and_q_none_of_ds(self, networks, spectral_norm):
        network = discriminator(networks, spectral_norm=spectral_norm, q_trunk="own")
        features = network.trunk(IMAGES, "batch")
        outputs = (network.logit(features).sum(), network.q(features, "batch").square().sum())
        names = [name for name, _ in network.named_parameters()]
        moved = []
        for output in outputs:
            grads = torch.autograd.grad(
                output, list(network.parameters()), materialize_grads=True, retain_graph=True
            )
            moved.append({n for n, g in zip(names, grads, strict=True) if g.any()})
        of_d, of_q = moved
        assert not of_d & of_q
        assert of_d | of_q == set(names)
        assert {n.partition(".")[0] for n in of_d} <= {"conv", "fc", "head"}

    def test_both_trunks_are_built_alike(self, networks, spectral_norm):
        network = discriminator(networks, spectral_norm=spectral_norm, q_trunk="own")
        for name, own in (("conv", "q_conv"), ("fc", "q_trunk_fc")):
            one, other = ([p.shape for p in getattr(network, n).parameters()] for n in (name, own))
            assert one == other

    def test_q_reads_the_same_from_its_trunk_alone(self, networks, spectral_norm):
        for q_trunk in ("own", "shared"):
            network = discriminator(networks, spectral_norm=spectral_norm, q_trunk=q_trunk)
            one, other = (
                network.q(trunk(IMAGES, "batch"), "batch")
                for trunk in (network.trunk, network.q_trunk)
            )
            assert torch.equal(one, other)

    def test_only_qs_head_counts_as_its_own_layers(self, networks, spectral_norm):
        """So D's step trains its trunk, where the terms on real images are, whatever --routing."""
        options = {"spectral_norm": spectral_norm}
        shared = discriminator(networks, **options)
        own = discriminator(networks, **options, q_trunk="own")
        one, other = ([p.shape for p in network.q_parameters()] for network in (shared, own))
        assert one == other


@pytest.mark.parametrize("mode", MODES)
def test_copies_of_real_images_pass_qs_trunk_alone_and_move_ds_weights_by_nothing(
    mode, monkeypatch
):
    passed = {"d": 0, "q": 0}
    features = TableDiscriminator._features

    def count(self, conv, fc, images, stats):
        passed["d" if conv is self.conv else "q"] += len(images)
        return features(self, conv, fc, images, stats)

    monkeypatch.setattr(TableDiscriminator, "_features", count)
    (real,) = random_images(1)
    real = real.float().double()
    term = Invariance(3.0, slice(1, 4), WarpedCopies(Warp(rotate=20, scale=0.15), 0.0))
    extras = [term.recipe(real, Address(0, 1, 0))]
    networks, grads, _ = d_gradients(mode, real, [term], extras, q_trunk="own")
    assert passed == {"d": 2 * len(real), "q": 3 * len(real)}  # real, generated; and copies
    _, without, _ = d_gradients(mode, real, q_trunk="own")
    network = networks.discriminator

    both = network.trunk(torch.cat((real, *extras[0].images)), ("batch", "batch")).chunk(2)
    q, of_copies = (SHARPNESS * network.q(x, "batch")[:, 1:4] for x in both)
    total = -3.0 * mutual_information(q.softmax(1), of_copies.softmax(1)).objective
    truth = torch.autograd.grad(total, list(network.parameters()), materialize_grads=True)
    names = [name for name, _ in network.named_parameters()]
    for name, actual, base, expected in zip(names, grads, without, truth, strict=True):
        torch.testing.assert_close(actual - base, expected, atol=1e-9, rtol=1e-7, msg=name)
        if name.startswith(("conv", "fc", "head")):
            assert torch.equal(actual, base), name


@pytest.mark.parametrize("routing", ["openai", "head"])
@pytest.mark.parametrize("mode", MODES)
def test_a_fixed_trunk_has_no_gradient_in_the_game_and_all_else_the_same(mode, routing):
    """Also not by the information loss, which --routing openai sends to D's trunk."""
    (real,) = random_images(1)
    real = real.float().double()
    term = Invariance(3.0, slice(1, 4), WarpedCopies(Warp(rotate=20, scale=0.15), 0.0))
    extras = [term.recipe(real, Address(0, 1, 0))]
    latents = SPEC.sample(8, seed=0)
    latents = latents._replace(input=latents.input.double(), continuous=latents.continuous.double())
    results = []
    for q_trunk in ("own", "fixed"):
        networks = fp64_networks(q_trunk)
        goal = Objective(SPEC, torch.ones(3, dtype=torch.float64), routing)
        of_d, of_g = networks.split(routing)
        terms = TermSet([term])
        if mode == "shared":
            results.append(
                shared_grads(
                    *(networks, goal, of_d, of_g, real, latents), d_terms=terms, d_extras=extras
                )
            )
        else:
            by_d = d_grads(networks, goal, of_d, real, latents, terms=terms, extras=extras)
            results.append((*by_d, *g_grads(networks, goal, of_g, latents)))
    (d_own, record, g_own, _), (d_fixed, record_fixed, g_fixed, _) = results
    names = {id(p): name for name, p in networks.discriminator.named_parameters()}
    for p, a, b in zip(of_d, d_own, d_fixed, strict=True):
        if names[id(p)].startswith(("q_conv", "q_trunk_fc")):
            assert a.any()
            assert not b.any()
        else:
            assert torch.equal(a, b), names[id(p)]
    assert all(torch.equal(a, b) for a, b in zip(g_own, g_fixed, strict=True))
    assert torch.equal(record.terms["invariance"], record_fixed.terms["invariance"])


def test_a_users_pair_says_itself_what_q_reads():
    config = PRESETS["mnist"].with_options(networks="mine:pair", q_trunk="own")
    with pytest.raises(
        UserError,
        match=r"--q-trunk: a pair of your own \(mine:pair\) decides .*; leave it out",
    ):
        check(config)

"""Presets with other codes, data and networks than they were made for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.runs import COMMON

import fastinfogan
from fastinfogan import data, train
from fastinfogan.cli import parse, spellings_in
from fastinfogan.config import TrainConfig, check, from_yaml
from fastinfogan.errors import UserError
from fastinfogan.networks import check_image_size
from fastinfogan.presets import PRESETS
from fastinfogan.presets.adapting import adapt
from fastinfogan.terms.warp import Warp

CODES = (
    "cat10,uniform",
    "uniform,uniform",
    "cat5",
    "gaussian2",
    "bernoulli",
    "bernoulli,cat3,uniform:learned",
    "uniform3",
)
SHAPES = ((8, 1), (28, 1), (28, 3), (32, 1), (32, 3), (48, 2), (64, 4), (128, 3), (256, 1))


def read(*args: str) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return what the command would train, and what it would say."""
    config, notes = adapt(parse(args), spellings_in(args))
    check(config)
    return config, notes


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], str]:
    folder = tmp_path_factory.mktemp("sets")
    specs = {}
    for side, channels in (*SHAPES, (30, 3)):
        path = folder / f"{side}-{channels}.npz"
        np.savez_compressed(path, images=np.zeros((12, side, side, channels), np.uint8))
        specs[side, channels] = f"npz:{path}"
    return specs


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_is_not_changed(preset):
    assert adapt(PRESETS[preset], frozenset()) == (PRESETS[preset], ())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("mnist --invariance.codes all --codes cat10,uniform,uniform,cat30*0", []),
        (
            "mnist --invariance.codes all",
            ["without effect: --invariance.codes (there is one categorical code)"],
        ),
        ("mnist-paper --vat.start 50", ["without effect: --vat.start (--vat.weight is 0)"]),
        (
            "mnist-paper --photo.tint 0.5 --warp rotate=20 --contrastive-start 9",
            [
                "without effect: --contrastive.start (--contrastive.weight is 0)",
                "without effect: --invariance.warp, --photo.tint (--invariance.weight, "
                "--follow.weight, --instances.weight and --pseudo-labels.weight are 0)",
            ],
        ),
        (
            "mnist --invariance.weight 0 --invariance.logits standard --invariance.warp.rotate 9",
            [
                "without effect: --invariance.logits (--invariance.weight and "
                "--pseudo-labels.weight are 0)"
            ],
        ),
        ("mnist --vat 0 --vat-start 0 --vat-stop 0", []),
        ("mnist-paper --warp= --photo.invert 0 --balance.decay .9 --lr-d 1e-3", []),
        ("svhn --photo.tint 0.5 --warp rotate=20", []),
    ],
)
def test_a_given_option_of_a_term_that_is_off_is_named_with_the_weight_to_give(command, expected):
    assert list(read(*command.split())[1]) == expected


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("preset", PRESETS)
def test_any_codes_and_any_side_that_networks_take_are_trained_without_a_correction(preset, sets):
    for codes in CODES:
        for side, channels in SHAPES:
            spec = sets[side, channels]
            requested = PRESETS[preset].with_options(codes=codes, data=spec)
            config, notes = adapt(requested, frozenset({"codes", "data"}))
            check(config)
            assert (config.data.image_size, config.data.channels) == (side, channels)
            assert config.codes.codes == codes
            check_image_size(side, config.adversarial.networks)
            assert len(notes) <= 1
            assert all("\n" not in line for line in notes)


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_line_names_every_changed_option_and_no_other(preset, sets):
    before = PRESETS[preset].with_options(codes="gaussian2", data=sets[28, 3])
    after, notes = adapt(before, frozenset({"codes", "data"}))
    changes = fastinfogan.config.differences(before, after)
    assert bool(notes) == bool(changes)
    for change in changes:
        name, _, value = change.replace("0.0", "0").rpartition(" -> ")
        name = name.split()[0]
        spoken = {"True": name, "False": name.replace("--", "--no-")}.get(value, f"{name} {value}")
        assert spoken in notes[0]


class TestTerms:
    @pytest.mark.parametrize(
        ("args", "off"),
        [
            (["mnist", "--codes", "uniform,uniform"], {"invariance", "vat"}),
            (["mnist", "--codes", "cat5"], {"follow"}),
            (["mnist", "--codes", "bernoulli"], {"invariance", "vat", "follow"}),
            (["dsprites", "--codes", "uniform5"], {"upright"}),
            (["dsprites", "--codes", "cat3"], {"follow"}),
            (["dsprites", "--invariance.weight", "3"], {"upright"}),
            (["mnist", "--upright", "2"], {"invariance"}),
            (["mnist", "--routing", "generator-step"], {"invariance", "vat", "follow"}),
            (["mnist", "--warp", "flip=0.5"], {"follow"}),
            (["own", "--codes", "uniform"], {"invariance"}),
        ],
    )
    def test_those_that_cannot_act_are_switched_off_and_the_rest_stays(self, args, off):
        config, (line,) = read(*args)
        requested = parse(args)
        for name in ("invariance", "vat", "upright", "follow", "instances"):
            weight = getattr(config, name).weight
            assert weight == (0 if name in off else getattr(requested, name).weight)
            assert (f"--{name}.weight 0" in line) == (name in off)

    @pytest.mark.parametrize(
        ("codes", "stays"),
        [("cat5,gaussian8", True), ("gaussian8,uniform", False), ("cat5", False)],
    )
    def test_telling_images_apart_needs_a_last_code_of_two_dims(self, codes, stays):
        preset = PRESETS["own"].with_options(codes=codes, instances_weight=1.0)
        config, lines = adapt(preset, frozenset({"codes"}))
        assert config.instances.weight == float(stays)
        assert ("--instances.weight 0" in "".join(lines)) is not stays

    def test_a_term_that_is_given_is_refused_not_switched_off(self):
        with pytest.raises(UserError, match=r"^--vat.weight: needs a categorical code"):
            read("mnist", "--codes", "uniform", "--vat", "3")

    def test_a_warp_that_makes_the_changes_keeps_the_following(self):
        assert read("mnist", "--warp", "shear=0.3,thickness=0.5")[1] == ()


class TestSizes:
    def test_a_side_of_no_networks_is_refused_once_with_what_works(self, sets):
        for preset in PRESETS.values():
            with pytest.raises(UserError, match="folder:PATH") as caught:
                adapt(preset.with_options(data=sets[30, 3]), frozenset({"data"}))
            assert "\n" not in str(caught.value)

    def test_given_sizes_that_contradict_the_images_are_refused_together(self, sets):
        args = ["mnist", "--data", sets[32, 3]]
        with pytest.raises(
            UserError, match=r"leave out --image-size 28 and --channels 1$"
        ) as caught:
            read(*args, "--image-size", "28", "--channels=1")
        assert "32x32 with 3 channels" in str(caught.value)
        assert read(*args)[0].data.image_size == 32

    def test_given_networks_that_do_not_take_the_images_are_refused_with_those_that_do(self, sets):
        with pytest.raises(UserError, match="leave it out, or give --networks mnist"):
            read("mnist", "--networks", "svhn")
        assert read("svhn", "--data", sets[28, 1], "--networks", "mnist")[0].data.channels == 1

    def test_networks_for_another_side_keep_spectral_normalisation(self, sets):
        config, (line,) = read("dsprites", "--data", sets[28, 1])
        assert config.adversarial.networks == "mnist"
        assert config.adversarial.spectral_norm
        assert "--networks mnist --spectral-norm" in line

    def test_a_users_networks_train_without_the_presets_spectral_norm(self):
        requested = PRESETS["own"].with_options(networks="mine:pair", spectral_norm=True)
        config, (line,) = adapt(requested, frozenset({"networks"}))
        assert not config.adversarial.spectral_norm
        assert "--no-spectral-norm" in line

    def test_a_users_networks_have_the_trunk_that_they_have(self):
        requested = PRESETS["svhn"].with_options(networks="mine:pair")
        config, lines = adapt(requested, frozenset({"networks"}))
        assert config.adversarial.q_trunk == "shared"
        assert "--q-trunk shared" in lines[0]

    def test_image_files_are_resized_to_the_presets_size(self):
        assert read("own", "--data", "folder:pictures")[1] == ()
        assert read("own", "--data", "hf:some/set")[1] == ()

    def test_a_missing_file_is_reported_as_missing(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read("own", "--data", f"npz:{tmp_path / 'none.npz'}")


@pytest.mark.parametrize(
    ("options", "given", "note"),
    [
        ({}, (), None),
        ({"codes": "uniform", "follow": 0.0}, (), "--gan-start 0 (no term acts on real images)"),
        ({"steps": 40}, (), "--gan-start 0 (--steps 40 are not more)"),
        ({"steps": 40}, ("gan-start",), None),
    ],
)
def test_a_preset_s_start_without_the_game_goes_where_no_update_could_have_it(options, given, note):
    config, notes = adapt(PRESETS["mnist"].with_options(gan_start=40, **options), frozenset(given))
    assert config.adversarial.gan_start == (40 if note is None else 0)
    assert ("--gan-start" in "".join(notes)) == (note is not None)
    assert note is None or notes[0].endswith(note)


@pytest.mark.parametrize(
    ("options", "given", "note"),
    [
        (
            {"gan_start": 0},
            ("gan-start",),
            "--lr-start 0 --lr-start-decay 0 (there is no --gan-start)",
        ),
        ({"gan_start": 0}, ("gan-start", "lr-start"), None),  # refused later
        (
            {"steps": 40},
            (),
            "--gan-start 0 --lr-start 0 --lr-start-decay 0 (--steps 40 are not more)",
        ),
    ],
)
def test_a_start_s_rate_goes_with_the_start(options, given, note):
    preset = PRESETS["mnist"].with_options(gan_start=40, lr_start=1e-3, lr_start_decay=20)
    config, notes = adapt(preset.with_options(**options), frozenset(given))
    assert bool(config.optimiser.lr_start) == (note is None)
    assert note is None or notes[0].endswith(note)


RESTARTS = {"invariance_restarts": 9, "invariance_restart_at": 30, "gan_start": 40}


@pytest.mark.parametrize(
    ("options", "given", "note"),
    [
        ({}, (), None),
        ({"invariance_codes": "first", "instances_weight": 1.0}, (), None),
        ({"invariance_codes": "first"}, (), "(Q has nothing to learn before them)"),
        ({"codes": "cat4,uniform"}, (), "(Q has nothing to learn before them)"),
        ({"upright": 1.0}, ("upright.weight",), "(Q has nothing to learn before them)"),
        ({"gan_start": 0}, ("gan-start",), "(there is no --gan-start)"),
        ({"steps": 40}, (), "(--steps 40 are not more)"),
    ],
)
def test_a_preset_s_restarts_go_where_they_cannot_be(options, given, note):
    codes = "cat4,uniform,cat9*0,embedding=gaussian4*0"
    preset = PRESETS["mnist"].with_options(codes=codes, invariance_codes="all", **RESTARTS)
    config, notes = adapt(preset.with_options(**options), frozenset(given))
    assert config.invariance.restarts == config.invariance.restart_at * 3 // 10
    assert (config.invariance.restarts == 9) == (note is None)
    if note is not None:
        assert f"--invariance.restarts 0 --invariance.restart-at 0 {note}" in notes[0]
    check(config)


def test_a_restart_s_update_has_no_effect_without_restarts():
    config = PRESETS["mnist"].with_options(invariance_restart_at=5)
    _, notes = adapt(config, frozenset({"invariance.restart-at"}))
    assert notes == ("without effect: --invariance.restart-at (--invariance.restarts is 0)",)


def test_a_trunk_that_only_a_start_trains_is_trained_throughout_without_one():
    preset = PRESETS["mnist"].with_options(gan_start=40, q_trunk="fixed")
    for options, given in (({"gan_start": 0}, ("gan-start",)), ({"steps": 40}, ())):
        config, notes = adapt(preset.with_options(**options), frozenset(given))
        assert config.adversarial.q_trunk == "own"
        assert "--q-trunk own" in notes[0]
        check(config)
    config, _ = adapt(preset, frozenset())
    assert config.adversarial.q_trunk == "fixed"
    config, _ = adapt(preset.with_options(gan_start=0), frozenset({"gan-start", "q-trunk"}))
    with pytest.raises(UserError, match=r"--q-trunk fixed: expected --gan-start of 1 or more"):
        check(config)


class TestOwnSize:
    def test_it_is_that_of_the_images_read(self, tmp_path):
        rng = np.random.default_rng(0)
        chw = rng.integers(0, 256, (12, 3, 16, 16), np.uint8)
        np.save(tmp_path / "x.npy", chw)
        np.savez(tmp_path / "keras.npz", x_train=chw.transpose(0, 2, 3, 1), y_train=np.arange(12))
        header = bytes([0, 0, 8, 3]) + np.array([12, 16, 16], ">u4").tobytes()
        with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + bytes(12 * 16 * 16))
        for spec, channels in (
            (f"npy:{tmp_path / 'x.npy'}", 3),
            (f"npz:{tmp_path / 'keras.npz'}", 3),
            (f"idx:{tmp_path}", 1),
            (f"idx:{tmp_path / 'train-images-idx3-ubyte.gz'}", 1),
        ):
            assert data.own_size(spec) == (16, 16, channels)
            splits = data.load(spec, image_size=16, channels=channels)
            assert splits["train"].images.shape[1:] == (16, 16, channels)

    @pytest.mark.parametrize("name", ["mnist", "faces-3d", "chairs-like", "dsprites-like"])
    def test_sets_that_come_along_have_the_size_that_is_stated(self, name):
        assert data.open_set(name, None, None)["test"].images.shape[1:] == data.own_size(name)


def test_a_run_says_what_was_changed_and_keeps_it(tmp_path, sets, capsys, monkeypatch, one_thread):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)
    words = ["--data", sets[8, 1], "--out", str(tmp_path / "run"), *COMMON, "--steps", "1"]
    words += ["--batch-size", "8", "--codes", "uniform,uniform"]
    for _ in range(2):  # the same line goes on
        assert train.main(words) == 0
        output = capsys.readouterr().out.splitlines()
        assert output[0] == (
            "mnist is changed: --invariance.weight 0 --vat.weight 0 (no categorical code)"
        )
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert from_yaml(text, "here").invariance.warp != Warp()
    stored = yaml.safe_load(text)
    assert stored["invariance"]["weight"] == stored["vat"]["weight"] == 0
    assert stored["follow"]["weight"] == 3


def test_from_python_a_preset_is_changed_the_same_way(tmp_path, capsys, monkeypatch, one_thread):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12, 3), np.uint8)
    options: dict[str, Any] = {
        "codes": "uniform",
        "noise": 2,
        "batch_size": 8,
        "steps": 1,
        "sample_every": 0,
    }
    spec = fastinfogan.fit("own", data=images, out=tmp_path / "run", **options)[2]
    assert spec.names == ("c1_uniform",)
    assert capsys.readouterr().out.startswith("own is changed: --networks mnist (")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["mnist", "--networks", "own_networks:make_pair"],
            "mnist is changed: --image-size 8 (the images')\n",
        ),
        (
            ["svhn", "--networks", "own_networks:make_pair"],
            "svhn is changed: --image-size 8 --channels 1 (the images')",
        ),
        (["own", "--term", "own_term:Dark", "weight=0.5"], "own is changed: "),
        (
            ["mnist", "--term", "own_term:Dark", "weight=0.5", "--codes", "uniform,uniform"],
            "mnist is changed: --image-size 8 (the images'); --invariance.weight 0 --vat.weight 0 ",
        ),
    ],
    ids=["networks", "networks that change the preset", "term", "term and codes"],
)
def test_a_users_networks_and_terms_train_on_a_preset_that_adapts(
    words, line, tmp_path, sets, capsys, monkeypatch, one_thread
):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)
    run = ["--data", sets[8, 1], "--out", str(tmp_path / "run"), "--threads", "1"]
    run += ["--sample-every", "0", "--batch-size", "8", "--steps", "2"]
    assert train.main([*words, *run]) == 0
    assert capsys.readouterr().out.startswith(line)
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 2
    assert ("dark" in record) is ("--term" in words)

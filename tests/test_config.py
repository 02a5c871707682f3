"""The configuration: its command line, its checks, its form on disk."""

import dataclasses
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan.cli import parse
from fastinfogan.config import OPTIONS, TrainConfig, check, differences, from_yaml, to_yaml
from fastinfogan.errors import UserError
from fastinfogan.latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.options import python_names
from fastinfogan.presets import PRESETS
from fastinfogan.terms.warp import Warp

# Every option by its Python name of version 0.1, with another value than the default's: as typed
# on the command line and as a value.
OTHER: dict[str, tuple[str, Any]] = {
    "preset": ("mnist-paper", "mnist-paper"),
    "steps": ("7", 7),
    "batch_size": ("32", 32),
    "seed": ("9", 9),
    "precision": ("fp32", "fp32"),
    "data": ("npz:my images.npz", "npz:my images.npz"),
    "stream": ("always", "always"),
    "out": ("some/where", Path("some/where")),
    "resume": ("never", "never"),
    "backend": ("reference", "reference"),
    "image_size": ("32", 32),
    "channels": ("3", 3),
    "background": ("#102030", "#102030"),
    "frames": ("all", "all"),
    "fit": ("pad", "pad"),
    "value_range": ("0,127", "0,127"),
    "skip_bad": ("2", 2),
    "factors": ("azimuth:360,size", "azimuth:360,size"),
    "networks": ("svhn", "svhn"),
    "codes": ("cat5,gaussian2:learned*0.1", "cat5,gaussian2:learned*0.1"),
    "noise": ("0", 0),
    "info_weight": ("0.1", 0.1),
    "info_start": ("30", 30),
    "info_ramp": ("40", 40),
    "info_from": ("0.5", 0.5),
    "real_info": ("2.5", 2.5),
    "follow": ("1.5", 1.5),
    "followed": ("size,x", "size,x"),
    "warp": ("rotate=5,flip=0.5", Warp(rotate=5, flip=0.5)),
    "upright": ("0.2", 0.2),
    "invariance_logits": ("standard", "standard"),
    "invariance_codes": ("all", "all"),
    "photo_surround": ("0.8", 0.8),
    "photo_invert": ("0.5", 0.5),
    "photo_contrast": ("0.4", 0.4),
    "photo_brightness": ("0.25", 0.25),
    "photo_tint": ("1", 1.0),
    "invariance_restarts": ("30", 30),
    "invariance_restart_at": ("15", 15),
    "instances_weight": ("0.4", 0.4),
    "instances_temperature": ("0.7", 0.7),
    "pseudo_labels_weight": ("2", 2.0),
    "pseudo_labels_start": ("7", 7),
    "pseudo_labels_threshold": ("0.6", 0.6),
    "vat": ("2", 2.0),
    "vat_start": ("7", 7),
    "vat_stop": ("9", 9),
    "vat_radius": ("0.5", 0.5),
    "objective": ("hinge", "hinge"),
    "label_smoothing": ("0.1", 0.1),
    "gan_start": ("25", 25),
    "lr_start": ("1e-3", 1e-3),
    "lr_start_decay": ("20", 20),
    "spectral_norm": ("", True),  # a flag
    "q_trunk": ("own", "own"),
    "r1": ("10", 10.0),
    "r2": ("0.5", 0.5),
    "contrastive": ("2", 2.0),
    "contrastive_start": ("70", 70),
    "balance_codes": ("0.99", 0.99),
    "routing": ("head", "head"),
    "step": ("shared", "shared"),
    "lr_d": ("1e-5", 1e-5),
    "lr_g": ("0.5", 0.5),
    "decay_start": ("50", 50),
    "decay_steps": ("60", 60),
    "beta1": ("0", 0.0),
    "beta2": ("0.9", 0.9),
    "ema": ("0", 0.0),
    "log_every": ("1", 1),
    "sample_every": ("0", 0),
    "checkpoint_every": ("3", 3),
    "keep": ("1", 1),
    "compile": ("on", "on"),
    "capture": ("off", "off"),
    "fused_adam": ("", True),  # a flag
    "memory_format": ("contiguous", "contiguous"),
    "reduce_dtype": ("bf16", "bf16"),
    "threads": ("4", 4),
    "track": ("tensorboard", "tensorboard"),
    "project": ("mine", "mine"),
    "watch_labels": ("", True),  # a flag
    "term": ("my_terms:Term", ("my_terms:Term",)),
}
NAMES = list(OTHER)
NAMED = python_names(OPTIONS.values())
TYPED = [name for name in NAMES if name != "preset"]
ALL_OTHER = {name: value for name, (_, value) in OTHER.items()}
# What the contract lets a resumed run change.
FREE = {
    "precision",  # what these two resolve to is compared with the checkpoint
    "data",
    "stream",
    "factors",  # evaluation alone sees them
    "steps",
    "out",
    "resume",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep",
    "threads",
    "track",
    "project",
    "watch_labels",
    "fused_adam",  # rounds otherwise; the moments and counts are the same tensors
}


def typed(*names: str) -> list[str]:
    items = ((name, NAMED[name]) for name in names)
    words = ((f"--{item.rule.alias or item.spelling}", OTHER[name][0]) for name, item in items)
    return [word for pair in words for word in pair if word]


class TestCommandLine:
    def test_the_table_above_has_every_option(self):
        reached = {NAMED[name].spelling for name in NAMES}
        warps = {
            f"invariance.warp.{field.name}".replace("_", "-") for field in dataclasses.fields(Warp)
        }
        assert reached | warps == set(OPTIONS)

    def test_without_arguments_it_is_the_mnist_preset(self):
        assert parse([]) == PRESETS["mnist"]

    @pytest.mark.parametrize("name", PRESETS)
    def test_a_presets_name_gives_its_values(self, name):
        assert parse([name]) == PRESETS[name]
        assert parse([name]).preset == name
        check(parse([name]))

    # Each option with one preset, each preset with some options: how an option is read does not
    # depend on the preset's values.
    @pytest.mark.parametrize(("preset", "name"), list(zip(cycle(PRESETS), TYPED, strict=False)))
    def test_an_option_overrides_its_field_and_no_other(self, preset, name):
        changed = {name: OTHER[name][1]}
        assert parse([preset, *typed(name)]) == PRESETS[preset].with_options(**changed)

    def test_all_options_at_once_wherever_the_preset_stands(self):
        expected = TrainConfig().with_options(**ALL_OTHER)
        assert parse(["mnist-paper", *typed(*TYPED)]) == expected
        assert parse([*typed(*TYPED), "mnist-paper"]) == expected

    @pytest.mark.parametrize("name", [n for n in TYPED if n != "warp"])
    def test_an_option_is_also_known_by_its_groups_name(self, name):
        option, word = NAMED[name], OTHER[name][0]
        config = parse(["mnist-paper", f"--{option.spelling}", *([word] if word else [])])
        assert config == PRESETS["mnist-paper"].with_options(**{name: OTHER[name][1]})

    def test_a_warps_text_replaces_the_whole_warp(self):
        for args in (["--warp", "flip=1"], ["--warp=flip=1"], ["--invariance.warp", "flip=1"]):
            assert parse(args).invariance.warp == Warp(flip=1)

    def test_a_warps_single_values_count_on_top_of_its_text_and_of_the_preset(self):
        args = ["--invariance.warp.flip", "0.5", "--warp", "rotate=5"]
        assert parse(args).invariance.warp == Warp(rotate=5, flip=0.5)
        default = PRESETS["mnist"].invariance.warp
        expected = dataclasses.replace(default, flip=0.5)
        assert parse(["--invariance.warp.flip", "0.5"]).invariance.warp == expected

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--warp", "rotate=999"], "--invariance.warp: rotate: expected 0 to 180"),
            (["--warp", "turn=1"], "--invariance.warp: expected each of"),
            (["--warp"], "--warp: expected a text"),
        ],
    )
    def test_a_warp_that_cannot_be_read_is_refused_in_one_line(self, args, message):
        with pytest.raises(UserError, match=f"^{message}") as caught:
            parse(args)
        assert "\n" not in str(caught.value)

    def test_a_presets_name_is_not_taken_from_an_options_value(self):
        assert parse(["--data", "svhn", "celeba"]) == PRESETS["celeba"].with_options(data="svhn")
        assert parse(["--spectral-norm", "svhn"]).preset == "svhn"
        assert parse(["--steps=3", "svhn"]).codes == PRESETS["svhn"].codes
        assert parse(["--data", "svhn"]).preset == "mnist"

    @pytest.mark.parametrize(
        "args",
        [
            ["cifar"],
            ["mnist", "mnist"],
            ["--nonsense", "1"],
            ["--steps", "many"],
            ["--steps", "1.5"],
            ["--steps"],
            ["--precision", "fp8"],
            ["--routing", "paper"],
            ["--backend", "numpy"],
        ],
    )
    def test_bad_arguments_exit_with_2_and_say_why(self, args, capsys):
        with pytest.raises(SystemExit) as caught:
            parse(args)
        assert caught.value.code == 2
        assert capsys.readouterr().err

    def test_help_explains_every_option(self, capsys):
        with pytest.raises(SystemExit) as caught:
            parse(["--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(typed(name)[0] in text for name in TYPED)
        assert all(f"--{name}" in text for name in OPTIONS if name != "preset")

    @pytest.mark.parametrize("name", PRESETS)
    def test_help_shows_the_presets_own_defaults(self, name, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")  # one column of boxes
        with pytest.raises(SystemExit):
            parse([name, "--help"])
        text = re.sub(r"[│|\s]+", " ", capsys.readouterr().out)  # | where UTF-8 cannot be shown
        config = PRESETS[name]
        for option, value in (("channels", config.data.channels), ("steps", config.steps)):
            (default,) = re.findall(rf"--{option} INT .*?\(default: (.*?)\)", text)
            assert default == str(value)

    def test_every_group_has_a_box_of_its_own_with_an_example(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")  # one column of boxes
        with pytest.raises(SystemExit):
            parse(["--help"])
        text = re.sub(r"[│|\s]+", " ", capsys.readouterr().out)  # | where UTF-8 cannot be shown
        groups = [f.name for f in dataclasses.fields(TrainConfig) if hasattr(f.default, "check")]
        names = [name.replace("_", "-") for name in groups]
        for name in (*names, "optimiser.decay", "invariance.warp"):
            _, title, rest = text.partition(f" {name} options ")
            assert title
            assert name == "invariance.warp" or "Example: --" in rest.partition(" options ")[0]


def changed(old: TrainConfig, new: TrainConfig) -> set[str]:
    """Return the options, by their Python name of version 0.1, that differ."""
    return {name for name in NAMES if NAMED[name].get(old) != NAMED[name].get(new)}


class TestPresets:
    def test_mnist_differs_from_the_papers_recipe_in_what_it_says_alone(self):
        extension = {"real_info", "follow", "followed", "warp", "info_start", "info_ramp"}
        extension |= {"vat", "vat_start", "vat_stop"}
        rates = {"lr_d", "decay_start", "decay_steps", "steps"}
        ours, papers = PRESETS["mnist"], PRESETS["mnist-paper"]
        assert changed(ours, papers) <= extension | rates | {"preset"}

    def test_the_papers_recipe_has_no_extension(self):
        config = PRESETS["mnist-paper"]
        off = (
            "real_info",
            "follow",
            "upright",
            "instances_weight",
            "vat",
            "pseudo_labels_weight",
            "info_start",
            "info_ramp",
            "decay_steps",
            "label_smoothing",
            "gan_start",
            "lr_start",
        )
        assert not any(NAMED[name].get(config) for name in off)

    def test_mnist_paper_has_the_papers_values(self):
        """Appendix C.1, and openai/InfoGAN where the paper is silent."""
        config = PRESETS["mnist-paper"]
        assert (config.optimiser.lr_d, config.optimiser.lr_g, config.optimiser.beta1) == (
            2e-4,
            1e-3,
            0.5,
        )
        assert (config.steps, config.batch_size, config.information.info_weight) == (5000, 128, 1.0)
        assert config.information.routing == "openai"
        assert (config.data.image_size, config.data.channels) == (28, 1)
        assert config.spec() == LatentSpec(
            noise=62, codes=(Categorical(10), Uniform(-1, 1), Uniform(-1, 1))
        )
        assert config.spec().input_dim == 74

    @pytest.mark.parametrize("name", PRESETS)
    def test_a_run_goes_to_a_folder_of_its_presets_name_by_default(self, name):
        assert PRESETS[name].run_dir == Path("runs") / name
        assert PRESETS[name].with_options(out=Path("x")).run_dir == Path("x")


class TestCheck:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("steps", 0),
            ("batch_size", 1),
            ("batch_size", 0),
            ("seed", -1),
            ("seed", 2**63),
            ("image_size", 30),
            ("image_size", 4),
            ("image_size", 0),
            ("image_size", 132),
            ("channels", 0),
            ("noise", -1),
            ("log_every", 0),
            ("sample_every", -1),
            ("checkpoint_every", -1),
            ("keep", 0),
            ("threads", -1),
            ("gan_start", -1),
            ("photo_surround", 1.1),
            ("photo_brightness", 0.6),
            ("instances_temperature", 0),
            ("lr_start_decay", -1),
            *(
                (name, value)
                for name in (
                    "lr_d",
                    "lr_g",
                    "lr_start",
                    "info_weight",
                    "info_from",
                    "r1",
                    "r2",
                    "contrastive",
                )
                for value in (-1e-9, float("nan"), float("inf"), float("-inf"))
            ),
            *(
                (name, value)
                for name in ("beta1", "beta2", "ema", "label_smoothing", "balance_codes")
                for value in (-0.1, 1.0, 2.0, float("nan"))
            ),
            ("codes", ""),
            ("codes", "cat1"),
            ("codes", "cat"),
            ("codes", "cat10,"),
            ("codes", "dog"),
            ("codes", "uniform0"),
            ("codes", "uniform:often"),
            ("codes", "cat10*-1"),
            ("codes", "cat10*nan"),
            ("codes", "cat10*x"),
            ("codes", "bernoulli3"),
        ],
    )
    def test_a_value_that_no_run_can_have_is_refused_by_its_options_name(self, name, value):
        with pytest.raises(UserError) as caught:
            check(TrainConfig().with_options(**{name: value}))
        message = str(caught.value)
        assert f"--{NAMED[name].spelling}" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"label_smoothing": 0.1, "objective": "hinge"}, "--label-smoothing: .*got hinge"),
            ({"r1": 1.0, "compile": "on"}, "--penalty.r1: .*--compile on"),
            ({"r2": 1.0, "capture": "on"}, "--penalty.r2: .*--capture on"),
            ({"r1": 1.0, "precision": "fp16"}, "--penalty.r1: fp16"),
            ({"contrastive": 1.0, "codes": "cat10"}, "--contrastive.weight: .*got c1_categorical"),
            ({"contrastive": 1.0, "batch_size": 3}, "--contrastive.weight: .*got 3"),
            ({"gan_start": 5, "steps": 5, "vat": 1.0}, "--gan-start: .*--steps 5, got 5"),
            ({"gan_start": 5}, "--gan-start 5: no term acts on real images; .*--vat.weight"),
            (
                {"gan_start": 5, "term": ("my:Term",), "routing": "generator-step"},
                "--gan-start: Q must learn in D's step",
            ),
            (
                {"real_info": 1.0, "invariance_restarts": 3, "gan_start": 5},
                "--invariance.restart-at: expected an update from 1 to --gan-start 5, got 0",
            ),
            (
                {"real_info": 1.0, "invariance_restarts": 3, "invariance_restart_at": 6}
                | {"gan_start": 5},
                "--invariance.restart-at: .* to --gan-start 5, got 6",
            ),
            (
                {"real_info": 1.0, "invariance_restarts": 3, "invariance_restart_at": 2}
                | {"gan_start": 5, "vat": 1.0, "vat_start": 1},
                "--vat.start: expected --invariance.restart-at 2 or later, got 1",
            ),
            (
                {"real_info": 1.0, "invariance_restarts": 3, "invariance_restart_at": 2}
                | {"gan_start": 5, "pseudo_labels_weight": 1.0, "pseudo_labels_start": 0},
                "--pseudo-labels.start: expected --invariance.restart-at 2 or later, got 0",
            ),
            ({"lr_start": 1e-3}, "--lr-start is D's rate before --gan-start, which is 0"),
            (
                {"gan_start": 5, "vat": 1.0, "lr_start_decay": 2},
                "--lr-start-decay: there is no --lr-start",
            ),
            (
                {"gan_start": 5, "vat": 1.0, "lr_start": 1e-3, "lr_start_decay": 5},
                "--lr-start-decay: expected less than --gan-start 5, got 5",
            ),
        ],
    )
    def test_contradictory_options_are_refused_in_one_line(self, changes, message):
        with pytest.raises(UserError, match=f"^{message}") as caught:
            check(TrainConfig().with_options(**changes))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("steps", 1),
            ("batch_size", 2),
            ("seed", 2**63 - 1),
            ("image_size", 8),
            ("image_size", 128),
            ("noise", 0),
            ("sample_every", 0),
            ("checkpoint_every", 0),
            ("keep", 1),
            ("lr_d", 0.0),
            ("info_weight", 0.0),
            ("ema", 0.0),
            ("r1", 0.0),
            ("balance_codes", 0.0),
            ("gan_start", 0),
            ("codes", " cat2 , bernoulli*0 "),
        ],
    )
    def test_the_last_good_value_is_taken(self, name, value):
        check(TrainConfig().with_options(**{name: value}))


def test_codes_are_read_into_the_spec():
    config = parse(
        ["--noise", "3", "--codes", "cat4*2, bernoulli,uniform,uniform3:learned*0.1,gaussian"]
    )
    assert config.spec() == LatentSpec(
        noise=3,
        codes=(
            Categorical(4, weight=2.0),
            Bernoulli(),
            Uniform(),
            Uniform(dim=3, sigma="learned", weight=0.1),
            Gaussian(),
        ),
    )


class TestWithOptions:
    @pytest.mark.parametrize("name", NAMES)
    def test_an_option_is_set_by_its_old_and_its_new_python_name(self, name):
        value, option = OTHER[name][1], NAMED[name]
        new = option.spelling.replace(".", "_").replace("-", "_")
        one = TrainConfig().with_options(**{name: value})
        assert option.get(one) == value
        assert one == TrainConfig().with_options(**{new: value})
        assert one == option.set(TrainConfig(), value)

    def test_a_warp_may_be_a_text(self):
        config = TrainConfig().with_options(warp="flip=0.5", invariance_warp_rotate=3)
        assert config.invariance.warp == Warp(flip=0.5, rotate=3)

    def test_numbers_of_numpy_and_whole_numbers_for_floats_become_plain_ones(self):
        config = TrainConfig().with_options(steps=np.int64(3), lr_d=np.float64(0.5), vat=1)
        assert from_yaml(to_yaml(config), "here") == config
        assert type(config.vat.weight) is float
        assert type(config.steps) is int

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"step_s": 3}, "step_s: no such option; did you mean steps?"),
            ({"vat_wieght": 3}, "vat_wieght: no such option; did you mean vat_weight?"),
            ({"zzz": 3}, "zzz: no such option"),
            ({"steps": "many"}, "--steps: expected a whole number, got 'many'"),
            ({"steps": 1.5}, "--steps: expected a whole number, got 1.5"),
            ({"steps": True}, "--steps: expected a whole number, got True"),
            ({"lr_d": "fast"}, "--lr-d: expected a number, got 'fast'"),
            ({"spectral_norm": 1}, "--spectral-norm: expected true or false, got 1"),
            ({"out": 3}, "--out: expected a path or null, got 3"),
            ({"warp": 3}, "--invariance.warp: expected a text or a Warp, got 3"),
            ({"warp": "turn=3"}, "--invariance.warp: expected each of"),
            ({"routing": "paper"}, "--routing: expected one of openai, head, generator-step"),
        ],
    )
    def test_an_unknown_option_or_value_is_refused_in_one_line(self, options, message):
        with pytest.raises(UserError) as caught:
            TrainConfig().with_options(**options)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    TrainConfig().with_options,
    preset=st.sampled_from(["mnist", "mnist-paper"]),
    steps=st.integers(),
    seed=st.integers(),
    precision=st.sampled_from(["auto", "bf16", "fp16", "fp32"]),
    data=texts,
    out=st.none() | texts.map(Path),
    resume=texts,
    codes=texts,
    info_weight=finite,
    lr_d=finite,
    beta2=finite,
    keep=st.integers(),
)


class TestYaml:
    @given(config=configs)
    @modest
    def test_any_configuration_comes_back(self, config):
        assert from_yaml(to_yaml(config), "here") == config

    def test_every_option_comes_back(self):
        config = TrainConfig().with_options(**ALL_OTHER)
        assert from_yaml(to_yaml(config), "here") == config

    def test_it_is_plain_yaml_nested_as_the_groups_are(self):
        content = yaml.safe_load(to_yaml(TrainConfig()))
        for name, option in OPTIONS.items():
            value = content
            for key in option.path:
                value = value[key]
            default = option.get(TrainConfig())
            if name != "invariance.warp":
                assert value == (list(default) if isinstance(default, tuple) else default)
        lines = to_yaml(TrainConfig()).splitlines()
        assert "information:" in lines
        assert "  info_weight: 1.0" in lines

    def test_a_run_of_version_0_1_is_refused_in_one_line_that_says_what_to_do(self):
        flat = {"preset": "mnist", "steps": 5, "data": "mnist", "info_weight": 1.0, "codes": "cat3"}
        with pytest.raises(UserError, match=r"^r/config.yaml was written by fastinfogan 0\.1") as e:
            from_yaml(yaml.safe_dump(flat), "r/config.yaml")
        assert "use that version" in str(e.value)
        assert "--out" in str(e.value)
        assert "\n" not in str(e.value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "null",
            "just words",
            "[1, 2]",
            "{}",
            "out: [",
            "out: null\n\tsteps: 3",
            "\0",
            "out: null\nnonsense: 3",
            "out: 3",
            "!!python/object/apply:os.getcwd []",
            pytest.param(to_yaml(TrainConfig())[:200].rpartition(":")[0], id="torn"),
        ],
    )
    def test_an_invalid_configuration_is_refused_in_one_line(self, text):
        with pytest.raises(UserError) as caught:
            from_yaml(text, "run/config.yaml")
        assert str(caught.value).startswith("run/config.yaml ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("steps", "many"),
            ("data.image_size", "28"),
            ("data.channels", 1.5),
            ("codes.codes", 10),
            ("codes", 10),
            ("optimiser.lr_d", "fast"),
            ("optimiser.decay.start", True),
            ("batch_size", None),
            ("preset", "cifar"),
            ("information.routing", ["head"]),
            ("invariance.warp", "rotate=20"),
            ("invariance.warp.rotate", "20"),
            ("vat.weigth", 3.0),
        ],
    )
    def test_a_value_of_another_kind_is_refused_by_its_place_in_the_file(self, field, value):
        """Edit the file as a person might leave it."""
        content = place = yaml.safe_load(to_yaml(TrainConfig()))
        *groups, name = field.split(".")
        for key in groups:
            place = place[key]
        place[name] = value
        with pytest.raises(UserError, match=f" {field}: "):
            from_yaml(yaml.safe_dump(content), "run/config.yaml")

    def test_an_option_of_a_group_that_an_older_file_lacks_has_its_default(self):
        content = yaml.safe_load(to_yaml(TrainConfig().with_options(keep=7, watch_labels=True)))
        del content["logging"]["watch_labels"]
        config = from_yaml(yaml.safe_dump(content), "run/config.yaml")
        assert config == TrainConfig().with_options(keep=7)

    @pytest.mark.parametrize("missing", ["pseudo_labels", "logging"])
    def test_a_group_that_an_older_file_lacks_has_its_defaults(self, missing):
        content = yaml.safe_load(to_yaml(TrainConfig().with_options(lr_d=7e-4, keep=7)))
        del content[missing]
        config = from_yaml(yaml.safe_dump(content, sort_keys=False), "run/config.yaml")
        kept = {} if missing == "logging" else {"keep": 7}
        assert config == TrainConfig().with_options(lr_d=7e-4, **kept)

    def test_a_file_that_ends_too_early_is_torn_wherever_it_ends(self):
        lines = to_yaml(TrainConfig()).splitlines(keepends=True)
        first_of_the_last_group = lines.index("penalty:\n") + 1
        for n in range(first_of_the_last_group):
            with pytest.raises(UserError, match=r"is missing|expected options|is not a conf"):
                from_yaml("".join(lines[:n]), "run/config.yaml")

    @pytest.mark.parametrize("missing", ["seed", "penalty"])
    def test_a_file_that_lacks_the_last_group_or_an_option_of_none_is_torn(self, missing):
        content = yaml.safe_load(to_yaml(TrainConfig()))
        del content[missing]
        with pytest.raises(UserError, match=f"{missing} is missing"):
            from_yaml(yaml.safe_dump(content), "run/config.yaml")


class TestDifferences:
    def test_equal_configurations_have_none(self):
        assert differences(TrainConfig(), TrainConfig()) == []

    @pytest.mark.parametrize("name", [n for n in NAMES if n != "warp"])
    def test_just_what_alters_the_weights_path_is_named(self, name):
        old = TrainConfig()
        new = old.with_options(**{name: OTHER[name][1]})
        if name in FREE:
            assert differences(old, new) == []
        else:
            was, spelling = NAMED[name].get(old), NAMED[name].spelling
            assert differences(old, new) == [f"--{spelling} {was} -> {OTHER[name][1]}"]

    def test_a_warps_values_are_named_one_by_one(self):
        new = TrainConfig().with_options(invariance_warp_rotate=5)
        assert differences(TrainConfig(), new) == ["--invariance.warp.rotate 20 -> 5.0"]

    def test_all_that_differ_are_named(self):
        new = TrainConfig().with_options(seed=5, steps=1, lr_g=0.5)
        assert differences(TrainConfig(), new) == ["--seed 0 -> 5", "--lr-g 0.001 -> 0.5"]

"""The configuration: its command line, its checks, its form on disk."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan.config import TrainConfig, check, differences, from_yaml, parse, to_yaml
from fastinfogan.errors import UserError
from fastinfogan.latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.presets import PRESETS

# every option, another value than the default's, as typed and as meant
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
    "warp": ("rotate=5,flip=0.5", "rotate=5,flip=0.5"),
    "upright": ("0.2", 0.2),
    "vat": ("2", 2.0),
    "vat_start": ("7", 7),
    "vat_stop": ("9", 9),
    "vat_radius": ("0.5", 0.5),
    "objective": ("hinge", "hinge"),
    "label_smoothing": ("0.1", 0.1),
    "spectral_norm": ("", True),  # a flag
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
    "memory_format": ("contiguous", "contiguous"),
    "threads": ("4", 4),
}
FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]
OPTIONS = [name for name in FIELDS if name != "preset"]
# what the contract lets a resumed run change
FREE = {
    "precision",  # what these two resolve to is compared with the checkpoint
    "data",
    "stream",
    "steps",
    "out",
    "resume",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep",
    "threads",
}


def typed(*names: str) -> list[str]:
    words = ((f"--{name.replace('_', '-')}", OTHER[name][0]) for name in names)
    return [word for pair in words for word in pair if word]


class TestCommandLine:
    def test_the_table_above_has_every_field(self):
        assert list(OTHER) == FIELDS

    def test_without_arguments_it_is_the_mnist_preset(self):
        assert parse([]) == PRESETS["mnist"]

    @pytest.mark.parametrize("name", PRESETS)
    def test_a_presets_name_gives_its_values(self, name):
        assert parse([name]) == PRESETS[name]
        assert parse([name]).preset == name
        check(parse([name]))

    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_an_option_overrides_its_field_and_no_other(self, preset, name):
        changed = {name: OTHER[name][1]}
        assert parse([preset, *typed(name)]) == replace(PRESETS[preset], **changed)

    def test_all_options_at_once_wherever_the_preset_stands(self):
        expected = TrainConfig(**{name: value for name, (_, value) in OTHER.items()})
        assert parse(["mnist-paper", *typed(*OPTIONS)]) == expected
        assert parse([*typed(*OPTIONS), "mnist-paper"]) == expected

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
        assert all(f"--{name.replace('_', '-')}" in text for name in OPTIONS)


class TestPresets:
    def test_mnist_differs_from_the_papers_recipe_in_what_it_says_alone(self):
        extension = {"real_info", "follow", "followed", "warp", "info_start", "info_ramp"}
        extension |= {"vat", "vat_start", "vat_stop"}
        rates = {"lr_d", "decay_start", "decay_steps", "steps"}
        ours, papers = PRESETS["mnist"], PRESETS["mnist-paper"]
        fields = extension | rates | {"preset"}
        changed = {name for name in FIELDS if getattr(ours, name) != getattr(papers, name)}
        assert changed <= fields

    def test_the_papers_recipe_has_no_extension(self):
        config = PRESETS["mnist-paper"]
        off = (
            "real_info",
            "follow",
            "upright",
            "vat",
            "info_start",
            "info_ramp",
            "decay_steps",
            "label_smoothing",
        )
        assert not any(getattr(config, name) for name in off)

    def test_mnist_paper_has_the_papers_values(self):
        """Appendix C.1, and openai/InfoGAN where the paper is silent."""
        config = PRESETS["mnist-paper"]
        assert (config.lr_d, config.lr_g, config.beta1) == (2e-4, 1e-3, 0.5)
        assert (config.steps, config.batch_size, config.info_weight) == (5000, 128, 1.0)
        assert config.routing == "openai"
        assert (config.image_size, config.channels) == (28, 1)
        assert config.spec() == LatentSpec(
            noise=62, codes=(Categorical(10), Uniform(-1, 1), Uniform(-1, 1))
        )
        assert config.spec().input_dim == 74

    @pytest.mark.parametrize("name", PRESETS)
    def test_a_run_goes_to_a_folder_of_its_presets_name_by_default(self, name):
        assert PRESETS[name].run_dir == Path("runs") / name
        assert replace(PRESETS[name], out=Path("x")).run_dir == Path("x")


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
            *(
                (name, value)
                for name in ("lr_d", "lr_g", "info_weight", "info_from", "r1", "r2", "contrastive")
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
            check(replace(TrainConfig(), **{name: value}))
        message = str(caught.value)
        assert f"--{name.replace('_', '-')}" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"label_smoothing": 0.1, "objective": "hinge"}, "--label-smoothing: .*got hinge"),
            ({"r1": 1.0, "compile": "on"}, "--r1: .*--compile on"),
            ({"r2": 1.0, "capture": "on"}, "--r2: .*--capture on"),
            ({"r1": 1.0, "precision": "fp16"}, "--r1: fp16"),
            ({"contrastive": 1.0, "codes": "cat10"}, "--contrastive: .*got --codes cat10"),
            ({"contrastive": 1.0, "batch_size": 3}, "--contrastive: .*got 3"),
        ],
    )
    def test_what_does_not_go_together_is_refused_in_one_line(self, changes, told):
        with pytest.raises(UserError, match=f"^{told}") as caught:
            check(replace(TrainConfig(), **changes))
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
            ("codes", " cat2 , bernoulli*0 "),
        ],
    )
    def test_the_last_good_value_is_taken(self, name, value):
        check(replace(TrainConfig(), **{name: value}))


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


texts = st.text(st.characters(codec="utf-8"), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    TrainConfig,
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

    def test_every_field_comes_back(self):
        config = TrainConfig(**{name: value for name, (_, value) in OTHER.items()})
        assert from_yaml(to_yaml(config), "here") == config

    def test_it_is_plain_yaml_with_a_line_per_field(self):
        text = to_yaml(TrainConfig())
        assert list(yaml.safe_load(text)) == FIELDS
        assert len(text.splitlines()) == len(FIELDS)

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
    def test_what_is_no_configuration_is_refused_in_one_line(self, text):
        with pytest.raises(UserError) as caught:
            from_yaml(text, "run/config.yaml")
        assert str(caught.value).startswith("run/config.yaml ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("steps", "many"),
            ("image_size", "28"),
            ("channels", 1.5),
            ("codes", 10),
            ("lr_d", "fast"),
            ("batch_size", None),
            ("preset", "cifar"),
            ("routing", ["head"]),
        ],
    )
    def test_a_value_of_another_kind_is_refused(self, field, value):
        """As a hand that edits the file may leave it."""
        fields = yaml.safe_load(to_yaml(TrainConfig())) | {field: value}
        with pytest.raises(UserError, match=field):
            from_yaml(yaml.safe_dump(fields), "run/config.yaml")


class TestDifferences:
    def test_equal_configurations_have_none(self):
        assert differences(TrainConfig(), TrainConfig()) == []

    @pytest.mark.parametrize("name", FIELDS)
    def test_just_what_alters_the_weights_path_is_named(self, name):
        old = TrainConfig()
        new = replace(old, **{name: OTHER[name][1]})
        if name in FREE:
            assert differences(old, new) == []
        else:
            assert differences(old, new) == [f"{name} {getattr(old, name)} -> {OTHER[name][1]}"]

    def test_all_that_differ_are_named(self):
        new = replace(TrainConfig(), seed=5, steps=1, lr_g=0.5)
        assert differences(TrainConfig(), new) == ["seed 0 -> 5", "lr_g 0.001 -> 0.5"]

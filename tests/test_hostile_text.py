"""YAML and JSON that no program wrote: every reader ends in one line, whatever the text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan.atomic import parse_json
from fastinfogan.config import from_yaml, to_yaml
from fastinfogan.errors import UserError
from fastinfogan.options import parse_yaml
from fastinfogan.presets import PRESETS
from fastinfogan.runs.folder import RunDir
from fastinfogan.training import metrics

GOOD = to_yaml(PRESETS["mnist"])
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
YAML = {
    "a date that is none": "seed: 2024-13-45",
    "a timestamp that is none": "seed: !!timestamp never",
    "5,000 digits": "seed: " + "9" * 5000,
    "nested lists": "[" * 3000,
    "nested names": "\n".join(" " * i + "a:" for i in range(2000)),
    "nested flow": "seed: " + "{a: " * 2000,
    "aliases that grow": LAUGHS,
    "an alias of itself": "seed: &s [*s]",
    "a Python object": "seed: !!python/object/apply:os.system [exit]",
    "a number of an unknown base": "seed: !!int 0xzz",
    "a float that is none": "seed: !!float x",
    "binary that is none": "seed: !!binary 1",
    "a name that is a list": "? [1]\n: 2",
    "a merge of a number": "<<: 3",
    "control characters": "seed: \x00\x07",
    "surrogates": "seed: \udcff",
    "tabs": "seed:\n\t- 1",
    "nothing": "",
    "two documents": "a: 1\n---\nb: 2",
}


def one_line(error: BaseException) -> None:
    assert str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 500


@pytest.mark.parametrize("added", ["alone", "to a configuration"])
@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_an_invalid_configuration_is_refused_in_one_line(text: str, added: str) -> None:
    with pytest.raises(UserError) as caught:
        from_yaml(text if added == "alone" else GOOD + text + "\nunknown: 1\n", "RUN/config.yaml")
    one_line(caught.value)
    assert "RUN/config.yaml is not a configuration of fastinfogan" in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_yaml_or_a_value_error(text: str) -> None:
    try:
        parse_yaml(text)
    except ValueError as error:
        one_line(error)


JSON = {
    "nested lists": "[" * 100_000,
    "nested names": '{"a":' * 100_000,
    "5,000 digits": "9" * 5000,
    "torn": '{"step": 3, "accura',
    "a number": "3",
    "a list": "[1, 2]",
    "text": '"text"',
    "surrogates": '{"a": "\\ud800"}',
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_invalid_json_is_a_value_error(text: str) -> None:
    try:
        parse_json(text)
    except ValueError as error:
        one_line(error)


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_a_run_s_files_that_hold_something_else_are_no_traceback(
    small_run: Path, tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    run = RunDir(folder)
    run.metrics.write_text(text + "\n" + run.metrics.read_text())
    assert metrics.read(run.metrics)  # the good lines
    run.evaluation.write_text(text)
    with pytest.raises(UserError) as caught:
        run.read_matching(2)
    one_line(caught.value)

"""Bad inputs by every door: one line that says what to do, and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.chaos import SEED, campaign
from helpers.runs import command, write_images
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import fastinfogan
from fastinfogan import train
from fastinfogan.config import OPTIONS, from_yaml, to_yaml
from fastinfogan.errors import UserError
from fastinfogan.presets import PRESETS
from fastinfogan.runs import loop

CAMPAIGN: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],  # a failure is shown as it was drawn: runs are too slow to shrink
    "suppress_health_check": list(HealthCheck),
}
ADVICE = re.compile(
    r"expected|a code is|are needed|lower |has no |use |choose|give|add |leave out|install|raise |"
    r"run |needs|did you mean|no such|must|is for|cannot write|check |write "
)


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End runs before their first update, so that valid arguments take no time."""

    def nothing(self: loop.Training) -> int:
        self.batches.close()
        self._unlock()
        return 0

    monkeypatch.setattr(loop.Training, "run", nothing)
    threads = torch.get_num_threads()
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


def assert_one_line(message: str) -> None:
    assert "\n" not in message.strip(), message
    assert ADVICE.search(message), message


def by_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run the command. A refusal is one line, or the box of the command line's parser."""
    AcceleratorState._reset_state(True)
    capsys.readouterr()
    try:
        code = train.main(args)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        assert code in (0, 2), args
        return code
    output = capsys.readouterr().err.strip()
    if code:
        assert code == 2, (args, output)
        assert output.startswith("error: "), (args, output)
        assert_one_line(output)
    return code


def by_call(work: Callable[[], Any]) -> bool:
    """Call from Python. Returns True where it is refused, in one line."""
    AcceleratorState._reset_state(True)
    try:
        work()
    except UserError as error:
        assert_one_line(str(error))
        return True
    return False


NASTY = (
    *("", " ", "-", "--", "nan", "inf", "-inf", "-1", "0", "1e999", "9" * 400, "0x10", "1_000"),
    *("None", "null", "true", "[]", "{}", "%s", "$(x)", "é", "💥", "\n", "a" * 5000, "../..", "~"),
    *(
        "~no-such-user/x",
        "/dev/null",
        "/dev/stdin",
        "/proc/self/mem",
        "cat",
        "cat-1",
        "cat1",
        "cat2,,",
    ),
    *("uniform*", "uniform*nan", "x=1", "rotate", "rotate=", "rotate=nan", "a:b", "a.b:c", ":"),
    *("npz:", "folder:", "folder:/nowhere", "hf:", "tar:", "parquet:", "npy:/dev/zero", "idx:."),
    *("١", "1,2", "1;2", "'", '"', "\\", "C:\\x", "//", "http://x", "os:system", "json:loads"),
)
# Where any whole number is allowed, a large one is no mistake but takes the machine's memory.
SIZES = ("noise", "threads", "image-size", "channels", "batch-size")


@campaign(sample=25, full=400)
def test_options_of_any_text_are_refused_in_one_line(
    data: Path, tmp_path: Path, cases: int, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = st.integers(-(2**70), 2**70).map(str) | st.floats().map(str)
    anything = st.sampled_from(NASTY) | numbers | st.text(st.characters(codec="utf-8"))
    names = st.sampled_from([name for name in OPTIONS if name not in (*SIZES, "out", "preset")])
    small = st.tuples(st.sampled_from(SIZES), st.sampled_from(NASTY) | st.floats().map(str))

    @seed(SEED)
    @settings(max_examples=cases, **CAMPAIGN)
    @given(st.tuples(names, anything) | small)
    def refuse(pair: tuple[str, str]) -> None:
        name, value = pair
        by_command(command(data, tmp_path / "run", f"--{name}={value}"), capsys)

    refuse()


@campaign(sample=20, full=200)
def test_a_config_yaml_of_any_values_is_refused_in_one_line(cases: int) -> None:
    text = to_yaml(PRESETS["mnist"])
    lines = text.splitlines()
    nasty = ("2001-99-99", "!!python/object:os.system x", "&a [*a]", "*a", "[" * 3000, "? x", "- x")

    @seed(SEED)
    @settings(max_examples=cases, **CAMPAIGN)
    @given(
        st.integers(0, len(lines) - 1),
        st.sampled_from((*NASTY, *nasty)) | st.text(),
        st.booleans(),
    )
    def refuse(at: int, value: str, whole: bool) -> None:
        name = lines[at].partition(":")[0]
        changed = [*lines[:at], value if whole else f"{name}: {value}", *lines[at + 1 :]]
        by_call(lambda: from_yaml("\n".join(changed), "config.yaml"))

    refuse()


ENVIRONMENT = [
    ("OMP_NUM_THREADS", "many"),
    ("OMP_NUM_THREADS", "-1"),
    ("WORLD_SIZE", "two"),
    ("WORLD_SIZE", "0"),
    ("WORLD_SIZE", "-1"),
    ("LOCAL_WORLD_SIZE", "x"),
    ("LOCAL_WORLD_SIZE", "0"),
    ("RANK", "first"),
    ("ACCELERATE_MIXED_PRECISION", "fp7"),
    ("ACCELERATE_USE_CPU", "perhaps"),
    ("ACCELERATE_USE_FSDP", "true"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "x"),
    ("ACCELERATE_DYNAMO_BACKEND", "x"),
    ("HOME", ""),
    ("HOME", "/nowhere"),
    ("TMPDIR", "/nowhere"),
    ("COLUMNS", "x"),
    ("COLUMNS", "1"),
    ("MPLCONFIGDIR", "/dev/null"),
    ("PYTHONIOENCODING", "none"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), ENVIRONMENT)
def test_variables_of_any_value_are_followed_or_refused_in_one_line(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    line = command(data, tmp_path / "run")
    at = line.index("--threads")
    by_command([*line[:at], *line[at + 2 :]], capsys)


def images(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


CALLS: list[dict[str, Any]] = [
    {"preset": 3},
    {"preset": None},
    {"preset": "mnits"},
    {"data": 3},
    {"data": []},
    {"data": {}},
    {"data": object()},
    {"data": images()},
    {"data": images(0)},
    {"data": images(0, 8, 8)},
    {"data": images(120, 8)},
    {"data": images(120, 8, 9)},
    {"data": images(120, 8, 8, 1, 1)},
    {"data": images(120, 8, 8, dtype=object)},
    {"data": images(120, 8, 8, dtype="U3")},
    {"data": images(120, 8, 8, dtype=np.complex64)},
    {"data": images(120, 8, 8, dtype=np.float64)},
    {"data": np.full((120, 8, 8), np.nan)},
    {"data": torch.zeros(3)},
    {"data": torch.zeros(120, 8, 8, device="meta")},
    {"data": [(images(8, 8), "label")] * 120},
    {"data": [images(8, 8), images(9, 9)] * 60},
    {"data": [None] * 120},
    {"data": "npz:/nowhere"},
    {"data": "a\0b"},
    {"data": b"npz:x"},
    {"data": Path("x")},
    {"networks": 3},
    {"networks": "mnits"},
    {"networks": "a:b"},
    {"networks": lambda: None},
    {"networks": lambda **_: None},
    {"networks": lambda **_: (1, 2)},
    {"networks": lambda **_: (torch.nn.Identity(), torch.nn.Identity())},
    {"terms": 3},
    {"terms": [3]},
    {"terms": ["a:b"]},
    {"terms": [object()]},
    {"callbacks": 3},
    {"callbacks": [3]},
    {"steps": "many"},
    {"steps": 0},
    {"steps": 1.5},
    {"steps": None},
    {"steps": True},
    {"seed": -1},
    {"seed": 2**70},
    {"batch_size": 1},
    {"batch_size": 10**9},
    {"codes": 3},
    {"codes": "cat1"},
    {"codes": ""},
    {"codes": ("cat3",)},
    {"noise": -1},
    {"noise": 10**30},
    {"noise": 10**15},
    {"out": 3},
    {"out": "a\0b"},
    {"out": "/dev/null/x"},
    {"out": "/proc/x"},
    {"out": "x" * 5000},
    {"out": "~no-such-user/x"},
    {"lr_d": "fast"},
    {"lr_d": float("nan")},
    {"lr_d": float("inf")},
    {"lr_d": 1j},
    {"lr_d": -1e-3},
    {"precision": "fp8"},
    {"precision": "fp16"},
    {"precision": torch.bfloat16},
    {"warp": "rotate"},
    {"warp": 3},
    {"resume": 3},
    {"resume": "a\0b"},
    {"track": "nobody"},
    {"objective": "x"},
    {"objective": "os:nothing"},
    {"threads": -1},
    {"threads": 10**30},
    {"image_size": 7},
    {"image_size": 10**9},
    {"channels": 0},
    {"stepz": 3},
    {"backend": "cuda"},
    {"compile": True},
    {"ema": 1.0},
    {"beta1": 1.0},
    {"spectral_norm": "yes"},
    {"vat": "much"},
]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS, ids=map(str, range(len(CALLS))))
def test_arguments_of_fit_of_any_type_are_refused_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: dict[str, Any]
) -> None:
    monkeypatch.setattr("fastinfogan.evaluation.fitting.load", lambda _: None)
    plain = {"image_size": 8, "batch_size": 16, "codes": "cat3,uniform", "noise": 4}
    given = {"preset": "mnist", "data": f"npz:{data}", "out": tmp_path / "run", **plain, **call}
    if not isinstance(given["data"], str):
        del given["image_size"]
    preset = given.pop("preset")
    assert by_call(lambda: fastinfogan.fit(preset, **given)), call

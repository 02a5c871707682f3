"""The progress line: what fits on a terminal of 80 columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastinfogan.config import TrainConfig
from fastinfogan.latents import parse_codes
from fastinfogan.parallel import Ranks
from fastinfogan.presets import PRESETS
from fastinfogan.training import progress

CONFIG = PRESETS["mnist"]


def bar_of(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the bar on a terminal says after its name and time."""
    monkeypatch.setattr(progress, "is_terminal", lambda _: True)
    spec = config.spec()
    record: dict[str, Any] = {
        "step": 1050,
        "images_per_second": 1234.0,
        "d_loss": 1.0,
        "information_calibrated": dict.fromkeys(spec.names, -0.25),
    }
    with progress.Progress(
        config, spec, cast(Ranks, SimpleNamespace(is_main=True, world_size=1)), 0
    ) as shown:
        shown.show(record)
        return str(shown._bar.postfix)


def test_the_bar_has_the_information_of_three_codes_in_80_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = bar_of(CONFIG, monkeypatch)
    assert text == "1,234 images/s, nats: c1 -0.25 c2 -0.25 c3 -0.25"
    assert len(f"1050/4000| | 1:10:54<3:53:36, {text}") <= 80


def test_the_bar_leaves_out_codes_of_weight_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CONFIG.with_options(codes="gaussian8*0,cat10,embedding=gaussian32*0,uniform")
    assert bar_of(config, monkeypatch).endswith("nats: c2 -0.25 c4 -0.25")


def test_the_bar_has_names_that_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = "digit=cat10,c2_slant=uniform"
    assert parse_codes(codes)[0].name == "digit"
    text = bar_of(CONFIG.with_options(codes=codes), monkeypatch)
    assert "digit -0.25" in text

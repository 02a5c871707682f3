"""Times per update of the presets: a line of a preset, and its row on the page of all runs."""

import json
from pathlib import Path

import pytest

from fastinfogan.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test import the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def test_a_preset_is_timed_at_its_own_batch_and_gets_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import preset_times
    import quality_page

    out = tmp_path / "times.jsonl"
    preset_times.main(preset_times.Config(presets=("dsprites",), updates=2, out=out))
    line = json.loads(out.read_text())
    assert (line["preset"], line["batch"], line["updates"]) == ("dsprites", 64, 6000)
    assert line["data"] == "dsprites-like"
    assert len(line["seconds"]) == 2
    each = sum(line["seconds"]) / 2  # the median of two
    assert line["minutes"] == pytest.approx(6000 * each / 60, rel=0.05)
    assert line["images_per_second"] == pytest.approx(64 / each, rel=0.05)
    assert "dsprites: " in capsys.readouterr().out
    page = quality_page.times([line | {"minutes": 0}, line])  # the last line of a preset counts
    assert page.count("| dsprites | dsprites-like | 64 | ") == 1
    assert f"| {line['minutes']:,.0f} |" in page
    where = line["environment"]
    assert f"{where['device_name']}, {where['threads']} threads" in page


def test_noise_of_its_shape_stands_in_for_a_set_that_is_missing(tmp_path: Path) -> None:
    import preset_times

    config = PRESETS["celeba"].with_options(data=f"folder:{tmp_path}/none")
    name, images = preset_times.images_of(config)
    assert name == "noise"
    assert images.shape == (10 * config.batch_size, 32, 32, 3)


def test_updates_with_and_without_a_generator_are_timed_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import preset_times

    config = PRESETS["mnist"].with_options(batch_size=4, gan_start=7, steps=100)
    numbers: list[int] = []
    clock = [0.0]

    class Recorded(preset_times.Step):  # type: ignore[name-defined]
        def __call__(self, n, real):
            numbers.append(n)
            clock[0] += 1.0 if n < 7 else 10.0
            return super().__call__(n, real)

    monkeypatch.setattr(preset_times, "Step", Recorded)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    line = preset_times.measure("mnist", config, updates=2)
    assert numbers == [0, 1, 2, 7, 8, 9]
    assert line["seconds"] == [10, 10]
    assert line["minutes"] == round((7 * 1 + 93 * 10) / 60, 1)

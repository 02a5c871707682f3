"""The command that measures seeds: what it files, what it reads off a record, when it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import runs

from fastinfogan.presets import PRESETS


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def record(seed: int = 0, **more: Any) -> dict[str, Any]:
    result = {"code_accuracy": 0.5, **more.pop("result", {})}
    return {"name": "x", "seed": seed, "accuracies": [], "result": result, **more}


@pytest.mark.slow
def test_seeds_are_trained_filed_and_left_alone_when_they_are_there(tmp_path, capfd, monkeypatch):
    import quality

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    images = runs.write_images(tmp_path / "images.npz")
    options = " ".join([*runs.SMALL, "--threads", "1", "--steps", "4", "--data", f"npz:{images}"])
    config = quality.Config(
        "mnist-paper",
        seeds=(3,),
        out=tmp_path / "deep" / "figures.jsonl",
        runs=tmp_path / "runs",
        name="small",
        options=options,
        checkpoint_every=2,
    )
    quality.main(config)
    (r,) = [json.loads(line) for line in config.out.read_text().splitlines()]
    assert (r["name"], r["seed"], r["updates"], r["threads"]) == ("small", 3, 4, 1)
    assert [step for step, _ in r["accuracies"]] == [2, 4]
    assert r["accuracies"][-1][1] == r["result"]["code_accuracy"]
    assert r["seconds"] > 0
    assert (r["recipe"]["steps"], r["recipe"]["codes"]) == (4, "cat3,uniform")
    assert not {"seed", "out", "threads"} & r["recipe"].keys()
    kept = (config.runs / "small" / "seed-3" / "checkpoints").iterdir()
    assert [path.name for path in kept if path.is_dir()] == ["step-00000004"]
    text = config.out.read_text()
    capfd.readouterr()
    quality.main(config)
    assert config.out.read_text() == text
    output = capfd.readouterr().out
    assert output.startswith("| seed | code accuracy")
    other = quality.Config(**{**vars(config), "options": options + " --info-weight 2"})
    with pytest.raises(SystemExit, match=r"seed 3 of another recipe under 'small': .*--name"):
        quality.main(other)


def test_a_level_that_was_not_reached_is_later_than_all_and_one_not_timed_is_left_out():
    import quality

    seen = {"accuracies": [(100, 0.9)]}
    timed = record(0, **seen, **{"updates_to_0.9": 100, "seconds_to_0.9": 40.0})
    resumed = record(1, **seen, **{"updates_to_0.9": 100})
    missed = record(2, **seen)
    unlabelled = record(3)
    values = [quality.value(r, "seconds_to_0.9") for r in (timed, resumed, missed, unlabelled)]
    assert values == [40, None, math.inf, None]
    lines = quality.table(dict(enumerate((timed, resumed, missed)))).splitlines()
    column = lines[0].split(" | ").index("s to 0.9")
    reported = [line.strip(" |").split(" | ")[column] for line in lines[2:]]
    assert reported == ["40.0", "–", "not reached", "not reached", "40.0–not reached"]


def test_slant_and_width_are_of_two_codes():
    import quality

    def codes(**rhos: float | None) -> dict[str, Any]:
        return {name: {"within": rho} for name, rho in rhos.items()}

    factors = {"slant": codes(c2=0.9, c3=-0.3), "stroke_width": codes(c2=-0.8, c3=0.6)}
    of = record(result={"factors": factors})
    assert (quality.value(of, "slant"), quality.value(of, "stroke_width")) == (0.9, 0.6)
    newer = {name: {"code": "c2", "codes": of} for name, of in factors.items()}
    of = record(result={"factors": newer})
    assert (quality.value(of, "slant"), quality.value(of, "stroke_width")) == (0.9, 0.6)
    factors = {"slant": codes(c2=0.9, c3=0.8), "stroke_width": codes(c2=0.85, c3=0.1)}
    of = record(result={"factors": factors})
    assert (quality.value(of, "slant"), quality.value(of, "stroke_width")) == (0.8, 0.85)
    alone = record(result={"factors": {"slant": codes(c2=0.9), "stroke_width": codes(c2=0.9)}})
    assert quality.value(alone, "slant") is None
    flat = {"slant": codes(c2=None, c3=0.4), "stroke_width": codes(c2=0.1, c3=0.1)}
    assert quality.value(record(result={"factors": flat}), "slant") == 0.4
    assert quality.value(record(result={"factors": None}), "slant") is None


def test_disentanglement_is_shown_where_there_is_any():
    import quality

    of = record(result={"disentanglement": {"factorvae": 0.75, "mig": 0.25}})
    assert quality.value(of, "factorvae") == 0.75
    header, *_ = quality.table({0: of}).splitlines()
    assert "FactorVAE | MIG" in header
    assert "FactorVAE" not in quality.table({0: record()})


def test_a_factor_s_correlation_is_a_figure_and_a_column():
    import quality

    factors = {"azimuth": {"correlation": -0.9}, "light": {"correlation": None}}
    r = record(result={"factors": factors})
    assert quality.value(r, "factor azimuth") == 0.9
    assert quality.value(r, "factor light") is None
    assert quality.value(r, "factor other") is None
    assert quality.table({0: r}).splitlines()[0] == "| seed | code accuracy | azimuth ρ |"


def test_the_page_says_what_is_short_met_and_not_run():
    import quality_page

    records = [
        record(seed, name="fashion-mnist", updates=7, recipe={"preset": "fashion-mnist"})
        | {"result": {"code_accuracy": accuracy}}
        for seed, accuracy in ((0, 0.7), (1, 0.74), (3, 0.9))
    ]
    text = quality_page.section("fashion-mnist", records)
    assert "7 updates." in text
    assert "Not run as it ships: seeds 2, 4." in text
    assert "| code accuracy, median ≥ 0.75 | 0.7400: short by 0.0100, 3 runs |" in text
    assert "![Images of fashion-mnist's codes](fashion-mnist.png)" in text
    assert "not measured |" in quality_page.section("faces", [])

    lower = quality_page.Target("frechet", "Fréchet", max, 6.0, at_most=True)
    assert "5.0000: met, 1 run " in lower.line([record(result={"frechet": 5.0})])
    records[0]["name"] = "fashion-mnist --warp none"
    assert "**fashion-mnist --warp none**: 7 updates." in quality_page.section("x", records)


def test_a_preset_counts_the_runs_of_one_with_the_same_options():
    import quality_page

    assert quality_page.twin("faces-lighting") == "faces"
    assert quality_page.twin("mnist") is None
    records = map(json.loads, quality_page.FIGURES.read_text().splitlines())
    run = next(r for r in records if (r["name"], r["seed"], r["updates"]) == ("faces", 0, 3000))
    text = quality_page.section("faces-lighting", [], [run])
    assert "the runs of [faces](#faces)" in text
    assert "Not run as it ships: seeds 1, 2." in text
    assert "light_azimuth, every seed ≥ 0.9 | 0.9649: met, 1 run |" in text


def test_runs_that_count_for_a_preset_under_another_name_have_its_options():
    import quality
    import quality_page

    records = map(json.loads, quality_page.FIGURES.read_text().splitlines())
    of_name = {name: preset for preset, name in quality_page.SAME_OPTIONS.items()}
    counted = [record for record in records if record["name"] in of_name]
    assert {record["name"] for record in counted} == set(of_name)
    for record in counted:
        options = f"--data {record['result']['data']}"
        config = quality.Config(of_name[record["name"]], options=options)
        of_run, of_preset = (
            {
                key: set(str(value).split(","))
                for key, value in recipe.items()
                if key not in ("compile", "preset")  # both were typed for another preset
            }
            for recipe in (record["recipe"], quality.recipe(config))
        )
        assert of_run == of_preset


def test_the_page_in_the_repository_is_that_of_its_figures():
    import quality_page

    figures = (quality_page.FIGURES, quality_page.TIMES)
    records, timed = ([json.loads(line) for line in f.read_text().splitlines()] for f in figures)
    assert quality_page.PAGE.read_text() == quality_page.page(records, timed)
    assert {line["preset"] for line in timed} == set(PRESETS)
    for picture in quality_page.PICTURES.values():
        assert (quality_page.PAGE.parent / picture).is_file()

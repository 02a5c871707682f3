"""The examples run as they stand, in seconds, and stay short."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastinfogan
from fastinfogan.data import from_range, load

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_under_60_lines(example):
    assert len(example.read_text().splitlines()) < 60


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["own_networks", "notebook_fit"])
def test_an_example_runs(name, tmp_path):
    root = FOLDER.parent
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels"))),
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "checkpoints" / "step-00000020").is_dir()


@pytest.mark.slow
def test_a_run_becomes_a_labelled_set_that_data_reads(small_run, tmp_path):
    out = tmp_path / "drawn.npz"
    arguments = [str(small_run), str(out), "--count", "600", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "labelled_set.py"), *arguments],
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout
    generator, _, spec = fastinfogan.load(small_run)
    matching = json.loads((small_run / "eval.json").read_text())["matching"]
    batch = spec.sample(600, seed=3)
    with np.load(out) as made, torch.inference_mode():
        expected = [matching[c] for c in batch.categorical[:, 0]]
        kept = [label is not None for label in expected]
        assert made["labels"].tolist() == [label for label in expected if label is not None]
        drawn = from_range(generator(batch.input), generator.image_range).numpy()[kept]
        assert np.abs(made["images"].astype(int) - drawn).max() <= 1
        names = [str(name) for name in made["factor_names"]]
        assert names == ["c3_uniform[0]", "c4_gaussian[0]", "c4_gaussian[1]"]
        np.testing.assert_array_equal(made["factors"], batch.continuous[kept])
    images = load(f"npz:{out}", image_size=8, channels=1)
    assert list(images["train"].factor_names) == names


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands_and_holds_no_outputs(tmp_path):
    pytest.importorskip("nbmake")
    text = (FOLDER / "tour.ipynb").read_text("utf-8")
    assert all(not cell.get("outputs") for cell in json.loads(text)["cells"])
    shutil.copy(FOLDER / "tour.ipynb", tmp_path)
    root = FOLDER.parent
    options = ["--nbmake", "--nbmake-timeout=1200", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / "tour.ipynb")],
        cwd=tmp_path,
        env=os.environ
        | {
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels"))),
            "STEPS": os.environ.get("STEPS", "20"),  # 200 as a reader runs it
        },
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    run = tmp_path / "runs" / "tour"  # a shell line that fails ends no cell, so by its files
    assert "code_accuracy" in json.loads((run / "eval.json").read_text("utf-8"))
    assert (run / "explore.html").stat().st_size > 10_000_000


@pytest.mark.slow
def test_the_lightning_example_trains_and_logs_nats_by_name(tmp_path):
    pytest.importorskip("lightning")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "lightning_module.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cluster: " in done.stdout + done.stderr

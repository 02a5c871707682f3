"""--watch-labels: the code accuracy at each log interval, by labels that training never sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import command, records, tensors, write_images

from fastinfogan import train


def run(tmp_path: Path, name: str, *more: str, labels: bool = True) -> tuple[int, Path]:
    images = write_images(tmp_path / "images.npz", labels=labels)
    out = tmp_path / name
    options = ("--steps", "4", "--log-every", "2", *more)
    return train.main(["mnist-paper", *command(images, out, *options)]), out


def test_the_accuracy_is_shown_and_kept_and_changes_no_weight(tmp_path, capsys):
    _, plain = run(tmp_path, "plain")
    capsys.readouterr()
    code, watched = run(tmp_path, "watched", "--watch-labels")
    assert code == 0
    assert "% sorted (labels not used in training)" in capsys.readouterr().err
    assert all(0.3 <= record["code_accuracy"] <= 1 for record in records(watched))
    assert "code_accuracy" not in records(plain)[0]
    ours, theirs = tensors(watched, 4), tensors(plain, 4)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("more", "labels", "message"),
    [
        ((), False, "the images have no labels"),
        (("--codes", "uniform,uniform"), True, "there is no categorical code"),
    ],
)
def test_watch_labels_is_refused_before_training_without_labels_or_a_category(
    tmp_path, capsys, more, labels, message
):
    code, out = run(tmp_path, "run", "--watch-labels", *more, labels=labels)
    assert code == 2
    assert f"error: --watch-labels: {message}" in capsys.readouterr().err
    assert not list(out.glob("checkpoints/*"))

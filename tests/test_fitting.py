"""Training from Python: `fastinfogan.fit`."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import records, tensors
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import fastinfogan
from fastinfogan.errors import UserError

SMALL: dict[str, Any] = {"codes": "cat2,uniform", "noise": 3, "batch_size": 8, "ema": 0.9}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    # Pictures and the evaluation take seconds; what they are given is tested elsewhere.
    monkeypatch.setattr("fastinfogan.runs.loop.Training._draw", lambda *_: None)
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)


def images(n: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)


def fit(out: Path, data: Any = None, **options: Any) -> Any:
    data = images() if data is None else data
    return fastinfogan.fit("mnist-paper", data=data, out=out, **{**SMALL, "steps": 2, **options})


def same(one: Path, other: Path, step: int) -> bool:
    first, second = tensors(one, step), tensors(other, step)
    return all(torch.equal(value, second[name]) for name, value in first.items())


class TestResult:
    def test_it_returns_what_load_returns(self, tmp_path):
        generator, discriminator, spec = fit(tmp_path / "run")
        loaded = fastinfogan.load(tmp_path / "run")
        assert spec == loaded.spec
        for module, other in ((generator, loaded[0]), (discriminator, loaded[1])):
            for name, value in other.state_dict().items():
                assert torch.equal(module.state_dict()[name], value)
        assert generator(spec.sample(3).input).shape == (3, 1, 8, 8)

    def test_running_again_resumes(self, tmp_path):
        fit(tmp_path / "two")
        fit(tmp_path / "two", steps=4)
        fit(tmp_path / "one", steps=4)
        assert same(tmp_path / "one", tmp_path / "two", 4)

    def test_a_command_line_run_gives_the_same_weights(self, tmp_path):
        from fastinfogan import train

        np.savez(tmp_path / "x.npz", images=images())
        args = ["mnist-paper", "--data", f"npz:{tmp_path / 'x.npz'}", "--image-size", "8"]
        args += ["--codes", "cat2,uniform", "--noise", "3", "--batch-size", "8", "--ema", "0.9"]
        args += ["--steps", "2", "--threads", "1", "--out", str(tmp_path / "command")]
        assert train.main(args) == 0
        fit(tmp_path / "python")
        assert same(tmp_path / "command", tmp_path / "python", 2)


class TestStreamedFolder:
    def test_a_file_that_vanishes_ends_the_run_with_its_name_and_the_run_goes_on_once_it_is_back(
        self, tmp_path
    ):
        folder = tmp_path / "set"
        folder.mkdir()
        for i, image in enumerate(images(40)):
            Image.fromarray(image).save(folder / f"{i:02}.png")
        options = {"stream": "always", "image_size": 8, "channels": 1, "log_every": 1, "steps": 24}
        spec, lost = f"folder:{folder}", folder / "17.png"
        content = lost.read_bytes()

        def lose(step: int, record: dict[str, Any]) -> None:
            if step == 1:
                lost.unlink()

        with pytest.raises(UserError, match=r"17\.png: not a readable image .*; saved after"):
            fit(tmp_path / "broken", spec, callbacks=[lose], **options)
        lost.write_bytes(content)
        fit(tmp_path / "broken", spec, **options)
        fit(tmp_path / "whole", spec, **options)
        assert same(tmp_path / "broken", tmp_path / "whole", 24)


class Pairs(Dataset):
    """Images with labels, as torchvision's sets give them."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(images(40)[i]), i % 2


class TestData:
    def test_arrays_tensors_and_datasets_of_the_same_images_give_the_same_weights(self, tmp_path):
        fit(tmp_path / "array", images(40))
        fit(tmp_path / "tensor", torch.from_numpy(images(40))[..., None])
        fit(tmp_path / "pairs", Pairs())
        assert same(tmp_path / "array", tmp_path / "tensor", 2)
        assert same(tmp_path / "array", tmp_path / "pairs", 2)

    def test_other_images_are_refused_on_resume(self, tmp_path):
        fit(tmp_path)
        with pytest.raises(UserError, match=r"was trained with data .*, this run has data "):
            fit(tmp_path, images(seed=1), steps=4)

    def test_colour_images_set_the_number_of_channels(self, tmp_path):
        data = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
        assert fit(tmp_path, data)[0](torch.zeros(1, 6)).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.zeros((20, 8, 8), np.float32), "data: expected uint8 images .* got float32"),
            (np.zeros((20, 8), np.uint8), r"data: expected uint8 images .* got uint8 \[20, 8\]"),
            (np.zeros((20, 3, 8, 8), np.uint8), "data: expected channels last"),
            (np.zeros((9, 8, 8), np.uint8), "data: every 10th image is held out"),
            (np.zeros((20, 8, 12), np.uint8), "data: images are 8x12"),
            (3, "data: expected the name of a set"),
            ([], "data: expected images, got an empty dataset"),
        ],
    )
    def test_an_invalid_image_set_is_refused_in_one_line(self, tmp_path, data, message):
        with pytest.raises(UserError, match=f"^{message}") as caught:
            fit(tmp_path, data)
        assert "\n" not in str(caught.value)

    def test_a_spec_is_read_as_the_command_reads_it(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing\.npz"):
            fit(tmp_path, f"npz:{tmp_path}/nothing.npz")


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"step_s": 3}, "step_s: no such option; did you mean steps"),
            ({"steps": 0}, "--steps: expected at least 1, got 0"),
            ({"steps": "many"}, "--steps: expected a whole number, got 'many'"),
            ({"networks": "dcgan"}, "--networks: expected one of mnist, svhn, .*module.path:func"),
            ({"terms": ["nothing"]}, "--term nothing: expected module.path:Class"),
        ],
    )
    def test_a_wrong_option_raises_user_error(self, tmp_path, options, message):
        with pytest.raises(UserError, match=f"^{message}"):
            fit(tmp_path, **options)

    def test_a_wrong_preset_names_the_presets(self):
        with pytest.raises(UserError, match=r"^preset: expected one of mnist, .*mean mnist\?$"):
            fastinfogan.fit("mnits")

    def test_a_folder_is_free_again_after_an_error(self, tmp_path):
        with pytest.raises(UserError, match="batch"):
            fit(tmp_path, batch_size=1000)
        fit(tmp_path)


class TestCallbacks:
    def test_they_get_each_record_of_the_log(self, tmp_path):
        seen: list[tuple[int, dict]] = []
        fit(tmp_path, steps=6, log_every=2, callbacks=[lambda n, r: seen.append((n, r))])
        assert [step for step, _ in seen] == [2, 4, 6]
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [record for _, record in seen] == [json.loads(line) for line in lines]

    def test_one_that_returns_true_stops_the_run_after_saving(self, tmp_path):
        fit(tmp_path / "a", steps=6, log_every=1, callbacks=[lambda n, _: n == 3])
        assert records(tmp_path / "a")[-1]["step"] == 3
        fit(tmp_path / "a", steps=6, log_every=1)
        fit(tmp_path / "b", steps=6, log_every=1)
        assert same(tmp_path / "a", tmp_path / "b", 6)

    def test_a_keyboard_interrupt_saves_and_is_raised_again(self, tmp_path):
        def interrupt(step: int, record: dict) -> None:
            if step == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, steps=6, log_every=1, callbacks=[interrupt])
        assert (tmp_path / "checkpoints" / "step-00000003").is_dir()

    def test_ctrl_c_saves_and_raises_keyboard_interrupt(self, tmp_path):
        def interrupt(step: int, record: dict) -> None:
            if step == 3:
                signal.raise_signal(signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, steps=6, log_every=1, callbacks=[interrupt])
        assert (tmp_path / "checkpoints" / "step-00000003").is_dir()
        assert signal.getsignal(signal.SIGINT) is before


class TestProcess:
    def test_runs_of_other_precisions_follow_one_another(self, tmp_path):
        for precision in ("fp32", "bf16"):
            fit(tmp_path / precision, precision=precision)
        assert not same(tmp_path / "fp32", tmp_path / "bf16", 2)

    def test_commands_of_other_precisions_follow_one_another(self, tmp_path):
        from fastinfogan import train

        np.savez(tmp_path / "x.npz", images=images())
        words = ["mnist-paper", "--data", f"npz:{tmp_path / 'x.npz'}", "--image-size", "8"]
        words += ["--codes", "cat2,uniform", "--noise", "3", "--batch-size", "8", "--ema", "0.9"]
        words += ["--steps", "2", "--threads", "1"]
        for precision in ("fp32", "bf16"):
            out = tmp_path / precision
            assert train.main([*words, "--precision", precision, "--out", str(out)]) == 0
            fit(tmp_path / f"{precision}-alone", precision=precision)
            assert same(out, tmp_path / f"{precision}-alone", 2)

    def test_the_number_of_threads_stays_the_callers(self, tmp_path):
        threads = torch.get_num_threads()
        fit(tmp_path)
        assert torch.get_num_threads() == threads

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_two_threads_give_the_weights_of_two_runs(self, tmp_path, precision):
        options = {"precision": precision, "steps": 6, "real_info": 1.0, "vat": 1.0, "follow": 1.0}
        options |= {"batch_size": 32}
        data = images(100)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                torch.set_num_threads(1)
                fit(tmp_path / f"together-{seed}", data, seed=seed, **options)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        for seed in (0, 1):
            fit(tmp_path / f"alone-{seed}", data, seed=seed, **options)
            assert same(tmp_path / f"together-{seed}", tmp_path / f"alone-{seed}", 6)


def make_pair(*, input_dim: int, q_dim: int, image_size: int, channels: int) -> Any:
    pixels = channels * image_size**2
    shape = (channels, image_size, image_size)
    generator = nn.Sequential(
        nn.Linear(input_dim, 16), nn.BatchNorm1d(16), nn.Linear(16, pixels), nn.Unflatten(1, shape)
    )
    return generator, Head(pixels, q_dim)


class Head(nn.Module):
    def __init__(self, pixels: int, q_dim: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(pixels, 8), nn.BatchNorm1d(8)
        self.d, self.own = nn.Linear(8, 1), nn.Linear(8, q_dim)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(images.flatten(1)))

    def logit(self, features: torch.Tensor) -> torch.Tensor:
        return self.d(features)[:, 0]

    def q(self, features: torch.Tensor) -> torch.Tensor:
        return self.own(features)

    def q_parameters(self) -> list[nn.Parameter]:
        return list(self.own.parameters())


class TestOwnNetworks:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("step", ["alternating", "reused", "shared"])
    def test_they_train_in_every_mode_and_precision(self, tmp_path, step, precision):
        options = {"step": step, "precision": precision, "real_info": 1.0, "vat": 1.0}
        generator, _, spec = fit(tmp_path, networks=make_pair, **options)
        assert generator(spec.sample(3).input).shape == (3, 1, 8, 8)
        assert all(value.isfinite().all() for value in tensors(tmp_path, 2).values())

    def test_the_seed_decides_their_weights(self, tmp_path):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            torch.manual_seed(len(name) + seed * 7)
            fit(tmp_path / name, networks=make_pair, seed=seed)
        assert same(tmp_path / "a", tmp_path / "b", 2)
        assert not same(tmp_path / "a", tmp_path / "c", 2)

    def test_they_resume_bit_for_bit(self, tmp_path):
        fit(tmp_path / "two", networks=make_pair)
        fit(tmp_path / "two", networks=make_pair, steps=4)
        fit(tmp_path / "one", networks=make_pair, steps=4)
        assert same(tmp_path / "one", tmp_path / "two", 4)

    def test_a_nested_function_is_found_again_in_this_process(self, tmp_path):
        fit(tmp_path, networks=lambda **sizes: make_pair(**sizes))
        assert fastinfogan.load(tmp_path).generator(torch.zeros(1, 6)).shape == (1, 1, 8, 8)

    def test_a_critic_of_their_kind_helps_the_contrastive_term(self, tmp_path):
        fit(tmp_path, networks=make_pair, contrastive=1.0)

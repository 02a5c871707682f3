"""Metrics: plain means, the first bad update, and a file that survives a kill."""

import json
import math
import time
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from fastinfogan.errors import NonFiniteLoss, UserError
from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.parallel import Ranks
from fastinfogan.training import metrics
from fastinfogan.training.gradients import DRecord, GRecord
from fastinfogan.training.metrics import Metrics, Stopwatch

SPEC = LatentSpec(noise=2, codes=(Categorical(10), Uniform(-1, 1)))


TERMS = ("invariance", "penalty", "contrastive")


def terms(d=1.0, g=2.0, real=0.7, fake=0.3, d_nll=(0.0, 0.0), g_nll=(0.5, 1.5), more=(0.0,) * 3):
    """Return the values of an update; None: the update does not have the term."""
    one = torch.tensor
    logged = {n: one(v) for n, v in zip(TERMS, more, strict=True) if v is not None}
    of_g = {n: logged.pop(n) for n in ("contrastive",) if n in logged}
    return DRecord(one(d), one(real), one(fake), one(d_nll), logged), GRecord(
        one(g), one(g_nll), of_g
    )


@pytest.fixture
def of_run(cpu_ranks):
    return Metrics(SPEC, cpu_ranks(), TERMS)


class TestSums:
    def test_a_record_holds_the_plain_means_since_the_last(self, of_run):
        draw = torch.Generator().manual_seed(0)
        values = torch.rand(7, 11, generator=draw)
        for n, v in enumerate(values, start=1):
            d, g, real, fake, *nll = v[:8].tolist()
            of_run.add(n, *terms(d, g, real, fake, nll[:2], nll[2:], v[8:].tolist()))
        record = of_run.record(7, 7 * 128, 99.5)
        means = values.double().mean(0).tolist()
        # seven fp32 additions of values up to 1
        assert record["d_loss"] == pytest.approx(means[0], rel=1e-6)
        assert record["g_loss"] == pytest.approx(means[1], rel=1e-6)
        assert record["d_real"] == pytest.approx(means[2], rel=1e-6)
        assert record["d_fake"] == pytest.approx(means[3], rel=1e-6)
        assert record["invariance"] == pytest.approx(means[8], rel=1e-6)
        assert record["penalty"] == pytest.approx(means[9], rel=1e-6)
        assert record["contrastive"] == pytest.approx(means[10], rel=1e-6)
        nll = {"c1_categorical": means[6], "c2_uniform": means[7]}
        assert record["nll"] == pytest.approx(nll, rel=1e-6)
        bound = {
            "c1_categorical": math.log(10) - means[6],
            "c2_uniform": math.log(2) - means[7],
        }
        assert record["information"] == pytest.approx(bound, abs=1e-6)
        mse = 2 * means[7] - math.log(2 * math.pi)
        best = {
            "c1_categorical": math.log(10) - means[6],
            # below 1e-6, which fp32 does not resolve, it stays there
            "c2_uniform": math.log(2) - 0.5 * math.log(2 * math.pi * math.e * max(mse, 1e-6)),
        }
        assert record["information_calibrated"] == pytest.approx(best, rel=1e-4)
        assert (record["step"], record["images"]) == (7, 896)
        assert record["images_per_second"] == 99.5

    def test_a_record_does_not_end_the_interval_and_a_reset_does(self, of_run):
        of_run.add(1, *terms(d=1.0))
        assert of_run.record(1, 1, None)["d_loss"] == 1.0
        of_run.add(2, *terms(d=3.0))
        assert of_run.record(2, 2, None)["d_loss"] == 2.0
        of_run.reset()
        of_run.add(3, *terms(d=5.0))
        assert of_run.record(3, 3, None)["d_loss"] == 5.0

    def test_a_term_is_averaged_over_the_updates_that_had_it(self, of_run):
        for n, value in enumerate((None, 3.0, 5.0, None), start=1):
            of_run.add(n, *terms(more=(value, None, 1.0)))
        record = of_run.record(4, 4, None)
        assert (record["invariance"], record["penalty"], record["contrastive"]) == (4.0, None, 1.0)
        of_run.reset()
        of_run.add(5, *terms(more=(None, 2.0, 1.0)))
        record = of_run.record(5, 5, None)
        assert (record["invariance"], record["penalty"]) == (None, 2.0)

    def test_the_game_s_values_are_null_before_it_and_then_means_of_the_updates_that_had_it(
        self, cpu_ranks
    ):
        of_run = Metrics(SPEC, cpu_ranks(), TERMS, gan_start=3)
        zero = terms(0.0, 0.0, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), (4.0, None, None))
        game = ("d_loss", "g_loss", "d_real", "d_fake")
        by_code = ("nll", "information", "information_calibrated")
        for n in (1, 2, 3):
            of_run.add(n, *zero)
            record = of_run.record(n, n, None)
            assert json.loads(json.dumps(record, allow_nan=False)) == record
            assert [record[name] for name in game] == [None] * 4
            none = dict.fromkeys(SPEC.names)
            assert [record[name] for name in by_code] == [none] * 3
            assert record["invariance"] == 4.0
        for n in (4, 5):
            of_run.add(n, *terms(d=6.0, g_nll=(0.5, 1.5), more=(1.0, None, None)))
            record = of_run.record(n, n, None)
            assert record["d_loss"] == 6.0
            assert record["nll"] == {"c1_categorical": 0.5, "c2_uniform": 1.5}
        assert record["invariance"] == pytest.approx((3 * 4 + 2) / 5)
        of_run.reset()
        of_run.add(6, *terms(d=7.0))
        assert of_run.record(6, 6, None)["d_loss"] == 7.0
        of_run.check_finite()

    def test_a_record_is_json(self, of_run):
        of_run.add(1, *terms())
        record = of_run.record(1, 128, None)
        assert json.loads(json.dumps(record, allow_nan=False)) == record

    def test_sums_restored_from_a_checkpoint_go_on(self, of_run, cpu_ranks):
        of_run.add(1, *terms(d=1.0))
        other = Metrics(SPEC, cpu_ranks(), TERMS)
        for name, tensor in other.tensors().items():
            tensor.copy_(of_run.tensors()[name])
        other.add(2, *terms(d=3.0))
        assert other.record(2, 2, None)["d_loss"] == 2.0

    def test_adding_reads_nothing_on_the_host(self, of_run, no_host_read):
        good, bad = terms(), terms(d=math.nan)
        with no_host_read():
            of_run.add(1, *good)
            of_run.add(2, *bad)
            of_run.add(3, *good)
            of_run.reset()


NAN, INF = math.nan, math.inf


class TestNonFinite:
    def test_finite_losses_raise_nothing(self, of_run):
        for n in range(1, 4):
            of_run.add(n, *terms(d=1e38, g=-1e38))
        of_run.check_finite()

    @pytest.mark.parametrize(
        ("bad", "names"),
        [
            ({"d": NAN}, ["d_loss"]),
            ({"g": INF}, ["g_loss"]),
            ({"more": (0.0, INF, NAN)}, ["penalty", "contrastive"]),
            ({"g_nll": (NAN, 1.0)}, ["information of c1_categorical"]),
            ({"d_nll": (0.0, -INF)}, ["information of c2_uniform"]),
            ({"g_nll": (INF, 0.0), "d_nll": (-INF, 0.0)}, ["information of c1_categorical"]),
            (
                {"d": NAN, "g": NAN, "g_nll": (NAN, NAN)},
                [
                    "d_loss",
                    "g_loss",
                    "information of c1_categorical",
                    "information of c2_uniform",
                ],
            ),
        ],
    )
    def test_the_first_bad_update_and_what_it_hit_are_named(self, of_run, bad, names):
        of_run.add(11, *terms())
        of_run.add(12, *terms(**bad))
        of_run.add(13, *terms())
        with pytest.raises(NonFiniteLoss) as caught:
            of_run.check_finite()
        assert str(caught.value) == f"non-finite {', '.join(names)} in update 12"

    def test_later_ones_do_not_overwrite_it(self, of_run):
        of_run.add(12, *terms(g_nll=(1.0, NAN)))
        of_run.add(13, *terms(d=NAN, g=NAN))
        of_run.reset()
        of_run.add(14, *terms(d=NAN))
        with pytest.raises(NonFiniteLoss, match=r"^non-finite information of c2_uniform in .* 12$"):
            of_run.check_finite()

    def test_of_two_ranks_the_one_where_it_came_first_says_what_it_was(self):
        cpu = torch.device("cpu")
        both = [Metrics(SPEC, cast(Ranks, SimpleNamespace(device=cpu))) for _ in range(2)]
        both[0].add(5, *terms(d=NAN))
        both[1].add(4, *terms(g=NAN))
        # the minima over the ranks, taken here: of the updates, then of what was fine in the first
        first = torch.minimum(*(m._first_bad for m in both))
        fine = torch.minimum(*((~(m._bad & (m._first_bad == first))).long() for m in both))
        for m in both:
            answers = [first, fine]
            m.ranks = cast(Ranks, SimpleNamespace(minimum=lambda _, a=answers: a.pop(0)))
            with pytest.raises(NonFiniteLoss, match=r"^non-finite g_loss in update 4$"):
                m.check_finite()


class TestStopwatch:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = SimpleNamespace(seconds=100.0)
        monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
        return now

    def test_paused_time_and_uncounted_images_are_left_out(self, clock):
        watch = Stopwatch(torch.device("cpu"))
        watch.count(1000)  # before the start: the first update is not timed
        clock.seconds += 50
        watch.start()
        for _ in range(2):
            clock.seconds += 2
            watch.count(128)
        watch.pause()
        clock.seconds += 1000
        watch.count(1000)
        watch.start()
        clock.seconds += 4
        watch.count(128)
        assert watch.rate() == 3 * 128 / 8

    def test_the_rate_is_that_since_the_last_call(self, clock):
        watch = Stopwatch(torch.device("cpu"))
        watch.start()
        clock.seconds += 1
        watch.count(100)
        assert watch.rate() == 100
        clock.seconds += 2
        watch.count(100)
        assert watch.rate() == 50

    def test_reading_the_rate_does_not_start_a_paused_watch(self, clock):
        watch = Stopwatch(torch.device("cpu"))
        watch.start()
        watch.pause()
        watch.rate()
        clock.seconds += 5
        watch.count(100)
        assert watch.rate() is None

    def test_starting_or_pausing_twice_changes_nothing(self, clock):
        watch = Stopwatch(torch.device("cpu"))
        watch.pause()
        watch.start()
        clock.seconds += 1
        watch.start()
        clock.seconds += 1
        watch.count(10)
        watch.pause()
        watch.pause()
        assert watch.rate() == 5

    def test_nothing_timed_gives_none(self, clock):
        watch = Stopwatch(torch.device("cpu"))
        assert watch.rate() is None
        watch.start()
        watch.count(10)  # in no time at all
        assert watch.rate() is None


def steps(path) -> list[int]:
    return [r["step"] for r in metrics.read(path)]


class TestFile:
    def test_records_come_back_in_order(self, tmp_path):
        path = tmp_path / "m.jsonl"
        records = [{"step": n, "d_loss": n / 3, "nll": {"c": 1e-9}} for n in range(3)]
        for record in records:
            metrics.append(path, record)
        assert metrics.read(path) == records
        assert len(path.read_text().splitlines()) == 3

    def test_no_file_holds_no_records(self, tmp_path):
        assert metrics.read(tmp_path / "m.jsonl") == []
        metrics.cut_back(tmp_path / "m.jsonl", 5)
        assert not (tmp_path / "m.jsonl").exists()

    @pytest.mark.parametrize(
        "torn", [b'{"step": 30, "d_lo', b"{", b"null", b'"step"', b"\xff\xfe", b'{"step": "30"}']
    )
    def test_a_torn_line_is_skipped_and_cut(self, tmp_path, torn):
        path = tmp_path / "m.jsonl"
        for step in (10, 20):
            metrics.append(path, {"step": step})
        with path.open("ab") as file:
            file.write(torn)
        assert steps(path) == [10, 20]
        metrics.cut_back(path, 20)
        metrics.append(path, {"step": 30})
        assert path.read_text() == '{"step": 10}\n{"step": 20}\n{"step": 30}\n'

    def test_records_after_a_torn_line_are_read(self, tmp_path):
        path = tmp_path / "m.jsonl"
        path.write_text('{"step": 10}\n{"st\n{"step": 20}\n')
        assert steps(path) == [10, 20]

    @pytest.mark.parametrize(("to", "left"), [(0, []), (19, [10]), (20, [10, 20]), (99, [10, 20])])
    def test_cutting_back_drops_later_and_partial_records(self, tmp_path, to, left):
        path = tmp_path / "m.jsonl"
        for record in ({"step": 10}, {"step": 15, "partial": True}, {"step": 20}):
            metrics.append(path, record)
        metrics.append(path, {"step": 25, "partial": True})
        metrics.cut_back(path, to)
        assert steps(path) == left

    def test_a_folder_that_does_not_take_it_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*nowhere"):
            metrics.append(tmp_path / "nowhere" / "m.jsonl", {"step": 1})


def test_the_curves_are_a_png_with_a_line_per_loss_and_code(tmp_path, of_run):
    of_run.add(1, *terms())
    record = of_run.record(1, 128, None)
    inked = {}
    for n in (0, 1, 5):
        records = [record | {"step": 10 * i, "d_loss": 1.0 / (i + 1)} for i in range(n)]
        path = tmp_path / f"{n}.png"
        metrics.draw_curves(records, SPEC, path)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB"))
        # matplotlib's first two colours: D's loss on the left and the first code on the right,
        # G's loss and the second code
        for colour in ((31, 119, 180), (255, 127, 14)):
            for side, half in enumerate(np.array_split(pixels, 2, axis=1)):
                inked[n, colour, side] = int((half == colour).all(-1).sum())
    for (n, colour, side), count in inked.items():
        if n == 0:
            assert (count == 0) or side == 1  # the codes' entropies are there from the start
        if n == 5:
            assert count > inked[1, colour, side] + 50  # more than the legend


def test_the_curves_shade_the_updates_before_the_game_up_to_the_last_one(tmp_path, cpu_ranks):
    of_run = Metrics(SPEC, cpu_ranks(), TERMS, gan_start=20)
    records = []
    for n in (10, 20, 30, 40):
        of_run.add(n, *terms())
        records.append(of_run.record(n, n, None))
    shades = []
    for part in (records[:1], records[:2], records):
        metrics.draw_curves(part, SPEC, tmp_path / "curves.png", gan_start=20)
        with Image.open(tmp_path / "curves.png") as picture:
            pixels = np.asarray(picture.convert("L")).astype(int)
        row = pixels[len(pixels) // 2]  # across both axes
        shades.append(((row > 225) & (row < 245)).mean())
    assert shades[0] > 0.5  # all of both axes is shaded
    assert shades[1] > 0.5
    assert 0.25 < shades[2] < 0.45  # half of them


@pytest.mark.parametrize(
    "damage",
    [
        {"d_losr": 1.0},
        {"d_loss": None},
        {"g_loss": "1.0"},
        {"information": 3.0},
        {"information": {}},
        {"information_calibrated": []},
    ],
    ids=str,
)
def test_curves_leave_out_what_a_damaged_file_does_not_have(tmp_path, of_run, damage):
    of_run.add(1, *terms())
    sound = of_run.record(1, 128, None)
    metrics.draw_curves([sound, {"step": 2}, {**sound, **damage}], SPEC, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"


def test_a_link_in_place_of_the_metrics_is_replaced_and_not_followed(tmp_path):
    path, others = tmp_path / "metrics.jsonl", tmp_path / "others"
    path.symlink_to(others)
    metrics.cut_back(path, 0)
    metrics.append(path, {"step": 1})
    assert not others.exists()
    assert steps(path) == [1]


def test_curves_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*curves\.png"):
        metrics.draw_curves([], SPEC, tmp_path / "nowhere" / "curves.png")

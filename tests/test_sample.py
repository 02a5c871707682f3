"""The sample command: the codes that it takes, the order of its columns, its errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.pictures import HEADINGS, SPEC, TITLE, Echo, tiles
from PIL import Image

from fastinfogan import sample
from fastinfogan.errors import UserError
from fastinfogan.latents import LatentSpec, Uniform


class TestOrdered:
    """`--ordered`, on a run folder that holds an evaluation and no more."""

    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        """Return a maker of such a folder."""
        echo = Echo(1, 0.0, 1.0)  # white where the category is 0
        newest = SimpleNamespace(step=7)
        monkeypatch.setattr(sample, "load_all", lambda path: ((echo, None, SPEC), None, newest))

        def make(text: str | None) -> Path:
            if text is not None:
                (tmp_path / "eval.json").write_text(text)
            return tmp_path

        return make

    @staticmethod
    def evaluation(code: str = "c1_categorical", matching=(2, 3, 1, 0), step: int = 7) -> str:
        return json.dumps({"step": step, "code_scored": code, "matching": list(matching)})

    @pytest.mark.parametrize("traverse", [None, "c1", "0"])
    def test_it_shows_the_scored_code_alone_in_the_order_of_its_labels(self, made, traverse):
        folder = made(self.evaluation())
        out = folder / "x.png"
        sample.sample(sample.SampleConfig(folder, out, traverse, ordered=True, rows=2))
        with Image.open(out) as picture:
            cut = tiles(picture, 2, 4, top=TITLE + HEADINGS)
        assert (cut.max((0, 2, 3, 4)) == [0, 0, 255, 0]).all()  # category 0 is label 2

    @pytest.mark.parametrize(
        ("text", "traverse", "reason"),
        [
            (None, None, "run `fastinfogan evaluate"),
            ("{", None, "run `fastinfogan evaluate"),
            ("[]", None, "run `fastinfogan evaluate"),
            ('{"code_scored": "c1_categorical"}', None, "run `fastinfogan evaluate"),
            ('{"step": 7, "code_scored": null, "matching": null}', None, "labelled images"),
            (evaluation(step=5), None, "is of update 5, the newest checkpoint of 7; run"),
            (evaluation(), "c3", "labels are matched to c1_categorical"),
            (evaluation(), "c9", "no such code"),
            (evaluation("c7_categorical"), None, "no code of this run"),
            (evaluation("c2_bernoulli"), None, "no code of this run"),
            (evaluation(matching=(1, 0)), None, "2 labels"),
        ],
    )
    def test_without_a_matching_for_it_one_line_says_what_to_do(
        self, made, capsys, text, traverse, reason
    ):
        folder = made(text)
        args = [str(folder), "--ordered", "--out", str(folder / "x.png")]
        if traverse is not None:
            args += ["--traverse", traverse]
        assert sample.main(args) == 2
        output = capsys.readouterr().err
        assert output.count("\n") == 1
        assert reason in output
        assert not (folder / "x.png").exists()


class TestFindCode:
    @pytest.mark.parametrize(
        ("text", "index"),
        [
            ("0", 0),
            ("2", 2),
            ("c1", 0),
            ("c3", 2),
            ("c1_categorical", 0),
            ("c2_bernoulli", 1),
            ("c3_uniform", 2),
        ],
    )
    def test_an_index_or_a_name_finds_its_code(self, text, index):
        assert sample.find_code(SPEC, text) == index

    def test_a_name_of_the_code_s_own_comes_before_an_index(self):
        named = LatentSpec(0, (Uniform(name="slant_x"), Uniform(name="0"), Uniform(name="c1")))
        assert [sample.find_code(named, text) for text in ("slant_x", "0", "c1", "2", "c3")] == [
            *(0, 1, 2),
            *(2, 2),
        ]
        with pytest.raises(UserError, match="slant_x"):
            sample.find_code(named, "slant")

    def test_ten_codes_and_the_first_have_different_names(self):
        many = LatentSpec(noise=0, codes=(Uniform(),) * 12)
        assert sample.find_code(many, "c1") == 0
        assert sample.find_code(many, "c10") == 9
        assert sample.find_code(many, "11") == 11

    @pytest.mark.parametrize("text", ["3", "-1", "c0", "c4", "", "uniform", "1.0", "c1_uniform"])
    def test_anything_else_is_answered_with_the_codes_there_are(self, text):
        with pytest.raises(UserError) as caught:
            sample.find_code(SPEC, text)
        message = str(caught.value)
        assert "\n" not in message
        assert all(name in message for name in SPEC.names)

"""Exported files compute what the networks compute, and say what they are."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import untrained

import fastinfogan
from fastinfogan import export
from fastinfogan.errors import UserError
from fastinfogan.latents import Angle
from fastinfogan.sharing import graphs
from fastinfogan.sharing.description import describe

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(path: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def facts_shape(facts: dict[str, Any]) -> tuple[int, int, int]:
    image = facts["image"]
    return image["channels"], image["height"], image["width"]


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run's ONNX files, full weights."""
    out = tmp_path_factory.mktemp("export")
    assert export.main([str(small_run), "--out", str(out), "--full"]) == 0
    return out


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_the_exported_generator_draws_what_the_averaged_generator_draws(
    small_run: Path, exported: Path, rows: int
):
    generator, _, spec = fastinfogan.load(small_run)
    latent = spec.sample(rows, seed=rows).input
    with torch.no_grad():
        expected = generator(latent).numpy()
    images = session(exported / "generator.onnx").run(None, {"latent": latent.numpy()})[0]
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_the_exported_reader_gives_each_code_by_its_name(small_run: Path, exported: Path):
    _, discriminator, spec = fastinfogan.load(small_run)
    pictures = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logit, q = discriminator(pictures)
    reader = session(exported / "reader.onnx")
    names = [output.name for output in reader.get_outputs()]
    assert names == ["logit", "q", *spec.names]
    outputs = dict(zip(names, reader.run(None, {"images": pictures.numpy()}), strict=True))
    expected = {
        "logit": logit,
        "q": q,
        "c1_categorical": q[:, 0:3].softmax(1),
        "c2_bernoulli": q[:, 3:4].sigmoid(),
        "c3_uniform": q[:, 4:5],
        "c4_gaussian": q[:, 5:7],  # the means; the log-variances follow
    }
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value.numpy(), atol=1e-5, err_msg=name)


def test_an_exported_file_says_what_it_is(small_run: Path, exported: Path):
    spec = fastinfogan.load(small_run).spec
    evaluation = json.loads((small_run / "eval.json").read_text())
    for part in ("generator", "reader"):
        model = onnx.load(exported / f"{part}.onnx")
        facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert fastinfogan.LatentSpec.from_dict(facts["spec"]) == spec
        assert facts["names"] == list(spec.names)
        assert facts["matching"] == {"code": "c1_categorical", "labels": evaluation["matching"]}
        assert facts["image"] == {"channels": 1, "height": 8, "width": 8, "range": [0.0, 1.0]}
        assert facts["step"] == 2
        assert facts["versions"]["torch"] == torch.__version__
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param  # a name: any number of rows
        assert b"/fastinfogan/" not in model.SerializeToString()  # no path of this machine


@pytest.mark.slow
def test_half_weights_halve_the_file_and_cost_at_most_a_grey_level(
    small_run: Path, exported: Path, tmp_path: Path
):
    assert export.main([str(small_run), "--out", str(tmp_path)]) == 0
    full, half = exported / "generator.onnx", tmp_path / "generator.onnx"
    assert half.stat().st_size < 0.6 * full.stat().st_size
    latent = {"latent": fastinfogan.load(small_run).spec.sample(100, seed=1).input.numpy()}
    levels = [np.round(255 * session(path).run(None, latent)[0]) for path in (full, half)]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("networks", ["conv", "trained"])
def test_integer_weights_keep_pixels_to_a_grey_level_and_codes_to_two_hundredths(
    networks: str, small_run: Path
):
    pair = untrained(3) if networks == "conv" else fastinfogan.load(small_run)
    facts = describe(pair, {}, title="test", step=0)
    generator = graphs.for_page(pair, facts, "generator")
    reader = graphs.for_page(pair, facts, "reader")
    half = len(graphs.to_onnx(graphs.graph("reader", pair), facts))
    assert len(reader) < half

    spec = pair.spec
    latent = spec.sample(200, seed=1).input
    with torch.no_grad():
        images = pair.generator(latent)
    drawn = session(generator).run(None, {"latent": latent.numpy()})[0]
    levels = [np.round(255 * image) for image in (drawn, images.numpy())]
    assert np.abs(levels[0] - levels[1]).max() <= 1
    read = session(reader).run(list(spec.names), {"images": images.numpy()})
    with torch.no_grad():
        codes = graphs.read_codes(pair.discriminator(images)[1], spec)
    for name, ours, theirs in zip(spec.names, codes, read, strict=True):
        if name == "turn":  # the direction is read from q, and is anything where q is near zero
            continue
        bound = 0.02 * max(1.0, float(ours.abs().max()))
        np.testing.assert_allclose(theirs, ours.numpy(), atol=bound, rtol=0, err_msg=name)


@pytest.mark.slow
def test_weights_that_integers_do_not_hold_take_more_bits_and_then_fp16(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
):
    networks = fastinfogan.load(small_run)
    facts = describe(networks, {}, title="test", step=0)
    half = graphs.to_onnx(graphs.graph("reader", networks), facts)
    short = graphs.for_page(networks, facts, "reader")
    assert short != half
    errors = iter([0.5, 0.0])
    with monkeypatch.context() as once:
        once.setattr(graphs, "max_error", lambda *_: next(errors))
        assert graphs.for_page(networks, facts, "reader") not in (short, half)
    monkeypatch.setitem(graphs.TOLERANCE, ("integer", "reader"), 0.0)
    assert graphs.for_page(networks, facts, "reader") == half


def test_a_pt2_file_is_loaded_by_torch_alone(small_run: Path, tmp_path: Path):
    assert export.main([str(small_run), "--out", str(tmp_path), "--format", "pt2"]) == 0
    generator, _, spec = fastinfogan.load(small_run)
    facts = {"fastinfogan.json": ""}
    program = torch.export.load(tmp_path / "generator.pt2", extra_files=facts)
    latent = spec.sample(7, seed=1).input
    with torch.no_grad():
        torch.testing.assert_close(program.module()(latent), generator(latent))
    assert json.loads(facts["fastinfogan.json"])["names"] == list(spec.names)


def test_a_pt2_file_names_no_file_of_the_machine(small_run: Path, tmp_path: Path):
    assert export.main([str(small_run), "--out", str(tmp_path), "--format", "pt2"]) == 0
    for part in ("generator", "reader"):
        with zipfile.ZipFile(tmp_path / f"{part}.pt2") as archive:
            texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
        assert texts
        for text in texts:
            for place in (Path(fastinfogan.__file__).parent, Path(torch.__file__).parent):
                assert str(place).encode() not in text


def test_a_folder_that_is_missing_is_made(small_run: Path, tmp_path: Path):
    out = tmp_path / "a" / "b"
    assert export.main([str(small_run), "--out", str(out), "--format", "pt2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["generator.pt2", "reader.pt2"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(export, "load_described", lambda path: pytest.fail("it had begun"))
    (tmp_path / "file").write_text("")
    for place in ("file", "file/export"):
        assert export.main([str(small_run), "--out", str(tmp_path / place)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: cannot write to {tmp_path / place}: ")
        assert error.endswith("; choose another --out\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_graph_that_computes_something_else_is_refused(small_run: Path, exported: Path):
    networks = fastinfogan.load(small_run)
    graph = graphs.graph("generator", networks)
    content = (exported / "generator.onnx").read_bytes()
    error = graphs.check(graph, content, [0.0, 1.0], "full")
    assert error is not None
    assert error < 1e-5
    with torch.no_grad():
        networks.generator.up4.bias += 0.01  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="generator: onnxruntime's outputs differ from torch's"):
        graphs.check(graph, content, [0.0, 1.0], "full")


def test_a_missing_exporter_is_named_with_its_extra(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export.main([str(small_run), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "fastinfogan[export]" in error
    assert error.count("\n") == 1


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, capsys):
    assert export.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_an_angle_is_read_as_its_direction_in_radians():
    spec = fastinfogan.LatentSpec(0, (fastinfogan.Categorical(2), Angle()))
    q = torch.tensor([[0.0, 0.0, -2.0, 2.0]])  # its cosine, then its sine
    torch.testing.assert_close(graphs.read_codes(q, spec)[1], torch.tensor([[0.75 * torch.pi]]))

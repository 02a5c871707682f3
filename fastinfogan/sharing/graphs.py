"""Networks as files that other runtimes read: ONNX, and PyTorch's exported programs (.pt2).

`generator` maps `latent` [B, input_dim] to `images` [B, C, H, W]. `reader` maps `images` to D's
`logit` [B] (positive: real), to `q` [B, q_dim], and to one output per code by its name.

A code's output is the probabilities of a categorical's classes [B, n], a Bernoulli's probability
[B, 1], the means of a continuous code [B, dim], or the direction of an angle in radians [B, 1].
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..latents import Angle, Bernoulli, Categorical, LatentSpec
from ..networks import Discriminator
from ..runs.folder import Loaded
from .description import need

Part = Literal["generator", "reader"]
Weights = Literal["full", "half", "integer"]
OPSET = 20
MIN_HALVED = 256  # elements; smaller tensors stay fp32, they save nothing
MAX_HALF = 65504.0  # the largest fp16 number
# Of a weight stored as an integer, from the smallest file to the largest.
BITS: dict[Part, tuple[int, ...]] = {"generator": (12,), "reader": (8, 10)}
# Of onnxruntime's outputs from torch's, relative to the image range or to 1. With integers: one
# grey level, and .02 of a probability, of a mean or of the greatest number in `q` and `logit`.
TOLERANCE: dict[tuple[Weights, Part], float] = {
    ("full", "generator"): 1e-4,
    ("full", "reader"): 1e-4,
    ("half", "generator"): 0.05,
    ("half", "reader"): 0.05,
    ("integer", "generator"): 1 / 255,
    ("integer", "reader"): 0.02,
}
CHECKED = 16  # rows


class _Generate(nn.Module):
    """The generator, called with its latent alone."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor) -> Tensor:
        return self.generator(latent)


class _Read(nn.Module):
    """D's logit, Q's output, and Q's output as probabilities and means per code."""

    def __init__(self, discriminator: Discriminator, spec: LatentSpec) -> None:
        super().__init__()
        self.discriminator, self.spec = discriminator, spec

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.discriminator.trunk(images)
        logit, q = self.discriminator.logit(features), self.discriminator.q(features)
        return logit, q, *read_codes(q, self.spec)


def read_codes(q: Tensor, spec: LatentSpec) -> list[Tensor]:
    """Return Q's output [B, q_dim] per code: probabilities, or means of the continuous codes."""
    parts = []
    for code, columns, _ in spec.slots:
        part = q[:, columns]
        if isinstance(code, Categorical):
            parts.append(part.softmax(1))
        elif isinstance(code, Bernoulli):
            parts.append(part.sigmoid())
        elif isinstance(code, Angle):
            parts.append(torch.atan2(part[:, 1:], part[:, :1]))
        else:
            parts.append(part[:, : code.dim])
    return parts


class Graph(NamedTuple):
    """One network ready for export, with an example input."""

    part: Part
    module: nn.Module
    example: Tensor
    input: str
    outputs: list[str]


def graph(part: Part, networks: Loaded) -> Graph:
    """Return the generator or the reader of a run as a graph to export."""
    generator, discriminator, spec = networks
    latent = spec.sample(CHECKED, seed=0).input
    if part == "generator":
        return Graph(part, _Generate(generator).eval(), latent, "latent", ["images"])
    with torch.no_grad():
        images = generator(latent).contiguous()
    module = _Read(discriminator, spec).eval()
    return Graph(part, module, images, "images", ["logit", "q", *spec.names])


def to_onnx(
    graph: Graph, facts: dict[str, Any], weights: Weights = "half", bits: int = 12
) -> bytes:
    """Return an ONNX file with a free batch dimension.

    Args:
        graph: the network.
        facts: the run's description; its entries become the file's metadata, as JSON.
        weights: "full" keeps weights in fp32. "half" stores large weights as fp16 and casts them to
            fp32 when the file is loaded: half the size, the arithmetic stays fp32. "integer" stores
            them as integers of `bits` bits with one scale per row, from which the fp32 weights are
            made when the file is loaded.
        bits: of "integer".

    Raises UserError where the extra `export` is not installed or the network cannot be exported.
    """
    need("onnx", "export")
    need("onnxscript", "export")
    import onnx

    with _quiet(), _explain_errors(graph.part):
        program = torch.onnx.export(
            graph.module,
            (graph.example,),
            None,
            input_names=[graph.input],
            output_names=graph.outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    for node in model.graph.node:  # traces of the source: paths of this machine, and size
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    if weights == "half":
        _halve(model)
    elif weights == "integer":
        _quantize(model, bits)
    for key in ("spec", "names", "matching", "image", "codes", "versions", "title", "step"):
        model.metadata_props.add(key=key, value=json.dumps(facts[key], ensure_ascii=False))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _halve(model: Any) -> None:
    """Store large fp32 weights as fp16, each followed by a cast to fp32."""
    import numpy as np

    def halve(name: str, array: np.ndarray) -> tuple[dict[str, np.ndarray], list[Any]]:
        if np.abs(array).max() > MAX_HALF:
            return {name: array}, []
        stored = f"{name}.fp16"
        return {stored: array.astype(np.float16)}, [_cast(stored, name)]

    _store(model, halve)


def _quantize(model: Any, bits: int) -> None:
    """Store large fp32 weights as integers, each followed by a cast and a product with its scale.

    A weight's rows, along its first dim, have a scale each, so that the greatest number of a row is
    the greatest integer of `bits` bits.
    """
    import numpy as np
    from onnx import helper

    most = 2 ** (bits - 1) - 1

    def quantize(name: str, array: np.ndarray) -> tuple[dict[str, np.ndarray], list[Any]]:
        scale = np.abs(array).max(tuple(range(1, array.ndim)), keepdims=True) / most
        scale[scale == 0] = 1
        integers = np.round(array / scale).astype(np.int8 if bits <= 8 else np.int16)
        stored, cast, scales = f"{name}.integer", f"{name}.cast", f"{name}.scale"
        nodes = [_cast(stored, cast), helper.make_node("Mul", [cast, scales], [name])]
        return {stored: integers, scales: scale}, nodes

    _store(model, quantize)


def _cast(source: str, target: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT)


def _store(model: Any, encode: Callable[[str, Any], tuple[dict[str, Any], list[Any]]]) -> None:
    """Replace large fp32 weights by what `encode` returns: arrays to store, and nodes before use.

    onnxruntime computes these nodes once, when it loads the file.
    """
    import numpy as np
    from onnx import numpy_helper

    initializers, nodes = [], []
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < MIN_HALVED:
            initializers.append(weight)
            continue
        arrays, decode = encode(weight.name, array)
        initializers += [numpy_helper.from_array(stored, name) for name, stored in arrays.items()]
        nodes += decode
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(initializers)
    model.graph.node.extend(nodes)


def for_page(networks: Loaded, facts: dict[str, Any], part: Part, *, full: bool = False) -> bytes:
    """Return a network's ONNX file for a page in a browser, checked against torch.

    Weights are integers, which take the least space, or fp16 where images or codes would be off by
    more than `TOLERANCE`; with `full`, fp32.
    """
    network = graph(part, networks)
    names = ("images", *networks.spec.names)
    for bits in () if full else BITS[part]:
        content = to_onnx(network, facts, "integer", bits)
        error = max_error(network, content, facts["image"]["range"], names)
        if error is None or error <= TOLERANCE["integer", part]:
            return content
    weights: Weights = "full" if full else "half"
    content = to_onnx(network, facts, weights)
    check(network, content, facts["image"]["range"], weights)
    return content


def to_program(graph: Graph, facts: dict[str, Any]) -> bytes:
    """Return a .pt2 file, which `torch.export.load` reads; fp32, with a free batch dimension.

    The run's description lies in its extra file "fastinfogan.json".
    """
    with _quiet(), _explain_errors(graph.part), torch.no_grad():
        program = torch.export.export(
            graph.module,
            (graph.example,),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # which names files of this machine
        out = io.BytesIO()
        torch.export.save(program, out, extra_files={"fastinfogan.json": json.dumps(facts)})
    return out.getvalue()


def max_error(
    graph: Graph, model: bytes, image_range: list[float], outputs: Collection[str] = ()
) -> float | None:
    """Return the greatest difference between onnxruntime's outputs and torch's, of those named.

    Images count relative to their range, all other outputs relative to 1 or to their own size,
    whichever is greater. None where onnxruntime is not installed.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    angles: set[str] = set()
    if isinstance(graph.module, _Read):
        spec = graph.module.spec
        angles = {
            name
            for name, code in zip(spec.names, spec.codes, strict=True)
            if isinstance(code, Angle)
        }
    errors = []
    for rows in (1, CHECKED):
        example = graph.example[:rows]
        with torch.no_grad():
            expected = graph.module(example)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        computed = session.run(graph.outputs, {graph.input: example.numpy()})
        for name, ours, theirs in zip(graph.outputs, expected, computed, strict=True):
            if outputs and name not in outputs:
                continue
            if name == "images":
                size = image_range[1] - image_range[0]
            else:
                size = max(1.0, float(ours.abs().max()))
            difference = torch.from_numpy(theirs) - ours
            if name in angles:  # +π is next to -π
                difference = torch.atan2(difference.sin(), difference.cos())
            errors.append(float(difference.abs().max()) / size)
    return max(errors)


def check(graph: Graph, model: bytes, image_range: list[float], weights: Weights) -> float | None:
    """Raise UserError where onnxruntime's outputs are not torch's; else return `max_error`."""
    error = max_error(graph, model, image_range)
    allowed = TOLERANCE[weights, graph.part]
    if error is not None and not error <= allowed:
        advice = (
            "report this as a bug"
            if weights == "full"
            else "use --full, which keeps the weights in fp32"
        )
        raise UserError(
            f"{graph.part}: onnxruntime's outputs differ from torch's by {error:.2g}, expected at "
            f"most {allowed:g}; {advice}"
        )
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _explain_errors(part: Part) -> Iterator[None]:
    """Raise UserError in one line for a network that the exporter does not take."""
    try:
        yield
    except Exception as error:  # the exporter's errors have many types, a user's network any
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
        raise UserError(f"the {part} cannot be exported: {reason}") from error

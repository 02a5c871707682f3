"""Chairs with known pose and proportions, drawn when they are read: `chairs-like`.

As many chairs and views as in Aubry et al., "Seeing 3D chairs" (CVPR 2014), InfoGAN's set: 1,393
chairs, each at 31 azimuths and from 20 and 30 degrees above, gray, 64×64, on white. The chairs are
not theirs: each is put together from prisms, of a random seat, back, arms and legs.

A chair is drawn face by face from the farthest part to the nearest, with flat Lambert shading, at
four times the size, and then reduced. The projection is parallel, and every chair has the same
scale, so that width and height are seen.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .. import philox
from ..philox import Stream
from .splits import Images, Split
from .streaming import HELD_OUT_EVERY, Mode, Rows, Streamed

CHAIRS = 1393
AZIMUTHS, ELEVATIONS = 31, (20.0, 30.0)  # degrees
VIEWS = AZIMUTHS * len(ELEVATIONS)
SIDE = 64  # pixels of an image
# Of a chair's front to the left of the viewer's line of sight; lengths are in metres. The kinds of
# back, legs and arms are those of `BACKS`, `LEGS` and `ARMS`, counted from 0.
FACTORS = (
    "azimuth:360", "elevation", "width", "depth", "seat_height", "back_height", "back", "legs",
    "arms",
)  # fmt: skip
BACKS = ("solid", "vertical slats", "rails", "open")
LEGS = ("straight", "splayed", "star", "disc", "sides")
ARMS = ("none", "open", "solid")

_OVERSAMPLING = 4
_PIXELS_PER_METRE = 42.0
_LIGHT = np.array([-0.49, 0.73, 0.48])  # in the viewer's axes: right, up, towards the viewer
_AMBIENT = 0.36
_CORNERS = 10  # of what is round
_SEED = 0
_DRAWS = 20  # random numbers per chair

Vector = tuple[float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """The parts of a chair; lengths in metres, angles in radians, brightness from 0 to 1."""

    width: float
    depth: float
    seat_height: float  # of its upper side
    back_height: float  # above the seat
    back: int
    legs: int
    arms: int
    seat: float  # thickness
    post: float  # thickness of legs and posts
    tilt: float  # of the back
    bars: int  # slats or rails
    round_seat: bool
    stretchers: bool
    cushion: float  # brightness of seat and back
    frame: float  # of everything else


def shape(chair: int) -> Shape:
    """Return the chair of that number, 0 to CHAIRS - 1. Its random numbers are its own."""
    return _shapes()[chair]


@functools.cache
def _shapes() -> tuple[Shape, ...]:
    words = philox.words(CHAIRS, _DRAWS, seed=_SEED, stream=Stream.CHAIRS)
    return tuple(_shape(row) for row in philox.uniform(words).tolist())


def _shape(u: Sequence[float]) -> Shape:
    """Return the shape of random numbers in [0, 1)."""

    def between(i: int, low: float, high: float) -> float:
        return low + (high - low) * u[i]

    legs = _pick(u[6], (0.34, 0.22, 0.2, 0.12, 0.12))
    arms = _pick(u[7], (0.55, 0.3, 0.15))
    if LEGS[legs] == "sides":
        arms = ARMS.index("solid")
    tone = between(13, 0.5, 0.95)
    return Shape(
        width=between(0, 0.38, 0.72),
        depth=between(1, 0.38, 0.56),
        seat_height=between(2, 0.34, 0.52),
        back_height=between(3, 0.25, 0.62),
        back=_pick(u[5], (0.4, 0.2, 0.2, 0.2)),
        legs=legs,
        arms=arms,
        seat=between(4, 0.03, 0.1),
        post=between(8, 0.03, 0.06),
        tilt=math.radians(between(9, 0.0, 14.0)),
        bars=2 + int(between(10, 0.0, 3.0)),
        round_seat=arms == 0 and u[11] < 0.25,
        stretchers=u[12] < 0.4,
        cushion=tone,
        frame=tone if u[14] < 0.5 else between(15, 0.4, 0.9),
    )


def _pick(u: float, shares: Iterable[float]) -> int:
    """Return the class that a number in [0, 1) falls into, where each has its share."""
    return sum(u >= bound for bound in list(itertools.accumulate(shares))[:-1])


# Parts. x is to a chair's left and right, y to its front, z up; the seat's middle is over (0, 0).


@dataclass(frozen=True)
class _Part:
    """A prism: a convex polygon [K, 3], counter-clockwise seen from `along`'s end, and its way."""

    base: Points
    along: Points
    tone: float

    def points(self) -> Points:
        return np.concatenate((self.base, self.base + self.along))


def _box(low: Vector, high: Vector, tone: float, shift: Vector = (0.0, 0.0, 0.0)) -> _Part:
    """Return the box between two corners; its upper side is moved by `shift`."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    base = np.array([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)])
    return _Part(base, np.array([0.0, 0.0, z1 - z0]) + shift, tone)


def _cylinder(radii: tuple[float, float], low: float, high: float, tone: float) -> _Part:
    """Return an upright cylinder around the z axis, with an ellipse for its base."""
    angles = 2 * np.pi * (np.arange(_CORNERS) + 0.5) / _CORNERS
    flat = np.full(_CORNERS, low)
    base = np.stack((radii[0] * np.cos(angles), radii[1] * np.sin(angles), flat), 1)
    return _Part(base, np.array([0.0, 0.0, high - low]), tone)


def _parts(s: Shape) -> Iterator[_Part]:
    half, deep, under = s.width / 2, s.depth / 2, s.seat_height - s.seat
    if s.round_seat:
        yield _cylinder((half * 1.04, deep * 1.04), under, s.seat_height, s.cushion)
    else:
        yield _box((-half, -deep, under), (half, deep, s.seat_height), s.cushion)
    yield from _back(s)
    yield from _arms(s)
    yield from _legs(s, under)


def _back(s: Shape) -> Iterator[_Part]:
    """Yield the posts and the parts between them; all of them lean backwards by the tilt."""
    half, rear, thick = s.width / 2, -s.depth / 2, max(s.post * 0.8, 0.03)
    if s.round_seat:  # its rear edge is narrower
        half *= 0.75
    lean = -math.tan(s.tilt)  # of y per z

    def piece(left: float, right: float, low: float, high: float, tone: float) -> _Part:
        """Return the part between two heights above the seat, in parts of the back's."""
        low, high = low * s.back_height, high * s.back_height
        y, z = rear + lean * low, s.seat_height
        shift = (0.0, lean * (high - low), 0.0)
        return _box((left, y, z + low), (right, y + thick, z + high), tone, shift)

    kind = BACKS[s.back]
    if kind == "solid":
        yield piece(-half, half, 0.0, 1.0, s.cushion)
        return
    post = min(s.post, s.width / 8)
    inner = half - post
    for side in (-1, 1):
        left, right = sorted((side * half, side * inner))
        yield piece(left, right, 0.0, 1.0, s.frame)
    if kind == "open":
        yield piece(-inner, inner, 0.45, 0.97, s.cushion)
    elif kind == "vertical slats":
        yield piece(-inner, inner, 0.84, 1.0, s.frame)
        count = s.bars + 1
        for i in range(count):
            middle = inner * (2 * (i + 1) / (count + 1) - 1)
            yield piece(middle - 0.018, middle + 0.018, 0.0, 0.84, s.frame)
    else:
        for i in range(s.bars):
            top = 1.0 - 0.75 * i / s.bars
            yield piece(-inner, inner, top - 0.36 / s.bars, top, s.frame)


def _arms(s: Shape) -> Iterator[_Part]:
    kind = ARMS[s.arms]
    if kind == "none":
        return
    half, rear, front = s.width / 2, -s.depth / 2, s.depth / 2
    top = s.seat_height + min(0.22, 0.7 * s.back_height)
    sides = LEGS[s.legs] == "sides"
    thick = 0.08 if kind == "solid" else 0.05
    low = 0.0 if sides else s.seat_height - s.seat
    for side in (-1, 1):
        left, right = sorted((side * half, side * (half + thick)))
        if kind == "solid":
            yield _box((left, rear, low), (right, front, top), s.cushion)
            continue
        yield _box((left, rear, top - 0.035), (right, front - 0.03, top), s.frame)
        for end in (rear + 0.01, front - 0.09):
            yield _box((left, end, low), (right, end + 0.04, top - 0.035), s.frame)


def _legs(s: Shape, under: float) -> Iterator[_Part]:
    kind = LEGS[s.legs]
    half, deep = s.width / 2, s.depth / 2
    if s.round_seat:
        half, deep = half * 0.8, deep * 0.8
    if kind == "straight":
        yield from _four_legs(s, half, deep, under, 0.0)
        if s.stretchers:
            yield from _stretchers(s, half, deep, 0.35 * under)
    elif kind == "splayed":
        inset = 0.1 * s.width
        yield from _four_legs(s, half - inset, deep - inset, under, 0.3 * under)
    elif kind == "sides":
        yield _box((-half, -deep + 0.02, 0.06), (half, deep - 0.02, under), s.frame)
    else:
        reach, column = 0.95 * min(half, deep) + 0.04, max(0.6 * s.post, 0.024)
        base = 0.09 if kind == "star" else 0.035
        yield _cylinder((column, column), base, under, s.frame)
        if kind == "disc":
            yield _cylinder((reach, reach), 0.0, base, s.frame)
        else:
            yield from _star(reach, base, s.frame)


def _four_legs(s: Shape, half: float, deep: float, under: float, out: float) -> Iterator[_Part]:
    """Yield legs whose lower ends are `out` farther from the middle, along x and y."""
    for x, y in itertools.product((-1, 1), (-1, 1)):
        left, right = sorted((x * half, x * (half - s.post)))
        near, far = sorted((y * deep, y * (deep - s.post)))
        dx, dy = x * out, y * out
        low, high = (left + dx, near + dy, 0.0), (right + dx, far + dy, under)
        yield _box(low, high, s.frame, (-dx, -dy, 0.0))


def _stretchers(s: Shape, half: float, deep: float, z: float) -> Iterator[_Part]:
    """Yield bars between the legs: one on each side and one at the front."""
    bar, post = 0.6 * s.post, s.post
    for side in (-1, 1):
        left, right = sorted((side * half, side * (half - bar)))
        yield _box((left, post - deep, z), (right, deep - post, z + bar), s.frame)
    yield _box((post - half, deep - bar, z), (half - post, deep, z + bar), s.frame)


def _star(reach: float, top: float, tone: float) -> Iterator[_Part]:
    """Yield five arms on the floor, each with a foot at its end."""
    foot = np.array([0.0, 0.0, top / 2])
    for i in range(5):
        angle = 2 * math.pi * (i + 0.25) / 5
        ahead = np.array([math.cos(angle), math.sin(angle), 0.0])
        wide = 0.024 * np.array([-math.sin(angle), math.cos(angle), 0.0])
        end, inner = reach * ahead, (reach - 0.05) * ahead
        yield _Part(np.stack((-wide, end - wide, end + wide, wide)) + foot, foot, tone)
        yield _Part(np.stack((inner - wide, end - wide, end + wide, inner + wide)), foot, tone)


# Drawing


@dataclass(frozen=True)
class _Solid:
    """A chair's faces, part by part."""

    points: Points  # [P, 3]
    corners: NDArray[np.int64]  # of all faces one after another: which point each is
    ends: NDArray[np.int64]  # [F] where in `corners` each face ends
    normals: Points  # [F, 3]
    tones: Points  # [F]
    part: NDArray[np.int64]  # [F]
    low: Points  # [parts, 3], the corners of each part's upright box
    high: Points
    orders: dict[tuple[bool, bool], NDArray[np.int64]] = field(default_factory=dict)

    def order(self, viewer: Points) -> NDArray[np.int64]:
        """Return all faces, part by part, such that no part hides one that is drawn after it.

        Where a plane of constant x, y or z parts two boxes, the box on the viewer's side is in
        front: which it is depends on the signs of the viewer's direction alone.
        """
        quadrant = (bool(viewer[0] > 0), bool(viewer[1] > 0))
        if quadrant not in self.orders:
            toward = np.array([1.0 if q else -1.0 for q in (*quadrant, True)])
            rank = np.empty(len(self.low), np.int64)
            rank[_back_to_front(self.low * toward, self.high * toward)] = np.arange(len(rank))
            self.orders[quadrant] = np.argsort(rank[self.part], kind="stable")
        return self.orders[quadrant]


def _back_to_front(one: Points, other: Points) -> list[int]:
    """Return the order in which to draw boxes, given two corners [N, 3] towards a viewer."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    # [i, j]: i is on the viewer's side of j
    beyond: NDArray[np.bool_] = np.any(low[:, None] >= high[None] - 1e-6, -1)
    front = np.logical_and(beyond, ~beyond.T)
    depth = (low + high).sum(1)
    remaining, out = set(range(len(low))), []
    while remaining:
        free = [i for i in remaining if not any(front[i, j] for j in remaining)]
        chosen = min(free or remaining, key=lambda i: depth[i])
        out.append(chosen)
        remaining.remove(chosen)
    return out


@functools.lru_cache(maxsize=CHAIRS)
def _solid(chair: int) -> _Solid:
    points: list[Points] = []
    corners: list[int] = []
    ends, normals, tones, owner, boxes = [], [], [], [], []
    start = 0
    for number, part in enumerate(_parts(shape(chair))):
        own = part.points()
        points.append(own)
        boxes.append((own.min(0), own.max(0)))
        k = len(part.base)
        sides = [(i, (i + 1) % k, (i + 1) % k + k, i + k) for i in range(k)]
        faces: list[tuple[int, ...]] = [*sides, tuple(range(k, 2 * k))]  # no view is from below
        for face in faces:
            a, b, c = own[face[0]], own[face[1]], own[face[2]]
            normal = np.cross(b - a, c - b)
            normals.append(normal / np.linalg.norm(normal))
            tones.append(part.tone)
            owner.append(number)
            corners += [start + i for i in face]
            ends.append(len(corners))
        start += len(own)
    low, high = (np.stack(bounds) for bounds in zip(*boxes, strict=True))
    return _Solid(
        np.concatenate(points),
        np.array(corners),
        np.array(ends),
        np.stack(normals),
        np.array(tones),
        np.array(owner),
        low,
        high,
    )


@functools.cache
def _axes(view: int) -> Points:
    """Return the viewer's axes, right, up and towards the viewer, in a chair's: [3, 3]."""
    elevation, azimuth = divmod(view, AZIMUTHS)
    turn, rise = 2 * math.pi * azimuth / AZIMUTHS, math.radians(ELEVATIONS[elevation])
    # At azimuth 0 the chair's front, +y, looks at the viewer.
    right = (-math.cos(turn), math.sin(turn), 0.0)
    level = (math.sin(turn), math.cos(turn), 0.0)
    toward = (math.cos(rise) * level[0], math.cos(rise) * level[1], math.sin(rise))
    up = (-math.sin(rise) * level[0], -math.sin(rise) * level[1], math.cos(rise))
    return np.array([right, up, toward])


def draw(chair: int, view: int) -> NDArray[np.uint8]:
    """Return the image uint8 [64, 64] of a chair in a view, 0 to VIEWS - 1, the azimuth fastest."""
    solid, axes = _solid(chair), _axes(view)
    side, scale = SIDE * _OVERSAMPLING, _PIXELS_PER_METRE * _OVERSAMPLING
    middle = (solid.low.min(0) + solid.high.max(0)) / 2
    flat = (solid.points - middle) @ axes[:2].T * (scale, -scale) + side / 2
    order = solid.order(axes[2])
    order = order[solid.normals[order] @ axes[2] > 1e-9]
    lit = np.maximum(solid.normals[order] @ (_LIGHT @ axes), 0.0)
    shades = (255 * solid.tones[order] * (_AMBIENT + (1 - _AMBIENT) * lit)).astype(int)
    corners = flat[solid.corners].ravel().tolist()
    picture = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(picture)
    ends = solid.ends
    starts = np.concatenate(([0], ends[:-1]))
    for first, end, shade in zip(
        (2 * starts[order]).tolist(), (2 * ends[order]).tolist(), shades.tolist(), strict=True
    ):
        pen.polygon(corners[first:end], fill=shade)
    return np.asarray(picture.reduce(_OVERSAMPLING))


class Chairs:
    """All views of some chairs as a source, the azimuth fastest, the chair slowest.

    Drawn at each read; with `keep` each image is drawn once and stays in memory, 4 KB each.
    """

    slow = True
    on_disk = False

    def __init__(self, chairs: NDArray[np.int64], keep: bool) -> None:
        self.chairs = chairs
        self.shape = (len(chairs) * VIEWS, SIDE, SIDE, 1)
        self._drawn: NDArray[np.bool_] = np.zeros(self.shape[0] * keep, bool)
        # the system gives memory to a page of zeros when it is first written
        self._kept = np.zeros((len(self._drawn), SIDE, SIDE), np.uint8)

    def scatter(self) -> None:
        pass

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        if not len(self._drawn):
            return self._draw(rows)[..., None]
        missing = rows[~self._drawn[rows]]
        self._kept[missing] = self._draw(missing)
        self._drawn[missing] = True
        return self._kept[rows][..., None]

    def _draw(self, rows: Rows) -> NDArray[np.uint8]:
        out = np.empty((len(rows), SIDE, SIDE), np.uint8)
        for i, row in enumerate(rows.tolist()):
            out[i] = draw(int(self.chairs[row // VIEWS]), row % VIEWS)
        return out

    def factors(self) -> NDArray[np.float32]:
        """Return what is known of each image, float32 [N, 9], in the order of `FACTORS`."""
        azimuths = np.tile(np.arange(AZIMUTHS) * (360 / AZIMUTHS), len(ELEVATIONS))
        views = np.stack((azimuths, np.repeat(ELEVATIONS, AZIMUTHS)), 1)  # [62, 2]
        shapes = [shape(chair) for chair in self.chairs.tolist()]
        own = np.array([[getattr(s, name) for name in FACTORS[2:]] for s in shapes])
        columns = (np.tile(views, (len(shapes), 1)), np.repeat(own, VIEWS, 0))
        return np.concatenate(columns, 1).astype(np.float32)

    def __getstate__(self) -> dict[str, object]:
        none = np.zeros(0, bool)
        return {**self.__dict__, "_drawn": none, "_kept": none}  # a worker draws for itself


def chairs_like(mode: Mode) -> dict[Split, Images]:
    """Return both splits of the drawn chairs: all views of every tenth chair are held out.

    `mode` "always" keeps no image; else each is kept once it was drawn, up to 354 MB.
    """

    def part(held_out: bool) -> Images:
        numbers = np.arange(CHAIRS)
        chosen = numbers[(numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out]
        source = Chairs(chosen, keep=mode != "always")
        return Images(Streamed(source, None), None, factors=source.factors(), factor_names=FACTORS)

    return {"train": part(held_out=False), "test": part(held_out=True)}

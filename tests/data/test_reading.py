"""Pixels mean what a viewer shows: transparency, orientation, value ranges, frames, colour, fit."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sets import noise, pixels
from PIL import Image, ImageCms, PngImagePlugin

from fastinfogan import data
from fastinfogan.data import decoding
from fastinfogan.errors import UserError


def load(spec: str, size: int = 8, channels: int = 1, **options: Any) -> data.Images:
    return data.load(spec, image_size=size, channels=channels, **options)["train"]


def refused(spec: str, size: int = 8, channels: int = 1, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(spec, size, channels, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tenfold(folder: Path, picture: Image.Image, suffix: str = "png", **options: Any) -> str:
    """Write one picture ten times; returns the spec."""
    folder.mkdir(exist_ok=True)
    for i in range(10):
        picture.save(folder / f"{i}.{suffix}", **options)
    return f"folder:{folder}"


def letter(side: int = 56) -> np.ndarray:
    """Return an F, which no turn or mirror leaves as it is, white on black."""
    scale = side // 56
    picture = np.zeros((56, 56), np.uint8)
    picture[8:48, 16:24] = picture[8:16, 16:40] = picture[26:32, 16:34] = 255
    return picture.repeat(scale, 0).repeat(scale, 1)


def notes_name(images: data.Images, *words: str) -> bool:
    return any(all(word in line for word in words) for line in images.notes)


# Transparency


def glyph(colour: int, hidden: np.ndarray | int = 0) -> np.ndarray:
    """Return the letter in a colour, all else transparent, with `hidden` colours under it."""
    out = np.zeros((56, 56, 4), np.uint8)
    out[..., :3] = hidden
    out[letter() > 0, :3] = colour
    out[..., 3] = letter()
    return out


def test_a_black_letter_on_nothing_is_black_on_white(tmp_path: Path) -> None:
    read = load(tenfold(tmp_path, Image.fromarray(glyph(0))), 56)
    assert (pixels(read)[0, ..., 0] == 255 - letter()).all()
    assert notes_name(read, "transparency in 10 images", "white")


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_under_alpha_0_is_trained_on(tmp_path: Path, channels: int) -> None:
    pictures = Image.fromarray(glyph(255, noise(1, 56)[0]))
    read = load(tenfold(tmp_path, pictures), 56, channels, background="black")
    assert (pixels(read)[0] == letter()[..., None]).all()


def test_a_letter_that_the_background_hides_is_reported(tmp_path: Path) -> None:
    read = load(tenfold(tmp_path, Image.fromarray(glyph(255))), 56)
    assert notes_name(read, "10 images are blank on white", "--background")


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path: Path) -> None:
    spec = tenfold(tmp_path, Image.new("RGBA", (8, 8), (200, 100, 0, 128)))
    colour = pixels(load(spec, 8, 3, background="#0000ff"))[0, 0, 0]
    # 128/255 of the colour, the rest of blue, each to a rounding
    np.testing.assert_allclose(colour, [100.4, 50.2, 127], atol=1)


@pytest.mark.parametrize("kind", ["LA", "palette", "gif", "tRNS gray", "tRNS colour", "tRNS 16"])
def test_every_kind_of_transparency_shows_the_background(tmp_path: Path, kind: str) -> None:
    black = letter() > 0
    levels = np.where(black, 0, 90).astype(np.uint8)  # 90 is what is transparent
    if kind == "LA":
        alpha = np.where(black, 255, 0).astype(np.uint8)
        spec = tenfold(tmp_path, Image.fromarray(np.stack([levels, alpha], -1), "LA"))
    elif kind in ("palette", "gif"):
        image = Image.fromarray(np.where(black, 1, 2).astype(np.uint8), "P")
        image.putpalette([10, 20, 30, 0, 0, 0, 90, 90, 90])
        suffix = "gif" if kind == "gif" else "png"
        spec = tenfold(tmp_path, image, suffix, transparency=2)
    elif kind == "tRNS gray":
        spec = tenfold(tmp_path, Image.fromarray(levels), transparency=90)
    elif kind == "tRNS colour":
        colours = Image.fromarray(np.stack([levels] * 3, -1))
        spec = tenfold(tmp_path, colours, transparency=(90, 90, 90))
    else:
        deep = Image.fromarray(levels.astype(np.uint16) * 257)
        spec = tenfold(tmp_path, deep, transparency=90 * 257)
    for channels in (1, 3):
        read = pixels(load(spec, 56, channels))[0]
        assert (read == (255 - letter())[..., None]).all()


def test_an_opaque_alpha_channel_is_not_reported(tmp_path: Path) -> None:
    read = load(tenfold(tmp_path, Image.new("RGBA", (8, 8), (200, 200, 200, 255))))
    assert (pixels(read) == 200).all()
    assert len(read.notes) == 1


def test_four_channels_keep_alpha(tmp_path: Path) -> None:
    read = pixels(load(tenfold(tmp_path, Image.fromarray(glyph(70))), 56, 4))[0]
    assert (read[..., 3] == letter()).all()
    assert (read[letter() > 0][:, :3] == 70).all()


# Orientation


def stored(orientation: int) -> np.ndarray:
    """Return the letter as a camera stores it that writes this orientation."""
    upright = letter()
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation].copy()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_by_its_exif_at_every_bit_depth(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    depths = (np.uint8,) if suffix == "webp" else (np.uint8, np.uint16)
    more = {"lossless": True} if suffix == "webp" else {}
    for depth in depths:
        picture = stored(orientation).astype(depth) * (257 if depth == np.uint16 else 1)
        spec = tenfold(tmp_path / f"{depth}", Image.fromarray(picture), suffix, exif=exif, **more)
        read = pixels(load(spec, 56))
        assert (read[0, ..., 0] == letter()).all()


def odd_exif(orientation: int = 6) -> bytes:
    """Return EXIF with an orientation and an XResolution below zero, which Pillow cannot write."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", 0x011A, 10, 1, 38)
    return (
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<ii", -5, 3)
    )


def test_odd_exif_does_not_hide_pixels_nor_their_orientation(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(stored(6)).save(buffer, "JPEG", quality=100)
    plain, exif = buffer.getvalue(), odd_exif()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(plain[:2] + segment + plain[2:])
    read = pixels(load(f"folder:{tmp_path}", 56))[0, ..., 0].astype(int)
    assert abs(read - letter()).max() < 30  # JPEG


def test_much_text_in_a_png_does_not_hide_its_pixels(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    spec = tenfold(tmp_path, Image.fromarray(letter()[::-1, ::-1].copy()), pnginfo=text)
    assert (pixels(load(spec, 56))[0, ..., 0] == letter()[::-1, ::-1]).all()


def test_a_torn_text_in_a_png_does_not_hide_its_pixels(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a comment", zip=True)
    spec = tenfold(tmp_path, Image.fromarray(letter()), pnginfo=text)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        at = content.index(b"zTXt") + 14
        path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    assert (pixels(load(spec, 56))[0, ..., 0] == letter()).all()


# Value ranges


def masks() -> np.ndarray:
    return (noise(30, 8, 1)[..., 0] > 127).astype(np.uint8)


def write(kind: str, root: Path, images: np.ndarray) -> str:
    """Write images [N, H, W] for one reader; returns the spec."""
    if kind == "npz":
        np.savez(root / "x.npz", images=images)
        return f"npz:{root / 'x.npz'}"
    if kind == "npy":
        np.save(root / "x.npy", images)
        return f"npy:{root / 'x.npy'}"
    if kind == "idx":
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (root / "x.idx").write_bytes(header + images.tobytes())
        return f"idx:{root / 'x.idx'}"
    (root / "x").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "x" / f"{i:04}.{kind}")
    return f"folder:{root / 'x'}"


@pytest.mark.parametrize("kind", ["npz", "npy", "idx", "png", "tif", "bmp"])
def test_masks_of_0_and_1_are_black_and_white(tmp_path: Path, kind: str) -> None:
    spec = write(kind, tmp_path, masks())
    read = load(spec)
    assert (pixels(read)[..., 0] == np.delete(masks(), np.s_[9::10], 0) * 255).all()
    assert notes_name(read, "images reach 1 of 255", "--value-range")
    assert pixels(load(spec, value_range="full")).max() == 1
    if kind != "idx" and kind != "npz":
        streamed = data.load(spec, image_size=8, channels=1, stream="always")["train"]
        assert (pixels(streamed) == pixels(read)).all()


@pytest.mark.parametrize(
    ("white", "bits"), [(255, 8), (1023, 10), (4095, 12), (16383, 14), (65535, 16)]
)
@pytest.mark.parametrize("kind", ["npz", "npy", "png", "tif", "pgm"])
def test_the_bits_in_16_bit_files_are_found(
    tmp_path: Path, kind: str, white: int, bits: int
) -> None:
    levels = np.linspace(0, white, 30 * 64).round().astype(np.uint16).reshape(30, 8, 8)
    if kind == "pgm":
        (tmp_path / "x").mkdir()
        for i, image in enumerate(levels):
            content = b"P5 8 8 65535\n" + image.astype(">u2").tobytes()
            (tmp_path / "x" / f"{i:02}.pgm").write_bytes(content)
        spec = f"folder:{tmp_path / 'x'}"
    else:
        spec = write(kind, tmp_path, levels)
    read = load(spec)
    expected = np.delete(levels, np.s_[9::10], 0) * (255 / white)
    assert abs(pixels(read)[..., 0] - expected).max() <= 0.51
    assert notes_name(read, f"{bits} bits") is (white != 65535)


def test_dark_16_bit_copies_of_8_bits_keep_their_brightness(tmp_path: Path) -> None:
    levels = np.full((10, 8, 8), 20 * 257, np.uint16)
    assert (pixels(load(write("png", tmp_path, levels))) == 20).all()


def test_white_is_zero_at_16_bits_too(tmp_path: Path) -> None:
    levels = letter().astype(np.uint16) * 257
    spec = tenfold(tmp_path, Image.fromarray(65535 - levels), "tif", tiffinfo={262: 0})
    assert (pixels(load(spec, 56))[0, ..., 0] == letter()).all()


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_of_a_known_range_are_read_with_a_line(
    tmp_path: Path, kind: str, low: int, high: int, dtype: Any
) -> None:
    bright = noise(30, 8, 1)[..., 0]
    read = load(write(kind, tmp_path, (bright / 255 * (high - low) + low).astype(dtype)))
    assert (pixels(read)[..., 0] == np.delete(bright, np.s_[9::10], 0)).all()
    assert notes_name(read, "float images", "…1")


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("values", [(-3.0, 2.0), (0.0, 255.0), (0.0, np.nan), (0.0, np.inf)])
def test_other_floats_are_refused_with_the_option(
    tmp_path: Path, kind: str, values: tuple[float, float]
) -> None:
    images = np.tile(np.array(values), (30, 8, 4))
    message = refused(write(kind, tmp_path, images))
    assert "uint8, got float64" in message
    assert "--value-range" in message or "not finite" in message


@pytest.mark.parametrize("kind", ["npz", "npy", "png"])
def test_a_given_value_range_is_mapped_and_clipped(tmp_path: Path, kind: str) -> None:
    images = np.tile(np.array([0, 10, 20, 60], np.uint8), (30, 8, 2))
    read = load(write(kind, tmp_path, images), value_range="10,30")
    assert (pixels(read)[0, 0, :4, 0] == [0, 0, 128, 255]).all()
    assert notes_name(read, "10 (black) to 30 (white)")


def test_dark_images_are_kept_with_a_line(tmp_path: Path) -> None:
    images = np.full((30, 8, 8), 29, np.uint8)
    read = load(write("npz", tmp_path, images))
    assert (pixels(read) == 29).all()
    assert notes_name(read, "images reach 29 of 255", "--value-range 0,29")


def test_an_image_outside_the_range_of_the_others_is_refused_by_name(tmp_path: Path) -> None:
    images = masks().repeat(20, 0)
    images[301] = 200  # of 600 images 256 are looked at: not this one
    spec = write("png", tmp_path, images)
    assert "0301.png" in refused(spec)
    assert "--value-range full" in refused(spec)


@pytest.mark.parametrize("text", ["0", "a,b", "5,5", "9,1", "0,inf", "", "none"])
def test_an_invalid_value_range_is_refused(tmp_path: Path, text: str) -> None:
    message = refused(write("npz", tmp_path, masks()), value_range=text)
    assert message.startswith("--value-range: expected auto, full or LOW,HIGH")


@pytest.mark.parametrize(
    ("option", "value"), [("background", "sky"), ("fit", "zoom"), ("frames", "2"), ("skip_bad", -1)]
)
def test_an_option_that_cannot_be_used_is_named(tmp_path: Path, option: str, value: Any) -> None:
    spec = write("npz", tmp_path, masks())
    assert refused(spec, **{option: value}).startswith(f"--{option.replace('_', '-')}: expected")


# Layouts


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_first_are_turned_with_a_line(tmp_path: Path, kind: str, channels: int) -> None:
    images = noise(30, 8, channels)
    read = load(write(kind, tmp_path, np.moveaxis(images, 3, 1).copy()), 8, channels)
    assert (pixels(read) == np.delete(images, np.s_[9::10], 0)).all()
    assert notes_name(read, "[N, C, H, W]")


def test_matlabs_layout_is_refused_with_what_to_save(tmp_path: Path) -> None:
    images = np.moveaxis(noise(30), 0, 3).copy()
    assert "images.transpose(3, 0, 1, 2)" in refused(write("npz", tmp_path, images), 8, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool])
def test_other_integers_and_booleans_are_read(tmp_path: Path, dtype: Any) -> None:
    images = (masks() * (1 if dtype is bool else 200)).astype(dtype)
    read = pixels(load(write("npz", tmp_path, images)))
    assert set(np.unique(read)) == {0, 255 if dtype is bool else 200}


# Frames


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_of_several_frames_the_first_is_read_or_all(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("L", (8, 8), 50 * k) for k in range(1, 5)]
    more: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    for i in range(10):
        path = tmp_path / f"{i}.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    first = load(f"folder:{tmp_path}")
    assert (pixels(first) == 50).all()
    assert notes_name(first, "30 frames or pages of 10 files", "--frames all")
    every = data.load(f"folder:{tmp_path}", image_size=8, channels=1, frames="all")
    assert len(every["train"]) == 36
    assert pixels(every["train"])[:4, 0, 0, 0].tolist() == [50, 100, 150, 200]
    assert notes_name(every["train"], "40 frames of 10 files")


def test_frames_have_the_labels_of_their_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            page = Image.new("L", (8, 8), 90)
            page.save(tmp_path / name / f"{i}.tif", save_all=True, append_images=[page])
    splits = data.load(f"folder:{tmp_path}", image_size=8, channels=1, frames="all")
    assert splits["train"].labels is not None
    assert splits["train"].labels.tolist() == [0] * 9 + [1] * 9


# Colour


def test_colours_of_another_profile_are_converted_to_srgb(tmp_path: Path) -> None:
    profile = wide_gamut()
    spec = tenfold(tmp_path, Image.new("RGB", (8, 8), (60, 200, 90)), icc_profile=profile)
    read = load(spec, 8, 3)
    plain = tenfold(tmp_path / "plain", Image.new("RGB", (8, 8), (60, 200, 90)))
    assert abs(pixels(read)[0, 0, 0].astype(int) - pixels(load(plain, 8, 3))[0, 0, 0]).max() > 10
    assert notes_name(read, "colours of 10 images converted to sRGB")


def wide_gamut() -> bytes:
    """Return sRGB's profile with the columns of red and blue exchanged: wrong on purpose."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = content.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    # the description is text of two bytes per letter
    return content.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def test_srgbs_own_profile_and_a_broken_one_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb", srgb), ("broken", b"no profile")):
        spec = tenfold(
            tmp_path / name, Image.new("RGB", (8, 8), (60, 200, 90)), icc_profile=profile
        )
        assert (pixels(load(spec, 8, 3)) == [60, 200, 90]).all()


def test_cmyk_is_read_as_pillow_does(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    read = pixels(load(tenfold(tmp_path, picture, "jpg", quality=100), 8, 3))[0, 0, 0]
    np.testing.assert_allclose(read.astype(int), [0, 255, 255], atol=3)


# Fit


def bands() -> Image.Image:
    """Return an image of 24 x 8: a white band of 8, a gray one, a white one."""
    picture = np.full((8, 24), 255, np.uint8)
    picture[:, 8:16] = 100
    return Image.fromarray(picture)


def test_a_crop_says_how_much_it_cuts_off(tmp_path: Path) -> None:
    read = load(tenfold(tmp_path, bands()))
    assert (pixels(read) == 100).all()
    assert notes_name(read, "67% of the median image is cut off", "--fit")


def test_pad_keeps_all_on_the_background_and_stretch_without_one(tmp_path: Path) -> None:
    spec = tenfold(tmp_path, bands())
    padded = pixels(load(spec, 24, fit="pad", background="black"))[0, ..., 0]
    assert (padded[8:16] == np.asarray(bands())).all()
    assert not padded[:8].any()
    assert not padded[16:].any()
    stretched = pixels(load(spec, 24, fit="stretch"))[0, ..., 0]
    assert (stretched == np.asarray(bands())[:1]).all()
    assert len(load(spec, 24, fit="pad").notes) <= 2


def test_square_images_say_nothing_of_a_crop(tmp_path: Path) -> None:
    assert len(load(tenfold(tmp_path, Image.new("L", (8, 8), 99))).notes) == 1


# What is not decoded


def test_postscript_under_an_images_name_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program started"))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "0.png").write_bytes(content)
    assert "0.png" in refused(f"folder:{tmp_path}")


@pytest.mark.parametrize("side", [20_000, 10**6])
def test_an_image_of_absurd_size_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    content = bytearray((tmp_path / "0.png").read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    from zlib import crc32

    content[29:33] = struct.pack(">I", crc32(bytes(content[12:29])))
    (tmp_path / "0.png").write_bytes(content)
    message = refused(f"folder:{tmp_path}")
    assert "0.png" in message
    assert "pixels" in message


@pytest.mark.parametrize("size", [(9, 8), (8, 9)])
def test_an_image_has_at_most_so_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 64)
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    decoding.decode(tmp_path / "0.png")
    Image.new("L", size).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels, expected at most 64"):
        decoding.decode(tmp_path / "1.png")


def test_all_of_pillow_s_formats_are_loaded_before_the_first_image_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker process may begin with any format; Pillow by itself begins with five."""
    calls: list[str] = []
    monkeypatch.setattr(Image, "init", lambda: calls.append("init"))
    assert decoding._formats.__wrapped__(".png")
    assert calls == ["init"]


def test_metadata_are_taken_out_chunk_by_chunk() -> None:
    buffer = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    Image.new("L", (8, 8), 7).save(buffer, "PNG", pnginfo=text)
    bare = decoding.without_metadata(buffer.getvalue())
    assert bare is not None
    assert b"tEXt" not in bare
    assert np.asarray(Image.open(io.BytesIO(bare)))[0, 0] == 7
    assert decoding.without_metadata(b"GIF89a") is None

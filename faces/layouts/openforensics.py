"""OpenForensics (Le et al., ICCV 2021): pictures of several people, with a record for each face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, label_of

_SPLIT_OF = {"train": "train", "val": "val", "test-dev": "test", "test-challenge": "test"}
_LISTS = {f"{name}_poly.json": split for name, split in _SPLIT_OF.items()}


class OpenForensics:
    """Faces are cut by the authors' boxes; those of one picture belong together."""

    name = "openforensics"
    title = "OpenForensics"
    example = (
        "Train_poly.json, Val_poly.json, Test-Dev_poly.json, Test-Challenge_poly.json   (COCO records)\n"
        "Images/Train/0a0a0a0a0a.jpg"
    )
    official: str | None = "Train_poly.json, Val_poly.json, Test-Dev_poly.json and Test-Challenge_poly.json"

    def recognise(self, tree: Tree) -> Evidence:
        lists = tree.named(*_LISTS)
        if lists:
            return Evidence(tuple(lists))
        folders = [name for name in ("Test-Dev", "Test-Challenge") if tree.folders_like(name)]
        return (
            Evidence(tuple(folders), ("Train_poly.json or another of the authors' lists",)) if folders else Evidence()
        )

    def rule(self, tree: Tree, _options: Options) -> Rule:
        pictures: dict[str, list[tuple[str, list[dict[str, Any]]]]] = defaultdict(list)  # name -> (list, faces)
        for file in tree.named(*_LISTS):
            split = file.rpartition("/")[2].lower()
            for name, faces in _faces(tree.read_json(file), f"{tree.root / file}").items():
                pictures[name].append((split, faces))

        def classify(path: str) -> list[Entry] | Skip:
            folder, _, name = path.rpartition("/")
            if name.lower() in _LISTS:
                return Skip("lists of the layout", known=True)
            records = pictures.get(name, [])
            if len(records) > 1:  # the same name in two lists: that of the folder counts
                folders = folder.lower().split("/")
                records = [record for record in records if record[0].removesuffix("_poly.json") in folders]
            if len(records) != 1:
                return Skip("no list names it, or several do")
            file, faces = records[0]
            entries = []
            for face in faces:
                left, top, width, height = face["bbox"]
                entries.append(
                    Entry(
                        path=path,
                        label=face["label"],
                        method="pristine" if face["label"] == "real" else "OpenForensics",
                        source=path,
                        split=_LISTS[file],
                        box=(left, top, left + width, top + height),
                    )
                )
            return entries or Skip("the list names no face in it")

        return classify


def _faces(content: Any, where: str) -> Mapping[str, list[dict[str, Any]]]:
    """Name of each picture -> its faces, with `label` by the file's own categories and `bbox`.

    Raises:
        UserError: the file is not like that.
    """
    try:
        names = {image["id"]: str(image["file_name"]).rpartition("/")[2] for image in content["images"]}
        labels = {item["id"]: label_of(str(item["name"])) for item in content["categories"]}
        faces: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
        for face in content["annotations"]:
            label = labels[face["category_id"]]
            if label is None:
                raise UserError(
                    f"{where} has categories other than real and fake: this is not OpenForensics as published"
                )
            box = [float(value) for value in face["bbox"]]
            if len(box) != 4:
                raise ValueError(f"a box of {len(box)} numbers")
            faces[names[face["image_id"]]].append({"label": label, "bbox": box})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} is not like COCO's records ({error!r}): download it again") from error
    return faces

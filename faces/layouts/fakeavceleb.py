"""FakeAVCeleb (Khalid et al., NeurIPS Datasets 2021)."""

from __future__ import annotations

import re

from core.errors import UserError
from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree

_LIST = "meta_data.csv"
_SET = r"(?P<video>Real|Fake)Video-(?P<audio>Real|Fake)Audio"
_FILE = re.compile(rf"(?:^|.*/)(?P<place>{_SET}/(?:.+/)?(?P<person>id\d+))/(?P<name>[^/]+)", re.IGNORECASE)


class FakeAVCeleb:
    """The label is the picture's: a real face whose voice is forged is real."""

    name = "fakeavceleb"
    title = "FakeAVCeleb"
    example = (
        "meta_data.csv                        (source,target1,target2,method,...,path and folder)\n"
        "RealVideo-RealAudio/African/men/id00076/00109.mp4\n"
        "FakeVideo-RealAudio/African/men/id00076/00109_id00166_wavtolip.mp4"
    )
    official: str | None = None

    def recognise(self, tree: Tree) -> Evidence:
        sets = [match[0].rpartition("/")[2] for match in tree.folders_like(_SET)]
        if not sets:
            return Evidence()
        missing = [] if tree.named(_LIST) else [f"{_LIST} with methods and persons"]
        for label in ("Real", "Fake"):
            if not any(name.lower().startswith(label.lower()) for name in sets):
                missing.append(f"{label}Video-RealAudio with the {label.lower()} faces")
        return Evidence((*tree.named(_LIST)[:1], *sets), tuple(missing))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        files = tree.named(_LIST)
        if not files:
            raise UserError(f"{tree.root} has no {_LIST}, which names methods and persons: download it")
        records = {
            (_place(list(row.values())[-1]), row["path"].lower()): row
            for row in tree.read_csv(files[0], ("source", "target1", "target2", "method", "path"))
        }

        def classify(path: str) -> Entry | Skip:
            if path.rpartition("/")[2].lower() == _LIST:
                return Skip("lists of the layout", known=True)
            match = _FILE.fullmatch(path)
            if match is None:
                return Skip("it stands outside the folders of fakeavceleb")
            record = records.get((match["place"].lower(), match["name"].lower()))
            if record is None:
                return Skip(f"{_LIST} does not name it, so that its persons are not known")
            label = match["video"].lower()
            persons = {match["person"].lower()} | {
                record[key].lower() for key in ("source", "target1", "target2") if re.fullmatch(r"id\d+", record[key])
            }
            return Entry(
                path=path, label=label, method="pristine" if label == "real" else record["method"] or "fake",
                source=f"{match['place']}/{match['name']}", persons=frozenset(persons),
            )  # fmt: skip

        return classify


def _place(folder: str) -> str:
    """`FakeAVCeleb/RealVideo-RealAudio/African/men/id00076/` as `realvideo-realaudio/african/men/id00076`."""
    match = re.search(rf"{_SET}/.+", folder, re.IGNORECASE)
    return match[0].rstrip("/").lower() if match else folder.lower()

"""WildDeepfake (Zi et al., ACM MM 2020), as archives or unpacked."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path, PurePosixPath

from faces.layouts.base import Entry, Evidence, Options, Rule, Skip, Tree, frame_number

ARCHIVE = re.compile(r".*\.(?:tar\.gz|tgz|tar)", re.IGNORECASE)
_SET = r"(?P<label>real|fake)[ _-](?P<split>train|test)"
_FILE = re.compile(rf"(?:^|.*/)(?P<set>{_SET})/(?P<rest>.+)", re.IGNORECASE)


class WildDeepfake:
    """One folder a sequence of faces, in archives `N.tar.gz` of one video each; the names are numbers of frames."""

    name = "wild-deepfake"
    title = "WildDeepfake"
    example = (
        "real_train/0.tar.gz                  (sequence/frame.png inside; or unpacked: real_train/0/...)\n"
        "fake_train/0.tar.gz\n"
        "real_test/700.tar.gz, fake_test/700.tar.gz"
    )
    official: str | None = "the folders real_train, fake_train, real_test and fake_test"

    def recognise(self, tree: Tree) -> Evidence:
        sets = {f"{match['label']}_{match['split']}".lower() for match in tree.folders_like(_SET)}
        if not sets:
            return Evidence()
        labels = {name.partition("_")[0] for name in sets}
        missing = [
            f"{label}_train or {label}_test with the {label} sequences"
            for label in ("real", "fake")
            if label not in labels
        ]
        return Evidence(tuple(sorted(sets)), tuple(missing))

    def rule(self, tree: Tree, _options: Options) -> Rule:
        def classify(path: str) -> Entry | list[Entry] | Skip:
            match = _FILE.fullmatch(path)
            if match is None:
                return Skip("it stands outside the folders of wild-deepfake")
            if not ARCHIVE.fullmatch(path):
                return _entry(path, match)
            try:
                names = members(tree.root / path)
            except (OSError, tarfile.TarError, EOFError) as error:
                return Skip(f"the archive cannot be read ({error}): download it again")
            entries = [_entry(f"{path}/{name}", match, archive=match["rest"], member=name) for name in names]
            return [entry for entry in entries if isinstance(entry, Entry)]

        return classify


def members(archive: Path) -> list[str]:
    """Names of the regular files in an archive, without those that lead out of it.

    Raises:
        OSError, EOFError, tarfile.TarError: the archive is damaged or cut short.
    """
    with tarfile.open(archive) as opened:
        names = [str(PurePosixPath(member.name)) for member in opened if member.isfile()]
    return sorted(name for name in names if not name.startswith("/") and ".." not in PurePosixPath(name).parts)


def _entry(path: str, match: re.Match[str], archive: str | None = None, member: str = "") -> Entry | Skip:
    inside = (
        f"{re.sub(r'[.](tar[.]gz|tgz|tar)$', '', archive, flags=re.IGNORECASE)}/{member}" if archive else match["rest"]
    )
    folder, _, name = inside.rpartition("/")
    number = frame_number(name)
    if not folder or number is None:
        return Skip("it is not a numbered frame in the folder of a sequence")
    label = match["label"].lower()
    place = f"{label}_{match['split'].lower()}"
    return Entry(
        path=path, label=label, method="pristine" if label == "real" else "WildDeepfake",
        source=f"{place}/{folder}", split=match["split"].lower(), frame=number,
    )  # fmt: skip

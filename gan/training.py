"""Train a generator: a job that shows faces until its budget is spent, and that can be killed at any moment.

Running the same call again resumes. The budget in minutes counts training time over all calls.
"""

from __future__ import annotations

from pathlib import Path

from faces.errors import UserError
from faces.loading import load_crops
from faces.manifest import Manifest
from gan.config import GanConfig
from gan.device import pick_device
from gan.feeding import feeder
from gan.job import Job
from gan.parallel import Team
from gan.reporting import Report, ignore
from gan.validation import validation_of

FEWEST_FACES = 16


def train(
    manifest: Manifest, config: GanConfig, out: Path, cache: Path, report: Report = ignore, team: Team | None = None
) -> Path:
    """Train a generator on the real faces of the train split, or resume, or return at once what is finished.

    Where the val split has faces enough, the kernel distance to them is reported as `kd_val`, the generator that is
    published is the one for which it was least, and training ends early when it has not become better for long.

    Args:
        manifest: only rows whose label is `config.learn_from` and that are not synthetic are looked at; those of split
            train are learnt from, those of val, of the same data sets, choose the checkpoint.
        config: the budget, and the intervals of checkpoints and samples, may differ from an earlier call's.
        out: gets `generator/`, `training.pt` and `samples/NNNNNN.png` (named by thousands of pictures shown).
        cache: folder of decoded crops, see `faces.loading`. Crops become RGB squares of `config.image_size`: grey is
            tripled, transparency dropped, what is not square squeezed.
        report: gets losses, ADA's p and images/s; the step is the count of real pictures shown.
        team: the processes that train together, see `gan.parallel`; this one alone by default.

    Returns:
        `out/generator`, the averaged generator: `weights.safetensors` and `config.json`.

    Raises:
        UserError: too few faces, another configuration or other faces than `out` was begun with, a generator to start
            from that does not fit, or a loss that is no number any more.
        KeyboardInterrupt: after the state was saved.
    """
    config = config.resolved()
    team = team or Team(pick_device(config.device))
    faces = faces_to_learn(manifest, config)
    if len(faces) < FEWEST_FACES:
        raise UserError(
            f"{len(faces)} {config.learn_from} faces in the train split, too few to learn from:"
            f" ingest at least {FEWEST_FACES}"
        )
    validation = None
    if config.validate_every_kimg:
        held_out = faces_to_learn(manifest, config, "val")
        held_out = held_out.select(dataset=list(faces.rows["dataset"].unique()))
        validation = validation_of(held_out, config.image_size, cache, team.device)
    job = Job(faces, config, Path(out), report if team.leads else ignore, team, validation)
    job.begin()
    if not job.finished or job.validation_due:
        job.run(feeder(load_crops(faces, config.image_size, cache), team.device))
    elif not job.is_published:
        job.save()
    return job.folder


def faces_to_learn(manifest: Manifest, config: GanConfig, split: str = "train") -> Manifest:
    """The rows of a split that a configuration learns from: of its label, and never the workbench's own forgeries."""
    rows = manifest.select(split=split, label=config.learn_from)
    return rows.where(~rows.synthetic)

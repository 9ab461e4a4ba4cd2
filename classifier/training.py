"""Transfer learning of a detector: the head on a frozen backbone, then as much of it as the configuration says.

All randomness of a step is a function of (seed, epoch, step): the order of the rows, augmentation, mixup and dropout.
So the two counters are the whole random state, and a resumed run repeats the uninterrupted one bit for bit on a CPU.
One process trains on one device; plain torch does, since all that Fabric would add here is a second's import.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from classifier.batching import class_weights, epoch_order, paired_parts, parents_of
from classifier.calibration import probabilities
from classifier.config import DetectorConfig, differences
from classifier.models.backbones import head, pooled
from classifier.models.detector import Detector, read_description
from classifier.models.forensics import ForensicNetwork, backbone_of
from classifier.optim import averaged, optimizer, prepare, schedule, set_learning_rate
from classifier.scoring import BATCH_SIZE, frozen_features, logits
from classifier.venn_abers import ValScores
from core.device import autocast, derived_seed, keep_freed_memory, pick_device, pick_precision
from core.errors import UserError
from core.files import write_json
from core.manifest import Manifest
from core.progress import Report, deferred_interrupt, ignore, progress_bar
from core.state import read_state, write_state
from faces.augmentation import augment
from faces.loading import Crops, load_crops

HISTORY, STATE = "history.json", "training.pt"
_STATE_NAMES = {"config", "manifest_digest", "model", "optimizer", "ema", "progress"}
_log = logging.getLogger(__name__)


def train(manifest: Manifest, config: DetectorConfig, out: Path, cache: Path, report: Report = ignore) -> Path:
    """Train on split=train, stop early and calibrate on split=val; rows of split=test are not looked at.

    The same call again goes on where a killed one stopped, or returns at once where it was finished.

    Args:
        manifest: with both labels in train, and better in val too.
        config: see DetectorConfig.
        out: folder of the detector; holds `training.pt` while the job is unfinished.
        cache: folder of the crop cache and the feature store.
        report: called after each epoch (from 1) with train_loss, val_loss, val_auc, images_per_second; the two of val
            only where val has both labels. What it raises stops the job, which can be resumed.

    Returns:
        `out`, with weights.safetensors, config.json and history.json.

    Raises:
        UserError: train lacks a class, `out` belongs to another job, the weights cannot be had, or the loss became nan.
    """
    out = Path(out)
    described = read_description(out)
    if described is not None:
        if "config" not in described:
            raise UserError(f"{out} holds an ensemble: train into another folder")
        _refuse_other(described["config"], described["manifest_digest"], config, manifest.digest, out)
        return out
    job = _Job(manifest, config, out, Path(cache), report)
    job.run()
    return out


class _Job:
    """The state of one training and the steps that move it on."""

    def __init__(self, manifest: Manifest, config: DetectorConfig, out: Path, cache: Path, report: Report) -> None:
        keep_freed_memory()
        out.mkdir(parents=True, exist_ok=True)
        self.config, self.out, self.cache, self.report = config, out, cache, report
        self.digest = manifest.digest
        self.device = pick_device(config.device)
        # In the order of their hashes, so that the order of the manifest's rows does not matter.
        rows = manifest.select(split=["train", "val"])
        by_hash = rows.rows.sort_values(["sha256", "dataset", "label"], kind="stable").reset_index(drop=True)
        self.rows = Manifest(by_hash, rows.root)
        split = by_hash["split"].to_numpy(dtype=np.str_)
        self.train_rows, self.val_rows = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")
        self.targets = self.rows.targets
        self._check_classes()
        self.class_weights = self._class_weights(self.train_rows)
        self.parents = self._parents() if config.paired else {}
        state = read_state(out / STATE, _STATE_NAMES)
        if state is not None:
            _refuse_other(state["config"], state["manifest_digest"], config, self.digest, out)
        # A job that goes on has its weights: it needs no hub.
        self.detector = Detector.create(config if state is None else config.model_copy(update={"weights": "none"}))
        self.detector.config = config
        self.detector.to(self.device)
        self.precision = pick_precision(config.precision, self.device, self.detector.module)
        self.optimizer = optimizer(self.detector.module, config.learning_rate, config.weight_decay, config.layer_decay)
        self.ema = averaged(self.detector.module, config.ema_decay) if config.ema_decay else None
        self.progress = Progress()
        if state is not None:
            self._resume(state)
        self.saved_at = time.monotonic()
        self.features: NDArray[np.float32] | None = None
        if _stored(config, self.progress.epoch):
            self.features = frozen_features(self.detector, self.rows, cache)

    @functools.cached_property
    def crops(self) -> Crops:
        """Of train and val; a job on stored features alone needs none."""
        return load_crops(self.rows, self.config.image_size, self.cache)

    def _class_weights(self, rows: NDArray[np.int64]) -> Tensor:
        weighted = self.config.balance == "weights"
        return (class_weights(self.targets[rows]) if weighted else torch.ones(2)).to(self.device)

    def _parents(self) -> dict[int, NDArray[np.int64]]:
        train = self.rows.rows.iloc[self.train_rows]
        found = parents_of(train["sha256"].tolist(), train["parent"].tolist(), self.targets[self.train_rows])
        if not found:
            _log.warning("no train fake names a real of train as its parent: batches are not paired")
        return found

    def _check_classes(self) -> None:
        train, val = self.targets[self.train_rows], self.targets[self.val_rows]
        if len(np.unique(train)) < 2:
            held = f"only {'fake' if train[0] else 'real'} faces" if len(train) else "no faces"
            raise UserError(
                f"the train split holds {held} ({len(train)} rows): a detector learns from both, so add the other label"
            )
        self.judged = len(np.unique(val)) == 2
        if not self.judged:
            _log.warning(
                "the val split holds %d rows of one label at most: no early stopping, the last epoch is kept, "
                "temperature 1 and threshold 0.5",
                len(val),
            )

    # --- the loop

    def run(self) -> None:
        """Train to the end, then calibrate and publish."""
        config, progress = self.config, self.progress
        with deferred_interrupt() as interrupted:
            self.interrupted = interrupted
            while progress.epoch < config.epochs and not self._should_stop():
                self._epoch()
                if self.features is None or self._due() or interrupted():
                    self._save()
                write_json(self.out / HISTORY, {"epochs": progress.history})
                metrics = {name: value for name, value in progress.history[-1].items() if name != "epoch"}
                self.report(metrics, progress.epoch)
                if interrupted():
                    raise KeyboardInterrupt
        self._publish()

    def _should_stop(self) -> bool:
        patience, best = self.config.early_stopping_epochs, self.progress.best
        return bool(patience and best is not None and self.progress.epoch - best["epoch"] >= patience)

    def _epoch(self) -> None:
        config, progress = self.config, self.progress
        frozen = progress.epoch < config.head_epochs
        if not frozen:
            self.features = None
        prepare(self.detector.module, config, progress.epoch)
        parts = self._parts()
        total = sum(map(len, parts))
        if self.parents:
            self.class_weights = self._class_weights(np.concatenate(parts))
        seen, seconds = 0, 0.0
        label = f"epoch {progress.epoch + 1}/{config.epochs}" + (", head" if frozen else "")
        with progress_bar(total, label, "crop", delay=3, leave=False) as bar:
            bar.update(sum(map(len, parts[: progress.step])))
            for part in parts[progress.step :]:
                began = time.perf_counter()
                loss = self._step(part, frozen, len(parts))
                seconds += time.perf_counter() - began
                seen += len(part)
                progress.step += 1
                progress.loss_sum += loss * len(part)
                bar.update(len(part))
                if self.interrupted():
                    self._save()
                    raise KeyboardInterrupt
                if self._due():
                    self._save()
        metrics = {"epoch": progress.epoch + 1, "train_loss": progress.loss_sum / total}
        if seconds > 0:
            metrics["images_per_second"] = seen / seconds
        metrics |= self._validate()
        progress.finish_epoch(metrics, self._published_state, judged=self.judged)

    def _step(self, rows: NDArray[np.int64], frozen: bool, steps: int) -> float:
        config, progress = self.config, self.progress
        set_learning_rate(self.optimizer, self._learning_rate(frozen, steps), config.backbone_learning_rate_factor)
        # Dropout draws from torch's global generators: they are seeded for this step and put back after it.
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derived_seed(config.seed, 1, progress.epoch, progress.step))
            mixed = self._mixed(len(rows))
            seen = self._seen(rows, frozen, mixed)
            outputs = head(self.detector.module)(F.dropout(seen.float(), config.dropout)).squeeze(1)
        fake = torch.from_numpy(self.targets[rows]).to(self.device)
        loss = self._loss(outputs, fake)
        if mixed is not None:
            share, others = mixed
            loss = share * loss + (1 - share) * self._loss(outputs, fake[others.to(self.device)])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.detector.module)
        return value

    def _loss(self, outputs: Tensor, fake: Tensor) -> Tensor:
        smooth = fake * (1 - 2 * self.config.label_smoothing) + self.config.label_smoothing
        return F.binary_cross_entropy_with_logits(outputs, smooth.float(), weight=self.class_weights[fake])

    def _mixed(self, count: int) -> tuple[float, Tensor] | None:
        """How much of each picture stays, and the pictures [B] that fill the rest up (Zhang et al. 2018)."""
        alpha = self.config.mixup
        if not alpha:
            return None
        random = np.random.default_rng(derived_seed(self.config.seed, 3, self.progress.epoch, self.progress.step))
        return float(random.beta(alpha, alpha)), torch.from_numpy(random.permutation(count))

    def _seen(self, rows: NDArray[np.int64], frozen: bool, mixed: tuple[float, Tensor] | None) -> Tensor:
        """[B, F] what the head sees of those rows."""
        if self.features is not None:
            return self._stored_seen(rows)
        detector = self.detector
        images = detector.normalise(self._images(rows))
        if mixed is not None:
            share, others = mixed
            images = torch.lerp(images[others.to(self.device)], images, share)
        with autocast(self.device, self.precision):
            with torch.set_grad_enabled(not frozen):
                seen = pooled(backbone_of(detector.module), images)
            if isinstance(detector.module, ForensicNetwork):  # its branches learn from the first epoch on
                seen = detector.module.fused(seen, images)
        return seen

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        """uint8 [B, 3, S, S], augmented."""
        images = self.crops.batch(rows).to(self.device)
        if self.config.augmentation > 0:
            seed = derived_seed(self.config.seed, 2, self.progress.epoch, self.progress.step)
            images = augment(images, self.config.augmentation, torch.Generator().manual_seed(seed))
        return images

    def _stored_seen(self, rows: NDArray[np.int64]) -> Tensor:
        """[B, F] what the head sees, with the backbone's part from the store."""
        assert self.features is not None
        seen, module = torch.from_numpy(self.features[rows]).to(self.device), self.detector.module
        if not isinstance(module, ForensicNetwork):
            return seen
        with autocast(self.device, self.precision):
            return module.fused(seen, self.detector.normalise(self.crops.batch(rows).to(self.device)))

    def _parts(self) -> list[NDArray[np.int64]]:
        """The rows of each step of this epoch."""
        config, train = self.config, self.train_rows
        generator = torch.Generator().manual_seed(derived_seed(config.seed, 0, self.progress.epoch))
        if self.parents:
            return [train[part] for part in paired_parts(len(train), self.parents, config.batch_size, generator)]
        order = train[epoch_order(self.targets[train], config.balance, generator)]
        return np.array_split(order, math.ceil(len(order) / config.batch_size))  # no last batch of one face

    def _learning_rate(self, frozen: bool, steps: int) -> float:
        """Of the head, at this step; its course starts anew for each of the two phases."""
        config, progress = self.config, self.progress
        first = 0 if frozen else config.head_epochs
        last = config.head_epochs if frozen else config.epochs
        step = (progress.epoch - first) * steps + progress.step
        return config.learning_rate * schedule(step, (last - first) * steps, config.warmup_share)

    # --- val

    def _validate(self) -> dict[str, float]:
        """val_loss (mean cross-entropy of a face) and val_auc, or nothing where val cannot be judged."""
        if not self.judged:
            return {}
        outputs = self._val_logits()
        if not np.isfinite(outputs).all():
            raise self._diverged(float("nan"))
        targets = self.targets[self.val_rows]
        loss = float(log_loss(targets, probabilities(outputs, 1.0).astype(np.float64), labels=[0, 1]))
        return {"val_loss": loss, "val_auc": float(roc_auc_score(targets, outputs))}

    def _val_logits(self) -> NDArray[np.float32]:
        module = self.detector.module
        try:
            if self.ema is not None:
                self.detector.module = self.ema.module
            if self.features is None:
                return logits(self.detector, self.crops, self.val_rows, precision=self.config.precision)
            return self._stored_logits()
        finally:
            self.detector.module = module

    @torch.inference_mode()
    def _stored_logits(self) -> NDArray[np.float32]:
        """[val] from stored features."""
        self.detector.eval()  # each epoch sets the modes anew
        parts = range(0, len(self.val_rows), BATCH_SIZE)
        seen = [self._stored_seen(self.val_rows[start : start + BATCH_SIZE]) for start in parts]
        outputs: NDArray[np.float32] = head(self.detector.module)(torch.cat(seen)).squeeze(1).cpu().numpy()
        return outputs

    def _published_state(self) -> dict[str, Tensor]:
        """A copy on the CPU of the weights that would be published now: the averaged ones where there are any."""
        module = self.detector.module if self.ema is None else self.ema.module
        return {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}

    def _publish(self) -> None:
        """Calibrate the best weights on val and write the detector."""
        best = self.progress.best
        assert best is not None
        detector = self.detector
        detector.module.load_state_dict(best["state"])
        if self.judged:
            outputs = logits(detector, self.crops, self.val_rows) if self.features is None else self._stored_logits()
            targets = self.targets[self.val_rows]
            detector.calibrate(outputs, targets)
            ValScores.of(outputs, targets, self.rows.groups[self.val_rows]).save(self.out)
        detector.manifest_digest = self.digest
        write_json(self.out / HISTORY, {"epochs": self.progress.history, "best_epoch": best["epoch"]})
        detector.save(self.out)
        (self.out / STATE).unlink(missing_ok=True)

    # --- the state on disk

    def _due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.config.checkpoint_every_seconds

    def _save(self) -> None:
        """Write the state, but never one with numbers that are none over a good one."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.detector.parameters()):
            raise self._diverged(float("nan"))
        state = {
            "config": self.config.model_dump(),
            "manifest_digest": self.digest,
            "model": self.detector.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "progress": vars(self.progress),
        }
        write_state(self.out / STATE, state)
        self.saved_at = time.monotonic()

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.detector.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.progress = Progress(**state["progress"])

    def _diverged(self, loss: float) -> UserError:
        steps = len(self._parts())
        step = self.progress.epoch * steps + self.progress.step
        state = self.out / STATE
        kept = f"last good checkpoint kept in {state}" if state.exists() else "no checkpoint was written yet"
        return UserError(
            f"loss is {loss} at step {step} of {self.config.epochs * steps}; {kept}; "
            f"lower the learning rate ({self.config.learning_rate:g}) and train into another folder"
        )


def _refuse_other(old: Mapping[str, object], old_digest: str, config: DetectorConfig, digest: str, out: Path) -> None:
    changed = differences(DetectorConfig.model_validate(old), config)
    if old_digest != digest:
        changed.append("the manifest's rows")
    if changed:
        raise UserError(
            f"{out} belongs to a job with other settings ({'; '.join(changed)}): give another folder, "
            "or delete this one"
        )


def _stored(config: DetectorConfig, epoch: int) -> bool:
    """Whether features can come from the store: where a frozen backbone always sees the same pixels."""
    frozen = epoch < config.head_epochs or config.head_epochs == config.epochs
    return frozen and config.augmentation == 0 and config.mixup == 0


@dataclass
class Progress:
    """Counters, the best weights so far and the metrics of each finished epoch; plain containers and tensors."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch under way
    loss_sum: float = 0.0  # of the epoch under way, over its faces
    best: dict[str, Any] | None = None  # epoch, auc, loss, state
    history: list[dict[str, float]] = field(default_factory=list)

    def finish_epoch(
        self, metrics: dict[str, float], weights: Callable[[], dict[str, Tensor]], *, judged: bool
    ) -> None:
        """Keep the weights where they are better: by val_auc, then by val_loss. Where val is no judge, the last are."""
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self.history.append(metrics)
        rank = (metrics["val_auc"], -metrics["val_loss"]) if judged else (float(self.epoch), 0.0)
        if self.best is None or rank > (self.best["auc"], -self.best["loss"]):
            self.best = {"epoch": self.epoch, "auc": rank[0], "loss": -rank[1], "state": weights()}

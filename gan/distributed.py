"""Processes that train one generator together, each on its rows of every batch.

Lightning Fabric starts them (or finds those that torchrun has started), picks their devices and connects them. They
exchange the mean of their gradients after each backward pass, and their logits for the metrics.
DistributedDataParallel would overlap the former with the backward pass, but it supports neither gradient penalties,
which differentiate twice, nor networks that are called other than by `forward`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.device import pick_device
from core.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, seen from one; alone by default: every method returns what it is given."""

    device: torch.device  # where this process computes
    rank: int = 0  # its number, 0 for the main process, which writes files and reports
    size: int = 1  # how many there are

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes: one message for all of them."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        joined /= self.size
        parts = torch.split(joined, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def gather(self, rows: Tensor) -> Tensor:
        """[..., b] of every process, in their order -> [..., size * b]."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts, dim=-1)

    def highest(self, values: Sequence[float]) -> list[float]:
        """The largest over the processes of each value, so that all of them decide alike."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [float(value) for value in largest]


def is_first() -> bool:
    """Whether this process starts the others, or is the first of those that torchrun has started."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def launch(device: str = "auto", devices: int = 1) -> ProcessGroup:
    """The group of this process: started here when `devices` asks for several, joined when torchrun has started it.

    Starting runs this process's own command line again for each of the others. Each gets its own GPU, or a share of the
    CPU. `devices` counts the processes on this machine; torchrun's own count goes first.

    Raises:
        UserError: there are not as many GPUs, or single devices of several processes were named.
    """
    elastic = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if devices == 1 and not elastic:
        return ProcessGroup(pick_device(device))
    kind = pick_device(device).type
    if ":" in device:
        raise UserError(f"device {device} is a single one: give cuda or cpu to train on several")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices)) if elastic else devices
    if kind == "cuda" and local > torch.cuda.device_count():
        raise UserError(f"{local} devices are more than this machine has ({torch.cuda.device_count()}): ask for fewer")
    from lightning_fabric import Fabric  # seconds to import, for whoever trains on several devices

    nodes = int(os.environ.get("WORLD_SIZE", devices)) // local if elastic else 1
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return ProcessGroup(fabric.device, fabric.global_rank, fabric.world_size)

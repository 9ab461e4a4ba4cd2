"""One seed, from which every stream of random numbers comes by (seed, step, what it is for)."""

from __future__ import annotations

import numpy as np
import torch

# What the random numbers of a step are for: each has a stream of its own.
FLIPS, LATENTS, SHOWN, FORGED, PAIRED = range(5)


def derived_seed(*entropy: int) -> int:
    """A 63-bit seed from a few integers, such that neighbours give unrelated streams (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


class seeded:  # noqa: N801, a context manager reads as a verb
    """Initialise weights from a seed, and leave torch's global generator as it was: nn.Parameter takes no generator."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.manual_seed(derived_seed(self.seed))

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.before)

"""Adversarial losses and gradient penalties, each a few lines of published formula.

Logits are [B], positive for real. Penalties are differentiable: they backpropagate into the discriminator's weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def relativistic_loss(winner: Tensor, loser: Tensor) -> Tensor:
    """E[softplus(-(D(winner) - D(loser)))]: a picture should beat the one that it is paired with.

    The discriminator wants the real to win, the generator the fake (Jolicoeur-Martineau 2019, arXiv:1807.00734;
    R3GAN, Huang et al. 2024, arXiv:2501.05441, equation 2).
    """
    return F.softplus(loser - winner).mean()


def non_saturating_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[softplus(-D(x))] + E[softplus(D(G(z)))] (Goodfellow et al. 2014)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """Squared gradient norm of the logits at each picture, ||grad_x D(x)||^2 (Mescheder et al. 2018, equation 9).

    At reals this is R1, at fakes R2. The published penalty is gamma / 2 times its mean. From pictures [B, 3, S, S],
    taken as constants, to [B] with a graph to the discriminator's weights.
    """
    pictures = pictures.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(pictures).sum(), pictures, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def share_on_real_side(real: Tensor, fake: Tensor, *, relativistic: bool) -> Tensor:
    """ADA's sign of overfitting, r_t = E[sign(D(x_train))] in [-1, 1] (Karras et al. 2020, equation 1).

    A relativistic discriminator is free to add any constant to its logits, so there the sign is taken
    from the midpoint between the mean real and the mean fake.
    """
    midpoint = (real.mean() + fake.mean()) / 2 if relativistic else torch.zeros((), device=real.device)
    return (real - midpoint).sign().mean()


Loss = Callable[[Tensor, Tensor], Tensor]
# name -> (discriminator's and generator's loss of reals and fakes, whether it is relativistic: fakes are penalised too)
LOSSES: dict[str, tuple[Loss, Loss, bool]] = {
    "relativistic": (relativistic_loss, lambda real, fake: relativistic_loss(fake, real), True),
    # E[softplus(-D(G(z)))] (Goodfellow et al. 2014, section 3), where the reals do not enter.
    "ns-r1": (non_saturating_loss, lambda _, fake: F.softplus(-fake).mean(), False),
}

"""Ranger, the optimiser that StyleCLIP's mappers were trained with.

Three ideas in one: rectified Adam (Liu et al. 2020, arXiv 1908.03265, algorithm 2), look-ahead
(Zhang et al. 2019, arXiv 1907.08610) and gradient centralisation (Yong et al. 2020, arXiv
2004.01461). torch.optim has the first, with epsilon in another place and another threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

RECTIFIED_ABOVE = 5.0  # length of the simple moving average from which the variance is trusted
LOOK_AHEAD_EVERY, LOOK_AHEAD = 6, 0.5


class Ranger(Optimizer):
    """RAdam with centred gradients; every sixth step goes half way from the sixth before.

    Gradients of tensors of two and more dimensions lose their mean over all but the first.

    Args:
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the root of the second.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"], state["slow"] = 0, parameter.clone()
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        (beta1, beta2), gradient = group["betas"], _centred(parameter.grad)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = group["lr"] / (1 - beta1 ** state["step"])
        rectified = rectification(state["step"], beta2)
        if rectified is None:
            parameter.sub_(state["mean"], alpha=rate)
        else:
            spread = state["square"].sqrt().add_(group["eps"])
            parameter.addcdiv_(state["mean"], spread, value=-rate * rectified)
        if state["step"] % LOOK_AHEAD_EVERY == 0:
            state["slow"].lerp_(parameter, LOOK_AHEAD)
            parameter.copy_(state["slow"])


def rectification(step: int, beta2: float) -> float | None:
    """RAdam's factor on the step, times the bias correction of the second moment; None while the
    variance of the adaptive rate cannot be trusted and the step is that of plain momentum."""
    longest = 2 / (1 - beta2) - 1
    decayed = beta2**step
    length = longest - 2 * step * decayed / (1 - decayed)
    if length <= RECTIFIED_ABOVE:
        return None
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt((1 - decayed) * ratio)


def _centred(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    if gradient.ndim < 2:
        return gradient
    return gradient - gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)

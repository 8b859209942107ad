"""One optimiser step: zero, backward, average over learners, clip, update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

AverageGradients = Callable[[Sequence[nn.Parameter]], None]


class ModelOptimizer:
    """The optimiser of one model, with gradient clipping, warm-up and weight decay on matrices only.

    An update is `begin_update()`, which counts and sets the learning rate, and then `step(loss)`, which is tensor
    operations alone: on a GPU it can be captured in a CUDA graph, since the learning rate is a tensor there.

    Args:
        name: for messages and metrics.
        model: what it trains.
        optimizer_class: torch.optim.AdamW or torch.optim.Adam.
        lr: learning rate after the warm-up.
        grad_clip: largest norm of all gradients together.
        weight_decay: of parameters with at least two axes that are not embeddings.
        epsilon: of Adam.
        warmup_updates: updates over which the learning rate rises linearly to `lr`.
        average_gradients: called before clipping, where several learners train together.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        optimizer_class: Callable[..., torch.optim.Optimizer],
        lr: float,
        grad_clip: float,
        weight_decay: float = 0.0,
        epsilon: float = 1e-8,
        warmup_updates: int = 0,
        average_gradients: AverageGradients | None = None,
    ) -> None:
        self.name, self.lr, self.grad_clip, self.warmup_updates = name, lr, grad_clip, warmup_updates
        self.num_updates = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._average_gradients = average_gradients
        self._on_gpu = self.parameters[0].is_cuda
        self._present_lr = lr
        self._lr_tensor = torch.tensor(lr, dtype=torch.float32, device=self.parameters[0].device)  # read on a GPU only
        decayed, others = _split_by_decay(model)
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = optimizer_class(
            [g for g in groups if g["params"]], lr=lr, eps=epsilon, fused=True, capturable=self._on_gpu
        )
        self._fixed = [
            {name: group[name] for name in ("weight_decay", "eps")} for group in self._optimizer.param_groups
        ]
        self._configure_groups()

    def begin_update(self, count: int = 1) -> None:
        """Counts the next `count` updates and sets the learning rate that they use."""
        warmth = min(1.0, (self.num_updates + 1) / self.warmup_updates) if self.warmup_updates else 1.0
        self.num_updates += count
        if self._present_lr != self.lr * warmth:
            self._present_lr = self.lr * warmth
            self._configure_groups()

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        """Descends the gradient of `loss`; returns its norm before clipping, ()."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self._average_gradients is not None:
            self._average_gradients(self.parameters)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        # Clips: fused optimisers divide gradients by this as they go, for torch.amp.GradScaler.
        self._optimizer.grad_scale = (norm / self.grad_clip).clamp(min=1)  # pyright: ignore[reportAttributeAccessIssue]
        self._optimizer.step()
        return norm

    @torch.no_grad()
    def parameter_norm(self) -> torch.Tensor:
        """The norm of all parameters together, ()."""
        return nn.utils.get_total_norm(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the moments, and the number of updates; the same on every device."""
        state = copy.deepcopy(self._optimizer.state_dict())
        for group in state["param_groups"]:
            group.update(lr=self._present_lr, capturable=False)
        return {"optimizer": state, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the moments and the number of updates; learning rate, weight decay and epsilon stay the configured.

        The moments become new tensors, so what was captured with the old ones must be captured anew.
        """
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.num_updates = state["num_updates"]
        self._configure_groups()

    def _configure_groups(self) -> None:
        """Gives its settings to the optimiser; the learning rate as a number, or in the tensor that a graph reads."""
        self._lr_tensor.fill_(self._present_lr)
        lr = self._lr_tensor if self._on_gpu else self._present_lr
        for group, fixed in zip(self._optimizer.param_groups, self._fixed, strict=True):
            group.update(lr=lr, capturable=self._on_gpu, **fixed)


def _split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay (matrices) and without (biases, norms, embeddings)."""
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and "embedding" not in name else others).append(parameter)
    return decayed, others

"""Muon for the hidden matrices of a model and AdamW for the rest, as one optimizer.

Exported code holds this file from here on, as it stands.
"""

from typing import Any

import torch


def hidden_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights with two dimensions, but not those of embeddings and of the last layer.

    The last layer is the one that the model registers last. Biases, norms, kernels of convolutions
    and what is no `weight` (a table of positions, say) are none either.
    """
    layers: list[list[torch.nn.Parameter]] = []
    embeddings: list[torch.nn.Parameter] = []
    for layer in model.modules():
        named = layer.named_parameters(recurse=False)
        matrices = [p for name, p in named if "weight" in name and p.dim() == 2]
        if isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag):
            embeddings += matrices
        elif matrices:
            layers.append(matrices)
    last = layers[-1] if layers else []
    others = {id(p) for p in embeddings + last}
    return [p for layer in layers for p in layer if id(p) not in others and p.requires_grad]


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon for the hidden matrices, torch.optim.AdamW for the rest.

    Its defaults are those of https://github.com/KellerJordan/Muon. Of each group, the part that
    AdamW has is trained at `adamw_ratio` of the rate; `lr_ratio` in a group says so.
    """

    def __init__(
        self,
        params: Any,
        hidden: list[torch.nn.Parameter],  # as hidden_matrices gives them
        lr: float = 0.02,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        adamw_ratio: float = 0.015,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        if not 0 < adamw_ratio < float("inf"):
            raise ValueError(f"adamw_ratio={adamw_ratio}: expected a number above 0")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "lr_ratio": 1.0})
        chosen = {id(p) for p in hidden}
        muon, adamw = [], []
        for group in self.param_groups:
            own = [p for p in group["params"] if id(p) in chosen]
            rest = [p for p in group["params"] if id(p) not in chosen]
            rates = {name: group[name] * adamw_ratio for name in ("lr", "lr_ratio")}
            muon += [{**group, "params": own}] if own else []
            adamw += [{**group, **rates, "params": rest}] if rest else []
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            optimizer = torch.optim.Muon(
                muon,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            )
            self.parts.append(optimizer)
        if adamw:
            self.parts.append(torch.optim.AdamW(adamw, betas=adamw_betas, eps=adamw_eps))
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self._share()

    def _share(self) -> None:
        """The parts work on these groups and on this state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

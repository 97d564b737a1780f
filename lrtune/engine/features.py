"""A frozen backbone's features, computed once: a Task whose trials train a head alone."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.engine.device_task import DeviceTask, Loader, attempt
from lrtune.engine.optimizers import make_optimizer
from lrtune.tasks import Split, Task
from lrtune.tasks.splits import Stream, Tree, concat, laid_out, tree_map
from lrtune.tasks.stream import room, size

PROBED = 8  # samples
CLOSE = 1e-3  # of the largest feature: rounding is less, dropout and batch statistics are more
NOT_KEPT = "features of the frozen backbone are not kept: "


class Head(nn.Module):
    """A part of a model, under the name that it has there, so that its parameters keep theirs."""

    def __init__(self, path: str, head: nn.Module) -> None:
        super().__init__()
        self._path = path
        *outer, last = path.split(".")
        place: nn.Module = self
        for name in outer:
            place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(last, head)

    def forward(self, features: Tensor) -> Tree:
        """What the head makes of its inputs (n, ...)."""
        return self.get_submodule(self._path)(features)


def with_features(task: Task, device: str, tell: Callable[[str], None]) -> tuple[Task, str]:
    """The task with its frozen backbone's outputs as inputs and the head as model, and a sentence.

    The same trainings to rounding, provided that the backbone gives the same in every trial and at
    every update; that is tried on a few samples. Where it does not, and where there is no room for
    the features, the task stays as it is, and the sentence says why; it is empty where nothing is
    frozen before the part that trains.

    Args:
        task: what is trained.
        device: where the backbone runs, once over every split, in the task's precision.
        tell: is told the sentence, before the backbone runs.
    """
    with torch.random.fork_rng(devices=[]):
        model = task.model()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    paths = [
        path
        for path, _ in model.named_modules()
        if path and all(name.startswith(f"{path}.") for name in trained)
    ]
    if not paths or next(model.parameters()).requires_grad:
        return task, ""
    place = DeviceTask(task, 1, device)
    found = _checked(place, paths)
    if isinstance(found, str):
        tell(sentence := NOT_KEPT + found)
        return task, sentence
    path, first = found
    samples = sum(split.samples for split in task.splits.values())
    needed, free = samples * first.nbytes // len(first), room(torch.device("cpu"), task.memory)
    if needed > free:
        tell(sentence := f"{NOT_KEPT}{size(needed)}, and there is room for {size(free)} (--memory)")
        return task, sentence
    numbers = first.numel() // len(first)
    sentence = (
        f"features of the frozen backbone computed once: {numbers:,} numbers per sample, "
        f"{size(needed)}"
    )
    tell(sentence)
    backbone = place.model(0).eval()
    loaders: dict[str, Loader] = {name: getattr(place, name) for name in task.splits}
    changes: dict[str, Any] = {
        name: loader.over(partial(_split, place, backbone, path, loader))
        for name, loader in loaders.items()
    }
    changes |= {
        "model": _maker(task.model, path),
        "freeze": (),
        "prepare": nn.Identity(),
        "keywords": False,
    }
    return replace(task, **changes), sentence


def _head(make: Callable[[], nn.Module], path: str) -> Head:
    """The head of a fresh model: weights are drawn as they are without features."""
    return Head(path, make().get_submodule(path))


def _redrawn(head: Head, drawn: tuple[str, ...]) -> Head:
    """A copy of a head, with layers that are drawn anew."""
    head = deepcopy(head)
    for name in drawn:
        layer: Any = head.get_submodule(name)
        layer.reset_parameters()
    return head


def _maker(make: Callable[[], nn.Module], path: str) -> Callable[[], nn.Module]:
    """Makes heads; without their backbones where that gives the same weights for a seed."""
    whole = partial(_head, make, path)
    first, other, third = (_seeded(whole, seed) for seed in range(3))
    state, others = first.state_dict(), other.state_dict()
    odd = [name.rpartition(".")[0] for name in state if not torch.equal(state[name], others[name])]
    quick = partial(_redrawn, first, tuple(dict.fromkeys(odd)))
    again = attempt(partial(_seeded, quick, 2))
    if isinstance(again, Exception):  # of a layer that cannot be drawn anew
        return whole
    state, others = again.state_dict(), third.state_dict()
    return quick if all(torch.equal(state[name], others[name]) for name in state) else whole


def _seeded(make: Callable[[], Head], seed: int) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def _checked(place: DeviceTask, paths: list[str]) -> tuple[str, Tensor] | str:
    """Where the head begins, and the features of some samples; or why none can be kept."""
    task = place.task
    if task.augment:
        return f"augmentation ({', '.join(task.augment)}) changes every image at every update"
    if any(isinstance(split, Stream) and split.draws for split in task.splits.values()):
        return "samples are drawn at random"
    with place.train.begun(PROBED):
        inputs = [batch.inputs for batch in place.train.whole()]
    stored, why = concat(inputs), ""
    for path in reversed(paths):  # the least that holds all that trains, then what is around it
        seen = attempt(partial(_of_modes, place, path, stored))
        if isinstance(seen, Exception):
            why = why or f"what trains is no layer at the end of the model ({path})"
            continue
        (_, training), (_, other), (outputs, features), head = seen
        with torch.no_grad(), place.autocast():
            again = attempt(partial(head, features))
        if not isinstance(again, Tensor) or not _close(again, outputs):
            why = why or f"the outputs of {path} are not those of the model"
        elif not _close(training, features):
            why = why or f"what is before {path} draws or adapts in training (dropout, batch norm)"
        elif not _close(other, features):
            why = "each trial draws another one (give it --weights)"
        elif not _same_groups(task, path):
            why = "the parameter groups are of the whole model"
        else:
            return path, features
    return why


Seen = tuple[Tree, Tensor]  # the outputs of a model, and what its head took


def _of_modes(place: DeviceTask, path: str, stored: Tree) -> tuple[Seen, Seen, Seen, nn.Module]:
    """In training, of another seed, and in evaluation, with its head."""
    model = place.model(0)
    with place.training():
        training = _run(place, model, path, stored)
    other = _run(place, place.model(1).eval(), path, stored)
    return training, other, _run(place, model.eval(), path, stored), model.get_submodule(path)


@torch.no_grad()
def _run(place: DeviceTask, model: nn.Module, path: str, stored: Tree) -> Seen:
    """A forward pass of samples as they are stored.

    Raises:
        ValueError: the part is not called once, with one tensor.
    """
    taken: list[tuple[Tree, ...]] = []
    part = model.get_submodule(path)
    with part.register_forward_pre_hook(lambda _, inputs: taken.append(inputs)), place.autocast():
        outputs = place.task.outputs(model, laid_out(place.prepare(stored), place.task.layout))
    ((features,),) = taken
    if not isinstance(features, Tensor):
        raise ValueError(f"{path} takes no tensor")
    return outputs, features


def _close(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * float(other.abs().max()))


def _same_groups(task: Task, path: str) -> bool:
    """Whether a head alone has the parameter groups that it has in its model."""

    def settings(make: Callable[[], nn.Module]) -> list[dict[str, object]]:
        model = make()
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = [
            {**group, "params": [names[p] for p in group["params"] if p.requires_grad]}
            for group in make_optimizer(task, model).param_groups
        ]
        return [group for group in groups if group["params"]]

    with torch.random.fork_rng(devices=[]):
        try:
            return settings(task.model) == settings(partial(_head, task.model, path))
        except Exception:  # whatever a user's own groups raise where there is no backbone
            return False


def _split(place: DeviceTask, model: nn.Module, path: str, loader: Loader) -> Split:
    """A split's features with its targets, on the CPU."""
    parts = []
    with place.own_generators():
        for stored, targets in loader.whole():
            _, features = _run(place, model, path, stored)
            parts.append(tree_map(lambda tensor: tensor.cpu(), (features, targets)))
    return Split(*concat(parts))

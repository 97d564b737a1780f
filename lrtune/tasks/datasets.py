"""DATASETS: data by name."""

from collections.abc import Callable
from functools import partial

import torch

from lrtune.tasks.catalog import CATALOG, torchvision_data
from lrtune.tasks.data import Data
from lrtune.tasks.metrics import METRICS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.parts import normalize, three_parts
from lrtune.tasks.split import Split
from lrtune.tasks.tables import embedded


def digits(options: TaskOptions) -> Data:
    """scikit-learn's digits: 1,797 grey 8x8 images, 10 classes; needs no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    whole = Split(
        torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1),
        torch.from_numpy(raw.target).long(),
    )
    splits = three_parts("digits", {"train": whole}, options.seed, raw.target_names.astype(str))
    return Data(
        name="digits",
        source="scikit-learn load_digits",
        kind="classification",
        metrics=METRICS["classification"],
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        outputs=len(raw.target_names),
        prepare=normalize(splits["train"]),
        defaults={"model": "mlp", "batch_size": 4, "epochs": 3.0},
    )


DATASETS: dict[str, Callable[[TaskOptions], Data]] = {
    "digits": digits,
    "breast_cancer": partial(embedded, "breast_cancer", "load_breast_cancer"),
    "diabetes": partial(embedded, "diabetes", "load_diabetes"),
    "wine": partial(embedded, "wine", "load_wine"),
    **{name: partial(torchvision_data, name) for name in CATALOG},
}

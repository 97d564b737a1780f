"""What makes a search this one and no other."""

import pytest

import lrtune
from lrtune.run.identity import settings_for
from lrtune.search import SEARCHABLE


@pytest.mark.parametrize(
    ("metric", "families", "study"),
    [
        (None, SEARCHABLE, "digits-mlp-sgd-36"),
        ("cross_entropy", SEARCHABLE, "digits-mlp-sgd-36"),
        ("accuracy", SEARCHABLE, "digits-mlp-sgd-36-accuracy"),
        ("macro_f1", ("cosine", "wsd"), "digits-mlp-sgd-36-macro_f1-cosine-wsd"),
        (None, ("cosine", "wsd", "step", "rex"), "digits-mlp-sgd-36-4-families-226f8c"),
        (None, ("wsd", "cosine", "step", "rex"), "digits-mlp-sgd-36-4-families-063485"),
    ],
)
def test_another_question_has_a_folder_of_its_own(
    metric: str | None, families: tuple[str, ...], study: str
) -> None:
    task = lrtune.load_task(
        "digits", batch_size=32, epochs=1, **({} if metric is None else {"metric": metric})
    )
    found = settings_for(task, families, (0.0, 0.2), False, 0, None, "cpu")
    assert found["study"] == study

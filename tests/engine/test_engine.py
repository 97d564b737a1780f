"""Which pool, on which devices; no GPU is needed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lrtune import InputError
from lrtune.engine import Choice
from lrtune.engine import devices as pools
from lrtune.engine import place as places
from lrtune.engine.devices import Engine, devices_of, own_settings
from lrtune.engine.place import Place, choose_pool

pytestmark = pytest.mark.cpu


@pytest.fixture
def gpus(monkeypatch):
    """A machine with some, the first of which is the current one."""

    def empty(_, device):
        found = torch.device(device)
        index = (found.index or 0) if found.type == "cuda" else found.index
        return SimpleNamespace(device=torch.device(found.type, index))

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, "cuda:0"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cuda, cuda:1", "cuda:0 cuda:1"),
        ("cpu", "cpu"),
        ("cpu:0", "cpu"),
        ("cuda,cuda:0", "cuda:0 cuda:0"),  # two processes share it
    ],
)
def test_devices_have_their_number(names, expected, gpus):
    assert devices_of(names) == tuple(expected.split())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cpu,cuda", "of one kind"),
        ("tpu", "device 'tpu': cpu, cuda, or cuda:1"),
    ],
)
def test_devices_that_cannot_be(names, message, gpus):
    with pytest.raises(InputError, match=message):
        devices_of(names)


@pytest.mark.parametrize(
    ("devices", "slots", "chosen", "expected"),
    [
        ("AA", None, False, 6),  # as before
        ("A", None, True, 4),
        ("AAAAAAAA", None, True, 32),  # and not: too few for each
        ("AB", None, True, 8),
        ("AA", 5, True, 5),
    ],
)
def test_what_was_chosen_serves_again_on_such_devices(
    devices, slots, chosen, expected, monkeypatch
):
    made = []
    monkeypatch.setattr(places, "hardware", lambda device: device[0])
    monkeypatch.setattr(places, "choose", lambda *_, **__: (Choice("fused", 4), object()))
    monkeypatch.setattr(places, "of_processes", lambda _, slots, *__: made.append(slots))
    monkeypatch.setattr(places, "make_pool", lambda *_: None)
    before = Choice("fused", 6, devices=("A", "A"))
    names = tuple(f"{kind}:{number}" for number, kind in enumerate(devices))
    monkeypatch.setattr(pools, "devices_of", lambda _: names)
    place, task = Place(Engine(slots=slots), lambda line: None), SimpleNamespace(horizon=100)
    _, choice = choose_pool(task, place, before, updates=1000)
    assert (choice is not before) == chosen
    assert (choice.slots, choice.devices) == (expected, tuple(devices))
    assert made == ([expected] if len(devices) > 1 else [])


@pytest.mark.parametrize("workspace", [None, ":16:8"])
@pytest.mark.parametrize("mode", ["default", "warn"])
def test_determinism_ends_with_the_run(mode, workspace, monkeypatch):
    def state():
        mode = torch.get_deterministic_debug_mode()
        return mode, torch.backends.cudnn.benchmark, os.environ.get(pools.WORKSPACE)

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv(pools.WORKSPACE, raising=False)
    if workspace is not None:
        monkeypatch.setenv(pools.WORKSPACE, workspace)
    torch.set_deterministic_debug_mode(mode)
    before = state()
    try:
        with pytest.raises(LookupError), own_settings(True):
            assert state() == (2, False, workspace or ":4096:8")
            raise LookupError
        assert state() == before
        with own_settings(False):
            assert state() == before
    finally:
        torch.set_deterministic_debug_mode("default")


def test_a_choice_serves_again_where_determinism_is_the_same(monkeypatch):
    monkeypatch.setattr(places, "choose", lambda *_, **__: (Choice("serial", 1), None))
    monkeypatch.setattr(places, "make_pool", lambda *_: None)
    choice = Choice("serial", 1, devices=("cpu",))
    for deterministic in (True, True, False):
        before, engine = choice, Engine(device="cpu", deterministic=deterministic)
        _, choice = choose_pool(None, Place(engine, lambda line: None), before, updates=1000)
        assert choice.deterministic == deterministic
        assert (choice is before) == (before.deterministic == deterministic)


@pytest.mark.slow
def test_one_setting_makes_gpu_tests_of_the_engine_s():
    """Of every kind of pool; and where there is no GPU they say so."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "-rs"]
    told = subprocess.run(
        [*command, tests / "engine", tests / "tasks/test_augment.py"],
        env={**os.environ, "LRTUNE_TEST_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    ).stdout
    skipped = [line.split(" SKIPPED")[0] for line in told.splitlines() if " SKIPPED" in line]
    files = {Path(name.partition("::")[0]).name for name in skipped}
    stay = {
        f"test_{name}.py" for name in ("attention", "choose", "engine", "fake", "pool", "spread")
    }
    assert files == {path.name for path in Path(__file__).parent.glob("test_*.py")} - stay | {
        "test_augment.py"
    }
    assert f"SKIPPED [{len(skipped)}]" in told and "no CUDA device" in told
    for pool in ("test_compiled_is_eager", "test_streamed_data", "test_the_same_as_one_pool"):
        assert any(pool in name for name in skipped)
    assert "passed" not in told and "failed" not in told

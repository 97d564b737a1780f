"""SpreadPool over workers that are lost at any moment: to the bit what it gives without losses."""

import pickle
import sys
from concurrent.futures import Future
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine import spread as spreads
from lrtune.engine.spread import Lost, Refused, SpreadPool
from lrtune.engine.worker import Worker
from tests.engine import trials

pytestmark = pytest.mark.cpu
RATES = np.linspace(0.1, 0.01, 50)


class Near:
    """A worker in this process, which dies of its ``dies``-th request, and may be asleep."""

    leaving, sees = False, True

    def __init__(self, task, name="host", dies=0, asleep=False, states=None):
        self.name, self.dies, self.asleep = name, dies, asleep
        self.done, self.waiting = [], []
        self.worker = Worker("cpu", name)
        self.worker.hold(task, {})
        self.worker.states = states

    def ask(self, number, method, *arguments):
        answer = Future()
        self.waiting.append((method, cloudpickle.dumps((number, method, arguments)), answer))
        if not self.asleep:
            self.wake()
        return answer

    def wake(self):
        self.asleep = False
        waiting, self.waiting = self.waiting, []
        for method, request, answer in waiting:
            self.done.append(method)
            if self.dies and len(self.done) >= self.dies:
                answer.set_exception(Lost("gone"))
                continue
            found = pickle.loads(self.worker.do(request))
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found[0])

    def lines(self):
        return []

    def kill(self):
        self.dies = 1
        self.wake()


@pytest.fixture(params=[SerialPool, FusedPool])
def make(request):
    return request.param


@pytest.fixture
def start(fifty):
    """Makes workers: those that are told for a number, one after the other, then ordinary ones."""

    def of(*told, **others):
        made = []
        queue = {number: [*hosts] for number, hosts in enumerate(told)}

        def begin(number):
            how = queue[number].pop(0) if queue.get(number) else others
            made.append(Near(fifty, f"host {len(made)}", **how))
            return made[-1]

        return begin, made

    return of


def course(pool):
    """Trials that come, go, change, move and are kept, in numbers."""
    told = [pool.start(slot, RATES * (slot + 1), seed=slot % 2) for slot in range(4)]
    told += pool.advance()
    pool.revise(1, np.append(RATES[:25], RATES[25:] / 2))
    kept = [pool.snapshot(slot) for slot in range(4)]
    pool.release(0)
    told.append(pool.start(0, RATES, seed=1))
    told += pool.advance()
    told.append(pool.evaluate(1))
    pool.release(0)
    pool.restore(0, kept[1])
    for slot in range(4):
        pool.snapshot(slot)
    told += [*pool.advance(), *pool.advance()]
    return [[progress.slot, *trials.numbers(progress)] for progress in told]


def test_wherever_a_worker_dies_the_numbers_are_the_same(fifty, make, start, tmp_path):
    begin, made = start()
    expected = course(SpreadPool(fifty, [2, 2], begin, make))
    requests = len(made[0].done)
    assert requests == 19
    for dies in range(1, requests + 1):
        lost, again = {"dies": dies, "states": tmp_path / "states"}, {"dies": 4}
        begin, made = start([lost, again, {}])
        pool = SpreadPool(fifty, [2, 2], begin, make)
        assert course(pool) == expected, dies
        assert [loss.host for loss in pool.losses][:1] == ["host 0"]
        pool.close()


def test_lockstep_is_one_group_in_the_course_of_one_pool(fifty, start):
    begin, _ = start()
    pool = SpreadPool(fifty, [3, 1], begin, SerialPool, lockstep=True)
    assert pool.groups == [range(4)] and pool.in_order
    assert course(pool) == course(SerialPool(fifty, 4))


def test_served_as_they_come_a_worker_that_is_not_there_yet_is_not_waited_for(fifty, start):
    begin, made = start([{"asleep": True}])
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False)
    assert [pool.open(group) for group in range(2)] == [False, True] and pool.hosts == ["host 1"]
    pool.start(1, RATES, seed=0)
    pool.launch(1)
    while (group := pool.ready([1])) is None:
        pass
    assert group == 1 and [found.slot for found in pool.collect(1)] == [1]
    made[0].wake()
    assert pool.ready([]) is None and pool.open(0)


def test_without_another_worker_a_lost_one_s_trials_go_on_in_one_that_has_others(
    fifty, start, monkeypatch
):
    monkeypatch.setattr(spreads, "PATIENCE", 0.0)
    monkeypatch.setattr(spreads, "LOOK", 0.01)
    begin, made = start([{"dies": 4}, {"asleep": True}, {"asleep": True}])
    told = []
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False, tell=told.append)
    alone = SerialPool(fifty, 1)
    alone.start(0, RATES, seed=3)
    expected = [trials.numbers(alone.advance()[0]) for _ in range(4)]
    pool.start(0, RATES, seed=3)
    seen = []
    for segment in range(4):
        if segment == 2:
            made[-1].wake()  # a new one at last
        pool.launch(0)
        while pool.ready([0]) is None:
            pass
        seen += [trials.numbers(found) for found in pool.collect(0)]
        assert pool.host(0) == ["host 0", "host 1", made[-1].name, made[-1].name][segment]
        assert pool.open(0) == (segment != 1)
    assert seen == expected
    assert told[0].startswith("host 0 lost at ") and told[0].endswith(
        "gone; 1 trial goes on elsewhere"
    )
    assert told[1] == "no new host so far: host 1 trains for the lost one too"


class Small(Near):
    """Has room for its own trials alone."""

    def ask(self, number, method, *arguments):
        if method == "open" and arguments[0] == 0:
            answer = Future()
            answer.set_exception(MemoryError("host 1: out of memory"))
            return answer
        return super().ask(number, method, *arguments)


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_worker_without_room_for_others_does_not_end_the_search(fifty, monkeypatch, lockstep):
    monkeypatch.setattr(spreads, "PATIENCE", 0.0)
    monkeypatch.setattr(spreads, "LOOK", 0.01)
    alone = SerialPool(fifty, 1)
    alone.start(0, RATES, seed=3)
    expected = [trials.numbers(alone.advance()[0]) for _ in range(2)]
    made = [Near(fifty, "host 0", dies=4), Small(fifty, "host 1"), Near(fifty, "new", asleep=True)]
    waiting, told = iter(made), []

    def tell(line):
        told.append(line)
        if "has no room for them" in line:
            made[2].wake()

    how = {"in_order": False, "lockstep": lockstep, "tell": tell}
    pool = SpreadPool(fifty, [1, 1], lambda _: next(waiting), SerialPool, **how)
    pool.start(0, RATES, seed=3)
    seen = []
    for _ in range(2):
        pool.launch(0)
        while pool.ready([0]) is None:
            pass
        seen += [trials.numbers(found) for found in pool.collect(0)]
    assert seen == expected and pool.host(0) == "new"
    assert "host 1 has no room for them: they wait for a host of their own" in told


def course_of_one(pool, segments, before=lambda segment: None):
    """What a trial in slot 0 comes to."""
    pool.start(0, RATES, seed=3)
    seen = []
    for segment in range(segments):
        before(segment)
        pool.launch(0)
        while pool.ready([0]) is None:
            pass
        seen += [trials.numbers(found) for found in pool.collect(0)]
    return seen


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(spreads, "PATIENCE", 0.0)
    monkeypatch.setattr(spreads, "LOOK", 0.01)


@pytest.mark.parametrize("dies", [4, 5])  # in its empty segment, and when a trial begins in it
def test_a_lost_worker_that_had_no_trial_holds_up_nobody(fifty, start, impatient, dies):
    begin, _ = start([{"dies": dies}, {"asleep": True}, {"asleep": True}])
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, lockstep=True)
    alone = SerialPool(fifty, 2)
    told = []
    for one in (alone, pool):
        told.append([trials.numbers(one.start(slot, RATES, seed=slot)) for slot in range(2)])
        one.release(0)
        told[-1] += [trials.numbers(one.advance()[0])]
        one.release(1)
        told[-1] += [trials.numbers(one.start(slot, RATES, seed=5 + slot)) for slot in range(2)]
        told[-1] += [trials.numbers(progress) for progress in one.advance()]
    assert told[0] == told[1] and pool.host(0) == "host 1"
    assert [loss.host for loss in pool.losses] == ["host 0"]


def test_a_person_is_told_where_no_worker_is_left(fifty, start, impatient):
    begin, made = start([{"dies": 4}, {"asleep": True}])
    told = []

    def tell(line):
        told.append(line)
        if "waiting" in line:
            made[1].wake()

    pool = SpreadPool(fifty, [1], begin, SerialPool, in_order=False, tell=tell)
    assert course_of_one(pool, 2) == course_of_one(SerialPool(fifty, 1), 2)
    assert told[1:] == ["no host is ready: waiting for one"]


def test_a_group_whose_trials_ended_in_a_guest_s_place_opens_again(fifty, start, impatient):
    begin, made = start([{"dies": 4}, {"asleep": True}])
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False)
    course_of_one(pool, 2)
    pool.release(0)
    assert pool.host(0) == "host 2" and not pool.open(0)
    made[2].wake()  # the one that was started first
    assert pool.open(0) and len(made) == 3
    assert course_of_one(pool, 1) == course_of_one(SerialPool(fifty, 1), 1)


def test_another_worker_comes_for_one_that_is_lost_while_a_guest_trains(fifty, start, impatient):
    begin, made = start([{"dies": 4}, {"asleep": True}])
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False)

    def lose(segment):
        if segment == 2:
            made[2].kill()
            pool.ready([])
            pool.ready([])

    assert course_of_one(pool, 4, lose) == course_of_one(SerialPool(fifty, 1), 4)
    assert pool.host(0) == "host 3" and [loss.host for loss in pool.losses] == ["host 0"]


def test_a_guest_s_loss_while_it_waits_is_no_end(fifty, start, impatient):
    begin, made = start([{"dies": 4}, {"asleep": True}], [{}, {}])
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, lockstep=True)
    alone = SerialPool(fifty, 2)
    told = []
    for one in (alone, pool):
        for slot in range(2):
            one.start(slot, RATES, seed=3)
        told.append([trials.numbers(one.advance()[0])])
        told[-1] += [trials.numbers(one.advance()[0])]
        if one is pool:
            assert pool.host(0) == "host 1"
            made[1].dies = 1
            made[2].wake()
            pool.snapshot(1)  # the loss is seen: slot 0 is in its place again
            assert pool.host(0) == "host 2"
        one.revise(0, RATES / 2)
        told[-1] += [trials.numbers(found) for found in one.advance()]
    assert told[0] == told[1]


def test_a_worker_that_does_not_see_the_folder_is_sent_the_states(
    fifty, start, tmp_path, monkeypatch
):
    begin, made = start([{"dies": 7, "states": tmp_path}])
    pool = SpreadPool(fifty, [1], begin, SerialPool)
    monkeypatch.setattr(Near, "sees", False)

    def keep(segment):
        if segment == 1:
            assert pool.snapshot(0).tensors == {} and len(list(pool.needed())) == 1
            made[0].dies = 1
        if segment == 2:
            assert pool.host(0) == "host 1"

    received = []
    monkeypatch.setattr(
        SerialPool,
        "restore",
        lambda *given, do=SerialPool.restore: (received.append(given[2]), do(*given)),
    )
    assert course_of_one(pool, 3, keep) == course_of_one(SerialPool(fifty, 1), 3)
    assert [snapshot.file for snapshot in received] == [""]


def test_a_worker_that_never_serves_ends_nothing_while_others_do(fifty, start):
    begin, _ = start([{"dies": 1}] * 9)
    told = []
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False, tell=told.append)
    for _ in range(9):
        if not told or "no other" not in told[-1]:
            pool.ready([])
    assert told[-1].endswith("no other one is started in its place")
    assert not pool.open(0) and pool.open(1) and len(pool.losses) == spreads.TIRED


def test_from_a_worker_that_is_leaving_trials_move_without_training_again(fifty, start):
    begin, made = start()
    pool = SpreadPool(fifty, [1, 1], begin, SerialPool, in_order=False)
    pool.start(0, RATES, seed=0)
    for segment in range(4):
        made[0].leaving = segment == 1
        pool.launch(0)
        while pool.ready([0]) is None:
            pass
        pool.collect(0)
    assert [host.done.count("advance") for host in made] == [2, 0, 2]
    assert pool.losses == [] and pool.host(0) == "host 2"


def test_workers_that_may_not_be_used_are_no_losses(fifty, start):
    class Wrong(Near):
        def ask(self, number, method, *arguments):
            answer = Future()
            answer.set_exception(Refused("has torch 1.0, and the search 2.11"))
            return answer

    _, told = start()
    wrong, right = Wrong(fifty, "old"), Near(fifty, "new")
    hosts = iter([wrong, right])
    told = []
    pool = SpreadPool(fifty, [1], lambda _: next(hosts), SerialPool, tell=told.append)
    assert told == ["old is not used: has torch 1.0, and the search 2.11"]
    assert pool.losses == [] and pool.hosts == ["new"]


def test_what_torch_names_does_not_come_from_whoever_imported_torch(monkeypatch):
    main = ModuleType("__mp_main__")  # as Ray and multiprocessing call the script
    main.torch = torch
    monkeypatch.setattr(sys, "modules", {"__mp_main__": main, **sys.modules})
    for constant in (torch.channels_last, torch.bfloat16, torch.strided):
        for packed in (pickle.dumps(constant), cloudpickle.dumps(constant)):
            assert b"__mp_main__" not in packed and pickle.loads(packed) is constant


def test_a_worker_that_has_no_task_says_why_whatever_it_is_asked(fifty):
    worker = Worker("cpu", "host 1")
    for request in (b"no pickle", pickle.dumps((None, "open", (0, SerialPool, 1)))):
        assert "UnpicklingError" in str(pickle.loads(worker.do(request)))


def test_states_lie_in_the_folder_that_all_see_or_travel_if_they_are_small(
    fifty, start, tmp_path, monkeypatch
):
    begin, _ = start(states=tmp_path / "states")
    with SpreadPool(fifty, [1], begin, SerialPool) as pool:
        pool.start(0, RATES, seed=0)
        snapshot = pool.snapshot(0)
    assert snapshot.tensors == {} and len(pickle.dumps(snapshot)) < 2000
    elsewhere = SerialPool(fifty, 1)
    elsewhere.restore(0, snapshot)
    same = SerialPool(fifty, 1)
    same.start(0, RATES, seed=0)
    assert trials.numbers(elsewhere.advance()[0]) == trials.numbers(same.advance()[0])
    (tmp_path / "states" / "gone").mkdir()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        elsewhere.release(0)
        elsewhere.restore(0, replace(snapshot, file=str(tmp_path / "states" / "gone")))
    monkeypatch.setattr("lrtune.engine.worker.LARGEST", 100)
    begin, _ = start()
    with SpreadPool(fifty, [1], begin, SerialPool) as pool:
        pool.start(0, RATES, seed=0)
        with pytest.raises(OSError, match=r"too many to send: put the run .* \(--out\)"):
            pool.snapshot(0)


def test_what_is_run_beside_a_pool_runs_on_one_of_its_hosts():
    cluster = pytest.importorskip("lrtune.engine.cluster").Cluster
    one = cluster.__new__(cluster)  # whose machines have no room for another host
    answer = Future()
    answer.set_result("a range test")
    near = SimpleNamespace(
        node="node", serves=True, ask=lambda *_: answer, lines=lambda: [], name=""
    )
    one._task, one._ready, one._hosts = "task", {}, [near]
    assert one.run(len, "task") == "a range test" and one._ready == {}

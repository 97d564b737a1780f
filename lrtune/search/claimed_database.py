"""Claimed database: a study in a database as the session keeps it that writes it.

Optuna's own storage reads all running trials again at each look, and writes each report in a
transaction.
"""

import json
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, MetaData, Table, bindparam, exc, func, select

from lrtune.search.batch import write_later
from lrtune.search.claim import HEAD, Claim
from lrtune.search.database import Patience, opened

# Optuna's tables of what a trial has several of, and what tells these apart.
PARAMS, REPORTS = "trial_params", "trial_intermediate_values"
USER, SYSTEM = "trial_user_attributes", "trial_system_attributes"
KEYS = {PARAMS: "param_name", USER: "key", SYSTEM: "key", REPORTS: "step"}
OTHERS = ("studies", "study_user_attributes", "study_system_attributes", "trials", "trial_values")


class ClaimedDatabase(InMemoryStorage):
    """A study in a database, as the session keeps it that writes it: in memory, written through.

    Nothing is read twice but the study's attributes, and trials that others queue or end: those are
    met when a free slot asks for one, and when what is written of one is refused. Reports and
    attributes may wait, see ``together``. All that waits is written in one transaction of as many
    statements, however much it is.

    That transaction begins with the study's attribute HEAD, which it numbers: so nothing is written
    after a later session has taken over, and nothing twice where an answer was lost.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._patience, self._rdb = Patience(url), opened(url)
        self._head: dict[str, Any] = {}
        self._ids: list[int] = []  # of the trials in the database, by number
        self._rows: dict[tuple[str, int, str | int], dict[str, Any]] = {}  # not yet written
        self._known: set[tuple[str, int, str | int]] = set()  # of these, that replace another

    def take(self, claim: Claim) -> None:
        """Take the study over, and read it.

        Raises:
            InputError: it is another run's.
            KeyError: there is no such study.
        """
        self._claim, ask = claim, self._patience
        self._study = ask(partial(self._rdb.get_study_id_from_name, claim.study))
        tables = MetaData()
        ask(lambda: tables.reflect(self._rdb.engine, only=[*KEYS, *OTHERS]))
        self._tables = tables.tables
        attributes = self._tables["study_user_attributes"]
        self._is_head = (attributes.c.study_id == self._study) & (attributes.c.key == HEAD)
        ask(self._begin)
        ask(self._take)
        directions = ask(partial(self._rdb.get_study_directions, self._study))
        super().create_new_study(directions, claim.study)
        ask(self._catch_up)

    def _begin(self) -> None:
        """See to it that there is an attribute, of which there can be only one."""
        with suppress(exc.IntegrityError), self._rdb.engine.begin() as connection:
            if self._read_head(connection, missing := object()) is missing:
                self._claim.after(None, self._has_trials(connection))
                row = {"study_id": self._study, "key": HEAD, "value_json": "null"}
                connection.execute(self._tables["study_user_attributes"].insert().values(row))

    def _take(self) -> None:
        attributes = self._tables["study_user_attributes"]
        change = attributes.update().where(self._is_head)
        with self._rdb.engine.begin() as connection:
            connection.execute(change.values(value_json=attributes.c.value_json))  # locks it
            head = self._claim.after(self._read_head(connection), self._has_trials(connection))
            self._head = {**head, "batch": 0}
            connection.execute(change.values(value_json=json.dumps(self._head)))

    def _read_head(self, connection: Connection, missing: Any = None) -> Any:
        attributes = self._tables["study_user_attributes"]
        found = connection.scalar(select(attributes.c.value_json).where(self._is_head))
        return missing if found is None else json.loads(found)

    def _has_trials(self, connection: Connection) -> bool:
        trials = self._tables["trials"]
        one = select(trials.c.trial_id).where(trials.c.study_id == self._study).limit(1)
        return connection.scalar(one) is not None

    def check(self) -> None:
        """Raise what a session ends with that another has superseded."""

        def read() -> Any:
            with self._rdb.engine.connect() as connection:
                return self._read_head(connection)

        self._claim.check_process()
        head = self._patience(read)
        if dict(head or {}, batch=0) != dict(self._head, batch=0):
            raise self._claim.lost(head)

    def write(self) -> None:
        """Write what waits.

        Raises:
            Superseded, InputError: a later session, or another run, has taken over.
        """
        if self._rows:
            self._write()

    def _write(
        self, more: Callable[[Connection], Collection[int]] = lambda _: ()
    ) -> Collection[int]:
        """Write what waits and ``more``; the trials of which nothing is written any more."""
        self._claim.check_process()
        after = {**self._head, "batch": self._head["batch"] + 1}
        over = set[int]()

        def once() -> None:
            with self._rdb.engine.begin() as connection:
                if self._is_next(connection, after):
                    over.clear()
                    over.update(self._write_rows(connection))
                    over.update(more(connection))

        self._patience(once)
        self._head, self._rows, self._known = after, {}, set()
        for number in over:
            self._read_again(number)
        return over

    def _is_next(self, connection: Connection, after: dict[str, Any]) -> bool:
        """Whether this batch is yet to be written; until the end, nobody else takes over."""
        attributes = self._tables["study_user_attributes"]
        change = attributes.update().where(
            self._is_head, attributes.c.value_json == json.dumps(self._head)
        )
        if connection.execute(change.values(value_json=json.dumps(after))).rowcount == 1:
            return True
        head = self._read_head(connection)
        if head != after:
            raise self._claim.lost(head)
        return False  # it was, and the answer was lost

    def _write_rows(self, connection: Connection) -> Collection[int]:
        """Write what waits, but of trials that somebody else has ended, which are returned."""
        numbers = {number for _, number, _ in self._rows}
        if not numbers:
            return ()
        trials = self._tables["trials"]
        found = connection.execute(
            select(trials.c.trial_id, trials.c.state)
            .where(trials.c.trial_id.in_([self._ids[number] for number in sorted(numbers)]))
            .with_for_update()
        )
        states = {row.trial_id: TrialState[row.state] for row in found}
        over = {n for n in numbers if states[self._ids[n]].is_finished()}
        for name, key in KEYS.items():
            mine = [k for k in self._rows if k[0] == name and k[1] not in over]
            rows = [{"trial_id": self._ids[k[1]], **self._rows[k]} for k in mine]
            known = [{"_id": self._ids[k[1]], "_key": k[2]} for k in mine if k in self._known]
            _replace(connection, self._tables[name], "trial_id", key, rows, known)
        return over

    def _changed(self, table: str, number: int, key: str | int, known: bool, **row: Any) -> None:
        """Something of a trial is to be written."""
        self._rows[table, number, key] = {KEYS[table]: key, **row}
        if known:
            self._known.add((table, number, key))
        if not write_later(self) and number in self._write():
            self.check_trial_is_updatable(number, self.get_trial(number).state)

    def _read_again(self, number: int) -> None:
        """Take a trial as somebody else left it, without what was refused of ours."""
        found = self._patience(partial(self._rdb.get_trial, self._ids[number]))
        found._trial_id = number
        self._set_trial(number, found)
        self._update_cache(number, 0)

    def _catch_up(self) -> None:
        """Take in trials that are new, at the beginning all."""
        trials = self._tables["trials"]
        new = select(trials.c.trial_id).where(trials.c.study_id == self._study)
        new = new.where(trials.c.trial_id > self._ids[-1]) if self._ids else new
        with self._rdb.engine.connect() as connection:
            ids = connection.scalars(new.order_by(trials.c.trial_id)).all()
        if not ids:
            return
        if self._ids:
            found = [self._rdb.get_trial(trial_id) for trial_id in ids]
        else:
            found = self._rdb.get_all_trials(self._study, deepcopy=False)
        for trial_id, trial in zip(ids, found, strict=False):
            super().create_new_trial(0, trial)
            self._ids.append(trial_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See BaseStorage."""
        trial = template_trial or create_trial(state=TrialState.RUNNING)
        made = [0, 0]  # trials of others before it, and its id

        def create(connection: Connection) -> Collection[int]:
            made[:] = self._insert(connection, trial)
            return ()

        self._write(create)
        if made[0]:
            self._patience(self._catch_up)
            return self._ids.index(made[1])  # there may be later ones
        self._ids.append(made[1])
        return super().create_new_trial(study_id, trial)

    def _insert(self, connection: Connection, trial: FrozenTrial) -> tuple[int, int]:
        studies, trials = self._tables["studies"], self._tables["trials"]
        connection.execute(  # as Optuna does, so that no two have the same number
            select(studies.c.study_id).where(studies.c.study_id == self._study).with_for_update()
        )
        new = select(func.count()).where(trials.c.study_id == self._study)
        new = new.where(trials.c.trial_id > self._ids[-1]) if self._ids else new
        others = connection.scalar(new) or 0
        row: dict[str, Any] = {"study_id": self._study, "number": len(self._ids) + others}
        row |= {"state": trial.state.name, "datetime_start": _utc(trial.datetime_start)}
        row |= {"datetime_complete": _utc(trial.datetime_complete)}
        made: Any = connection.execute(trials.insert().values(row)).inserted_primary_key
        trial_id = made[0]
        every = {
            PARAMS: [
                {"param_name": name, **_param(trial.distributions[name], value)}
                for name, value in trial.params.items()
            ],
            USER: [{"key": key, **_json(value)} for key, value in trial.user_attrs.items()],
            SYSTEM: [{"key": key, **_json(value)} for key, value in trial.system_attrs.items()],
            REPORTS: [
                {"step": step, **_number(value, "intermediate_value")}
                for step, value in trial.intermediate_values.items()
            ],
            "trial_values": _values(trial.values),
        }
        for name, rows in every.items():
            rows = [{"trial_id": trial_id, **row} for row in rows]
            _replace(connection, self._tables[name], "trial_id", "", rows, [])
        return others, trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See BaseStorage."""
        before = self.get_trial(trial_id).state
        self.check_trial_is_updatable(trial_id, before)
        if state == TrialState.RUNNING and before != TrialState.WAITING:
            return False
        trials = self._tables["trials"]
        row: dict[str, Any] = {"state": state.name}
        if state == TrialState.RUNNING or state.is_finished():
            moment = "datetime_complete" if state.is_finished() else "datetime_start"
            row[moment] = _utc(datetime.now())
        own = {"trial_id": self._ids[trial_id]}
        change = trials.update().where(trials.c.trial_id == own["trial_id"])
        change = change.where(trials.c.state == before.name).values(row)

        def tell(connection: Connection) -> Collection[int]:
            if connection.execute(change).rowcount != 1:
                return (trial_id,)
            rows = [own | row for row in _values(values)]
            _replace(connection, self._tables["trial_values"], "trial_id", "", rows, [])
            return ()

        if trial_id in self._write(tell):
            self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)
            return False
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See BaseStorage."""
        known = param_name in self.get_trial(trial_id).params
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        row = _param(distribution, distribution.to_external_repr(param_value_internal))
        self._changed(PARAMS, trial_id, param_name, known, **row)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See BaseStorage."""
        known = step in self.get_trial(trial_id).intermediate_values
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        row = _number(intermediate_value, "intermediate_value")
        self._changed(REPORTS, trial_id, step, known, **row)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See BaseStorage."""
        known = key in self.get_trial(trial_id).user_attrs
        super().set_trial_user_attr(trial_id, key, json.loads(json.dumps(value)))
        self._changed(USER, trial_id, key, known, **_json(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See BaseStorage."""
        known = key in self.get_trial(trial_id).system_attrs
        super().set_trial_system_attr(trial_id, key, json.loads(json.dumps(value)))
        self._changed(SYSTEM, trial_id, key, known, **_json(value))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Any = None,
    ) -> list[FrozenTrial]:
        """See BaseStorage; where none waits, those that others have queued are looked for."""
        found = super().get_all_trials(study_id, deepcopy, states)
        if states == (TrialState.WAITING,) and not found:
            self._patience(self._catch_up)
            found = super().get_all_trials(study_id, deepcopy, states)
        return found

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See BaseStorage."""
        return self._patience(partial(self._rdb.get_study_user_attrs, self._study))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See BaseStorage; the dashboard writes some."""
        return self._patience(partial(self._rdb.get_study_system_attrs, self._study))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See BaseStorage."""
        self._set_study_attr("study_user_attributes", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See BaseStorage."""
        self._set_study_attr("study_system_attributes", key, value)

    def _set_study_attr(self, table: str, key: str, value: Any) -> None:
        rows = [{"study_id": self._study, "key": key, **_json(value)}]
        known = [{"_id": self._study, "_key": key}]

        def change(connection: Connection) -> Collection[int]:
            _replace(connection, self._tables[table], "study_id", "key", rows, known)
            return ()

        self._write(change)


def _replace(
    connection: Connection,
    table: Table,
    owner: str,
    key: str,
    rows: list[dict[str, Any]],
    known: list[dict[str, Any]],
) -> None:
    """Write rows, in one statement; before, in another, remove those that they replace."""
    if known:
        same = (table.c[owner] == bindparam("_id")) & (table.c[key] == bindparam("_key"))
        connection.execute(table.delete().where(same), known)
    if rows:
        connection.execute(table.insert(), rows)


def _json(value: Any) -> dict[str, Any]:
    return {"value_json": json.dumps(value)}


def _param(distribution: BaseDistribution, value: Any) -> dict[str, Any]:
    return {
        "param_value": distribution.to_internal_repr(value),
        "distribution_json": distribution_to_json(distribution),
    }


def _number(value: float, name: str) -> dict[str, Any]:
    """As Optuna stores a number: what is not finite, which not every database has, by its kind."""
    if math.isfinite(value):
        return {name: value, f"{name}_type": "FINITE"}
    kind = "NAN" if math.isnan(value) else "INF_POS" if value > 0 else "INF_NEG"
    return {name: None, f"{name}_type": kind}


def _values(values: Sequence[float] | None) -> list[dict[str, Any]]:
    pairs = enumerate(values or ())
    return [{"objective": objective, **_number(v, "value")} for objective, v in pairs]


def _utc(moment: datetime | None) -> datetime | None:
    """As Optuna stores one: in UTC, of which it says nothing."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)

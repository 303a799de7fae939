"""The study that a search is kept in: opened, agreed on, gone on with after whatever happened to its workers."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import optuna
    from filelock import FileLock
    from sqlalchemy import event
except ImportError as error:  # pragma: no cover - the extra is there where this is tested
    raise ImportError("a sweep needs optuna: pip install 'ecograph[sweep]'") from error
from optuna.trial import FrozenTrial, TrialState

from ecograph.sweeps.attempt import REACHED

#: Where things are kept in the attributes of studies and trials.
DEFINITION, PROBES, ATTEMPT, WORKER, AGAIN, SEED, REPEAT_OF, CONFIRMS, SURPLUS = (
    "definition", "probes", "attempt", "worker", "again", "seed", "repeat of", "confirms", "surplus",
)  # fmt: skip

#: Seconds between two signs of life of a worker, and after how many without one its trial counts as lost.
HEARTBEAT, SILENCE = 30, 120
#: How many seconds a worker waits for others that write to the same file.
BUSY = 60


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keeps from the screen that parts of optuna are experimental or old: its version is pinned where it matters."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        for category in (optuna.exceptions.ExperimentalWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


def open_storage(storage: Any) -> Any:
    """Returns a storage of optuna.

    Args:
        storage: a storage; the URL of one, such as ``"sqlite:///sweep.db"`` or ``"postgresql://..."``; a file of
            SQLite; or None for one in memory, which ends with this process.

    Raises:
        ValueError: for one that cannot be opened.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(storage, (str, Path)):
        return storage
    url = str(storage)
    fix = "give a file, such as sweep.db, or a URL of SQLAlchemy, such as sqlite:///sweep.db or postgresql://..."
    try:
        if "://" not in url:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{Path(url).as_posix()}"
        if not url.startswith(("redis", "grpc")):
            return _open_database(url)
        return optuna.storages.get_storage(url)
    except Exception as error:  # every database has its own
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"storage {str(storage)!r} cannot be opened ({why}): {fix}") from error


def _open_database(url: str) -> Any:
    """Returns the storage in a database; of workers that start together on a file, one after the other makes tables."""

    def opened(**options: Any) -> Any:
        return optuna.storages.RDBStorage(
            url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=SILENCE
        )

    if not url.startswith("sqlite"):
        return opened()
    file = Path(url.removeprefix("sqlite:///").partition("?")[0])
    if ":memory:" in url or not file.parent.is_dir():  # no other worker sees it; the lock would make the folder
        return opened()
    with FileLock(f"{file}.lock", timeout=BUSY):
        storage = opened(connect_args={"timeout": BUSY})
        _one_at_a_time(storage.engine)
    return storage


def _one_at_a_time(engine: Any) -> None:
    """Has each transaction on a file of SQLite hold it from its beginning.

    Optuna looks whether a trial waits and then takes it, under a lock of its row. SQLite has none, so two workers would
    take the same trial; or each would wait for the other to stop reading before it writes.
    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, "Enabling Non-Legacy SQLite Transactional Modes".
    """

    def leave_transactions_to_us(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    def hold(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", hold)
    engine.dispose()  # of the connections that were made before


def open_study(
    storage: Any, name: str, definition: dict[str, Any], *, resume: bool, seed: int, epochs: int, prune: bool = True
) -> optuna.Study:
    """Returns the study of a search, new or to go on with.

    Args:
        storage: as ``open_storage`` returned it.
        name: of the study.
        definition: what all workers must agree on.
        resume: whether to join a study that is there.
        seed: of the sampler; each worker draws from its own.
        epochs: the most that a trial may train, for the pruner.
        prune: whether trials that fall behind are stopped.

    Raises:
        ValueError: where there is a study already and it is not to be gone on with, or was begun otherwise.
    """
    there = name in optuna.get_all_study_names(storage)
    if there and not resume:
        raise ValueError(
            f"there is a sweep {name!r} in the storage already: resume it (--resume), or give another name or folder"
        )
    # A worker that joins must not draw what another has drawn.
    own = None if there else seed
    sampler = optuna.samplers.TPESampler(seed=own, n_startup_trials=8, constant_liar=True)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if prune:
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(epochs, 2), reduction_factor=3)
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, pruner=pruner, direction="minimize", load_if_exists=True
    )
    before = study.user_attrs.get(DEFINITION)
    now = json.loads(json.dumps(definition))
    if before is None:
        study.set_user_attr(DEFINITION, now)
    elif before != now:
        changed = next(key for key in [*before, *now] if before.get(key) != now.get(key))
        raise ValueError(
            f"the sweep {name!r} was begun with {changed} = {before.get(changed)}, and now it is {now.get(changed)}: "
            "go on with what it was begun with, or give another name or folder"
        )
    return study


def this_worker() -> dict[str, Any]:
    """Returns what tells this process from all others."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def take_up_lost(study: optuna.Study) -> int:
    """Has the settings of trials that died with their workers tried again, and returns how many they are.

    A worker on this machine is known to be dead when its process is gone; one on another, when it has given no sign of
    life for a while, which the storage finds out. One that died when its training was done has not lost it.
    """
    with quiet_optuna():
        for trial in study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and _is_dead(trial.user_attrs.get(WORKER)):
                state, value = _ended_as(trial, study.user_attrs[DEFINITION]["minimize"])
                with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was faster
                    study.tell(trial.number, value, state=state, skip_if_finished=True)
        if isinstance(study._storage, optuna.storages.BaseStorage):
            optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(AGAIN) for trial in trials}
        lost = [t for t in trials if _is_lost(t) and t.number not in again]
        for trial in lost:
            kept = {key: trial.user_attrs[key] for key in (SEED, REPEAT_OF, CONFIRMS) if key in trial.user_attrs}
            study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number, **kept})
    return len(lost)


def _ended_as(trial: FrozenTrial, minimize: str) -> tuple[TrialState, float | None]:
    """Returns how a trial ended whose worker died: with its training done, as if it had lived to say so."""
    became = trial.user_attrs.get(ATTEMPT)
    if became is None:
        return TrialState.FAIL, None
    if became["outcome"] != REACHED:
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, became["cost"][minimize]


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was begun and never came to an end."""
    return trial.state == TrialState.FAIL and ATTEMPT not in trial.user_attrs and SURPLUS not in trial.user_attrs


def is_surplus(study: optuna.Study, number: int, budget: int) -> bool:
    """Whether a trial that was just begun is one too many.

    Workers that look at a study at the same time may begin the same thing, or one trial each where only one was left.
    All of them tell by the numbers of the trials, which no two share, whose it is: that with the least.

    Args:
        study: of the trial.
        number: of the trial.
        budget: settings to try, without repeats.
    """
    begun: set[tuple[str, Any, Any]] = set()
    settings = 0
    for trial in study.get_trials(deepcopy=False)[: number + 1]:
        if SURPLUS in trial.user_attrs or _is_lost(trial):
            continue
        known = trial.user_attrs
        key: tuple[str, Any, Any] | None = None
        if known.get(AGAIN) is not None:
            key = AGAIN, known[AGAIN], None
        elif REPEAT_OF in known:
            key = REPEAT_OF, known[REPEAT_OF], known[SEED]
        surplus = key in begun or (REPEAT_OF not in known and settings >= budget)
        if trial.number == number:
            return surplus
        if not surplus:
            settings += REPEAT_OF not in known
            begun |= {key} if key is not None else set()
    return False


def _is_dead(worker: dict[str, Any] | None) -> bool:
    """Whether the process of a worker on this machine is gone."""
    if worker is None or worker["host"] != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(_started(worker["pid"]) != worker["started"])


def _started(pid: int) -> str:
    """Returns when a process was started, where the system says: its number may have been given to another since."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials of which it is known what became of them."""
    return [
        trial for trial in study.get_trials(deepcopy=False) if ATTEMPT in trial.user_attrs and trial.state.is_finished()
    ]

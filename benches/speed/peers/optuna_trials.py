"""Optuna, two workers: every trial a function, its result kept by the storage named first (journal or sqlite)."""
import sys
import optuna

kind, count = sys.argv[1], int(sys.argv[2])
optuna.logging.set_verbosity(optuna.logging.ERROR)
if kind == "journal":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    storage = JournalStorage(JournalFileBackend("optuna.log"))
else:
    storage = optuna.storages.RDBStorage("sqlite:///optuna.db")
study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=7))


def objective(trial):
    return trial.suggest_float("clock_ns", 0.4, 0.8) + trial.suggest_int("effort", 1, 8)


study.optimize(objective, n_trials=count, n_jobs=2)
done = len(study.get_trials(deepcopy=False))
assert done == count, done

"""Optuna as the proposer of a piton stage. It serves any sweep and any objectives; nothing here is about this study.

piton writes one JSON object a line, and reads one line for each `ask`:

    {"type": "start", "seed": …, "space": {…}, "objectives": […], …}
    {"type": "ask", "ask": 0, …}             ->  {"params": {"x": 0.5, …}}, or {"done": true}
    {"type": "tell", "ask": 0, "state": "succeeded", "metrics": {…}, …}
    {"type": "tell", "ask": 1, "state": "pruned", "rungs": [{"rung": 3, "step": 3, "value": 0.4}], …}

Results that `piton import` brought in come first, as a "tell" without a question ("imported": true): Optuna starts warm.

Optuna's memory may go with this process: piton tells it everything again, in the same order. So it needs no storage, and
proposes the same as if it had never been killed, because its seed is piton's and nothing else is random here.
"""

import json
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distribution(space):
    """What Optuna calls the values a param can take."""
    if space["type"] == "choice":
        return optuna.distributions.CategoricalDistribution(space["values"])
    kind = {"int": optuna.distributions.IntDistribution, "float": optuna.distributions.FloatDistribution}
    return kind[space["type"]](space["min"], space["max"], log=space["log"])


def main():
    trials = {}
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "start":
            space = {name: distribution(values) for name, values in message["space"].items()}
            metrics = [objective["metric"] for objective in message["objectives"]]
            sampler = optuna.samplers.TPESampler(seed=message["seed"], constant_liar=message["parallel"] > 1)
            directions = [objective["goal"] for objective in message["objectives"]]
            study = optuna.create_study(sampler=sampler, directions=directions)
        elif message["type"] == "ask":
            trial = study.ask(space)
            trials[message["ask"]] = trial
            print(json.dumps({"params": trial.params}), flush=True)
        elif message.get("imported"):
            values = [message["metrics"][metric] for metric in metrics]
            study.add_trial(optuna.trial.create_trial(params=message["params"], distributions=space, values=values))
        elif message["state"] == "succeeded":
            study.tell(trials.pop(message["ask"]), [message["metrics"][metric] for metric in metrics])
        elif message["state"] == "pruned":
            trial = trials.pop(message["ask"])
            for rung in message.get("rungs", []):
                # Optuna knows no value that is worse than any.
                if rung["value"] is not None:
                    trial.report(rung["value"], rung["rung"])
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trials.pop(message["ask"]), state=optuna.trial.TrialState.FAIL)


if __name__ == "__main__":
    main()

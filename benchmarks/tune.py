"""Choose settings with an equal number of random trials a method, on the held-out part of the training set.

Each trial draws one value for each key of the space below, without repeating a combination, and trains with the test
set untouched. Every trial is printed, best last; the score is kNN (k = 20) on the held-out images at the last step.

    python benchmarks/tune.py --config quickstart --methods adco moco simclr byol --trials 5 --set epochs=8
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from negbench.display import Quiet
from negbench.environment import choose_device
from negbench.run import execute
from negbench.seeding import stream
from negbench.study import resolve

EVERY_METHOD = {"optimizer.lr": [0.08, 0.15, 0.3, 0.6]}
SPACE: dict[str, dict[str, list[Any]]] = {
    "adco": {
        "method.temperature": [0.1, 0.2],
        "method.adversary_temperature": [0.05, 0.1],
        "method.adversary_lr": [1.0, 3.0],
        "method.key_momentum": [0.9, 0.95],
    },
    "moco": {"method.temperature": [0.1, 0.2], "method.key_momentum": [0.9, 0.95]},
    "simclr": {"method.temperature": [0.1, 0.2, 0.5]},
    "byol": {"method.key_momentum": [0.9, 0.95, 0.99]},
}


def draw(method: str, num_trials: int) -> list[dict[str, Any]]:
    """`num_trials` different combinations of the method's space."""
    space = EVERY_METHOD | SPACE[method]
    combinations = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    order = torch.randperm(len(combinations), generator=stream("tune", method)).tolist()
    return [combinations[i] for i in order[:num_trials]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--methods", nargs="+", choices=sorted(SPACE), default=sorted(SPACE))
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--output", type=Path, default=Path("results/tuning"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    for method in arguments.methods:
        trials = []
        for chosen in draw(method, arguments.trials):
            settings = [*arguments.set, "evaluation.test=false", *(f"{key}={value}" for key, value in chosen.items())]
            resolved = resolve(method, arguments.config, settings, arguments.seed)
            device = choose_device(arguments.device)
            try:
                score = execute(resolved, arguments.output, device, Quiet())["knn_top1_validation"]
            except FloatingPointError:
                score = 0.0
            trials.append((score, chosen))
            print(json.dumps({"method": method, "knn_top1_validation": score} | chosen), flush=True)
        score, chosen = max(trials, key=lambda trial: trial[0])
        print(json.dumps({"method": method, "best": score} | chosen), flush=True)


if __name__ == "__main__":
    main()

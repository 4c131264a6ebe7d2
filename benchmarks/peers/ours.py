"""negbench's side: steps of a method, or the bare step with its passes, on random images of CIFAR-10's shape.

python -m benchmarks.peers.ours {method,bare} METHOD DEVICE [--set ...]
"""

import sys

import torch

from benchmarks.peers.worker import serve
from negbench.bench.subjects import BareSubject, MethodSubject, passes_of
from negbench.environment import autocast_dtype, choose_device, set_backends
from negbench.study import resolve


def main() -> None:
    kind, method, device_name, *settings = sys.argv[1:]
    resolved, device = resolve(method, "cifar10", settings), choose_device(device_name)
    config = resolved.config
    set_backends(config.precision, config.deterministic)
    dtype = autocast_dtype(config.precision, device)
    subject = MethodSubject(resolved, device, dtype)
    stepped = subject if kind == "method" else BareSubject(config, passes_of(subject.method), device, dtype)

    def step() -> None:
        stepped.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    serve(step)


if __name__ == "__main__":
    main()

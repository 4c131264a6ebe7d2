"""The supervised bound of a study: its backbone, views and schedule, trained on labels. Prints one JSON object.

python benchmarks/supervised.py --config quickstart --seed 0
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.nn import functional as F

from negbench.data.batches import eval_batches, training_batches
from negbench.data.load import load_splits
from negbench.models.encoder import build_encoder, initial_weights
from negbench.runtime.device import autocast_dtype, choose_device
from negbench.runtime.environment import device_name
from negbench.settings.resolve import resolve
from negbench.settings.steps import steps_per_epoch
from negbench.train.optim import build_optimizer, learning_rate, set_learning_rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart", help="study in configs/, or a FILE.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    config = resolve("moco", arguments.config, arguments.set, arguments.seed).config
    device = choose_device(arguments.device)
    dtype = autocast_dtype(config.precision, device)
    splits = load_splits(config.data)
    train = splits.train
    encoder = build_encoder(config)
    with initial_weights(config.seed, "classifier"):
        classifier = nn.Linear(encoder.feature_dim, len(splits.classes))
    model = nn.Sequential(encoder.backbone, classifier).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.optimizer)
    per_epoch = steps_per_epoch(len(train), config.batch_size)
    num_steps = per_epoch * config.epochs
    labels_N = train.labels_N.to(device)

    begin = time.perf_counter()
    batches = training_batches(train, config, device, 0, num_steps)
    for step, (views, index) in enumerate(batches):
        set_learning_rate(optimizer, learning_rate(step, num_steps, per_epoch, config.optimizer.lr, config.schedule))
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = model(views[0])
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels_N[index]).backward()
        optimizer.step()
    seconds = time.perf_counter() - begin

    model.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in eval_batches(splits.test, config, device):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                correct += int((model(images).argmax(1) == labels.to(device)).sum())
            total += len(labels)
    result = {
        "study": config.study,
        "seed": config.seed,
        "steps": num_steps,
        "test_top1": correct / total,
        "train_seconds": seconds,
        "device": device_name(device),
        "torch_version": torch.__version__,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

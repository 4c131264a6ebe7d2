"""Files of weights as others write them, from a ResNet-18 whose BatchNorm statistics are not those of its start."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet

State = dict[str, Tensor]


def resnet(name: str = "resnet18", cifar: bool = False, num_outputs: int = 1000) -> ResNet:
    """torchvision's, with other weights at each call; in evaluation mode."""
    network: ResNet = getattr(torchvision.models, name)(num_classes=num_outputs)
    if cifar:
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


def features(network: nn.Module, images: Tensor) -> Tensor:
    """What torchvision's ResNet computes before `fc`."""
    fc, network.fc = network.fc, nn.Identity()
    with torch.no_grad():
        made: Tensor = network(images)
    network.fc = fc
    return made


def images(size: int = 32) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def two_encoders(prefix: str, query: ResNet, further: State) -> State:
    """The state of a model with the query encoder, a key encoder of other weights, and more."""
    key = {name: torch.zeros_like(tensor) for name, tensor in query.state_dict().items()}
    queries = {f"{prefix}encoder_q.{name}": tensor for name, tensor in query.state_dict().items()}
    return queries | {f"{prefix}encoder_k.{name}": tensor for name, tensor in key.items()} | further


def optimizer_state(network: ResNet) -> dict[str, Any]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    return optimizer.state_dict()


def moco(path: Path, query: ResNet, version: int = 2, legacy: bool = True) -> None:
    """main_moco.py's; v1's head is one linear layer, v2's two. Their releases are of before torch's zip files."""
    if version == 2:
        width = query.fc.in_features
        query.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), query.fc)
    queue = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    state = two_encoders("module.", query, queue)
    content = {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": optimizer_state(query)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def adco(path: Path, query: ResNet) -> None:
    """training/main_worker.py's: the adversaries are in a module of their own."""
    width = query.fc.in_features
    query.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), query.fc)
    bank = {"module.W": torch.randn(128, 64), "module.v": torch.zeros(128, 64)}
    content = {"epoch": 200, "arch": "resnet18", "best_acc": torch.tensor(61.0)}
    content |= {"state_dict": two_encoders("module.", query, {}), "optimizer": optimizer_state(query)}
    torch.save(content | {"Memory_Bank": bank}, path)


def caco(path: Path, query: ResNet) -> None:
    """training/main_worker.py's: three layers without bias, BatchNorm between them."""
    width, hidden, dim = query.fc.in_features, 96, 40
    layers: list[nn.Module] = []
    for inner in (width, hidden):
        layers += [nn.Linear(inner, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    query.fc = nn.Sequential(*layers, nn.Linear(hidden, dim, bias=False)).eval()
    content = {"epoch": 200, "arch": "resnet18", "best_acc": 1.0, "knn_acc": 0}
    content |= {"state_dict": two_encoders("module.", query, {}), "optimizer": optimizer_state(query)}
    torch.save(content | {"Memory_Bank": {"module.W": torch.randn(40, 64)}}, path)


def moco_demo(path: Path, query: ResNet) -> None:
    """The notebook's: a sequence of ResNet's children without the pooling, `Flatten` before the linear layer."""
    children = [child for name, child in query.named_children() if name not in ("maxpool", "fc")]
    sequence = nn.Module()
    sequence.net = nn.Sequential(*children, nn.Flatten(1), query.fc)
    state = two_encoders("", sequence, {"queue": torch.randn(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)})
    torch.save({"epoch": 200, "state_dict": state, "optimizer": optimizer_state(query)}, path)

"""Names of a ResNet's weights in detectron2: stem, res2 to res5, shortcut, norm.

Source: facebookresearch/detectron2, detectron2/modeling/backbone/resnet.py.
"""

import re

from negbench.runtime.errors import UserError

_STEM = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
_IN_BLOCK = re.compile(r"layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?P<layer>conv[123]|bn[123]|downsample\.[01])")
_SHORTCUT = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}


def to_detectron2(name: str) -> str:
    """Return `res2.0.conv2.norm.weight` for `layer1.0.bn2.weight`. UserError if no ResNet's backbone has the name."""
    layer, _, weight = name.rpartition(".")
    if layer in _STEM:
        return f"{_STEM[layer]}.{weight}"
    match = _IN_BLOCK.fullmatch(layer)
    if match is None:
        raise UserError(f"{name} is no weight of a ResNet's backbone")
    within = _SHORTCUT.get(match["layer"]) or re.sub(r"^bn(\d)$", r"conv\1.norm", match["layer"])
    return f"res{int(match['stage']) + 1}.{match['block']}.{within}.{weight}"

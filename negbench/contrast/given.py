"""Whether a method trains the encoder that it was given: its structure, its parameters and its initial weights."""

import copy
from typing import Any

import torch
from torch import nn

from negbench.models.encoder import Encoder

_HOOKS = (  # of torch.nn.Module, by the attribute that holds them
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Given:
    """The encoder of a run as it was before its method's `build` saw it."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder)
        self.forwards = {type(module): type(module).forward for module in encoder.modules()}

    def difference(self, trained: nn.Module) -> str | None:
        """Return what `trained` has otherwise, as the end of "its encoder ..."; None if it is the one given."""
        given = self.encoder
        if type(trained) is not type(given):
            return f"is a {type(trained).__name__} of its own"
        before, now = dict(given.named_modules()), dict(trained.named_modules())
        if added := [name for name in now if name not in before]:
            return f"has other layers ({added[0]})"
        if gone := [name for name in before if name not in now]:
            return f"lacks a layer ({gone[0]})"
        for name, module in now.items():
            where = name or "the encoder"
            if type(module) is not type(before[name]) or module.extra_repr() != before[name].extra_repr():
                return f"has another layer in place of {where}: {_short(module)} for {_short(before[name])}"
            if any(getattr(module, hooks) for hooks in _HOOKS):
                return f"has a hook on {where}"
            if type(module).forward is not self.forwards[type(module)]:
                return f"has another forward in every {type(module).__name__}"
            if changed := _own(module) ^ _own(before[name]):
                return f"has another {min(changed)} in {where}"
        return _difference_of_weights(given, trained)


def _difference_of_weights(given: nn.Module, trained: nn.Module) -> str | None:
    before, now = given.state_dict(keep_vars=True), trained.state_dict(keep_vars=True)
    if list(before) != list(now):
        return f"has other weights ({min(set(before) ^ set(now), default='in another order')})"
    for name, value in now.items():
        if value.requires_grad != before[name].requires_grad:
            return f"has the weight {name} {'trained' if value.requires_grad else 'frozen'}"
        if value.shape != before[name].shape or not torch.equal(value.cpu(), before[name].cpu()):
            return f"starts from another weight {name}"
    return None


def _own(module: nn.Module) -> set[str]:
    """Return the names of functions that are set on the module itself, as in `encoder.forward = other`."""
    return {name for name, value in vars(module).items() if callable(value) and not isinstance(value, type)}


def _short(module: nn.Module) -> str:
    text: Any = repr(module).partition("\n")[0].rstrip("(")
    return str(text)

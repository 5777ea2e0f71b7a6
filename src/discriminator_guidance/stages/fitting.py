"""Networks by the arguments in a file, which are believed only if they describe the tensors beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from discriminator_guidance.artifacts.adm_checkpoint import check_fit
from discriminator_guidance.errors import InputError, UserError

# Of every whole number, and of the length of every list and word: what a constructor multiplies stays small. The
# networks of CIFAR-10 have 1,024 and 4; this leaves room for any other.
LARGEST, LONGEST = 2**17, 64
MISSING = 1000  # parameters without a tensor, after which a constructor is stopped
KEEP_SHAPE = (nn.init.normal_, Tensor.mul, Tensor.div)  # how initial values are made
Network = TypeVar("Network", bound=nn.Module)
# What a network raises on arguments that are not its own.
UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


def build_fitting(
    build: Callable[..., Network], arguments: Mapping[str, Any], state: Mapping[str, Tensor], stage: str
) -> Network:
    """The network that weights belong to; no memory is spent on one that they do not.

    Args:
        build: its constructor.
        arguments: for the constructor, from a file.
        state: tensors by name, from the file beside it.
        stage: the stage that makes both, for the remedy.

    Returns:
        The network with the weights.

    Raises:
        InputError: the arguments are none of such a network, or those of another.
    """
    try:
        check_fit(outline(build, arguments, len(state)), state, "weights")
        network = build(**arguments)
        network.load_state_dict(state)
    except (UserError, *UNFIT) as error:
        told = error.got if isinstance(error, UserError) else str(error).strip() or type(error).__name__
        reason = told.splitlines()[-1].strip()[:200]
        raise InputError("weights that fit their model.json", reason, f"run stage {stage} again") from error
    return network


def outline(build: Callable[..., nn.Module], arguments: Mapping[str, Any], tensors: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors, made without memory and for no more parameters than the file fills.

    Args:
        build: its constructor.
        arguments: for the constructor, from a file.
        tensors: how many the file has beside them.

    Returns:
        Shapes by name.

    Raises:
        ValueError: an argument beyond every network, far more parameters than tensors, or parameters that others take
            the place of; constructors raise others.
    """
    for name, value in arguments.items():
        entries = value if isinstance(value, list) else [value]
        words = [entry for entry in entries if isinstance(entry, str)]
        numbers = [entry for entry in entries if isinstance(entry, int)]
        nested = any(isinstance(entry, list | dict) for entry in entries)
        if nested or max(map(len, (entries, *words))) > LONGEST or any(abs(number) > LARGEST for number in numbers):
            raise ValueError(f"{name[:LONGEST]} beyond that of any network")
    with WithoutMemory(), _at_most(tensors + MISSING) as made:
        network = build(**arguments)
    # What other layers of the same name took the place of would take memory, and stand in no state dict.
    if made() != len(list(network.parameters())):
        raise ValueError("several layers of one name")
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@contextmanager
def _at_most(parameters: int) -> Iterator[Callable[[], int]]:
    """Stop the construction of a network that has more; yields how many there were."""
    made = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > parameters:
            raise ValueError(f"a network of more than {parameters:,} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield lambda: made
    finally:
        hook.remove()


class WithoutMemory(TorchFunctionMode):
    """What networks make their parameters of becomes a shape alone.

    `torch.device("meta")` does the same to every tensor, but for a few operations it loads torch's compiler, which
    takes two seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in KEEP_SHAPE and (tensor := [*args, *named.values()][0]).is_meta:
            return tensor
        if func in (torch.empty, torch.randn):
            return torch.empty(*args, **{**named, "device": "meta"})
        return func(*args, **named)

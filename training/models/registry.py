"""Which models can be asked for by name?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from training.config import unknown
from training.models.base import CellClassifier
from training.models.lite import efficientnet_lite0, efficientnet_lite2
from training.models.opnet import opnet
from training.models.zoo import BUILDERS

MODELS: Final[dict[str, Callable[..., CellClassifier]]] = {
    "opnet": opnet,
    "opnet-lse": partial(opnet, pooling="lse"),
    "opnet-context": partial(opnet, pooling="lse", context=(2, 4)),  # what the bundle opnet-lse is made of
    "efficientnet-lite0": efficientnet_lite0,
    "efficientnet-lite2": efficientnet_lite2,
    **BUILDERS,
}


def create(name: str, **options: Any) -> CellClassifier:
    """Build the model called `name`.

    Args:
        name: a key of `MODELS`.
        options: keyword arguments of its builder, e.g. ``dropout=0.3``.

    Raises:
        ValueError: unknown name, an option that the builder does not know or take, or weights of another network.
        FileNotFoundError: the file that the option `pretrained` names is not there.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is {unknown(name, sorted(MODELS))}")
    allowed = inspect.signature(MODELS[name]).parameters
    for option in options:
        if option not in allowed:
            raise ValueError(f"options.{option} of model {name!r}: {unknown(option, allowed)}")
    try:
        return MODELS[name](**options)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from error
    except (KeyError, RuntimeError) as error:
        if options.get("pretrained") is None:
            raise
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"options.pretrained of model {name!r}: not its ImageNet weights ({said})") from error

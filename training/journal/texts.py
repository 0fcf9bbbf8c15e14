"""What does the journal say before its tables? Texts by hand; every number in them comes from the program."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

import yaml
from torch import nn

_MANY: Final = 20_000
"""Independent cracks, for an example of what a claim needs: as many as the whole published set has."""


def text_of(title: str) -> list[str]:
    """Return the paragraphs of a section's introduction, with their numbers filled in."""
    return [paragraph.format_map(_numbers()) for paragraph in _templates()[title]]


@cache
def _templates() -> Mapping[str, list[str]]:
    content = resources.files("training.journal").joinpath("texts.yaml").read_text(encoding="utf-8")
    templates: dict[str, list[str]] = yaml.safe_load(content)
    return templates


@cache
def _numbers() -> Mapping[str, str]:
    """Settings of the method and arithmetic, as the texts name them."""
    from training.data.published import TILE_PX, published_transforms
    from training.data.splits import SHARES
    from training.evaluation.gates import MAX_REFUSED
    from training.evaluation.statement import CONFIDENCE, WANTED, most_misses, needed
    from training.journal.shipped import on_the_card_only
    from training.models import create
    from training.models.opnet import DROPOUT

    crop, _, _, rotation, jitter = published_transforms(TILE_PX).transforms
    spans = (jitter.brightness, jitter.contrast, jitter.saturation)
    return {
        "shares": "/".join(f"{100 * share:g}" for share in SHARES),
        "crop_px": str(crop.size[0]),
        "crop_scale": " to ".join(f"{end:.1f}" for end in crop.scale),
        "rotation_degrees": f"{rotation.degrees[1]:g}",
        "jitter": " / ".join(f"{span[1] - 1:g}" for span in spans),
        "dropout": f"{DROPOUT:g}",
        "seen_px": str(seen_px(create("opnet"))),
        "seen_with_context_px": str(seen_px(create("opnet-context"))),
        "card_only": ", ".join(on_the_card_only()),
        "refused": f"{100 * MAX_REFUSED:g}",
        "claim": f"{100 * WANTED:g}",
        "confidence": f"{100 * CONFIDENCE:g}",
        "many": f"{_MANY:,}",
        "misses_in_many": str(most_misses(WANTED, _MANY)),
        "least": f"{needed(WANTED):,}",
    }


def seen_px(model: nn.Module) -> int:
    """Side of the square of pixels that a cell of OPNet's last feature map sees.

    Each layer with a kernel of k and a dilation of d widens it by (k - 1) d times the strides of the layers before.
    """
    side, step = 1, 1
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, dilation = (_first(size) for size in (module.kernel_size, module.stride, module.dilation))
            side += (kernel - 1) * dilation * step
            step *= stride
    return side


def _first(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]

"""How does the published training vary a picture? With torchvision's own transforms, in the published order.

RandomResizedCrop to the tile's size (80 to 100 % of the area, side ratio 3/4 to 4/3, bilinear with antialiasing),
both flips, RandomRotation by up to 45 degrees, ColorJitter of brightness 0.3, contrast 0.3 and saturation 0.2.
RandomRotation by default takes the nearest pixel and fills what it has no pixel for with 0: the black corners (dark
grey where ColorJitter then takes contrast away) are part of the published pipeline, and they are kept. A cracked
picture without a mask stays "crack" even if crop and rotation should push its crack out of the tile; that too is as
published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.random import Generator
from torchvision import tv_tensors
from torchvision.transforms import v2

from training.data.augment import Image

PICTURE_PX: Final = 227
"""Side of the published pictures, which become tiles of `TILE_PX`; larger photographs are first cut to this size."""
TILE_PX: Final = 224


def published_transforms(px: int) -> v2.Compose:
    """Return the published list of transforms for tiles of `px` pixels (published: 224)."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(px, scale=(0.8, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(45),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.2),
        ]
    )


def picture_side_px(px: int) -> float:
    """Side in pixels of the square of a large photograph that stands for one published picture."""
    return px * PICTURE_PX / TILE_PX


@dataclass(frozen=True)
class Varied:
    """A tile, BGR uint8 [S, S, 3], and its mask uint8 [S, S], or None if the picture had none."""

    tile: Image
    mask: Image | None


class PublishedPipeline:
    """The published transforms, drawing from a numpy generator instead of torch's global one.

    Args:
        px: side of the tiles.
    """

    def __init__(self, px: int) -> None:
        self.transforms = published_transforms(px)

    def __call__(self, picture: Image, mask: Image | None, rng: Generator) -> Varied:
        """Vary a picture and its mask alike.

        torchvision's transforms know no generator but torch's global one: it is seeded from `rng` for the length of
        the call and then put back, so that a tile depends on `rng` alone and nobody else's draws change.

        Args:
            picture: BGR uint8 [H, W, 3].
            mask: uint8 [H, W], or None; it takes the nearest pixel, so that its values are kept.
            rng: decides everything; one number is drawn from it.
        """
        # colours as torchvision expects them: its grey weighs red, green and blue differently
        image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1])).permute(2, 0, 1))
        inputs = (image,) if mask is None else (image, tv_tensors.Mask(torch.from_numpy(np.array(mask))[None]))
        before = torch.default_generator.get_state()
        # not torch.manual_seed: that would reseed the generators of all devices as well
        torch.default_generator.manual_seed(int(rng.integers(2**63 - 1)))
        try:
            outputs = self.transforms(*inputs)
        finally:
            torch.default_generator.set_state(before)
        image, *masks = outputs if mask is not None else (outputs,)
        tile = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[:, :, ::-1])
        return Varied(tile, masks[0][0].numpy() if masks else None)

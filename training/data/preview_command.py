"""Which command shows what augmentation does?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from training.progress import console, progress_bar

DEFAULT: Final = Path("config/training/commands/augment-preview.yaml")


def register(app: typer.Typer) -> None:
    """Adds `augment-preview` to the command line."""
    app.command("augment-preview")(augment_preview_command)


def augment_preview_command(
    config: Annotated[Path, typer.Option(help="What to draw.")] = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the splits.")] = None,
    photographs: Annotated[int | None, typer.Option(min=1, max=12, help="Photographs of each source.")] = None,
    variants: Annotated[int | None, typer.Option(min=1, max=16, help="Tiles of each photograph and preset.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides which photographs and tiles.")] = None,
) -> None:
    """Draw sheets of all presets, of each effect alone and of the synthetic pictures, and time the presets."""
    from training.config import read_settings
    from training.data.preview import PreviewSettings, preview

    settings = read_settings(config, PreviewSettings)
    places = _given(root=data, cache=cache, splits=splits)
    changes = _given(out=out, photographs=photographs, variants=variants, seed=seed)
    # values of this kind are checked by the options themselves
    settings = settings.model_copy(update={**changes, "data": settings.data.model_copy(update=places)})
    console.print(f"{preview(settings, progress_bar)}: sheets, effects and timing", soft_wrap=True)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}

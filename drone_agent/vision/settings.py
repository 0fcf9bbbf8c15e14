"""What can be set about the model, the tiles and the judgement of picture quality?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, model_validator

from drone_agent.errors import ConfigError
from drone_agent.settings import Settings


class TilingSettings(Settings):
    """How a frame is cut into tiles."""

    overlap: float = Field(
        0.0,
        ge=0,
        le=0.75,
        description="Share of a tile's side that neighbours have in common. 0 is fastest; 0.25 costs about a third "
        "more tiles and shows a crack on a border whole in one of them. Successive frames overlap anyway.",
    )
    max_resample: float = Field(
        2.0,
        ge=1,
        le=4,
        description="Largest factor by which tiles are enlarged or shrunk to bring their ground sampling distance into "
        "the model's band. What lies beyond is 'unknown: gsd'. 1 switches resampling off.",
    )


class MeasuredGates(Protocol):
    """What a model bundle may say about pictures that it cannot judge; None: it says nothing."""

    @property
    def min_sharpness(self) -> float | None:
        """See `QualitySettings`."""

    @property
    def min_brightness(self) -> float | None:
        """See `QualitySettings`."""

    @property
    def max_brightness(self) -> float | None:
        """See `QualitySettings`."""


@dataclass(frozen=True, slots=True)
class QualityGates:
    """The gates in force; see `QualitySettings` for their meaning."""

    min_brightness: float = 18.0
    max_brightness: float = 243.0
    max_dark_share: float = 0.6
    max_bright_share: float = 0.4
    min_sharpness: float = 0.28
    min_texture: float = 0.3


class QualitySettings(Settings):
    """When a tile is good enough for a verdict. What is not is 'unknown', never 'no crack'."""

    enabled: bool = Field(default=True, description="Off: every tile is scored, however dark or blurred (experiments).")
    score_refused: bool = Field(
        default=False,
        description="Also run the model on refused tiles. The verdict stays unknown; costs time, serves experiments.",
    )
    min_brightness: float | None = Field(
        None,
        ge=0,
        le=255,
        description="Mean grey level of a tile (0-255) below which it is 'dark'. null takes what was measured for the "
        "model, or 18 where its bundle does not say.",
    )
    max_brightness: float | None = Field(
        None,
        ge=0,
        le=255,
        description="Mean grey level of a tile (0-255) above which it is 'bright'. null takes what was measured for "
        "the model, or 243 where its bundle does not say.",
    )
    max_dark_share: float = Field(
        0.6, ge=0, le=1, description="Share of a tile that may be clipped to black before it is 'dark'."
    )
    max_bright_share: float = Field(
        0.4, ge=0, le=1, description="Share of a tile that may be clipped to white before it is 'bright'."
    )
    min_sharpness: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sharpness below which a tile is 'blur': how strong the finest grain is compared with coarser "
        "grain, in the blurriest direction. It does not depend on contrast, so a smooth wall passes. In focus: 0.4 to "
        "1; blurred over 3 px or smeared over 9 px: below 0.25. Higher refuses more. null takes what was measured for "
        "the model, or 0.28 where its bundle does not say.",
    )
    min_texture: float = Field(
        0.3,
        ge=0,
        le=50,
        description="Coarse grain (grey levels) below which sharpness cannot be told and the tile is 'flat': sky, a "
        "covered lens, fog.",
    )

    @model_validator(mode="after")
    def _window_is_open(self) -> QualitySettings:
        try:
            self.gates()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def gates(self, measured: MeasuredGates | None = None) -> QualityGates:
        """The gates in force: what is set here, else what was measured for the model, else the program's own.

        Raises:
            ConfigError: what is set here and what was measured leave no brightness that passes.
        """
        own = QualityGates()
        found = QualityGates(
            min_brightness=_first(
                self.min_brightness, None if measured is None else measured.min_brightness, own.min_brightness
            ),
            max_brightness=_first(
                self.max_brightness, None if measured is None else measured.max_brightness, own.max_brightness
            ),
            max_dark_share=self.max_dark_share,
            max_bright_share=self.max_bright_share,
            min_sharpness=_first(
                self.min_sharpness, None if measured is None else measured.min_sharpness, own.min_sharpness
            ),
            min_texture=self.min_texture,
        )
        if found.min_brightness >= found.max_brightness:
            raise ConfigError(
                f"vision.quality.min_brightness: found {found.min_brightness:g}, allowed is less than "
                f"vision.quality.max_brightness ({found.max_brightness:g})"
            )
        return found


def _first(wanted: float | None, measured: float | None, otherwise: float) -> float:
    if wanted is not None:
        return wanted
    return otherwise if measured is None else measured


class VisionSettings(Settings):
    """Which model looks at the frames, and how."""

    model: str = Field(
        "mobilenetv2",
        min_length=1,
        description="Model bundle: the name of a shipped one, or the path of a bundle's folder.",
    )
    file: str | None = Field(
        None,
        description="Which file of the bundle: fp32 or int8; null takes the bundle's own default.",
    )
    threshold_p: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Overrides the operating point of the bundle: 'crack' from this probability on, and evidence on "
        "the wall is counted from there. Lower finds more and cries wolf more often. null keeps the threshold that was "
        "fitted on validation data.",
    )
    threads: int = Field(
        1, ge=1, le=64, description="Threads of the inference runtime. Leave one core to camera and telemetry."
    )
    batch: int = Field(8, ge=1, le=64, description="Tiles in one run of the model; more needs memory and gains little.")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="What runs the model. cuda and tensorrt need a Jetson's build of onnxruntime."
    )
    tiling: TilingSettings = Field(default_factory=TilingSettings, description="How a frame is cut into tiles.")
    quality: QualitySettings = Field(
        default_factory=QualitySettings, description="When a tile is good enough for a verdict."
    )

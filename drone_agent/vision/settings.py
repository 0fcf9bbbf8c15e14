"""What can be set about the model, the tiles and the judgement of picture quality?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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


class QualitySettings(Settings):
    """When a tile is good enough for a verdict. What is not is 'unknown', never 'no crack'."""

    enabled: bool = Field(default=True, description="Off: every tile is scored, however dark or blurred (experiments).")
    score_refused: bool = Field(
        default=False,
        description="Also run the model on refused tiles. The verdict stays unknown; costs time, serves experiments.",
    )
    min_brightness: float = Field(
        18.0, ge=0, le=255, description="Mean grey level of a tile (0-255) below which it is 'dark'."
    )
    max_brightness: float = Field(
        243.0, ge=0, le=255, description="Mean grey level of a tile (0-255) above which it is 'bright'."
    )
    max_dark_share: float = Field(
        0.6, ge=0, le=1, description="Share of a tile that may be clipped to black before it is 'dark'."
    )
    max_bright_share: float = Field(
        0.4, ge=0, le=1, description="Share of a tile that may be clipped to white before it is 'bright'."
    )
    min_sharpness: float = Field(
        0.28,
        ge=0,
        le=2,
        description="Sharpness below which a tile is 'blur': how strong the finest grain is compared with coarser "
        "grain, in the blurriest direction. It does not depend on contrast, so a smooth wall passes. In focus: 0.4 to "
        "1; blurred over 3 px or smeared over 9 px: below 0.25. Higher refuses more.",
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
        if self.min_brightness >= self.max_brightness:
            raise ValueError(
                f"vision.quality.min_brightness: found {self.min_brightness:g}, allowed is less than "
                f"vision.quality.max_brightness ({self.max_brightness:g})"
            )
        return self


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
        description="Overrides the operating point of the bundle: 'crack' from this probability on. Lower finds more "
        "and cries wolf more often. null keeps the threshold that was fitted on validation data.",
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

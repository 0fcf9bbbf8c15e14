"""How is the flight log kept: what the operator may choose about folders, durability and evidence images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from drone_agent.settings import Settings

FsyncPolicy = Literal["important", "interval", "close"]


class CleanSampleSettings(Settings):
    """Random sample of tiles that the model called clear: the only way to estimate later what it missed."""

    rate: float = Field(
        0.002,
        ge=0.0,
        le=1.0,
        description="Share of the clear tiles that is kept at the start of a flight (0 to 1; 0 keeps none). It halves "
        "after every `batch` images, and each sample records the rate it was drawn at, so that estimates stay unbiased",
    )
    batch: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Images after which the rate halves (count; spreads the sample over a flight of unknown length)",
    )
    max_images: int = Field(
        200,
        ge=0,
        le=100_000,
        description="Most clean samples in one flight (count; about 15 kB each at JPEG quality 92)",
    )

    @model_validator(mode="after")
    def _batch_fits(self) -> CleanSampleSettings:
        if self.max_images and self.batch > self.max_images:
            msg = f"batch ({self.batch}) must not exceed max_images ({self.max_images})"
            raise ValueError(msg)
        return self


class FlightLogSettings(Settings):
    """The flight's folder, when it is forced to the card, and what happens when space runs out."""

    folder: str = Field(
        "flights",
        min_length=1,
        description="Folder that receives one sub-folder a flight (path, relative to the working directory; on a drone "
        "its own partition, so that a full log never stops the system)",
    )
    segment_mb: float = Field(
        16.0,
        gt=0.0,
        le=1024.0,
        description="Size at which a new events-NNNN.jsonl segment begins (MB; a damaged segment costs no more)",
    )
    fsync: FsyncPolicy = Field(
        "important",
        description="When events are forced to the card: `important` at once for sightings, spray events, faces, "
        "errors and ends, the rest every fsync_every_s; `interval` all every fsync_every_s; `close` at the end",
    )
    fsync_every_s: float = Field(
        2.0,
        gt=0.0,
        le=60.0,
        description="Longest time that ordinary events wait in memory before they are forced to the card (s; what a "
        "pulled battery may cost)",
    )
    queue_length: int = Field(
        256,
        ge=8,
        le=65_536,
        description="Events and images that may wait for the writer thread (count; when it is full the main loop "
        "waits, nothing is dropped; one waiting 224 px tile takes 150 kB)",
    )
    jpeg_quality: int = Field(
        92,
        ge=50,
        le=100,
        description="JPEG quality of the evidence images (50 to 100; below 85 fine cracks lose their edges)",
    )
    min_free_mb: float = Field(
        200.0,
        ge=0.0,
        le=1_000_000.0,
        description="Free space below which clean samples are no longer kept; below half of it no images at all, so "
        "that the events can go on (MB; 0 switches the reserve off)",
    )
    clean_samples: CleanSampleSettings = Field(
        default_factory=CleanSampleSettings, description="Random sample of clear tiles, for estimating misses"
    )

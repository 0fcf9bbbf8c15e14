"""How much has to be seen before a place counts as cracked, and how often may one place be marked?"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drone_agent.settings import Settings


class ImageSurfaceSettings(Settings):
    """A recording without telemetry: the cells are squares of the picture and mean only what the camera sees now."""

    cell_px: int = Field(
        56,
        description="Side of one cell (pixels); a quarter of a tile localises well enough for a picture.",
        ge=8,
        le=1024,
    )
    look_weight: float = Field(
        0.8,
        description="Weight of each further picture (0 to 1): without a pose nobody knows how far the camera moved, so "
        "a picture counts less than a look from a new place.",
        gt=0,
        le=1,
    )
    memory: float = Field(
        0.7,
        description=(
            "Share of the evidence that a cell keeps from one picture to the next (0 to 1): the camera moves on and "
            "the cell then shows another piece of wall. 0 judges each picture alone."
        ),
        ge=0,
        lt=1,
    )
    min_looks: int = Field(
        2,
        description="Pictures in which a cell must have looked cracked before it is reported; 1 for a folder of "
        "unrelated photographs.",
        ge=1,
        le=100,
    )
    spacing_px: float = Field(
        224.0,
        description=(
            "Smallest distance between two sightings of one picture (pixels); keeps one crack from filling the log."
        ),
        ge=0,
        le=10000,
    )


class InspectionSettings(Settings):
    """From tile scores to belief about each place of the structure (log-odds of "a crack runs through this cell")."""

    prior_log_odds: float = Field(
        -1.0,
        description="Belief before the first look (log-odds, counted from the model's threshold). Lower asks for more "
        "evidence before anything is reported.",
        ge=-10,
        le=0,
    )
    confirm_log_odds: float = Field(
        3.0,
        description="Belief at which a place is reported as cracked (log-odds, counted from the model's threshold). "
        "Raising it gives fewer false marks and misses faint cracks.",
        gt=0,
        le=20,
    )
    min_looks: int = Field(
        2,
        description=(
            "Looks from different viewpoints that must have shown the crack before it is reported; one picture can "
            "be fooled by a shadow or an insect."
        ),
        ge=1,
        le=100,
    )
    look_limit: float = Field(
        2.5,
        description=(
            "Largest evidence of one look in either direction (log-odds, counted from the model's threshold); no "
            "single picture decides, however sure the model is."
        ),
        gt=0,
        le=10,
    )
    belief_limit: float = Field(
        8.0,
        description=(
            "Bound of the accumulated belief in either direction (log-odds); keeps a place able to change its mind."
        ),
        gt=0,
        le=50,
    )
    min_baseline: float = Field(
        0.02,
        description=(
            "Movement of the camera below which a picture is the same look again and adds nothing (share of the "
            "distance to the wall; 0.02 = 4 cm at 2 m)."
        ),
        ge=0,
        le=1,
    )
    full_baseline: float = Field(
        0.10,
        description=(
            "Movement of the camera from which on a look counts in full (share of the distance to the wall); below "
            "it counts in proportion, because neighbouring pictures repeat each other's errors."
        ),
        gt=0,
        le=2,
    )
    unlocalised_share: float = Field(
        0.0,
        description=(
            "Share of a positive tile's evidence that also goes to the places of the tile which the model does not "
            "point at (0 to 1)."
        ),
        ge=0,
        le=1,
    )
    edge_weight: float = Field(
        0.25,
        description=(
            "Weight of a place at the rim of a tile against one in its middle (0 to 1): at the rim the model sees "
            "only half of the surroundings. Influences the mean over overlapping tiles."
        ),
        gt=0,
        le=1,
    )
    mark_spacing_m: float = Field(
        0.20,
        description=(
            "Smallest distance between two sightings, and so between two marks, on the structure (m): one crack gets "
            "one mark every so many metres, one place never two."
        ),
        ge=0,
        le=10,
    )
    reoffer_s: float = Field(
        2.0,
        description=(
            "After this time (s) a sighting that is in view and still has no mark asks again for paint, for example "
            "on the next pass; the marking gate decides."
        ),
        ge=0,
        le=3600,
    )
    image: ImageSurfaceSettings = Field(
        default_factory=ImageSurfaceSettings,
        description="Recordings without telemetry: evidence per place in the picture.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.full_baseline < self.min_baseline:
            raise ValueError(
                f"inspection.full_baseline is {self.full_baseline:g}, allowed is inspection.min_baseline "
                f"({self.min_baseline:g}) or more"
            )
        if self.confirm_log_odds > self.belief_limit:
            raise ValueError(
                f"inspection.confirm_log_odds is {self.confirm_log_odds:g}, allowed is inspection.belief_limit "
                f"({self.belief_limit:g}) or less: nothing could ever be confirmed"
            )
        return self

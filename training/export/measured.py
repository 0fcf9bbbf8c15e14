"""What did the robustness sweep find that a bundle must tell the agent? Gates of picture quality and the GSD band."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.export.onnx import ExportError

_GATES = ("min_sharpness", "min_brightness", "max_brightness", "max_smear_px")
_RUN = ("config", "seed", "commit", "steps")


@dataclass(frozen=True, slots=True)
class Measured:
    """A sweep, as bundle and card want it.

    Attributes:
        quality: the manifest's section, without what was not found.
        gsd_factors: ends of the band relative to the nominal ground sampling distance; None: that side was not tried.
        threshold_logit: crack from here on, when it was measured.
        basis: which tiles, how far, a sentence.
        notes: how each gate came about or why it is missing.
        limits: for each disturbance and direction the level at which recall falls, and between which levels that lies.
    """

    quality: dict[str, Any]
    gsd_factors: tuple[float | None, float | None]
    threshold_logit: float
    basis: str
    notes: tuple[str, ...]
    limits: tuple[tuple[str, str, str, str], ...]

    def gsd_mm_px(self, assumed: tuple[float, float, float], basis: str) -> dict[str, Any]:
        """The manifest's band: nominal times the factors, where they were measured.

        Args:
            assumed: nominal, smallest and largest ground sampling distance (mm/px) without the measurement.
            basis: what the nominal one rests on.
        """
        nominal, low, high = assumed
        factors = self.gsd_factors
        return {
            "nominal": nominal,
            "min": low if factors[0] is None else round(nominal * factors[0], 4),
            "max": high if factors[1] is None else round(nominal * factors[1], 4),
            "basis": f"Band measured relative to the nominal value: {self.basis} Nominal value: {basis}",
        }


def read_robustness(path: Path, *, name: str, content: Mapping[str, Any]) -> Measured:
    """Reads `robustness.json`, and makes sure that it was measured on these weights.

    Args:
        path: the file.
        name: of the bundle that is exported.
        content: of its checkpoint.

    Raises:
        ExportError: cannot be read, is no such file, or belongs to other weights.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error})") from error
    try:
        run = {key: found["model"]["training"][key] for key in _RUN}
        mine = {
            "config": content.get("config_path"),
            "seed": content.get("seed"),
            "commit": content.get("commit"),
            "steps": content.get("step"),
        }
        if run != mine:
            differing = next(key for key in _RUN if run[key] != mine[key])
            raise ExportError(
                f"{path}: measured on other weights ({found['model']['label']}), {differing} found {run[differing]}, "
                f"the checkpoint of {name} has {mine[differing]}; run `crack-training robustness` on it"
            )
        gates = found["gates"]
        sets = ", ".join(f"{key} ({item['tiles']})" for key, item in found["sets"].items())
        basis = (
            f"recall on validation tiles ({sets}) falls by {100 * found['fall']:g} points, crack from logit "
            f"{found['threshold_logit']:+.3f}."
        )
        quality = {key: gates[key] for key in _GATES if gates[key] is not None}
        return Measured(
            quality=quality | {"basis": f"Measured where {basis}"},
            gsd_factors=(gates["gsd_factor_min"], gates["gsd_factor_max"]),
            threshold_logit=float(found["threshold_logit"]),
            basis=f"ends where {basis}",
            notes=tuple(gates["notes"]),
            limits=tuple(_limits(found["disturbances"])),
        )
    except (KeyError, TypeError) as error:
        raise ExportError(f"{path}: not a result of `crack-training robustness` ({error} is missing)") from error


def _limits(disturbances: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for item in disturbances.values():
        for limit in item["limits"]:
            if limit["kind"] != "recall":
                continue
            beyond = f"beyond {limit['last']:g}"
            two_sided = len({row["side"] for row in item["limits"]}) > 1
            less = f" ({'less' if limit['side'] == 'below' else 'more'})" if two_sided else ""
            places = (beyond if limit[key] is None else f"{limit[key]:.3g}" for key in ("level", "earliest", "latest"))
            at, early, late = places
            rows.append((f"{item['title']}{less}: {item['unit']}", at, early, late))
    return rows

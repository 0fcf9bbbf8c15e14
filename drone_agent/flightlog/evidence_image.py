"""How does a picture carry its own evidence? JPEG with EXIF (where, when, which way) and XMP (the finding).

EXIF follows CIPA DC-008 (Exif 2.32): a photo viewer or GIS puts the picture on the map without knowing this program.
The GPS position is that of the camera where it is known (`camera_*`), else that of the place on the structure; the
latter is also written as the destination. A date is written only if the clock could be believed.

XMP holds the finding under our own namespace, `crackscout:` = `urn:crackscout:finding:1#`: every scalar of the
metadata under its own key (`crackscout:p_max`, `crackscout:along`, ...), lists as numbers separated by blanks. It
repeats what the flight log says, so that a picture that was copied out of its folder still explains itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from PIL import ExifTags, TiffImagePlugin
from PIL import Image as PillowImage

from drone_agent import __version__
from drone_agent.flightlog.schema import plain
from drone_agent.values import Image

NAMESPACE = "urn:crackscout:finding:1#"
PREFIX = "crackscout"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP_META = "adobe:ns:meta/"
_EXIF_HEADER = b"Exif\x00\x00"
# Adobe, XMP specification part 3: what an APP1 segment with XMP begins with; OpenCV writes the payload as it is
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
# one JPEG segment holds 65,533 bytes; nothing that we write comes near, except a runaway text
_XMP_MAX_BYTES = 60_000
_XML_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def encode_evidence(image: Image, metadata: Mapping[str, Any], *, quality: int = 92) -> bytes:
    """Encodes `image` (BGR uint8, H x W x 3) as JPEG with EXIF and XMP.

    Keys of `metadata` with a meaning in EXIF, all optional: `lat_deg`, `lon_deg`, `alt_amsl_m` (the place on the
    structure, WGS 84), `camera_lat_deg`, `camera_lon_deg`, `camera_alt_amsl_m` (the camera), `h_acc_m` or `sigma_m`
    (horizontal accuracy), `yaw_deg` (direction of the optical axis, clockwise from true north), `utc`
    (`{"iso", "valid"}`), `description`. All keys, these included, go into XMP.

    Raises:
        ValueError: The image is empty or not BGR uint8, or a position lies outside the globe.
        cv2.error: OpenCV cannot encode it.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an evidence image is BGR uint8 (H, W, 3), not {image.dtype} {image.shape}")
    segments = [exif_bytes(metadata), _XMP_HEADER + xmp_packet(metadata)]
    ok, buffer = cv2.imencodeWithMetadata(
        ".jpg",
        image,
        [cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_XMP],
        [np.frombuffer(segment, np.uint8) for segment in segments],
        [cv2.IMWRITE_JPEG_QUALITY, quality],
    )
    if not ok:
        raise ValueError("OpenCV refused to encode the image")
    return bytes(buffer.tobytes())


def exif_bytes(metadata: Mapping[str, Any]) -> bytes:
    """The EXIF block (a TIFF stream without the `Exif` header) for `metadata`; see `encode_evidence`."""
    exif = PillowImage.Exif()
    exif[ExifTags.Base.Software] = f"CrackScout {__version__}"
    exif[ExifTags.Base.ImageDescription] = _ascii(str(metadata.get("description") or _describe(metadata)))
    taken = _utc(metadata)
    gps = _gps(metadata)
    if taken is not None:
        text = taken.strftime("%Y:%m:%d %H:%M:%S")
        exif[ExifTags.Base.DateTime] = text
        detail = exif.get_ifd(ExifTags.IFD.Exif)
        detail[ExifTags.Base.DateTimeOriginal] = text
        detail[ExifTags.Base.OffsetTimeOriginal] = "+00:00"
        detail[ExifTags.Base.SubsecTimeOriginal] = f"{taken.microsecond // 1000:03d}"
        if gps:
            gps[ExifTags.GPS.GPSDateStamp] = taken.strftime("%Y:%m:%d")
            seconds = taken.second + taken.microsecond / 1e6
            gps[ExifTags.GPS.GPSTimeStamp] = (_ratio(taken.hour), _ratio(taken.minute), _ratio(seconds, 1000))
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    return exif.tobytes().removeprefix(_EXIF_HEADER)


def xmp_packet(metadata: Mapping[str, Any]) -> bytes:
    """The XMP packet (UTF-8) with every value of `metadata` under `NAMESPACE`; None and nested maps are left out."""
    for prefix, uri in (("x", _XMP_META), ("rdf", _RDF), (PREFIX, NAMESPACE)):
        ET.register_namespace(prefix, uri)
    root = ET.Element(f"{{{_XMP_META}}}xmpmeta")
    rdf = ET.SubElement(root, f"{{{_RDF}}}RDF")
    description = ET.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    for key, value in metadata.items():
        text = _text(plain(value, key))
        if text is not None and _XML_NAME.fullmatch(key):
            description.set(f"{{{NAMESPACE}}}{key}", text)
    utc = _utc(metadata)
    if utc is not None:
        description.set(f"{{{NAMESPACE}}}utc", utc.isoformat(timespec="milliseconds"))
    body = ET.tostring(root, encoding="unicode")
    packet = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{body}<?xpacket end="w"?>'.encode()
    if len(packet) > _XMP_MAX_BYTES:
        raise ValueError(f"the finding's metadata take {len(packet)} bytes, a JPEG segment holds {_XMP_MAX_BYTES}")
    return packet


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(filter(None, (_text(item) for item in value)))
    return _NOT_XML.sub(" ", str(value))


def _gps(metadata: Mapping[str, Any]) -> dict[int, Any]:
    place = _position(metadata, "")
    camera = _position(metadata, "camera_")
    here = camera or place
    if here is None:
        return {}
    tags = ExifTags.GPS
    lat, lon, alt = here
    gps: dict[int, Any] = {
        tags.GPSVersionID: b"\x02\x03\x00\x00",
        tags.GPSMapDatum: "WGS-84",
        tags.GPSLatitudeRef: "S" if lat < 0 else "N",
        tags.GPSLatitude: _dms(lat),
        tags.GPSLongitudeRef: "W" if lon < 0 else "E",
        tags.GPSLongitude: _dms(lon),
    }
    if alt is not None:
        # 0: above mean sea level, 1: below; the altitude itself has no sign
        gps[tags.GPSAltitudeRef] = b"\x01" if alt < 0 else b"\x00"
        gps[tags.GPSAltitude] = _ratio(abs(alt), 1000)
    accuracy = _number(metadata, "h_acc_m")
    accuracy = _number(metadata, "sigma_m") if accuracy is None else accuracy
    if accuracy is not None and accuracy >= 0:
        gps[tags.GPSHPositioningError] = _ratio(min(accuracy, 1e6), 1000)
    direction = _number(metadata, "yaw_deg")
    if direction is not None:
        gps[tags.GPSImgDirectionRef] = "T"
        gps[tags.GPSImgDirection] = _ratio(direction % 360.0, 100)
    if camera is not None and place is not None:
        gps[tags.GPSDestLatitudeRef] = "S" if place[0] < 0 else "N"
        gps[tags.GPSDestLatitude] = _dms(place[0])
        gps[tags.GPSDestLongitudeRef] = "W" if place[1] < 0 else "E"
        gps[tags.GPSDestLongitude] = _dms(place[1])
    return gps


def _position(metadata: Mapping[str, Any], prefix: str) -> tuple[float, float, float | None] | None:
    lat, lon = _number(metadata, f"{prefix}lat_deg"), _number(metadata, f"{prefix}lon_deg")
    if lat is None or lon is None:
        return None
    if abs(lat) > 90.0 or abs(lon) > 180.0:
        raise ValueError(f"no place on the globe: {prefix}lat_deg {lat}, {prefix}lon_deg {lon}")
    return lat, lon, _number(metadata, f"{prefix}alt_amsl_m")


def _number(metadata: Mapping[str, Any], key: str) -> float | None:
    value = metadata.get(key)
    if value is None or isinstance(value, str | bool):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _dms(degrees: float) -> tuple[TiffImagePlugin.IFDRational, ...]:
    """Degrees, minutes, seconds as rationals; seconds to 1e-5 (0.3 mm), carried over where they round to 60."""
    hundred_thousandths = round(abs(degrees) * 3600 * 100_000)
    minutes, rest = divmod(hundred_thousandths, 60 * 100_000)
    whole, minutes = divmod(minutes, 60)
    return (_ratio(whole), _ratio(minutes), TiffImagePlugin.IFDRational(rest, 100_000))


def _ratio(value: float, denominator: int = 1) -> TiffImagePlugin.IFDRational:
    return TiffImagePlugin.IFDRational(round(value * denominator), denominator)


def _utc(metadata: Mapping[str, Any]) -> datetime | None:
    stamp = metadata.get("utc")
    if not isinstance(stamp, Mapping) or not stamp.get("valid"):
        return None
    try:
        taken = datetime.fromisoformat(str(stamp.get("iso")))
    except ValueError:
        return None
    return taken.astimezone(UTC) if taken.tzinfo else None


def _describe(metadata: Mapping[str, Any]) -> str:
    """One line for people who open the picture in a viewer."""
    parts = ["Clear tile (sample)" if metadata.get("kind") == "clean_sample" else "Possible crack"]
    unit = str(metadata.get("unit", "m"))
    for label, key, form in (("p", "p_max", ".2f"), ("along", "along", ".2f"), ("height", "height", ".2f")):
        value = _number(metadata, key)
        if value is not None:
            parts.append(f"{label} {value:{form}}" + ("" if label == "p" else f" {unit}"))
    return ", ".join(parts)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyexiv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags
from PIL import Image as PillowImage

from drone_agent.flightlog.evidence_image import NAMESPACE, PREFIX, encode_evidence, exif_bytes
from tests.flightlog.flights import concrete_tile

TILE = concrete_tile(3, crack=True)
UTC = {"iso": "2025-06-12T09:30:05.250+00:00", "valid": True}
FINDING: dict[str, Any] = {
    "id": 7,
    "face": 'Pfeiler Süd <2> & "A"',
    "along": 3.25,
    "height": 2.1,
    "p_max": 0.97,
    "tile": [640, 224, 224],
    "lat_deg": -33.8567844,
    "lon_deg": 151.2152967,
    "alt_amsl_m": -3.25,
    "sigma_m": 0.09,
    "yaw_deg": -90.0,
    "utc": UTC,
    "nothing": None,
}

pyexiv2.registerNs(NAMESPACE, PREFIX)


def read(content: bytes) -> tuple[dict[str, str], dict[str, str]]:
    with pyexiv2.ImageData(content) as image:
        return image.read_exif(), image.read_xmp()


def degrees(text: str) -> float:
    parts = [int(a) / int(b) for a, b in (value.split("/") for value in text.split())]
    return parts[0] + parts[1] / 60 + parts[2] / 3600


def test_the_picture_is_the_one_that_was_given() -> None:
    content = encode_evidence(TILE, FINDING, quality=95)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == TILE.shape
    assert np.abs(decoded.astype(int) - TILE.astype(int)).mean() < 3.0


def test_another_programs_reader_finds_the_place_in_exif() -> None:
    exif, _ = read(encode_evidence(TILE, FINDING))
    assert exif["Exif.GPSInfo.GPSLatitudeRef"] == "S"
    assert degrees(exif["Exif.GPSInfo.GPSLatitude"]) == pytest.approx(33.8567844, abs=1e-8)
    assert exif["Exif.GPSInfo.GPSLongitudeRef"] == "E"
    assert degrees(exif["Exif.GPSInfo.GPSLongitude"]) == pytest.approx(151.2152967, abs=1e-8)
    assert exif["Exif.GPSInfo.GPSAltitudeRef"] == "1"
    assert Fraction(exif["Exif.GPSInfo.GPSAltitude"]) == Fraction("3.25")
    assert Fraction(exif["Exif.GPSInfo.GPSHPositioningError"]) == Fraction("0.09")
    assert Fraction(exif["Exif.GPSInfo.GPSImgDirection"]) == 270
    assert exif["Exif.GPSInfo.GPSImgDirectionRef"] == "T"


def test_a_camera_position_is_where_it_was_taken_and_the_finding_the_destination() -> None:
    exif, _ = read(encode_evidence(TILE, {**FINDING, "camera_lat_deg": 10.0, "camera_lon_deg": -20.5}))
    assert degrees(exif["Exif.GPSInfo.GPSLatitude"]) == pytest.approx(10.0)
    assert exif["Exif.GPSInfo.GPSLongitudeRef"] == "W"
    assert degrees(exif["Exif.GPSInfo.GPSDestLatitude"]) == pytest.approx(33.8567844, abs=1e-8)
    assert exif["Exif.GPSInfo.GPSDestLatitudeRef"] == "S"


def test_the_time_stands_in_exif_only_if_the_clock_could_be_believed() -> None:
    exif, xmp = read(encode_evidence(TILE, FINDING))
    assert exif["Exif.Photo.DateTimeOriginal"] == "2025:06:12 09:30:05"
    assert exif["Exif.Photo.SubSecTimeOriginal"] == "250"
    assert exif["Exif.GPSInfo.GPSDateStamp"] == "2025:06:12"
    assert [float(Fraction(part)) for part in exif["Exif.GPSInfo.GPSTimeStamp"].split()] == [9.0, 30.0, 5.25]
    assert xmp["Xmp.crackscout.utc"] == "2025-06-12T09:30:05.250+00:00"

    invalid = {**FINDING, "utc": {"iso": "1970-01-01T00:00:05+00:00", "valid": False}}
    exif, xmp = read(encode_evidence(TILE, invalid))
    assert not [key for key in (*exif, *xmp) if "Date" in key or "Time" in key or "utc" in key]


def test_local_time_is_turned_into_utc() -> None:
    exif, _ = read(encode_evidence(TILE, {**FINDING, "utc": {"iso": "2025-06-12T01:30:00+02:00", "valid": True}}))
    assert exif["Exif.Photo.DateTimeOriginal"] == "2025:06:11 23:30:00"


def test_the_finding_stands_in_xmp() -> None:
    _, xmp = read(encode_evidence(TILE, FINDING))
    assert xmp["Xmp.crackscout.face"] == FINDING["face"]
    assert xmp["Xmp.crackscout.p_max"] == "0.97"
    assert xmp["Xmp.crackscout.along"] == "3.25"
    assert xmp["Xmp.crackscout.tile"] == "640 224 224"
    assert "Xmp.crackscout.nothing" not in xmp


def test_pillow_reads_it_too(tmp_path: Path) -> None:
    with PillowImage.open(io.BytesIO(encode_evidence(TILE, FINDING))) as image:
        gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert gps[ExifTags.GPS.GPSLatitudeRef] == "S"
        assert float(gps[ExifTags.GPS.GPSLatitude][0]) == 33.0
        assert b'crackscout:along="3.25"' in image.info["xmp"]
        image.load()


def test_without_a_position_there_is_no_gps_block() -> None:
    exif, xmp = read(encode_evidence(TILE, {"along": 400.0, "unit": "px"}))
    assert not [key for key in exif if "GPS" in key]
    assert exif["Exif.Image.ImageDescription"] == "Possible crack, along 400.00 px"
    assert xmp["Xmp.crackscout.unit"] == "px"


@pytest.mark.parametrize(("lat", "lon"), [(91.0, 0.0), (0.0, 180.5), (-90.1, 0.0)])
def test_a_place_off_the_globe_is_refused(lat: float, lon: float) -> None:
    with pytest.raises(ValueError, match="no place on the globe"):
        encode_evidence(TILE, {"lat_deg": lat, "lon_deg": lon})


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5), (5, 5, 4)])
def test_only_bgr_pictures_are_encoded(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="BGR uint8"):
        encode_evidence(np.zeros(shape, np.uint8), {})


def test_a_runaway_text_is_refused_and_not_cut_silently() -> None:
    with pytest.raises(ValueError, match="bytes"):
        encode_evidence(TILE, {"detail": "x" * 70_000})


def test_control_characters_do_not_break_the_packet() -> None:
    _, xmp = read(encode_evidence(TILE, {"detail": "a\x00b\x07c", "bad key!": 1}))
    assert xmp["Xmp.crackscout.detail"] == "a b c"


@settings(max_examples=80)
@given(lat=st.floats(-90, 90), lon=st.floats(-180, 180), alt=st.floats(-400, 9000), yaw=st.floats(-720, 720))
def test_any_place_survives_the_round_trip_within_a_millimetre(lat: float, lon: float, alt: float, yaw: float) -> None:
    block = exif_bytes({"lat_deg": lat, "lon_deg": lon, "alt_amsl_m": alt, "yaw_deg": yaw})
    exif = PillowImage.Exif()
    exif.load(b"Exif\x00\x00" + block)
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)

    def signed(tag: int, ref: int, negative: str) -> float:
        d, m, s = (float(v) for v in gps[tag])
        assert 0 <= m < 60
        assert 0 <= s < 60
        return (d + m / 60 + s / 3600) * (-1 if gps[ref] == negative else 1)

    assert signed(ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S") == pytest.approx(lat, abs=5e-9)
    assert signed(ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W") == pytest.approx(lon, abs=5e-9)
    assert abs(float(gps[ExifTags.GPS.GPSAltitude]) - abs(alt)) <= 0.00051
    assert 0 <= float(gps[ExifTags.GPS.GPSImgDirection]) <= 360

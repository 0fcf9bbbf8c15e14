"""Which data sets are there, what may each be used for, and how is each laid out?

A data set is read as it was downloaded: one zip archive, or the folder that it unpacks to, under the data root.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from drone_agent.vision.preprocess import InputError, read_image
from training.data.omissions import mark_omissions
from training.errors import DataError as DataError  # noqa: PLC0414 - also known from here

CRACK: Final = 255
"""Mask value: crack."""
JOINT: Final = 204
"""Mask value: formwork joint."""
BOX: Final = 128
"""Mask value: inside a box that holds a crack somewhere."""

DARKEST_MARK: Final = 127
"""Above it a value of a stored mask is a mark: masks stored as JPEG are not exactly 0 and 255."""

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
OTHER_PICTURES: Final = frozenset(
    {".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm"}
)
"""Endings of pictures that are not read."""
PACKED: Final = frozenset({".rar", ".zip", ".7z"})

Role = Literal["train", "external"]


class Archive:
    """The files of a data set, whether they are in a zip archive or in a folder."""

    def __init__(self, path: Path) -> None:
        """Open a zip archive or a folder.

        Raises:
            DataError: the file is no zip archive, or was cut short.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path) if path.is_file() else None
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:  # ValueError: names of no UTF-8
            raise DataError(
                f"{path}: cannot be opened as a zip archive ({error}); get it anew, "
                f"or unpack it with 7-Zip to {path.stem}/ and move the archive away"
            ) from error

    @classmethod
    def find(cls, root: Path, name: str) -> Archive:
        """Open `root/name.zip` or the folder `root/name`.

        Raises:
            DataError: neither is there, or the archive is damaged.
        """
        for path in (root / f"{name}.zip", root / name):
            if path.exists():
                return cls(path)
        for suffix in sorted(PACKED):
            if (root / f"{name}{suffix}").is_file():
                raise DataError(f"{root}: {name}{suffix} cannot be read packed; unpack it to {name}/ first")
        raise DataError(f"{root}: neither {name}.zip nor a folder {name} is there")

    def names(self) -> list[str]:
        """List all files, sorted, with forward slashes, relative to the data set."""
        if self._zip is not None:
            return sorted(name for name in self._zip.namelist() if not name.endswith("/"))
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DataError: it is not there, or damaged.
        """
        try:
            return self._zip.read(name) if self._zip is not None else (self.path / name).read_bytes()
        except KeyError as error:
            raise DataError(f"{self.path}: {name} is not there") from error
        except RuntimeError as error:  # encrypted; or, as NotImplementedError, compressed in a way unknown to zipfile
            raise DataError(
                f"{self.path}: {name} cannot be read ({error}); "
                f"unpack the archive with 7-Zip to {self.path.stem}/ and move it away"
            ) from error
        except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({error})") from error

    def picture(self, name: str, content: bytes | None = None) -> NDArray[np.uint8]:
        """Return one picture: uint8 [H, W, 3], BGR; `content` is that of its file, if it was read already.

        Raises:
            DataError: it is not there, damaged, or no picture.
        """
        try:
            return read_image(self.read(name) if content is None else content)
        except InputError as error:
            raise DataError(f"{self.path}: {name}: {str(error).removeprefix('the picture: ')}") from error

    def sha256(self) -> str:
        """Hash the archive file, or for a folder the sorted list of names and contents."""
        digest = hashlib.sha256()
        if self._zip is not None:
            with self.path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            for name in self.names():
                digest.update(name.encode() + b"\0" + hashlib.sha256(self.read(name)).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Item:
    """One photograph of a data set.

    Attributes:
        path: its file inside the archive.
        label: True crack, False none, None where the mask decides crop by crop.
        group: photograph (or video, or site) that it was cut from; never divided between splits.
        part: the publisher's or our fixed split, or None if it is to be drawn.
        annotation: file of the mask or of the boxes.
    """

    path: str
    label: bool | None
    group: str
    part: str | None = None
    annotation: str | None = None


@dataclass(frozen=True)
class Source:
    """What is known about a data set.

    Attributes:
        side_px: side of the square in which its photographs are cached.
        masks: whether it has pixel masks (or boxes).
        mask: reads the annotation of a photograph of the given height and width, where `read_mask` alone cannot.
        layout: by which name of `training.data.loaders.LAYOUTS` it is read; None: built in.
    """

    name: str
    role: Role
    licence: str
    citation: str
    side_px: int
    items: Callable[[Archive], list[Item]]
    masks: bool
    mask: Callable[[Archive, Item, int, int], NDArray[np.uint8]] | None = None
    layout: str | None = None


def is_hidden(name: str) -> bool:
    """Whether a file is none of the data set: what a Mac adds (`__MACOSX/`), names that begin with a dot."""
    return any(part == "__MACOSX" or part.startswith(".") for part in PurePosixPath(name).parts)


def is_picture(name: str) -> bool:
    """Whether a file is a picture of the data set, by its name."""
    return PurePosixPath(name).suffix.lower() in PICTURES and not is_hidden(name)


def left_out(archive: Archive, items: Sequence[Item]) -> list[str]:
    """List the picture files, sorted, that are neither photograph nor annotation, and those of kinds that are not read.

    Args:
        archive: the data set.
        items: its photographs.
    """
    used = {item.path for item in items} | {item.annotation for item in items}
    return [
        name
        for name in archive.names()
        if name not in used and not is_hidden(name) and PurePosixPath(name).suffix.lower() in PICTURES | OTHER_PICTURES
    ]


def _pictures(archive: Archive) -> Iterator[PurePosixPath]:
    return (PurePosixPath(name) for name in archive.names() if is_picture(name))


def at_least_one(items: Callable[[Archive], list[Item]], archive: Archive) -> list[Item]:
    """List the photographs of a data set by `items`.

    Raises:
        DataError: there is none; says so if what is there is packed once more.
    """
    found = items(archive)
    if found:
        return found
    packed = [name for name in archive.names() if PurePosixPath(name).suffix.lower() in PACKED and not is_hidden(name)]
    if packed and not any(_pictures(archive)):
        raise DataError(f"{archive.path}: holds no photographs but a packed file; unpack {', '.join(packed)} first")
    raise DataError(f"{archive.path}: no photograph is where the layout expects it; see docs/data.md")


def _by_folder(archive: Archive) -> list[Item]:
    """Read the Kaggle layout: `Positive/` and `Negative/`, anywhere in the archive; masks, if any, in `masks/`."""
    masks = {path.stem: str(path) for path in _pictures(archive) if path.parent.name == "masks"}
    return [
        Item(str(path), path.parent.name == "Positive", str(path), annotation=masks.get(path.stem))
        for path in _pictures(archive)
        if path.parent.name in {"Positive", "Negative"}
    ]


def _metu(archive: Archive) -> list[Item]:
    return [Item(item.path, item.label, item.group) for item in _by_folder(archive)]


def _uav75(archive: Archive) -> list[Item]:
    """Read `train/images` with `train/masks`, or as its repository has it, `train_img` with `train_lab`.

    DSC00566b and DSC00566 are two pieces of one photograph. Four photographs have pieces in the publisher's train and
    val; all pieces of those belong to train here.
    """
    items = []
    for path in _pictures(archive):
        folder = path.parent
        if folder.name == "images":
            part, masks = folder.parent.name, folder.parent / "masks"
        elif folder.name.endswith("_img"):
            part = folder.name.removesuffix("_img")
            masks = folder.parent / f"{part}_lab"
        else:
            continue
        photograph = re.sub(r"(?<=\d)[a-z]$", "", path.stem)
        items.append(Item(str(path), None, photograph, part=part, annotation=str(masks / f"{path.stem}.png")))
    trained = {item.group for item in items if item.part == "train"}
    return [replace(item, part="train") if item.part == "val" and item.group in trained else item for item in items]


QUAY_HELD_OUT: Final = "o"
"""Sites of the quay whose name begins so are for validation; the others are trained on."""


def _omu(archive: Archive) -> list[Item]:
    items = []
    for path in _pictures(archive):
        site = path.parent.name
        part = "val" if site.startswith(QUAY_HELD_OUT) else "train"
        # MAX_0006_5m_11_10: photograph 0006; the rest is height, column and row
        group = f"{site}/{'_'.join(path.stem.split('_')[:2])}"
        items.append(Item(str(path), None, group, part=part, annotation=str(path.with_suffix(".txt"))))
    return items


def _uavcrack(archive: Archive) -> list[Item]:
    items = []
    for path in _pictures(archive):
        if path.parent.name != "images":
            continue
        parts = path.stem.split("_")
        group = "_".join(parts[:-3]) if len(parts) > 3 else parts[0]
        mask = path.parent.parent / "masks" / f"{path.stem}.png"
        items.append(Item(str(path), None, group, annotation=str(mask)))
    return items


def _nha12d(archive: Archive) -> list[Item]:
    return [
        Item(str(path), None, path.stem, annotation=str(path.parent.parent / "masks" / f"{path.stem}.png"))
        for path in _pictures(archive)
        if path.parent.name == "images"
    ]


def coloured_mask(archive: Archive, item: Item, height: int, width: int) -> NDArray[np.uint8]:
    """Read a mask [height, width] in which any colour but black is crack.

    Raises:
        DataError: the mask has another size than its photograph.
    """
    if item.annotation is None:
        return np.zeros((height, width), np.uint8)
    colours = archive.picture(item.annotation)
    if colours.shape[:2] != (height, width):
        raise DataError(f"{archive.path}: {item.annotation} is {colours.shape[:2]}, its photograph {(height, width)}")
    return np.where((colours > 0).any(axis=2), np.uint8(CRACK), np.uint8(0))


def _all_negative(archive: Archive) -> list[Item]:
    return [Item(str(path), label=False, group=str(path)) for path in _pictures(archive)]


SOURCES: Final[dict[str, Source]] = {
    source.name: replace(source, items=partial(at_least_one, source.items))
    for source in (
        Source(
            name="metu-ccic",
            role="train",
            licence="CC BY 4.0",
            citation="Özgenel, Concrete Crack Images for Classification, Mendeley Data 5y9wdsg2zt",
            side_px=227,
            items=_metu,
            masks=False,
        ),
        Source(
            name="uav75",
            role="train",
            licence="GPL-3.0 (repository)",
            citation="Benz et al., UAV75",
            side_px=512,
            items=_uav75,
            masks=True,
        ),
        Source(
            name="omu-quay",
            role="train",
            licence="CC BY-SA 4.0",
            citation="OMU Geolab, cracks on port quays from a drone",
            side_px=256,
            items=_omu,
            masks=True,
        ),
        Source(
            name="uavcrack",
            role="train",
            licence="unclear; not redistributed",
            citation="crack tiles from drone and ground vehicle",
            side_px=256,
            items=_uavcrack,
            masks=True,
        ),
        Source(
            name="not-concrete",
            role="train",
            licence="research use; not redistributed",
            citation="everyday photographs",
            side_px=384,
            items=_all_negative,
            masks=False,
        ),
        Source(
            name="walls-external",
            role="external",
            licence="none stated; not redistributed",
            citation="Rissbilder, Volker, noncrack",
            side_px=448,
            items=_by_folder,
            masks=True,
        ),
        Source(
            name="brickwork-external",
            role="external",
            licence="none stated; not redistributed",
            citation="brick walls",
            side_px=227,
            items=_by_folder,
            masks=False,
        ),
        Source(
            name="nha12d",
            role="external",
            licence="none stated; not redistributed",
            citation="Huang et al. 2022, NHA12D, doi:10.17863/CAM.83123",
            side_px=1920,  # 1920 x 1080: mirrored at the bottom, not stretched
            items=_nha12d,
            masks=True,
            mask=coloured_mask,
        ),
    )
}

DATASETS_FILE: Final = Path("config/training/commands/sources.yaml")
"""Data sets that are added by configuration: its entries with a `layout`. Sought as `datasets_file` says."""


def datasets_file() -> Path:
    """Return `DATASETS_FILE` of the working directory, as every command reads its file, else that of this checkout."""
    return DATASETS_FILE if DATASETS_FILE.is_file() else Path(__file__).resolve().parents[2] / DATASETS_FILE


def added_sources() -> dict[str, Source]:
    """Return the data sets that are added by configuration; none where there is no such file.

    Raises:
        ConfigError: the file is not valid.
        DataError: it names an unknown layout, or gives a built-in data set one.
    """
    from training.data.loaders import configured_sources  # it is made of what stands here

    path = datasets_file()
    return configured_sources(path) if path.is_file() else {}


def get_source(name: str, *, for_training: bool) -> Source:
    """Return what is known about a data set.

    Raises:
        DataError: unknown name, or an external test set asked for by training.
        ConfigError: the name is not built in, and the file that may add it is not valid.
    """
    known = SOURCES if name in SOURCES else SOURCES | added_sources()
    if name not in known:
        raise DataError(
            f"data set {name!r} is unknown; allowed: {', '.join(sorted(known))}; {datasets_file()} adds more"
        )
    source = known[name]
    if for_training and source.role == "external":
        raise DataError(f"data set {name!r} is an external test: it must never be trained on")
    return source


def read_mask(archive: Archive, source: Source, item: Item, height: int, width: int) -> NDArray[np.uint8]:
    """Read the annotation of a photograph as a mask of its size: 0, `CRACK`, `JOINT`, `BOX`, or `UNSURE`.

    It is unsure where `training.data.omissions` lists a crack that the annotation leaves out.

    Raises:
        DataError: the annotation cannot be read, has another size than its photograph, or values that mean nothing.
    """
    return mark_omissions(_annotated(archive, source, item, height, width), source.name, item.path)


def _annotated(archive: Archive, source: Source, item: Item, height: int, width: int) -> NDArray[np.uint8]:
    if source.mask is not None:
        return source.mask(archive, item, height, width)
    mask = np.zeros((height, width), np.uint8)
    if item.annotation is None:
        return mask
    if item.annotation.endswith(".txt"):
        return boxes_mask(archive, item, height, width)
    if source.name == "uav75":
        values = _mask_values(archive, item.annotation, height, width, f"0, {JOINT} (joint) and {CRACK} (crack)")
        mask[values == CRACK] = CRACK
        mask[values == JOINT] = JOINT
        return mask
    return two_valued_mask(archive, item, height, width)


def two_valued_mask(archive: Archive, item: Item, height: int, width: int) -> NDArray[np.uint8]:
    """Read a mask [height, width] of sound (0) and crack (255), grey or in colour, as 0 and `CRACK`.

    Raises:
        DataError: it cannot be read, has another size than its photograph, or holds marks that are no 255.
    """
    if item.annotation is None:
        return np.zeros((height, width), np.uint8)
    values = _mask_values(archive, item.annotation, height, width, f"0 (sound) and {CRACK} (crack)")
    return np.where(values > DARKEST_MARK, np.uint8(CRACK), np.uint8(0))


def _mask_values(archive: Archive, name: str, height: int, width: int, allowed: str) -> NDArray[np.uint8]:
    """Read the largest value over the channels of a mask [height, width]; one of 0 and 1, say, is refused."""
    colours = archive.picture(name)
    if colours.shape[:2] != (height, width):
        raise DataError(f"{archive.path}: {name} is {colours.shape[:2]}, its photograph {(height, width)}")
    values = np.asarray(colours.max(axis=2), np.uint8)
    strongest = int(values.max())
    if strongest == 0:  # 16 bits are scaled to 8, by which small values become 0
        raw = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
        strongest = int(raw.max()) if raw is not None else 0
        if strongest:
            raise DataError(f"{archive.path}: {name} holds 16-bit values up to {strongest}; allowed are {allowed}")
    elif strongest <= DARKEST_MARK:
        raise DataError(f"{archive.path}: {name} holds values up to {strongest}; allowed are {allowed}")
    return values


def boxes_mask(archive: Archive, item: Item, height: int, width: int) -> NDArray[np.uint8]:
    """Draw YOLO boxes (class, centre x and y, width and height as shares of the picture) as `BOX` [height, width].

    Raises:
        DataError: a line is something else; names the file and the line.
    """
    mask = np.zeros((height, width), np.uint8)
    if item.annotation is None:
        return mask
    for number, line in enumerate(archive.read(item.annotation).decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            _, x, y, w, h = map(float, line.split())
        except ValueError:
            x = y = w = h = -1.0
        if not all(0 <= value <= 1 for value in (x, y, w, h)):
            raise DataError(
                f"{archive.path}: {item.annotation}, line {number}: {line!r}; allowed is class x y width height, 0 to 1"
            )
        fill_box(mask, (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return mask


def fill_box(mask: NDArray[np.uint8], left: float, top: float, right: float, bottom: float) -> None:
    """Mark a rectangle, in pixels, in a mask; what lies outside is left out."""
    mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = BOX

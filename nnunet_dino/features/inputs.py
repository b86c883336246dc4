"""Which files are meant by a folder, a pattern, a list in a CSV file, or single paths."""

from __future__ import annotations

import glob
import gzip
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._packages import require
from nnunet_dino.features.dicom import WHOLE_SLIDE, is_dicom, read_header
from nnunet_dino.features.items import Item

IMAGES, VOLUMES, SLIDES = "images", "volumes", "slides"
KINDS = (IMAGES, VOLUMES, SLIDES)
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
VOLUME_ENDINGS = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
SLIDE_ENDINGS = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
NO_DICOM = (".txt", ".csv", ".json", ".xml", ".html", ".pdf", ".zip", ".gz", ".py", ".md", ".xlsx")  # not looked into
ENDINGS = {
    IMAGES: (*IMAGE_ENDINGS, *DICOM_ENDINGS),
    VOLUMES: (*VOLUME_ENDINGS, *DICOM_ENDINGS),
    SLIDES: (*SLIDE_ENDINGS, ".tif", ".tiff"),
}
PARQUET = b"PAR1"
CASE_CHANNEL = "_0000"  # the first channel of a case of nnU-Net
PATH_COLUMNS = ("path", "file", "filename", "image", "volume", "slide")


def find_items(
    named: Sequence[str], kind: str = "auto", column: str | None = None, root: str | None = None
) -> tuple[str, list[Item]]:
    """Lists the inputs that a user named.

    Args:
        named: A folder (searched with its subfolders), a pattern, one CSV file with paths, or files.
        kind: ``images``, ``volumes``, ``slides``, or ``auto``: by the endings of the names.
        column: Column of the CSV file with the paths.
        root: Folder that paths in the CSV file start from; the CSV file's own by default.

    Returns:
        The kind, and the inputs: sorted by name, or in the order of the CSV file. Their ids are the paths as the CSV file gives
        them, else relative to the folder that holds all.

    Raises:
        UserError: Nothing is found, or not one kind, or names are not unique.
    """
    if kind not in ("auto", *KINDS):
        raise UserError(f"--kind: required one of auto, {', '.join(KINDS)} · got {kind!r}{nearest(kind, KINDS)}")
    if any(name.lower().endswith(".csv") for name in named):
        if len(named) > 1:
            raise UserError(f"required one CSV file, or folders and images · got {', '.join(named)}")
        pairs = _from_csv(Path(named[0]), column, root)
    elif column or root:
        option = "--column" if column else "--root"
        raise UserError(f"{option}: required a CSV file of paths with it · got {', '.join(named)}")
    else:
        pairs = _from_disk(named, kind)
    if not pairs:
        raise UserError(f"required at least one image, volume or slide · got none in {', '.join(named)}{_hint(kind)}")
    if odd := [path for _, path in pairs if not _is_utf8(path)]:
        raise UserError(f"required file names in UTF-8 · got {odd[0]!a} ({len(odd)} such) · rename")
    found = kind if kind != "auto" else _kind_of([path for _, path in pairs])
    items = [Item(name, path) for name, path in pairs]
    if found == VOLUMES:
        from nnunet_dino.features.series import with_series

        items = with_series(items)
    if repeated := [name for name, count in Counter(item.id for item in items).items() if count > 1]:
        raise UserError(f"required every input once · got {repeated[0]} several times ({len(repeated)} such)")
    return found, items


def _is_utf8(text: str) -> bool:
    """Other names cannot be written into a CSV file; Python shows their bytes as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _hint(kind: str) -> str:
    return " · known endings: " + " ".join(dict.fromkeys(e for k in ([kind] if kind in KINDS else KINDS) for e in ENDINGS[k]))


def _from_csv(file: Path, column: str | None, root: str | None) -> list[tuple[str, str]]:
    table = read_csv(file)
    if column is None:
        column = next((name for name in PATH_COLUMNS if name in table), None)
        if column is None:
            raise UserError(
                f"{file}: required a column called one of {', '.join(PATH_COLUMNS)} · got {', '.join(table)} "
                "· name it with --column"
            )
    elif column not in table:
        raise UserError(f"{file}: required a column {column!r} · got {', '.join(table)}{nearest(column, table)}")
    texts = table[column].str.strip()
    if (texts == "").any():
        raise UserError(
            f"{file}: required a path in every row of {column!r} · got none in row {int((texts == '').argmax()) + 2}"
        )
    folder = Path(root) if root is not None else file.parent
    if not os.path.isdir(folder):
        raise UserError(f"--root: required a folder · got {folder}, which is none")
    return [(text, str(_named_file(folder, text).absolute())) for text in texts]


def _named_file(folder: Path, text: str) -> Path:
    """Returns the file that a path in a CSV file means; a case of nnU-Net is named without its channel and ending."""
    path = folder / text
    if os.path.exists(path):
        return path
    endings = [channel + ending for channel in (CASE_CHANNEL, "") for ending in (*VOLUME_ENDINGS, *IMAGE_ENDINGS)]
    return next((file for ending in endings if os.path.exists(file := folder / (text + ending))), path)


def read_csv(file: Path) -> pd.DataFrame:
    """Reads a CSV file as text, nothing changed but spaces around names of columns.

    Whichever of comma, semicolon, tab and bar is there most often in the first line separates, not counting text in quotes;
    UTF-16 is known by its mark or its zeros, and what is not UTF-8 is taken as cp1252, as Excel writes them; gzip is
    unpacked, parquet is read.

    Raises:
        UserError: It is not there, is no CSV file, or two columns have one name.
    """
    try:
        text = _decoded(file.read_bytes())
        first, _, rest = text.partition("\n")
        unquoted = re.sub(r'"[^"]*"', "", first)
        separator = max((",", ";", "\t", "|"), key=unquoted.count)
        if (own := first.strip().strip('"')).lower().startswith("sep="):  # Excel's own line
            separator, text = own[4:] or "\t", rest
        rows = pd.read_csv(
            io.StringIO(text), header=None, dtype=str, keep_default_na=False, skipinitialspace=separator != "\t", sep=separator
        )
    except FileNotFoundError:
        raise UserError(f"required a CSV file · got {file}, which does not exist") from None
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"required a CSV file · got {file}: {' '.join(str(error).split())[:150]}") from error
    names = rows.iloc[0].str.strip().tolist()
    if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{file}: required a name of its own for every column · got {repeated[0]!r} twice · rename one")
    return rows.iloc[1:].set_axis(names, axis=1).fillna("").reset_index(drop=True)


def _decoded(content: bytes) -> str:
    if content.startswith(PARQUET):
        require("pyarrow", "features", "parquet")
        table = pd.read_parquet(io.BytesIO(content))
        return table.to_csv(index=table.index.name is not None)  # a named index is a column
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _from_disk(named: Sequence[str], kind: str) -> list[tuple[str, str]]:
    files: list[str] = []
    for name in named:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            raise UserError(f"required files or folders that exist · got {name}")
        for match in matches:
            files += _in_folder(Path(match), kind) if os.path.isdir(match) else [match]
    paths = sorted({os.path.abspath(file) for file in files})
    if not paths:
        return []
    base = os.path.abspath(named[0])
    if len(named) > 1 or not os.path.isdir(base):
        base = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [(Path(os.path.relpath(path, base)).as_posix(), path) for path in paths]


def _in_folder(folder: Path, kind: str) -> Iterable[str]:
    """Yields the files with known endings; DICOM files by their content, as folders of series where volumes are asked for."""
    endings = ENDINGS.get(kind) or tuple(ending for endings in ENDINGS.values() for ending in endings)
    for place, subfolders, names in os.walk(folder, onerror=_refuse_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        is_known = {name: name.lower().endswith(endings) and not name.lower().endswith(DICOM_ENDINGS) for name in names}
        others = [name for name in names if not is_known[name] and not name.lower().endswith(NO_DICOM)]
        if kind == "auto":
            yield from (os.path.join(place, name) for name in names if name.lower().endswith(endings))
            continue
        with_mark = [name for name in others if name.lower().endswith(DICOM_ENDINGS) or is_dicom(os.path.join(place, name))]
        if kind == VOLUMES and any(is_dicom(os.path.join(place, name)) for name in with_mark):
            yield place
        if kind == SLIDES:
            yield from _slides(place, with_mark)
        yield from (os.path.join(place, name) for name in names if is_known[name] or (kind == IMAGES and name in with_mark))


def _slides(place: str, names: Sequence[str]) -> list[str]:
    """Returns the first file of every whole slide in DICOM; OpenSlide finds its other levels."""
    first: dict[str, str] = {}
    for path in (os.path.join(place, name) for name in names):
        if is_dicom(path) and (data := read_header(path)).get("SOPClassUID") == WHOLE_SLIDE:
            first.setdefault(str(data.get("SeriesInstanceUID")), path)
    return sorted(first.values())


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"required a folder that can be read · got {error.filename}: {error.strerror} · change its permissions")


def _kind_of(paths: Sequence[str]) -> str:
    """Returns the one kind that all names have."""
    counts: Counter[str] = Counter()
    for path in paths:
        name = os.path.basename(path).lower()
        if name.endswith(DICOM_ENDINGS) or os.path.isdir(path):
            raise UserError(
                f"DICOM: required --kind images (every file is a picture) or --kind volumes (a folder is a series) · got {path}"
            )
        kinds = [kind for kind, endings in ENDINGS.items() if name.endswith(endings)]
        if not kinds:
            raise UserError(f"required a name with a known ending · got {path} · say what it is with --kind")
        counts[kinds[0]] += 1
    if len(counts) > 1:
        got = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise UserError(f"required one kind of input · got {got} · choose with --kind")
    return next(iter(counts))

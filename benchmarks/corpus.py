"""How fast films are read, beside a plain loop and the decoders' own ceiling, and how much memory that takes.

    python -m benchmarks.corpus speed [--films 2000] [--size 256]
    python -m benchmarks.corpus memory

Films are phantoms of 2,500 x 3,000 pixels with grain, a few of each kind, linked under as many names as are asked for.
The three sides run in alternation, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import pydicom
import typer
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)
from rich.console import Console
from rich.table import Table

from medsynth_core.cores import usable_cores
from medsynth_core.corpus import stage
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.progress import silent
from medsynth_core.workspace.params import parse_config
from medsynth_core.workspace.stages import perform

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

WIDTH, HEIGHT = 2500, 3000
MADE = 6
"""Films of a kind that differ."""
MIMIC_FILMS = 377_110
_CORES = 16
KINDS = ("jpeg", "png", "png of 16 bits", "dicom", "dicom, jpeg lossless", "dicom, jpeg 2000")
_SYNTAXES = {
    "dicom": ExplicitVRLittleEndian,
    "dicom, jpeg lossless": JPEGLosslessSV1,
    "dicom, jpeg 2000": JPEG2000Lossless,
}


def film(number: int) -> np.ndarray:
    """Returns a large phantom with grain, 12 bits, uint16 [3000, 2500]."""
    small = Image.fromarray(phantom_study(1, number, 512).views[0].load().astype(np.float32))
    large = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(number).normal(0, 1.2, large.shape)
    return np.clip((large + grain) * 16, 0, 4095).astype(np.uint16)


def save(kind: str, pixels: np.ndarray, path: Path) -> None:
    """Writes a film as a kind of file."""
    if kind == "jpeg":
        Image.fromarray((pixels // 16).astype(np.uint8)).save(path, "JPEG", quality=95)
    elif kind == "png":
        Image.fromarray((pixels // 16).astype(np.uint8)).save(path, "PNG")
    elif kind == "png of 16 bits":
        Image.fromarray(pixels).save(path, "PNG", compress_level=3)
    else:
        save_dicom(pixels, path, _SYNTAXES[kind])


def save_dicom(pixels: np.ndarray, path: Path, syntax: pydicom.uid.UID) -> None:
    """Writes a film as DICOM, compressed by GDCM where the syntax wants it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality = "DX"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.PixelData = pixels.tobytes()
    file.save_as(path, enforce_file_format=True)
    if syntax != ExplicitVRLittleEndian:
        compress(path, syntax)


def compress(path: Path, syntax: pydicom.uid.UID) -> None:
    """Rewrites a DICOM file in another transfer syntax."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    known = {
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    }
    change.SetTransferSyntax(gdcm.TransferSyntax(known[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def decode(path: Path, size: int) -> None:
    """Decodes a film and nothing else, a JPEG at the scale that is enough for ``size``."""
    if path.suffix == ".dcm":
        assert pydicom.dcmread(path).pixel_array.size
        return
    with Image.open(path) as image:
        image.draft("L", (2 * size, 2 * size))
        image.load()


def plain(path: Path, size: int) -> None:
    """Reads a film as one would at first."""
    if path.suffix == ".dcm":
        values = pydicom.dcmread(path).pixel_array.astype(np.float64)
        image = Image.fromarray((255 * (values - values.min()) / np.ptp(values)).astype(np.uint8))
    else:
        with Image.open(path) as opened:
            values = np.asarray(opened, dtype=np.float64)
        image = Image.fromarray((255 * (values - values.min()) / np.ptp(values)).astype(np.uint8))
    side = min(image.size)
    image.resize((size * image.width // side, size * image.height // side), Image.Resampling.LANCZOS)


def keep_memory() -> None:
    """Has the C library keep the memory of large arrays, as it does once one of such a size was freed: a decoder that
    asks the system for it again with each film is half as fast where there is little to decode."""
    bytes(31 << 20)


def some(paths: list[Path], size: int) -> None:
    """Decodes films in a worker."""
    for path in paths:
        decode(path, size)


def seconds(work: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def linked(folder: Path, kind: str, n: int) -> list[Path]:
    """Returns ``n`` names of films of a kind."""
    suffix = ".jpg" if kind == "jpeg" else ".png" if kind.startswith("png") else ".dcm"
    folder.mkdir()
    for number in range(MADE):
        save(kind, film(number), folder / f"made-{number}{suffix}")
    names = [folder / f"{number}{suffix}" for number in range(n)]
    for number, name in enumerate(names):
        name.hardlink_to(folder / f"made-{number % MADE}{suffix}")
    return names


def table_of(folder: Path, names: list[Path]) -> Path:
    """Writes a table of films, each with a report."""
    path = folder / "studies.csv"
    path.write_text(
        "text,filename\n" + "".join(f"Clear lungs. Film {i}.,{name.name}\n" for i, name in enumerate(names))
    )
    return path


def read_by_stage(path: Path, size: int, root: Path) -> None:
    """Runs the corpus stage on a table; films aren't looked at, which ``benchmarks.suspects`` times."""
    shutil.rmtree(root, ignore_errors=True)
    corpus = {"kind": "table", "path": str(path), "image_size": size, "suspect": "ignore"}
    perform("corpus", parse_config({"corpus": corpus}, "benchmark"), root, silent)


@app.command()
def speed(
    films: Annotated[int, typer.Option(help="Of each kind.")] = 2000,
    size: Annotated[int, typer.Option(help="corpus.image_size.")] = 256,
    rounds: int = 3,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="Which; all when left out.")] = None,
) -> None:
    """Films a second of the stage, of the decoders alone on all cores, and of a loop on one."""
    cores = usable_cores()
    table = Table("films", "stage /s", f"decoders on {cores} cores /s", "of the ceiling", "loop on 1 core /s", "times")
    hours: list[str] = []
    stage._ROWS_A_PROCESS = 1  # as for a corpus of any size
    with tempfile.TemporaryDirectory() as base:
        for kind in kinds or KINDS:
            names = linked(Path(base) / kind.replace(" ", "-").replace(",", ""), kind, films)
            path = table_of(names[0].parent, names)
            batches = [names[i : i + 16] for i in range(0, len(names), 16)]
            few = names[: max(4, films // 20)]
            pool = ProcessPoolExecutor(cores, get_context("spawn"), keep_memory)
            decoded = partial(pool.map, partial(some, size=size))
            list(decoded([[]] * 4 * cores))
            taken: list[tuple[float, float, float]] = []
            for _ in range(rounds):
                ours = seconds(lambda: read_by_stage(path, size, Path(base) / "w"))  # noqa: B023
                ceiling = seconds(lambda: list(decoded(batches)))  # noqa: B023
                loop = seconds(lambda: [plain(name, size) for name in few])  # noqa: B023
                taken.append((films / ours, films / ceiling, len(few) / loop))
            pool.shutdown()
            rates = [statistics.median(column) for column in zip(*taken, strict=True)]
            shares = statistics.median(ours / ceiling for ours, ceiling, _ in taken)
            table.add_row(
                kind,
                f"{rates[0]:.1f}",
                f"{rates[1]:.1f}",
                f"{shares:.2f}",
                f"{rates[2]:.1f}",
                f"{rates[0] / rates[2]:.1f}",
            )
            if kind == "jpeg":
                hours.append(
                    f"MIMIC-CXR-JPG, {MIMIC_FILMS:,} films, at this rate a core: "
                    f"{MIMIC_FILMS / (rates[0] / cores * _CORES) / 3600:.1f} h on {_CORES} cores, "
                    f"{MIMIC_FILMS * size**2 / 1e9:.0f} GB on disk at {size} pixels"
                )
            shutil.rmtree(names[0].parent)
    console.print(table)
    for line in hours:
        console.print(line)


@app.command()
def memory(films: Annotated[int, typer.Option(help="At once; then ten and a hundred times as many.")] = 200) -> None:
    """Most memory of the corpus stage, workers included, on 1, 10 and 100 times as many films of 256 pixels."""
    table = Table("films", "peak MiB", "ratio", "seconds", "films /s")
    first = 0.0
    with tempfile.TemporaryDirectory() as base:
        for times in (1, 10, 100):
            folder = Path(base) / str(times)
            folder.mkdir()
            small = Image.fromarray((film(0) // 16).astype(np.uint8)).resize((256, 307))
            small.save(folder / "made.jpg", quality=95)
            names = [folder / f"{number}.jpg" for number in range(films * times)]
            for name in names:
                name.hardlink_to(folder / "made.jpg")
            began = time.perf_counter()
            peak = peak_of_stage(table_of(folder, names), folder / "w")
            took = time.perf_counter() - began
            first = first or peak
            table.add_row(
                str(len(names)), f"{peak:.0f}", f"{peak / first:.3f}", f"{took:.1f}", f"{len(names) / took:.0f}"
            )
            shutil.rmtree(folder)
    console.print(table)


def peak_of_stage(path: Path, root: Path) -> float:
    """Returns the most MiB that the corpus stage and its workers hold."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.corpus import read_by_stage\n"
        "from medsynth_core.corpus import stage\n"
        "stage._ROWS_A_PROCESS = 1\n"
        f"read_by_stage(Path({str(path)!r}), 64, Path({str(root)!r}))\n"
    )
    child = psutil.Popen([sys.executable, "-c", script], env=dict(os.environ), stdout=subprocess.DEVNULL)
    peak = 0.0
    while child.poll() is None:
        try:
            held = [process.memory_full_info().uss for process in (child, *child.children(recursive=True))]
        except psutil.Error:
            continue
        peak = max(peak, sum(held) / 2**20)
        time.sleep(0.05)
    assert child.returncode == 0
    return peak


if __name__ == "__main__":
    app()

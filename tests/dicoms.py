"""DICOM files as machines and archives write them."""

from __future__ import annotations

import zlib  # noqa: F401 - before gdcm, as in corpus/dicom_pixels.py
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from medsynth_core.corpus.phantom import phantom_study

ROWS, COLUMNS = 64, 48
Values = npt.NDArray[Any]


def ramp(bits: int, signed: bool = False) -> Values:
    """Values from the lowest to the highest of so many bits, none of whose rows or columns are alike."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    shares = (x + 2 * y) / (COLUMNS - 1 + 2 * (ROWS - 1))
    values = np.rint(shares * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def film(values: Values, bits: int, **fields: Any) -> Dataset:
    """A digital radiograph of the values; fields that are None are left out."""
    file = Dataset()
    file.SOPClassUID = DigitalXRayImageStorageForPresentation
    file.SOPInstanceUID, file.StudyInstanceUID, file.PatientID = generate_uid(), "1.2.3", "P1"
    file.Modality = "DX"
    file.Rows, file.Columns = values.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = values.dtype.itemsize * 8, bits, bits - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.PixelData = values.tobytes()
    file["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in fields.items():
        setattr(file, name, value)
    return file


def chest(index: int, **fields: Any) -> Dataset:
    """A phantom's film of 12 bits."""
    pixels = phantom_study(0, index, 64).views[0].load().astype(np.float64)
    values = np.rint(pixels * 16).astype(np.uint16)
    return film(values, 12, WindowCenter=2048, WindowWidth=4096, **fields)


def saved(path: Path, file: Dataset, syntax: Any = ExplicitVRLittleEndian) -> Path:
    file.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and file.BitsAllocated == 16:
        file.PixelData = np.frombuffer(file.PixelData, "<u2").astype(">u2").tobytes()
    file.save_as(path, enforce_file_format=True)
    return path


def compressed(path: Path, file: Dataset, syntax: str) -> Path:
    """Writes a file as GDCM encodes it."""
    plain = saved(path.with_name(f"{path.name}-plain"), file)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change(), f"GDCM doesn't encode {syntax}"
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def coded(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeMeaning = meaning
    return Sequence([item])


def report(*texts: tuple[str, str], sop_class: int = 11) -> Dataset:
    """A structured report: a container with a name of its author and texts."""
    file = film(ramp(8), 8, Modality="SR", SOPClassUID=f"1.2.840.10008.5.1.4.1.1.88.{sop_class}")
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        del file[name]
    author = Dataset()
    author.ValueType, author.PersonName = "PNAME", "DOE^JOHN"
    file.ContentSequence = Sequence([author])
    for name, text in texts:
        item, section = Dataset(), Dataset()
        item.ValueType, item.TextValue, item.ConceptNameCodeSequence = "TEXT", text, coded(name)
        section.ValueType, section.ContentSequence = "CONTAINER", Sequence([item])
        file.ContentSequence.append(section)
    return file


def directory(*files: list[str]) -> Dataset:
    """A DICOMDIR of files, in no order that a viewer would need."""
    file = film(ramp(8), 8, SOPClassUID="1.2.840.10008.1.3.10")
    records = []
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.add_new("ReferencedFileID", "CS", parts)
        records.append(record)
    file.DirectoryRecordSequence = Sequence(records)
    return file

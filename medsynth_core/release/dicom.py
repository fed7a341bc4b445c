"""A synthetic image as a DICOM file that says in every place that it is one."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def encode_dicom(row: Mapping[str, Any], image: Image.Image) -> bytes:
    """Returns a Secondary Capture file (PS3.3 A.8.1), explicit VR little endian, of an image of mode L.

    Its UIDs are new each time. Patient, study and series hold one image: samples of one prompt are of different
    patients, and a study has one. Patient Identity Removed is left out, for there was no identity; so are dates, and
    View Position, for a prompt says frontal or lateral, not PA or AP.

    Args:
        row: what the manifest has of the image, and the release.
    """
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SpecificCharacterSet = "ISO_IR 192"
    file.SOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = generate_uid(prefix=None)
    file.SyntheticData = "YES"

    file.PatientName = "SYNTHETIC^MEDSYNTH"
    file.PatientID = row["image_id"]
    file.PatientBirthDate = file.PatientSex = ""
    file.PatientComments = "Synthetic: there is no patient"

    file.StudyInstanceUID = generate_uid(prefix=None)
    file.StudyDate = file.StudyTime = file.StudyID = file.AccessionNumber = file.ReferringPhysicianName = ""
    file.StudyDescription = _text(f"Synthetic, not for diagnosis; {row['release']}", 64)
    file.SeriesInstanceUID = generate_uid(prefix=None)
    file.SeriesNumber = file.InstanceNumber = 1
    file.SeriesDescription = _text(f"Synthetic {row['view']} chest radiograph", 64)
    file.Modality = "OT"
    file.BodyPartExamined = "CHEST"
    file.ConversionType = "SYN"

    file.Manufacturer = "medsynth"
    file.ManufacturerModelName = "chest radiograph synthesiser"
    file.SoftwareVersions = _text(row["generator_version"], 64)

    file.ImageType = ["DERIVED", "SECONDARY"]
    file.DerivationDescription = _text(
        f"Synthesised from prompt {row['prompt_id']}, release {row['release']}, spec {row['spec_hash']}, models "
        f"{row['vqgan_sha256']} {row['alignment_sha256']} {row['llm_sha256']}",
        1024,
    )
    file.ImageComments = _text(f"Synthetic, not for diagnosis. Prompt: {row['prompt']}", 10240)
    file.ContentQualification = "RESEARCH"
    file.BurnedInAnnotation = "NO"
    file.LossyImageCompression = "00"
    # as films are hung: the rows run to the patient's left, the columns to the feet; a lateral may face either way
    file.PatientOrientation = ["L", "F"] if row["view"] == "frontal" else ""

    file.set_pixel_data(np.asarray(image), "MONOCHROME2", bits_stored=8, generate_instance_uid=False)
    data = io.BytesIO()
    file.save_as(data, enforce_file_format=True)
    return data.getvalue()


def _text(value: object, max_bytes: int) -> str:
    """Returns text that any DICOM string may hold: no control characters, no backslash.

    Limits of the standard are in characters; some readers count bytes, and text cut to bytes satisfies both.
    """
    text = "".join(char if char.isprintable() else " " for char in str(value)).replace("\\", "/")
    return text.encode()[:max_bytes].decode(errors="ignore")

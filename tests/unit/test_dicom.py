"""DICOM is shown as numpy says it should be, in every transfer syntax and by every rule that a radiograph may have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medsynth_core.corpus.dicom import (
    Header,
    files_of,
    load_dicom,
    pseudonym,
    read_header,
    read_report,
)
from medsynth_core.corpus.images import begins_as_dicom, load_film, load_film_bytes, resize_and_crop, windowed
from medsynth_core.corpus.phantom import phantom_study
from medsynth_core.corpus.records import Box
from medsynth_core.corpus.settings import CorpusConfig
from medsynth_core.corpus.views import file_view
from medsynth_core.errors import InputError
from tests.dicoms import COLUMNS, ROWS, Values, coded, compressed, directory, film, ramp, report, saved

UNCOMPRESSED = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
LOSSLESS = (
    "RLELossless", "JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless",
)  # fmt: skip


def shown(path: Path) -> npt.NDArray[np.float32]:
    pixels = load_dicom(path, 10_000_000, 32)
    assert pixels.dtype == np.float32
    return np.asarray(pixels, dtype=np.float32)


def full_window(bits: int, signed: bool = False) -> dict[str, Any]:
    """A window that shows all values of so many bits."""
    low = -(2 ** (bits - 1)) if signed else 0
    return {"WindowCenter": low + 2 ** (bits - 1), "WindowWidth": 2**bits}


def stretched(values: Values) -> npt.NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) * 255 / (high - low)


def close(got: Values, wanted: Values, levels: float = 0.01) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= levels


DEPTHS = [
    (8, False),
    (10, False),
    (10, True),
    (12, False),
    (12, True),
    (14, True),
    (15, False),
    (16, False),
    (16, True),
]


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS])
def test_values_of_every_depth_in_every_lossless_syntax(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    values = ramp(bits, signed)
    file = film(values, bits, **full_window(bits, signed))
    path = tmp_path / "film"
    path = saved(path, file, UNCOMPRESSED[syntax]) if syntax in UNCOMPRESSED else compressed(path, file, syntax)
    close(shown(path), stretched(values))


@pytest.mark.parametrize(
    ("syntax", "bits", "signed", "levels"),
    [
        ("JPEGBaselineProcess1", 8, False, 3),
        ("JPEGExtendedProcess2_4", 8, False, 3),
        ("JPEGExtendedProcess2_4", 10, False, 1),
        ("JPEGExtendedProcess2_4", 12, False, 1),
        ("JPEGLSNearLossless", 12, False, 1),
        ("JPEGLSNearLossless", 16, True, 1),
        ("JPEG2000", 8, False, 3),
        ("JPEG2000", 12, True, 2),
        ("JPEG2000", 16, False, 2),
    ],
)
def test_values_in_every_lossy_syntax(tmp_path: Path, syntax: str, bits: int, signed: bool, levels: float) -> None:
    values = ramp(bits, signed)
    path = compressed(tmp_path / "film", film(values, bits, **full_window(bits, signed)), syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    close(shown(path), stretched(values), levels)


def test_jpeg_of_12_bits_that_another_wrote() -> None:
    """pydicom's own film, whose values dcmtk has decoded to: 0 to 264."""
    path = Path(str(get_testdata_file("JPGExtended.dcm", download=False)))
    with pytest.raises(InputError, match="modality NM"):
        load_dicom(path, 10_000_000, 32)
    file = pydicom.dcmread(path)
    from medsynth_core.corpus.dicom_pixels import _decoded

    values, kind = _decoded(file)
    assert (values.shape, values.max(), kind) == ((1024, 256), 264, "MONOCHROME2")


@pytest.mark.parametrize(
    "name",
    ["JPEGLSNearLossless_16.dcm", "JPEGLSNearLossless_08.dcm", "MR_small_jp2klossless.dcm",
     "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", 
     "J2K_pixelrep_mismatch.dcm",
     "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_16bit.dcm", "image_dfl.dcm", "ExplVR_LitEndNoMeta.dcm",
     "ExplVR_BigEndNoMeta.dcm"],
)  # fmt: skip
def test_files_that_others_wrote_begin_as_dicom(name: str) -> None:
    with Path(str(get_testdata_file(name, download=False))).open("rb") as stream:
        assert begins_as_dicom(stream)
        assert stream.tell() == 0


@pytest.mark.parametrize(
    "name",
    ["JPEGLSNearLossless_16.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm",
     "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small.dcm"],
)  # fmt: skip
def test_files_that_others_wrote(tmp_path: Path, name: str) -> None:
    file = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    values = file.pixel_array
    file.Modality = "CR"
    for field in ("WindowCenter", "WindowWidth"):
        file.pop(field, None)
    file.save_as(tmp_path / "film")
    if values.shape[0] > 4 * values.shape[1]:
        with pytest.raises(InputError, match="far from square"):
            load_dicom(tmp_path / "film", 10_000_000, 32)
    else:
        close(shown(tmp_path / "film"), windowed(values))


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2.5, -1024), (0.25, 100), (-1, 4095)])
def test_the_rescale(tmp_path: Path, slope: float, intercept: float) -> None:
    values = ramp(12)
    rescaled = values.astype(np.float64) * slope + intercept
    middle, width = float(rescaled.max() + rescaled.min()) / 2, float(np.ptp(rescaled))
    file = film(
        values, 12, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=middle, WindowWidth=width,
        VOILUTFunction="LINEAR_EXACT",
    )  # fmt: skip
    close(shown(saved(tmp_path / "film", file)), stretched(rescaled))


def test_a_rescale_of_nothing_is_none(tmp_path: Path) -> None:
    file = film(ramp(12), 12, RescaleSlope=0, RescaleIntercept=0, **full_window(12))
    close(shown(saved(tmp_path / "film", file)), stretched(ramp(12)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_window_is_pydicoms_and_the_standards(tmp_path: Path, function: str | None, signed: bool) -> None:
    values = ramp(12, signed)
    center, width = (100 if signed else 1800), 1200
    file = film(values, 12, WindowCenter=center, WindowWidth=width)
    if function:
        file.VOILUTFunction = function
    x = values.astype(np.float64)
    by_hand = {
        "LINEAR": (x - (center - 0.5)) / (width - 1) + 0.5,
        "LINEAR_EXACT": (x - center) / width + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - center) / width)),
    }[function or "LINEAR"]
    got = shown(saved(tmp_path / "film", file))
    close(got, np.clip(by_hand, 0, 1) * 255)
    theirs = apply_windowing(values, file).astype(np.float64)
    low = float(-(2**11)) if signed else 0.0
    close(got, (theirs - low) * 255 / 4095, 0.1)


def test_of_several_windows_the_first_counts(tmp_path: Path) -> None:
    values = ramp(12)
    file = film(values, 12, WindowCenter=[2048, 300], WindowWidth=[4096, 20], VOILUTFunction="LINEAR")
    close(shown(saved(tmp_path / "film", file)), stretched(values))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"WindowCenter": 60000, "WindowWidth": 10},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100},
        {"WindowCenter": None, "WindowWidth": None},
    ],
)
def test_without_a_window_that_shows_anything_quantiles_do(tmp_path: Path, fields: dict[str, Any]) -> None:
    values = ramp(12)
    values[0, 0] = 4095
    close(shown(saved(tmp_path / "film", film(values, 12, **fields))), windowed(values))


def lut(first: int, table: Values, bits: int, as_bytes: bool) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % 65536, first, bits])
    if as_bytes:
        item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(each) for each in table])
    return item


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_voi_lut(tmp_path: Path, as_bytes: bool) -> None:
    values = ramp(10)
    table = np.rint(1023 * np.linspace(0, 1, 600) ** 2).astype(np.int64)
    item = lut(200, table, 10, as_bytes)
    file = film(values, 10, VOILUTSequence=Sequence([item]), WindowCenter=3, WindowWidth=5)
    wanted = table[np.clip(values.astype(int) - 200, 0, 599)]
    close(shown(saved(tmp_path / "film", file)), wanted * 255 / 1023)


def test_a_voi_lut_of_8_bits_and_of_negative_values(tmp_path: Path) -> None:
    values = ramp(12, signed=True)
    table = np.arange(256)
    file = film(values, 12, VOILUTSequence=Sequence([lut(-128, table, 8, as_bytes=False)]))
    close(shown(saved(tmp_path / "film", file, ImplicitVRLittleEndian)), np.clip(values.astype(int) + 128, 0, 255))


@pytest.mark.parametrize("bits", [12, 16])
def test_a_modality_lut_comes_before_the_window(tmp_path: Path, bits: int) -> None:
    values = ramp(8)
    table = np.rint(np.linspace(0, 1, 256) ** 0.5 * (2**bits - 1)).astype(np.int64)
    file = film(values, 8, ModalityLUTSequence=Sequence([lut(0, table, bits, as_bytes=False)]), **full_window(bits))
    close(shown(saved(tmp_path / "film", file)), table[values] * 255 / (2**bits - 1))


@pytest.mark.parametrize("window", [full_window(12), {}])
def test_monochrome1_is_inverted(tmp_path: Path, window: dict[str, Any]) -> None:
    values = ramp(12)
    plain = shown(saved(tmp_path / "a", film(values, 12, **window)))
    inverted = shown(saved(tmp_path / "b", film(values, 12, PhotometricInterpretation="MONOCHROME1", **window)))
    close(inverted, 255 - plain)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("first", "last"), [(0, None), (4000, 4095), (4095, 4000)])
@pytest.mark.parametrize("window", [full_window(12), {}])
def test_padding_is_black(
    tmp_path: Path, kind: str, first: int, last: int | None, window: dict[str, Any]
) -> None:  # fmt: skip
    values = np.clip(ramp(12), 500, 3500).astype(np.uint16)
    values[:10] = first
    file = film(values, 12, PhotometricInterpretation=kind, **window)
    file.add_new("PixelPaddingValue", "US", first)
    if last is not None:
        file.add_new("PixelPaddingRangeLimit", "US", last)
    got = shown(saved(tmp_path / "film", file))
    assert (got[:10] == 0).all()
    inner = stretched(values[10:]) if not window else values[10:] * 255.0 / 4095
    close(got[10:], 255 - inner if kind == "MONOCHROME1" else inner, 3 if not window else 0.01)


def test_negative_padding_of_signed_values(tmp_path: Path) -> None:
    values = np.clip(ramp(12, signed=True), -900, 2000).astype(np.int16)
    values[:, :5] = -2000
    file = film(values, 12, **full_window(12, signed=True))
    file.add_new("PixelPaddingValue", "SS", -2000)
    got = shown(saved(tmp_path / "film", file, ImplicitVRLittleEndian))
    assert (got[:, :5] == 0).all()
    close(got[:, 5:], (values[:, 5:] + 2048.0) * 255 / 4095)


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED])
@pytest.mark.parametrize("signed", [False, True])
def test_overlays_in_high_bits_are_not_drawn(tmp_path: Path, syntax: str, signed: bool) -> None:
    values = ramp(12, signed)
    burnt = (values.astype(np.int64) & 0xFFF).astype(np.uint16)
    burnt[20:30, 20:30] |= 0x8000
    burnt[5:9] |= 0x1000
    file = film(burnt.view(np.int16) if signed else burnt, 12, **full_window(12, signed))
    close(shown(saved(tmp_path / "film", file, UNCOMPRESSED[syntax])), stretched(values))


def test_values_that_are_stored_high_in_their_words(tmp_path: Path) -> None:
    values = ramp(12)
    file = film((values << 4) | 0b0101, 12, HighBit=15, **full_window(12))
    close(shown(saved(tmp_path / "film", file)), stretched(values))


def turned(pixels: Values, across: str, down: str) -> Values:
    """What a film that hangs right (rows to the left, columns to the feet) is when it is stored in another way."""
    if across in "HF":
        pixels = pixels.T
        return (pixels[:, ::-1] if across == "H" else pixels)[slice(None, None, -1 if down == "R" else 1)]
    return (pixels[:, ::-1] if across == "R" else pixels)[slice(None, None, -1 if down == "H" else 1)]


@pytest.mark.parametrize("across", ["L", "R"])
@pytest.mark.parametrize("down", ["F", "H"])
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("more", ["", "A"])
def test_a_frontal_film_hangs_right(tmp_path: Path, across: str, down: str, turn: bool, more: str) -> None:
    values = ramp(12)
    said = (down, across) if turn else (across, down)
    file = film(np.ascontiguousarray(turned(values, *said)), 12, **full_window(12))
    file.PatientOrientation = [said[0] + more, said[1]]
    close(shown(saved(tmp_path / "film", file)), stretched(values))


@pytest.mark.parametrize("said", [["A", "F"], ["P", "F"], None, "", "LF", ["L"], ["", ""], ["A", "R"], ["L", "P"]])
def test_what_no_orientation_tells_is_left_as_it_is(tmp_path: Path, said: Any) -> None:
    values = ramp(12)
    file = film(values, 12, **full_window(12), PatientOrientation=said)
    wanted = values[:, ::-1] if said == ["R", "A"] else values
    close(shown(saved(tmp_path / "film", file)), stretched(wanted))


def test_a_lateral_film_hangs_upright(tmp_path: Path) -> None:
    values = ramp(12)
    file = film(np.ascontiguousarray(values[::-1]), 12, **full_window(12), PatientOrientation=["A", "H"])
    close(shown(saved(tmp_path / "film", file)), stretched(values))


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL"])
def test_a_film_in_colours_is_its_luma(tmp_path: Path, kind: str) -> None:
    grey = ramp(8)
    colours = np.stack([grey, grey // 2, grey // 4], axis=-1)
    stored = colours if kind == "RGB" else np.asarray(Image.fromarray(colours).convert("YCbCr"))
    file = film(stored, 8, PhotometricInterpretation=kind, SamplesPerPixel=3, PlanarConfiguration=0, Modality="SC")
    close(shown(saved(tmp_path / "film", file)), colours @ np.array([0.299, 0.587, 0.114]), 1.5)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    values = ramp(8)
    table = (np.arange(256)[::-1] * 257).astype("<u2")
    file = film(values, 8, PhotometricInterpretation="PALETTE COLOR", Modality="OT")
    for colour in ("Red", "Green", "Blue"):
        setattr(file, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(file, f"{colour}PaletteColorLookupTableData", table.tobytes())
    close(shown(saved(tmp_path / "film", file)), 255.0 - values, 0.1)


SIZE, BLOCK = 21, 4
"""Of a film of 192 x 168 pixels, the blocks of four are no less than twice 21."""


def grainy(bits: int = 12) -> Values:
    """A phantom's film of so many bits with grain, unsigned [192, 168]."""
    chest = phantom_study(0, 3, 192).views[0].load()[:, 12:180].astype(np.float64)
    grain = np.random.default_rng(0).normal(0, 3, chest.shape)
    return np.clip((chest + grain) * 2 ** (bits - 8), 0, 2**bits - 1).astype(np.uint8 if bits <= 8 else np.uint16)


def padded(first: int, last: int | None = None, **fields: Any) -> Dataset:
    """A grainy film without a picture to the middle of some blocks."""
    values = np.clip(grainy(), 1, 4000)
    values[:33], values[:, -6:] = first, first if last is None else last
    file = film(values, 12, **fields)
    file.add_new("PixelPaddingValue", "US", first)
    if last is not None:
        file.add_new("PixelPaddingRangeLimit", "US", last)
    return file


def coloured(kind: str) -> Dataset:
    colours = np.stack([grainy(8), grainy(8) // 2, grainy(8) // 4], axis=-1)
    return film(
        colours, 8, PhotometricInterpretation=kind, SamplesPerPixel=3, PlanarConfiguration=0, Modality="SC"
    )  # fmt: skip


def palette() -> Dataset:
    file = film(grainy(8), 8, PhotometricInterpretation="PALETTE COLOR", Modality="OT")
    for colour in ("Red", "Green", "Blue"):
        setattr(file, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = np.random.default_rng(0).integers(0, 65536, 256).astype("<u2")
        setattr(file, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return file


SQUARE = np.rint(4095 * np.linspace(0, 1, 3000) ** 2).astype(np.int64)
LARGE: dict[str, Callable[[], Dataset]] = {
    "a window": lambda: film(grainy(), 12, WindowCenter=1800, WindowWidth=1200),
    "a window that clips most": lambda: film(grainy(), 12, WindowCenter=1800, WindowWidth=80),
    "a sigmoid": lambda: film(grainy(), 12, WindowCenter=1800, WindowWidth=600, VOILUTFunction="SIGMOID"),
    "no window": lambda: film(grainy(), 12),
    "MONOCHROME1": lambda: film(grainy(), 12, PhotometricInterpretation="MONOCHROME1", **full_window(12)),
    "a rescale": lambda: film(grainy(), 12, RescaleSlope=-0.3, RescaleIntercept=9, WindowCenter=-500, WindowWidth=900),
    "a modality LUT": lambda: film(
        grainy(), 12, ModalityLUTSequence=Sequence([lut(0, SQUARE, 12, as_bytes=False)]), **full_window(12)
    ),
    "a VOI LUT": lambda: film(grainy(), 12, VOILUTSequence=Sequence([lut(400, SQUARE, 12, as_bytes=True)])),
    "a VOI LUT of few steps": lambda: film(
        grainy(8), 8, VOILUTSequence=Sequence([lut(100, np.array([9, 200, 4, 90]), 8, as_bytes=False)])
    ),
    "signed values": lambda: film((grainy().astype(np.int32) - 2048).astype(np.int16), 12, **full_window(12, True)),
    "8 bits": lambda: film(grainy(8), 8, **full_window(8)),
    "32 bits": lambda: film(grainy(16).astype(np.uint32) * 1000, 32),
    "high bits": lambda: film(grainy() << 4 | 5, 12, HighBit=15, **full_window(12)),
    "padding": lambda: padded(0, **full_window(12)),
    "padding of a range": lambda: padded(4050, 4095, WindowCenter=1800, WindowWidth=1200),
    "padding without a window": lambda: padded(4095),
    "padding of MONOCHROME1": lambda: padded(0, PhotometricInterpretation="MONOCHROME1"),
    "colours": lambda: coloured("RGB"),
    "a palette": palette,
    "an orientation": lambda: film(grainy(), 12, PatientOrientation=["H", "R"], **full_window(12)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_film_is_given_by_means_of_blocks_as_they_are_shown(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "film", LARGE[kind](), ImplicitVRLittleEndian)
    whole = np.asarray(load_dicom(path, 10_000_000, SIZE, whole=True))
    reduced = np.asarray(load_dicom(path, 10_000_000, SIZE))
    height, width = whole.shape
    assert sorted(whole.shape) == [168, 192]
    close(reduced, whole.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean((1, 3)))
    close(resize_and_crop(reduced, SIZE).astype(float), resize_and_crop(whole, SIZE).astype(float), 1)


def test_of_what_fills_no_block_half_is_left_out_on_either_side(tmp_path: Path) -> None:
    values = np.pad(ramp(12), ((1, 2), (0, 1)))
    path = saved(tmp_path / "film", film(values, 12, **full_window(12)))
    inner = stretched(ramp(12)).reshape(ROWS // BLOCK, BLOCK, COLUMNS // BLOCK, BLOCK).mean((1, 3))
    close(np.asarray(load_dicom(path, 10_000_000, 6)), inner)


@pytest.mark.parametrize("boxes", [(), (Box("nodule", "radiologist", 10, 10, 20, 20),)])
def test_a_film_with_boxes_keeps_its_size(tmp_path: Path, boxes: tuple[Box, ...]) -> None:
    path = saved(tmp_path / "film", LARGE["a window"]())
    config = CorpusConfig(kind="vindr", path=str(tmp_path), image_size=32)
    view = file_view(tmp_path, "film", config, boxes=boxes)
    assert view.load().shape == ((192, 168) if boxes else (96, 84))
    close(np.asarray(load_film_bytes(path.read_bytes(), "row 1", 10_000_000, 32, whole=bool(boxes))), view.load(), 0)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_a_preamble(tmp_path: Path, syntax: Any) -> None:
    file = film(ramp(12), 12, **full_window(12))
    file.file_meta = FileMetaDataset()
    pydicom.dcmwrite(
        tmp_path / "film", file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True,
        enforce_file_format=False,
    )  # fmt: skip
    assert (tmp_path / "film").read_bytes()[:2] == b"\x08\x00"
    close(shown(tmp_path / "film"), stretched(ramp(12)))
    close(np.asarray(load_film(tmp_path / "film", 10_000_000, 32)), stretched(ramp(12)))
    assert read_header(tmp_path / "film").modality == "DX"


def test_a_film_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = saved(tmp_path / "Aufnahme größer.PNG", film(ramp(12), 12, **full_window(12)))
    close(np.asarray(load_film(path, 10_000_000, 32)), stretched(ramp(12)))


def without_pixels(file: Dataset) -> None:
    del file.PixelData


def cut(file: Dataset) -> None:
    file.PixelData = file.PixelData[:-100]


def set_to(**fields: Any) -> Callable[[Dataset], None]:
    def change(file: Dataset) -> None:
        for name, value in fields.items():
            setattr(file, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_to(NumberOfFrames=2), "DICOM of 2 frames; a film has one"),
        (set_to(Modality="CT"), "DICOM of modality CT, not a radiograph"),
        (set_to(Modality="PX"), "DICOM of modality PX, not a radiograph"),
        (without_pixels, "DICOM without a picture"),
        (set_to(PixelData=b""), "DICOM without a picture"),
        (cut, "can't be decoded .*less than expected"),
        (set_to(Rows=0), "too few|can't be decoded"),
        (set_to(Rows=30000, Columns=30000), "exceed corpus.max_image_pixels"),
        (set_to(Rows=6144, Columns=1), "too few"),
        (set_to(PixelData=bytes(2 * ROWS * COLUMNS)), "flat"),
        (
            set_to(PhotometricInterpretation="YBR_ICT", SamplesPerPixel=3, Rows=32, Columns=32),
            "can't be decoded|isn't read",
        ),
    ],
)
def test_what_is_no_film_is_refused_with_a_line(tmp_path: Path, change: Callable[[Dataset], None], reason: str) -> None:
    file = film(ramp(12), 12)
    change(file)
    with pytest.raises(InputError, match=reason) as caught:
        load_dicom(saved(tmp_path / "film", file), 10_000_000, 32)
    assert str(caught.value).startswith(str(tmp_path / "film"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "syntax", [*LOSSLESS, "JPEGBaselineProcess1", "JPEG2000", "JPEGLSNearLossless", "JPEGExtendedProcess2_4"]
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_half_a_compressed_picture_is_refused(tmp_path: Path, syntax: str, share: float) -> None:
    bits = 8 if syntax == "JPEGBaselineProcess1" else 12
    noise = np.random.default_rng(0).integers(0, 2**bits, (ROWS, COLUMNS)).astype(np.uint8 if bits == 8 else np.uint16)
    whole = compressed(tmp_path / "whole", film(noise, bits), syntax)
    file = pydicom.dcmread(whole)
    frame = next(pydicom.encaps.generate_frames(file.PixelData, number_of_frames=1))
    file.PixelData = pydicom.encaps.encapsulate([frame[: int(share * len(frame)) // 2 * 2]])
    file.save_as(tmp_path / "inside")
    (tmp_path / "behind").write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    for name in ("inside", "behind"):
        with pytest.raises(InputError, match=r"can't be decoded|without a picture|not DICOM|cut off"):
            load_dicom(tmp_path / name, 10_000_000, 32)


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS, "JPEGExtendedProcess2_4"])
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path, syntax: str) -> None:
    """GDCM ends the process on some code streams, and pydicom raises nearly anything."""
    file = film(ramp(12), 12, PatientOrientation=["L", "F"], **full_window(12))
    path = tmp_path / "film"
    whole = saved(path, file, UNCOMPRESSED[syntax]) if syntax in UNCOMPRESSED else compressed(path, file, syntax)
    data, random = whole.read_bytes(), np.random.default_rng(0)
    told = []
    for _ in range(40):
        wrong = bytearray(data)
        for place in random.integers(132, min(len(data), 1400), 4):
            wrong[place] = random.integers(256)
        path.write_bytes(wrong)
        for read in (read_header, lambda each: load_dicom(each, 10_000_000, 32)):
            try:
                read(path)
            except InputError as error:
                told.append(str(error))
    assert told
    assert not any("\n" in each for each in told)


@pytest.mark.parametrize("keep", [0, 1, 100, 131, 140, 300, 700])
def test_half_a_header_is_refused_with_a_line(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "film", film(ramp(12), 12))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"can't be decoded|without a picture|not DICOM|cut off"):
        load_dicom(path, 10_000_000, 32)
    if keep < 700:
        with pytest.raises(InputError, match=r"not DICOM|not readable|empty|cut off\?") as caught:
            read_header(path, needs_ids=True)
        assert "film" not in str(caught.value), "what is written down names no file"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(300), b"hello" * 100])
def test_a_header_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(InputError, match=r"empty|not DICOM"):
        read_header(tmp_path / "a.dcm")


def headed(tmp_path: Path, **fields: Any) -> Header:
    return read_header(saved(tmp_path / "film", film(ramp(12), 12, **fields)))


def test_facts_of_the_patient(tmp_path: Path) -> None:
    header = headed(
        tmp_path, PatientID=" 000123 ", PatientSex="F", PatientAge="061Y", EthnicGroup="Asian", Manufacturer="Agfa",
        ImagerPixelSpacing=[0.139, 0.139], PixelSpacing=[0.2, 0.2], BodyPartExamined="CHEST",
    )  # fmt: skip
    assert (header.sex, header.age, header.race, header.manufacturer) == ("F", 61, "Asian", "Agfa")
    assert (header.pixel_spacing_mm, header.body_part, header.has_picture) == (0.139, "CHEST", True)
    assert header.patient == pseudonym("000123") != pseudonym("123")
    assert len(header.patient) == 16
    assert not header.names_patient
    assert not header.is_report
    assert headed(tmp_path, BurnedInAnnotation="YES").names_patient


def test_what_is_unknown_is_none(tmp_path: Path) -> None:
    header = headed(tmp_path, PatientID="", PatientSex="O", PatientAge="", PixelSpacing=None)
    assert (header.sex, header.age, header.race, header.manufacturer, header.pixel_spacing_mm) == (None,) * 5
    assert (header.patient, header.projection) == ("", "")


@pytest.mark.parametrize(
    ("fields", "projection"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "LL"}, "LL"),
        ({"ViewPosition": "AP", "SeriesDescription": "CHEST SUPINE"}, "AP supine"),
        ({"ViewPosition": "AP", "PatientOrientationCodeSequence": coded("recumbent")}, "AP supine"),
        ({"ViewPosition": "AP", "PatientOrientationCodeSequence": coded("Erect")}, "AP"),
        ({"ViewPosition": "PA", "SeriesDescription": "SUPINE"}, "PA"),
        ({"ViewCodeSequence": coded("postero-anterior")}, "postero-anterior"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("left lateral")}, "left lateral"),
        ({"SeriesDescription": "W Chest PA"}, "PA"),
        ({"SeriesDescription": "Chest LAT."}, "lateral"),
        ({"SeriesDescription": "Chest PA and lateral"}, ""),
        ({"SeriesDescription": "Capable Apparatus"}, ""),
        ({"SeriesDescription": "Thorax AP supine"}, "AP supine"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"PatientOrientation": ["P", "F"]}, "lateral"),
        ({"PatientOrientation": ["L", "F"]}, "frontal"),
        ({"PatientOrientation": ["F", "R"]}, "frontal"),
        ({"PatientOrientation": ["L", "P"]}, ""),
        ({"ViewPosition": "LLO"}, "LLO"),
        ({}, ""),
    ],
)
def test_projections(tmp_path: Path, fields: dict[str, Any], projection: str) -> None:
    assert headed(tmp_path, **fields).projection == projection


def test_a_structured_report(tmp_path: Path) -> None:
    file = report(("Findings", "Left effusion.\nHeart is large."), ("Impression", "Effusion."))
    path = saved(tmp_path / "report", file)
    assert read_report(path) == "Findings: Left effusion.\nHeart is large.\n\nImpression: Effusion."
    header = read_header(path)
    assert (header.is_report, header.has_picture) == (True, False)
    assert not read_header(saved(tmp_path / "dose", report(("a", "b"), sop_class=67))).is_report


def test_a_dicomdir_names_its_files() -> None:
    path = Path(str(get_testdata_file("DICOMDIR", download=False) or ""))
    if not path.is_file():
        pytest.skip("pydicom's wheel has no DICOMDIR")
    files = files_of(path)
    assert files
    assert all(file.is_relative_to(path.parent) for file in files)


@pytest.mark.parametrize("parts", [["..", "secret"], ["a/../../secret"], ["."]])
def test_a_dicomdir_that_leaves_its_folder_is_refused(tmp_path: Path, parts: list[str]) -> None:
    with pydicom.config.disable_value_validation():
        path = saved(tmp_path / "DICOMDIR", directory(parts))
    with pytest.raises(InputError, match="outside its folder"):
        files_of(path)

"""Settings of the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PositiveInt, field_validator, model_validator

from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.plugins import Plugins
from medsynth_core.config.section import Fraction, Section

LabelRule = Literal["text", "given", "both"]
READERS = Plugins("medsynth_core.corpus.readers", setting="corpus.kind", function="open_source")


class ColumnsConfig(Section):
    """Column names of ``corpus.kind: table``."""

    text: str | None = "text"
    """Report text (findings, or the whole report with section headings); null where only findings are given."""
    image: str | None = "filename"
    """Image path relative to corpus.images (or corpus.path's folder); empty cells mean no image, null that there are
    none."""
    study: str | None = None
    """Study id; the row number when null."""
    patient: str | None = None
    """Patient id, the unit of the split; the study when null. A table with a column that by its name holds patients
    must name it, or the study's, where each is of another patient."""
    view: str | None = None
    """Projection (PA, AP, AP supine, lateral, ...); unknown when null."""
    findings: str | None = None
    """Findings that somebody assigned, one or several a cell with semicolons or bars between; "no finding" is one."""
    labels: tuple[str, ...] = ()
    """Columns that are a finding each: 1 where it is present, 0 absent, -1 uncertain, empty where nothing is said."""
    origin: str = "given"
    """Who assigned the findings of these columns, as it shall stand beside them."""
    sex: str | None = None
    """Sex (F, M, female, ...); unknown when null."""
    age: str | None = None
    """Age in years, or as DICOM writes it (061Y); unknown when null."""
    race: str | None = None
    """Race, as the source calls it; unknown when null."""
    split: str | None = None
    """The split that a study is in (train, val, test); by chance when null, as ``corpus.split`` says."""
    impression: str | None = None
    """A second text column, when findings and impression are apart."""
    mask: str | None = None
    """Path of a mask of the image's organs, relative to masks/ beside the table, or like the image's; empty cells mean
    no mask. A mask has the image's size, 8 bits a pixel: 0 none, 1 right lung, 2 left lung, 3 heart."""


class CorpusConfig(Section):
    """Where reports and images come from, and how they are split."""

    kind: str = "phantom"
    """A module of corpus/readers: phantom, the built-in generator; table, any CSV or Parquet; the others each the
    layout of an archive, as docs/reference/corpora.md has them."""
    path: str | None = None
    """Folder of an archive, or file of a table; null for the phantom alone. The folder may be a zip or tar that stays
    packed, or ``s3://bucket/prefix``, with credentials, region and server as the ``AWS_*`` variables say. A table is
    Parquet, or text in UTF-8, UTF-16 or Windows-1252 with commas, tabs, semicolons or bars, which may be compressed."""
    images: str | None = None
    """Folder of the image files, of any kind that corpus.path may be; null looks beside the table and in its images/
    folder."""
    reports: str | None = None
    """``corpus.kind: dicom`` only: a table of reports or findings, corpus.columns.study being Study Instance UIDs; null
    reads structured reports that lie among the images."""
    columns: ColumnsConfig = ColumnsConfig()
    labels: LabelRule = "text"
    """What says which findings a study shows, where it has a report and findings that somebody assigned: text, the
    report; given, the assigned ones; both, either, and of a finding on which they disagree what was assigned. A study
    that has only one of the two goes by that."""
    split: Literal["source", "chance"] = "source"
    """source: a study is in the split that its source puts it in, where it does; chance: by the shares below, whatever
    the source says."""
    n_studies: PositiveInt = 6400
    """Phantom only: how many studies are drawn."""
    max_studies: PositiveInt | None = None
    """Read at most this many studies; null reads all."""
    image_size: Literal[32, 64, 128, 256, 512] = 64
    """Side of the square images in pixels: shorter side resized to it, centre cropped."""
    views: Literal["frontal", "all"] = "frontal"
    """Which projections the models learn from; an unknown projection counts as frontal."""
    suspect: Literal["skip", "keep", "ignore"] = "skip"
    """What becomes of films that seem faulty: turned, mirrored, not a frontal chest, blank, copies of another patient's
    film. skip: they are left out; keep: they stay and are marked; ignore: nothing is looked for. Inverted films and
    borders are mended but with ignore. Films smaller than 64 x 64 aren't looked at."""
    val_fraction: Fraction = 0.05
    """Share of patients held out for validation."""
    test_fraction: Fraction = 0.05
    """Share of patients held out for evaluation; never seen by training nor by the visual codebook."""
    judge_fraction: Fraction = 0.2
    """Share of patients from whom the labelling judge learns, and nothing else does: no other model, no vocabulary."""
    max_bad_fraction: Fraction = 0.02
    """More unreadable rows, images or masks than this share is an error; fewer are listed and skipped."""
    max_image_pixels: PositiveInt = 64_000_000
    """Larger images are refused before they are decoded."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return READERS.checked(kind)

    @model_validator(mode="after")
    def _path_is_given(self) -> CorpusConfig:
        if self.kind != "phantom" and self.path is None:
            raise ValueError(f"corpus.path is needed for corpus.kind={self.kind}: set it to the data's place")
        if self.val_fraction + self.test_fraction + self.judge_fraction > 0.9:
            raise ValueError(
                "corpus.val_fraction + corpus.test_fraction + corpus.judge_fraction must leave 0.1 or more for training"
            )
        return self


@dataclass(frozen=True)
class CorpusParams(Params):
    """What stage ``corpus`` reads of params.yaml."""

    seed: int
    corpus: Annotated[CorpusConfig, Param(but=("labels",))]

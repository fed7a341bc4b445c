"""A study made from a workspace: its films, what the page gives away, who may see it, and the commands."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from medsynth_core.cli.main import app
from medsynth_core.corpus.normalised import Corpus
from medsynth_core.errors import InputError, MedsynthError
from medsynth_core.evaluation.study.films import real_films
from medsynth_core.evaluation.study.key import Key
from medsynth_core.evaluation.study.make import Plan, make_study
from medsynth_core.evaluation.study.mosaic import Mosaic
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.workspace.stages import workspace_paths
from tests.studied import SIDE, change, saved, study_workspace, taken_apart

pytestmark = pytest.mark.integration
N = 10
SECRET = "0123456789abcdef"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_workspace(tmp_path_factory.mktemp("study") / "w")


@pytest.fixture(scope="module")
def made(root: Path) -> tuple[Path, Key]:
    """A study of ten films of either kind."""
    out = root / "data" / "study"
    return out, make_study(Plan(N, 0, SECRET), workspace_paths(root), out, silent)


def test_real_films_are_held_out_ones(root: Path) -> None:
    paths = workspace_paths(root)
    splits = {n: {each.split for each in real_films(paths, {"frontal"}, n, training=False)} for n in (10, 40, 10_000)}
    assert splits[10] == {"test"}
    assert splits[40] <= {"test", "val"}
    assert splits[10_000] == {"test", "val", "judge"}
    assert "train" in {each.split for each in real_films(paths, {"frontal"}, 10_000, training=True)}
    assert real_films(paths, {"lateral"}, 10, training=True) == []


def test_faulty_and_undecided_films_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medsynth_core.evaluation.study import films

    paths = workspace_paths(root)
    before = real_films(paths, {"frontal"}, 1, training=False)
    pairs = films.read_pairs(paths, "test")
    undecided = replace(pairs, undecided=[frozenset({"nodule"}), *pairs.undecided[1:]])
    monkeypatch.setattr(films, "read_pairs", lambda paths, split: undecided)
    assert len(real_films(paths, {"frontal"}, 1, training=False)) == len(before) - 1
    views = Corpus.open(paths["corpus"]).views("test")
    flagged = views.set_column(
        views.schema.get_field_index("suspect"), "suspect", [["inverted"] * 3 + [None] * (len(views) - 3)]
    )
    monkeypatch.setattr(Corpus, "views", lambda self, split: flagged)
    assert len(real_films(paths, {"frontal"}, 1, training=False)) <= len(before) - 3


def data_of(page: Path) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_the_page_shows_the_films_of_the_key_in_its_order(made: tuple[Path, Key], root: Path) -> None:
    folder, key = made
    data = data_of(folder / "study.html")
    assert data["films"] == [each.film for each in key.films]
    assert Counter(each.origin for each in key.films) == {"real": N, "synthetic": N}
    strips = tuple(base64.b64decode(str(each).partition(",")[2]) for each in data["strips"])  # type: ignore[attr-defined]
    shown = taken_apart(Mosaic(SIDE, int(str(data["columns"])), int(str(data["height"])), strips), 2 * N)
    released, corpus = open_release(root), Corpus.open(root / "data" / "corpus")
    rows = {row["image_id"]: row for row in released.manifest().to_pylist()}
    views = {row["view_id"]: row["row"] for row in corpus.views().to_pylist()}
    for pixels, each in zip(shown, key.films, strict=True):
        if each.origin == "real":
            np.testing.assert_array_equal(pixels, corpus.images(np.array([views[each.source]]))[0])
            assert each.split == "test"
        else:
            row = rows[each.source]
            np.testing.assert_array_equal(pixels, np.array(released.image(row["shard"], row["offset"], row["size"])))
            assert list(each.findings) == (row["pathology"] or ["no finding"])


def test_the_page_holds_nothing_of_the_key_but_tokens_and_findings(made: tuple[Path, Key]) -> None:
    folder, key = made
    assert SECRET not in (folder / "key.json").read_text()
    text = (folder / "study.html").read_text()
    words = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    for each in key.films:
        assert each.source not in words
        assert each.group not in words
        assert words.count(each.film) == 1
    for hint in (key.release, key.corpus, *(each.source[:8] for each in key.films), "split", SECRET, "<!--"):
        assert hint not in words.replace(".split", "")
    assert set(data_of(folder / "study.html")) == {"study", "films", "nothing", "side", "columns", "height", "strips"}
    assert len({len(each.film) for each in key.films}) == 1


def test_tokens_and_order_of_two_studies_of_the_same_films_differ(root: Path, tmp_path: Path) -> None:
    keys = [
        make_study(Plan(N, 0, secret), workspace_paths(root), tmp_path / secret, silent) for secret in ("one", "other")
    ]
    sources = [[each.source for each in key.films] for key in keys]
    assert sorted(sources[0]) == sorted(sources[1])
    assert sources[0] != sources[1]
    tokens = [{key.study, *(each.film for each in key.films)} for key in keys]
    assert not tokens[0] & tokens[1]
    assert len(tokens[0]) == 2 * N + 1


def test_films_of_patients_are_shown_by_permission_alone_and_before_anything_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = root / "data" / "corpus" / "corpus.json"
    kept = about.read_text()
    change(about, lambda each: each.update(kind="openi", licence="CC BY-NC-ND 4.0"))
    try:
        plan = Plan(2, 0, SECRET, permitted=True)
        monkeypatch.setattr("medsynth_core.evaluation.study.make.open_release", None)
        with pytest.raises(InputError, match=r"CC BY-NC-ND 4\.0.*--i-may-show-real-films") as caught:
            make_study(replace(plan, permitted=False), workspace_paths(root), tmp_path / "no", silent)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "no").exists()
        monkeypatch.undo()
        make_study(plan, workspace_paths(root), tmp_path / "yes", silent)
        assert "films of patients. Don't pass it on" in (tmp_path / "yes" / "study.html").read_text()
        assert "CC BY-NC-ND 4.0" in (tmp_path / "yes" / "notes.md").read_text()
    finally:
        about.write_text(kept)


def test_notes_say_what_was_chosen_and_what_to_doubt(made: tuple[Path, Key], root: Path, tmp_path: Path) -> None:
    folder, key = made
    text = (folder / "notes.md").read_text()
    assert f"Synthetic films: {N} of {key.release}" in text
    assert f"Real films: {N} of the corpus phantom ({N} of test)" in text
    for finding in key.findings:
        counts = [
            sum(finding in each.findings for each in key.films if each.origin == kind) for kind in ("synthetic", "real")
        ]
        assert f"| {finding} | {counts[0]} | {counts[1]} |" in text
    assert "another corpus than the one at hand" in text, "the made-up release says so"
    assert "learnt from" not in text
    assert not any(source in text for source in itertools.chain.from_iterable((f.film, f.source) for f in key.films))
    plan = Plan(36, 0, SECRET, training=True)
    monkey = make_study(plan, workspace_paths(root), tmp_path / "more", silent)
    assert {each.split for each in monkey.films if each.origin == "real"} <= {"test", "val"}
    assert "films of one prompt, which are alike" in (tmp_path / "more" / "notes.md").read_text()


def command(root: Path, *words: str) -> tuple[int, str]:
    """Returns the exit code and the error of ``medsynth study``."""
    done = CliRunner().invoke(app, ["study", "--workspace", str(root), *words])
    assert done.exception is None or isinstance(done.exception, (MedsynthError, SystemExit)), done.exception
    if isinstance(done.exception, MedsynthError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--films", "37"], "36 accepted images; ask for as many at most"),
        (["--rev", "synthetic-cxr-v9"], "no dataset.dvc at revision 'synthetic-cxr-v9'"),
        (["--out", "{root}"], "exists and isn't an empty folder; choose another place"),
    ],
)
def test_what_cant_be_is_one_line_and_leaves_nothing(
    root: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code, said = command(root, "--out", str(tmp_path / "new"), *(word.format(root=root) for word in words))
    assert code == 3
    assert message in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_too_few_real_films_are_told_of_with_what_to_do(root: Path, tmp_path: Path) -> None:
    views = root / "data" / "corpus" / "views.parquet"
    kept = views.read_bytes()
    table = pq.read_table(views)
    few = table.filter(pc.or_(pc.equal(table["split"], "train"), pc.less(table["row"], 5)))
    try:
        pq.write_table(few, views)
        code, said = command(root, "--out", str(tmp_path / "new"), "--films", "20")
        assert code == 3
        assert "held-out films in the release's views" in said
        assert "--from-training" in said
        assert command(root, "--out", str(tmp_path / "new"), "--films", "20", "--from-training")[0] == 0
        assert "The generator learnt from" in (tmp_path / "new" / "notes.md").read_text()
    finally:
        views.write_bytes(kept)


@pytest.mark.parametrize(
    ("gone", "message"),
    [("data/corpus", "run `medsynth corpus` first"), ("data/vocabulary", "run `medsynth vocabulary` first")],
)
def test_a_workspace_that_lacks_something_says_what_to_run(root: Path, tmp_path: Path, gone: str, message: str) -> None:
    (root / gone).rename(tmp_path / "aside")
    try:
        code, said = command(root, "--out", str(tmp_path / "new"), "--films", "3")
    finally:
        (tmp_path / "aside").rename(root / gone)
    assert (code, message in said) == (3, True)


def test_the_release_of_a_tag_is_shown_and_files_are_named(root: Path, tmp_path: Path) -> None:
    code, said = command(root, "--films", "3", "--rev", "synthetic-cxr-v1", "--out", str(tmp_path / "new"))
    assert code == 0, said
    assert f"send  {tmp_path / 'new' / 'study.html'}" in said
    assert Key.load(tmp_path / "new").release == open_release(root, "synthetic-cxr-v1").name


def test_the_commands_of_the_docs_run(root: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "reader-study.md").read_text("utf-8")
    lines = re.findall(r"^medsynth (study[^#\n]+)", page, re.MULTILINE)
    assert len(lines) == 2
    place = tmp_path / "w"
    shutil.copytree(root, place, ignore=shutil.ignore_patterns("study"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for line in lines:
        subprocess.run(
            f"{shlex.quote(sys.executable)} -m medsynth_core.cli.main {line}",
            shell=True,
            cwd=place,
            env=environment,
            check=True,
        )
        key = Key.load(place / "data" / "study")
        told = {film.film: (film.origin, ",".join(film.findings), 3) for film in key.films}
        for reader in "AB":
            (place / f"answers-{reader}.json").write_text(json.dumps(saved(reader, told, key.study)))
    assert "100% (" in (place / "score.md").read_text("utf-8")

"""What judges find in synthetic and real images: metrics, rows, and torchxrayvision's network."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medsynth_core.errors import InputError
from medsynth_core.evaluation.extractors import load_extractor
from medsynth_core.evaluation.figures import Figure
from medsynth_core.evaluation.image_sets import ImageSet
from medsynth_core.evaluation.judged import Judged, judged_figures
from medsynth_core.evaluation.judges import load_judge
from medsynth_core.evaluation.metrics.classification import aurocs, balanced_accuracies
from medsynth_core.models.classifier import FindingClassifier
from medsynth_core.models.judge import Judge
from medsynth_core.models.settings import ClassifierConfig
from medsynth_core.workspace.stages import workspace_paths

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8))
TERMS = ["lung", "mass", "pleura"]


def test_areas_and_accuracies_are_scikit_learns() -> None:
    draw = np.random.default_rng(3)
    scores = draw.integers(-4, 5, (60, 2)) / 2.0
    truth = draw.random((60, 2)) < 0.3
    weights = draw.integers(0, 4, (5, 60)).astype(np.float32)
    areas, accuracies = aurocs(scores, truth, weights), balanced_accuracies(scores > 0, truth, weights)
    for d in range(5):
        for t in range(2):
            given = {"sample_weight": weights[d]}
            assert areas[d, t] == pytest.approx(roc_auc_score(truth[:, t], scores[:, t], **given), abs=1e-6)
            expected = balanced_accuracy_score(truth[:, t], scores[:, t] > 0, **given)
            assert accuracies[d, t] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(aurocs(scores, np.zeros_like(truth), weights)).all()


def side(n: int, seed: int, skill: float) -> Judged:
    """Images of which a judge sees the truth (``skill`` 1) or nothing (0)."""
    draw = np.random.default_rng(seed)
    truth = draw.random((n, 3)) < 0.3
    margins = skill * (truth - 0.5) + (1 - skill) * draw.normal(size=truth.shape)
    return Judged(margins.astype(np.float32), truth, [f"g{i // 2}" for i in range(n)])


def rows(synthetic: Judged, held_out: Judged) -> dict[tuple[str, str | None], Figure]:
    return {(row.metric, row.label): row for row in judged_figures("judge", TERMS, synthetic, held_out, 0)}


def test_a_perfect_judge_has_1_and_a_random_one_a_half() -> None:
    found = rows(side(400, 1, 1.0), side(300, 2, 0.0))
    assert set(found) == {(m, t) for m in ("auroc", "balanced_accuracy") for t in (None, *TERMS)}
    for row in found.values():
        assert (row.value, row.low, row.high) == (1.0, 1.0, 1.0)
        assert row.real == pytest.approx(0.5, abs=0.1)
        assert row.real_low < row.real < row.real_high  # type: ignore[operator]
        assert row.real_high - row.real_low < 0.25  # type: ignore[operator]
    assert (found["auroc", None].n, found["auroc", None].n_held_out) == (400, 300)
    assert found["auroc", "mass"].n == side(400, 1, 1.0).truth_NT[:, 1].sum()
    mean = np.mean([found["auroc", term].real for term in TERMS])  # type: ignore[arg-type]
    assert found["auroc", None].real == pytest.approx(mean)


def test_alike_images_of_a_prompt_widen_the_interval() -> None:
    alone = side(60, 1, 0.3)
    margins, truth = (np.repeat(part, 8, axis=0) for part in (alone.margins_NT, alone.truth_NT))
    eight = Judged(margins, truth, np.repeat(alone.groups, 8).tolist())
    apart = Judged(eight.margins_NT, eight.truth_NT, [str(i) for i in range(480)])

    def width(judged: Judged) -> float:
        row = rows(judged, alone)["auroc", "mass"]
        return row.high - row.low  # type: ignore[operator]

    assert width(eight) == pytest.approx(width(alone), rel=0.1)
    assert width(apart) < 0.6 * width(eight)


def test_unknown_and_rare_terms_have_a_reason_and_no_part_in_the_mean() -> None:
    ours, theirs = side(400, 1, 1.0), side(300, 2, 1.0)
    ours.margins_NT[:, 0] = theirs.margins_NT[:, 0] = np.nan
    theirs.truth_NT[:, 1] = np.arange(300) < 3
    found = rows(ours, theirs)
    assert found["auroc", "lung"].reason == "the judge doesn't know it"
    assert found["auroc", "mass"].reason == "fewer than 8 images with it or without it"
    assert found["auroc", None].value == found["auroc", "pleura"].value == 1.0
    ours.margins_NT[:] = theirs.margins_NT[:] = np.nan
    assert rows(ours, theirs)["auroc", None].reason == "no finding that the judge knows has 8 cases"


def test_a_side_is_judged_by_the_terms_that_the_judge_knows() -> None:
    finding = {"pathology": "mass", "anatomy": "lung base", "side": "left"}
    images = ImageSet([[finding], []], ["a", "b"], lambda places: IMAGES.numpy()[places])
    judged = Judged.of(images, TERMS, np.array([[3.0, -1.0], [-2.0, 4.0]]), ["pleura", "lung"])
    np.testing.assert_array_equal(judged.margins_NT, [[-1, np.nan, 3], [4, np.nan, -2]])
    np.testing.assert_array_equal(judged.truth_NT, [[True, True, False], [False, False, False]])


@torch.inference_mode()
def test_our_judge_finds_a_term_on_either_side(tmp_path: Path) -> None:
    labels = [("mass", "left"), ("mass", "right"), ("lung", "left")]
    net = FindingClassifier(ClassifierConfig(channels=(8, 8)), labels).eval()
    Judge(net, 2.0).save(tmp_path / "models" / "filters" / "judge")
    judge = load_judge("judge", workspace_paths(tmp_path))
    logits = net(IMAGES[:, None] / 127.5 - 1) / 2.0
    assert judge.terms == ["lung", "mass"]
    torch.testing.assert_close(judge(IMAGES), torch.stack([logits[:, 2], logits[:, :2].amax(1)], 1))


def converted(path: Path, thresholds: list[float] | None) -> torch.nn.Module:
    """Writes random weights as the module's docstring says, and returns torchxrayvision's own network."""
    import torchxrayvision as xrv

    torch.manual_seed(0)
    points = None if thresholds is None else torch.tensor(thresholds)
    net = xrv.models.DenseNet(op_threshs=points).eval()
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, path, {"pathologies": json.dumps(net.targets)})
    return net


@pytest.mark.parametrize("thresholds", [None, [0.5 + 0.02 * i for i in range(17)] + [float("nan")]])
@torch.inference_mode()
def test_an_external_judge_is_torchxrayvisions(tmp_path: Path, thresholds: list[float] | None) -> None:
    import torchxrayvision as xrv

    reference = converted(tmp_path / "x.safetensors", thresholds)
    pixels = torch.from_numpy(np.stack([xrv.utils.normalize(image, 255)[None] for image in IMAGES.numpy()]))
    resized = xrv.utils.fix_resolution(pixels, 224, reference)
    judge = load_judge("torchxrayvision:x.safetensors", workspace_paths(tmp_path))
    found, expected = judge(IMAGES), reference(resized)
    kept = [i for i, name in enumerate(reference.targets) if name != "Lung Lesion"]
    assert (judge.terms[0], judge.terms[7], len(judge.terms)) == ("atelectasis", "pleural effusion", 17)
    if thresholds is None:
        torch.testing.assert_close(found, expected[:, kept], rtol=1e-4, atol=1e-3)
    else:
        kept = kept[:-1]
        np.testing.assert_array_equal((found > 0)[:, : len(kept)], (expected > 0.5)[:, kept])
        assert 0.1 < (found > 0).float().mean() < 0.9
    features = load_extractor("torchxrayvision:x.safetensors", workspace_paths(tmp_path))(IMAGES)
    torch.testing.assert_close(features, reference.features2(resized), rtol=1e-4, atol=1e-3)


def test_an_external_judge_says_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    converted(tmp_path / "x.safetensors", None)
    load_judge("torchxrayvision:x.safetensors", workspace_paths(tmp_path))
    assert "the ontology has no name for Lung Lesion; left out" in caplog.text


def test_pickled_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    def load(name: str) -> None:
        load_judge(f"torchxrayvision:{name}", workspace_paths(tmp_path))

    with pytest.raises(InputError, match="no torchxrayvision weights there"):
        load("away.pt")
    (tmp_path / "own.pt").write_bytes(pickle.dumps({"net": 1}))
    with pytest.raises(InputError, match=r"pickled networks, which aren't opened: .* says how to convert one"):
        load("own.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="with the metadata `pathologies`"):
        load("bare.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", {"pathologies": '["Mass"]'})
    with pytest.raises(InputError, match="not torchxrayvision's DenseNet-121"):
        load("other.safetensors")

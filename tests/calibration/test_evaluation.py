from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from scipy.stats import binomtest
from typer.testing import CliRunner

from calibration.cli import app
from calibration.dataset import SPLITS, Dataset, from_arrays
from calibration.evaluation import broken_p_value, evaluate_rows
from calibration.evaluation_rows import answer_rows, open_rows
from calibration.guarantee import Against, Guarantee
from calibration.readers import DataOptions
from models.bundle import Bundle, write_bundle
from models.errors import CalibrationError
from models.manifest import Certificate, GuaranteeKind, LabelFloor, Manifest, Promise
from models.runtime import StageRuntime

OFFRAMP = Path(sys.executable).parent / "offramp"

every_guarantee = pytest.mark.parametrize(
    ("loss", "against"),
    [(loss, against) for loss in get_args(GuaranteeKind) for against in get_args(Against)],
)

FEW = 60  # rows, where any will do
Sets = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def truth(digits: Dataset) -> np.ndarray:
    return digits.labels[digits.split == SPLITS.index("test")]


def evaluated(bundle: Path, data: Path, *options: object) -> dict[str, Any]:
    """What the command says as JSON."""
    result = invoked(bundle, data, *options, "--json")
    assert result.exception is None, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def invoked(bundle: Path, data: Path, *options: object) -> Result:
    arguments = ["evaluate", bundle, "--data", data, "--lanes", 1, *options]
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def saved(path: Path, x: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> Path:
    np.savez(path, x=x, y=np.ascontiguousarray(y), labels=np.array(names))
    return path


def table(path: Path, text: str) -> DataOptions:
    path.write_text(text)
    return DataOptions(path, split_column="part" if "part" in text else None)


def named(manifest: Manifest, *names: str) -> Manifest:
    return manifest.model_copy(update={"labels": names})


def certified(bundle: Bundle, path: Path, certificate: Certificate, **facts: Any) -> Bundle:
    """The bundle with another certificate."""
    changes = {"certificate": certificate, **facts}
    return write_bundle(path, bundle.manifest.model_copy(update=changes), bundle.files)


def near(found: Any, expected: Any, tolerance: float) -> None:
    """Equal documents, but for rounding of numbers."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in expected:
            near(found[name], expected[name], tolerance)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            near(one, other, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
    else:
        assert found == expected


def test_the_rows_of_the_test_split_give_the_figures_of_the_manifest(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    found = evaluated(bundle.path, saved(tmp_path / "t.npz", rows, truth, bundle.manifest.labels))
    recorded = bundle.manifest.test.model_dump(mode="json", exclude={"curves"})
    near(found["measured"], recorded, tolerance=1e-5)
    assert found["known"] == ["test"]
    assert (found["rows"], found["skipped"]) == (len(rows), 0)


def test_labels_are_matched_by_name(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    names = tuple(f"digit {name}" for name in bundle.manifest.labels)
    renamed = write_bundle(tmp_path / "named", named(bundle.manifest, *names), bundle.files)
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = tuple(names[k] for k in order)
    path = saved(tmp_path / "t.npz", rows, truth[:, order], shuffled)
    f1 = evaluated(renamed.path, path)["measured"]["policy"]["micro_f1"]["policy"]
    assert f1 == pytest.approx(bundle.manifest.test.policy.micro_f1.policy)
    with_numbers = saved(tmp_path / "n.npz", rows, truth, bundle.manifest.labels)
    f1 = evaluated(renamed.path, with_numbers)["measured"]["policy"]["micro_f1"]["policy"]
    assert f1 == pytest.approx(bundle.manifest.test.policy.micro_f1.policy)


def test_shuffled_labels_are_no_evidence_against_a_promise_towards_the_model(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    names = bundle.manifest.labels
    order = np.random.default_rng(1).permutation(len(truth))
    right = evaluated(bundle.path, saved(tmp_path / "r.npz", rows, truth, names))
    wrong = evaluated(bundle.path, saved(tmp_path / "w.npz", rows, truth[order], names))
    assert wrong["measured"]["policy"]["micro_f1"]["policy"] < 0.5
    assert wrong["promises"] == right["promises"]
    assert all(check["consistent"] for check in right["promises"])
    assert (right["known"], wrong["known"]) == (["test"], [])


def test_rows_under_heavy_noise_are_called_evidence_against_the_promise(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(size=rows.shape) * 4 * rows.std()
    noisy = (rows + noise).astype(np.float32)[:150]
    path = saved(tmp_path / "n.npz", noisy, truth[:150], bundle.manifest.labels)
    (check,) = evaluated(bundle.path, path)["promises"]
    assert check["loss"] > check["epsilon"]
    assert check["p_value"] < 1e-3
    assert check["consistent"] is False
    said = " ".join(invoked(bundle.path, path).stdout.split())
    assert "evidence against the promise" in said
    assert "calibrate again on rows like these" in said


def test_promised_loss_is_that_of_the_routed_answers(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    answers = runtime.all_exits((rows,))
    exits = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    differ = [
        (answers[exit_ - 1].labels[row] != answers[-1].labels[row]).any()
        for row, exit_ in enumerate(exits)
    ]
    path = saved(tmp_path / "t.npz", rows, truth, bundle.manifest.labels)
    (check,) = evaluated(bundle.path, path)["promises"]
    assert check["loss"] == pytest.approx(np.mean(differ))
    assert check["rows"] == len(rows)


def test_single_labels_are_checked_like_all_promises_at_a_shared_level(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    floor = tuple(
        LabelFloor(label=name, positives=99, needed=9, mean_loss=None if k else 0.1)
        for k, name in enumerate(bundle.manifest.labels)
    )
    old = bundle.manifest.certificate
    certificate = old.model_copy(update={"label_epsilon": 0.9, "label_floor": floor})
    changed = certified(bundle, tmp_path / "floor", certificate)
    path = saved(tmp_path / "t.npz", rows[:FEW], truth[:FEW], bundle.manifest.labels)
    overall, label = evaluated(changed.path, path)["promises"]
    assert overall["level"] == label["level"] == old.delta / 2
    assert label["label"] == bundle.manifest.labels[0]
    assert 0 < label["rows"] < FEW
    assert label["consistent"]
    assert "label '0' against the model" in invoked(changed.path, path).stdout
    none = saved(tmp_path / "none.npz", rows[:3] * 0, truth[:3] & False, bundle.manifest.labels)
    found = evaluated(changed.path, none)["promises"][1]
    assert (found["rows"], found["loss"], found["consistent"]) == (0, None, None)


def test_every_kind_of_promise_is_checked(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    promises = tuple(
        Promise(guarantee=loss, against="labels", epsilon=0.5, mean_loss=0, p_value=0)
        for loss in get_args(GuaranteeKind)
    )
    certificate = bundle.manifest.certificate.model_copy(update={"promises": promises})
    changed = certified(bundle, tmp_path / "many", certificate)
    path = saved(tmp_path / "t.npz", rows[:FEW], truth[:FEW], bundle.manifest.labels)
    checks = evaluated(changed.path, path)["promises"]
    assert [check["guarantee"] for check in checks] == list(get_args(GuaranteeKind))
    assert all(check["consistent"] for check in checks)
    assert all(check["rows"] == FEW for check in checks)


def test_of_a_truncated_bundle_no_promise_can_be_checked(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    costs = bundle.manifest.costs.model_copy(update={"beyond_milliseconds": (5.0,) * 6})
    changed = certified(bundle, tmp_path / "cut", bundle.manifest.certificate, costs=costs)
    path = saved(tmp_path / "t.npz", rows[:FEW], truth[:FEW], bundle.manifest.labels)
    found = evaluated(changed.path, path)
    assert found["reference"] == "last exit"
    assert [check["loss"] for check in found["promises"]] == [None]
    assert [check["consistent"] for check in found["promises"]] == [None]
    said = " ".join(invoked(changed.path, path).stdout.split())
    assert "the full model is not in it" in said
    assert "cannot be checked" in said
    assert "(last exit 0." in said


def test_a_whole_split_of_the_calibration_is_known_again(
    bundle: Bundle, digits: Dataset, tmp_path: Path
) -> None:
    chosen = digits.split == SPLITS.index("tune")
    x = np.concatenate([np.asarray(chunk) for chunk in digits.read(4096)])[chosen]
    path = saved(tmp_path / "t.npz", x, digits.labels[chosen], digits.names)
    said = " ".join(invoked(bundle.path, path).stdout.split())
    assert "Warning: these rows are, or hold, the bundle's tune split" in said
    part = saved(tmp_path / "p.npz", x[:FEW], digits.labels[chosen][:FEW], digits.names)
    assert evaluated(bundle.path, part)["known"] == []


def test_a_split_is_known_among_other_rows_by_the_data_own_splits(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, progress: Progress
) -> None:
    split = np.repeat([SPLITS.index("test"), SPLITS.index("tune")], [len(rows), 3])
    data = from_arrays(
        np.concatenate([rows, rows[:3]]),
        np.concatenate([truth, truth[:3]]),
        bundle.manifest.labels,
        split.astype(np.int8),
    )
    answered = answer_rows(bundle, data, np.arange(len(data)), progress)
    assert evaluate_rows(bundle.manifest, data, answered).known == ("test",)


def test_some_rows_are_answered_as_among_all(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, progress: Progress
) -> None:
    data = from_arrays(rows, truth, bundle.manifest.labels)
    everything = answer_rows(bundle, data, np.arange(len(data)), progress)
    chosen = np.sort(np.random.default_rng(0).choice(len(data), 77, replace=False))
    some = answer_rows(bundle, data, chosen, progress, batch=5)
    np.testing.assert_array_equal(some.rows, chosen)
    np.testing.assert_array_equal(some.hashes, everything.hashes[chosen])
    for one, other in zip(some.answers, everything.answers, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities[chosen], atol=1e-4)
        np.testing.assert_allclose(one.score, other.score[chosen], atol=1e-4)


def test_rows_that_cannot_be_answered_are_refused_at_their_place_or_left_out(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    rows, truth = rows[:300], truth[:300]
    bad = rows.copy()
    bad[260, 0, 5, 5] = np.nan
    bad[261] = 3e38  # finite, but the model overflows
    good = np.delete(np.arange(len(rows)), [260, 261])
    names = bundle.manifest.labels
    path = saved(tmp_path / "bad.npz", bad, truth, names)
    refused = invoked(bundle.path, path)
    assert isinstance(refused.exception, CalibrationError)
    assert "bad.npz, row 260: found nan at position" in str(refused.exception)
    found = evaluated(bundle.path, path, "--skip-bad")
    assert (found["rows"], found["skipped"]) == (len(rows) - 2, 2)
    without = evaluated(bundle.path, saved(tmp_path / "g.npz", rows[good], truth[good], names))
    near(found["measured"], without["measured"], tolerance=1e-5)
    few = saved(tmp_path / "few.npz", bad[240:], truth[240:], names)
    assert "2 rows could not be answered" in invoked(bundle.path, few, "--skip-bad").stdout
    only = saved(tmp_path / "only.npz", bad[260:262], truth[260:262], names)
    assert "0 rows were answered and 2 left out" in str(
        invoked(bundle.path, only, "--skip-bad").exception
    )


@given(lost=st.integers(0, 30), more=st.integers(1, 60), epsilon=st.floats(0.01, 0.9))
def test_sets_that_differ_from_the_models_are_tested_exactly(
    lost: int, more: int, epsilon: float
) -> None:
    full = np.zeros((lost + more, 1), bool)
    answers = full.copy()
    answers[:lost] = True
    guarantee = Guarantee("set-agreement", "model", epsilon)
    expected = binomtest(lost, lost + more, epsilon, alternative="greater").pvalue
    found = broken_p_value(guarantee, 0.05, answers, full, full)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@every_guarantee
def test_a_promise_that_holds_is_seldom_called_broken_and_a_broken_one_mostly(
    loss: GuaranteeKind, against: Against
) -> None:
    """At the boundary, where epsilon is the loss of the population itself, the level counts."""
    population = sets(4000)
    epsilon = float(Guarantee(loss, against, 0.5).row_losses(*population).mean())
    assert 0.01 < epsilon < 0.5
    simulations, level, rows = 300, 0.1, 1500
    rng = np.random.default_rng(5)

    def alarms(promised: float) -> int:
        guarantee = Guarantee(loss, against, promised)
        count = 0
        for _ in range(simulations):
            drawn = rng.integers(0, len(population[0]), rows)
            answers, full, truth = (part[drawn] for part in population)
            count += broken_p_value(guarantee, level, answers, full, truth) <= level
        return count

    tolerated = level + 3 * np.sqrt(level * (1 - level) / simulations)
    assert alarms(epsilon) <= tolerated * simulations
    assert alarms(epsilon / 4) >= 0.8 * simulations


def test_not_knowing_the_full_models_f1_is_no_evidence() -> None:
    """Every row loses the same to the full model, and exactly epsilon of F1 in the population."""
    rng, rows = np.random.default_rng(0), 400
    truth = np.zeros((rows, 3), bool)
    truth[:, 0] = True
    right = rng.permutation(rows) < 0.7 * rows
    full = np.stack([right, ~right, np.zeros(rows, bool)], axis=1)  # F1 0.7
    answers = full | np.array([False, False, True])  # F1 1.4 / 3
    guarantee = Guarantee("micro-f1", "labels", 0.7 - 1.4 / 3)
    assert broken_p_value(guarantee, 0.05, answers, full, truth) > 0.5
    stricter = Guarantee("micro-f1", "labels", 0.05)
    assert broken_p_value(stricter, 0.05, answers, full, truth) < 0.05


def sets(rows: int, labels: int = 6) -> Sets:
    """Label sets of a policy, of a better full model, and the true ones."""
    rng = np.random.default_rng(0)
    truth = rng.random((rows, labels)) < 0.3
    full = truth ^ (rng.random((rows, labels)) < 0.03)
    worse = rng.random((rows, 1)) < 0.4
    answers = full ^ (worse & (rng.random((rows, labels)) < 0.2))
    return answers, full, truth


def test_a_table_of_label_sets_may_lack_labels_of_the_bundle(
    bundle: Bundle, tmp_path: Path
) -> None:
    manifest = named(bundle.manifest, "c", "b", "a")
    options = table(tmp_path / "t.csv", "x,labels\n1,a\n2,\n3,c a\n".replace("c a", '"c,a"'))
    data, rows = open_rows(options, manifest, None)
    assert data.names == ("c", "b", "a")
    assert rows.tolist() == [0, 1, 2]
    assert data.labels.tolist() == [[False, False, True], [False] * 3, [True, False, True]]


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("x,labels\n1,a\n2,d\n", (), "only the data has 'd'"),
        ("x,a,b\n1,0,1\n2,1,0\n", ("a", "b"), "only the bundle has 'c'"),
        ("text,labels\nhello there,a\nso long,b\n", (), "rows of kind text"),
    ],
    ids=["unknown", "missing column", "texts"],
)
def test_data_that_is_not_the_bundles_is_refused(
    bundle: Bundle, tmp_path: Path, text: str, labels: tuple[str, ...], words: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    options = DataOptions(tmp_path / "t.csv", label_columns=labels)
    with pytest.raises(CalibrationError, match=words):
        open_rows(options, named(bundle.manifest, "a", "b", "c"), None)


def test_absent_labels_that_the_bundle_does_not_know_can_be_dropped(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("x,a,b\n1,0,1\n2,0,1\n")
    manifest = named(bundle.manifest, "b")
    given = {"path": tmp_path / "t.csv", "label_columns": ("a", "b")}
    with pytest.raises(CalibrationError, match="only the data has 'a'"):
        open_rows(DataOptions(**given), manifest, None)
    data, _ = open_rows(DataOptions(**given, drop_absent_labels=True), manifest, None)
    assert data.labels.tolist() == [[True], [True]]


def test_a_split_is_taken_by_its_column_and_needs_no_other_splits(
    bundle: Bundle, tmp_path: Path
) -> None:
    manifest = named(bundle.manifest, "a", "b")
    options = table(tmp_path / "t.csv", "x,labels,part\n1,a,test\n2,b,dev\n3,b,test\n")
    assert open_rows(options, manifest, "test")[1].tolist() == [0, 2]
    assert open_rows(options, manifest, "val")[1].tolist() == [1]
    assert open_rows(options, manifest, None)[1].tolist() == [0, 1, 2]
    with pytest.raises(CalibrationError, match="no row of the split 'certify'"):
        open_rows(options, manifest, "certify")
    with pytest.raises(CalibrationError, match="expected one of fit"):
        open_rows(options, manifest, "elsewhere")
    plain = table(tmp_path / "p.csv", "x,labels\n1,a\n2,b\n")
    with pytest.raises(CalibrationError, match="--split-column"):
        open_rows(plain, manifest, "test")


def test_the_command_exits_with_2_for_mistakes_and_0_for_broken_promises(
    bundle: Bundle, rows: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    shutil.copytree(bundle.path, tmp_path / "cut")
    with (tmp_path / "cut" / "model.onnx").open("r+b") as file:
        file.truncate(100)
    path = saved(tmp_path / "t.npz", rows[:FEW], truth[:FEW], bundle.manifest.labels)
    for where, data, code, words in (
        (bundle.path, tmp_path / "none.npz", 2, "cannot be read"),
        (tmp_path / "cut", path, 2, "altered or truncated"),
        (bundle.path, path, 0, "consistent with the promise"),
    ):
        result = subprocess.run(
            [OFFRAMP, "evaluate", where, "--data", data],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == code
        said = " ".join((result.stdout + result.stderr).split())
        assert words in said
        assert "Traceback" not in said

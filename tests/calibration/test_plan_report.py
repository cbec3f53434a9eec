from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from calibration.cli import app
from calibration.plan import BatchPlan, mean_milliseconds, payoffs, traffic_of
from calibration.plan_report import (
    HARDLY,
    plan_document,
    plan_of,
    plan_sentences,
    plan_table,
    verdict,
)
from models.bundle import MANIFEST, Bundle, write_bundle
from models.manifest import Manifest
from models.measurements import QualityCurve, QualityPoint
from models.runtime import StageRuntime
from tests.manifests import full_manifest


@pytest.fixture
def manifest() -> Manifest:
    return full_manifest()


def offramp(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def with_curves(manifest: Manifest, static: list[tuple[float, float]]) -> Manifest:
    """A manifest whose static curve has these times and micro-F1s, the policy 0.5."""
    points = tuple(QualityPoint(time=t, micro_f1=f1, set_agreement=0.75) for t, f1 in static)
    micro = manifest.test.policy.micro_f1.model_copy(update={"policy": 0.5})
    policy = manifest.test.policy.model_copy(update={"micro_f1": micro})
    curves = (QualityCurve(method="static", points=points),)
    test = manifest.test.model_copy(update={"policy": policy, "curves": curves})
    return manifest.model_copy(update={"test": test})


def text(manifest: Manifest, **facts: Any) -> str:
    return "\n".join(plan_sentences(replace(plan_of(manifest), **facts)))


@given(ratios=st.lists(st.sampled_from([0.5, 0.999, 1.0, 1.5]), min_size=1, max_size=6))
def test_the_verdict_names_exactly_the_batches_at_which_a_row_is_faster(
    ratios: list[float],
) -> None:
    batches = tuple(BatchPlan(2**k, (), ratio, 1.0) for k, ratio in enumerate(ratios))
    said = verdict(replace(plan_of(full_manifest()), batches=batches))
    faster = [ratio < 1 for ratio in ratios]
    if not any(faster):
        assert "not worth it" in said
        assert "serve the model as it is" in said
    elif 1 - min(ratios) < HARDLY:
        assert "hardly pays" in said
        assert f"{1 - min(ratios):.1%}" in said
    elif all(faster):
        assert "at every measured batch" in said
    elif faster == sorted(faster):
        assert f"from batch {2 ** faster.index(True)} on" in said
    else:
        pays = ", ".join(str(2**k) for k, pays in enumerate(faster) if pays)
        assert f"at batch {pays};" in said


def test_every_batch_has_a_sentence_with_its_times(manifest: Manifest) -> None:
    plan, said = plan_of(manifest), text(manifest)
    for batch, rows in enumerate(manifest.costs.batch_rows):
        whole = manifest.costs.whole_milliseconds[batch] / rows
        assert plan.batches[batch].whole == pytest.approx(whole)
        assert f"At batch {rows} a row takes {plan.batches[batch].policy:.4f} ms" in said
        assert f"{whole:.4f} ms in the model without exits" in said


def test_the_table_has_a_line_per_exit_at_the_smallest_and_the_largest_batch(
    manifest: Manifest,
) -> None:
    plan, shown = plan_of(manifest), StringIO()
    Console(file=shown, width=200).print(plan_table(plan))
    lines = shown.getvalue().splitlines()
    for exit_ in plan.exits:
        (line,) = (line for line in lines if f" {exit_.layer} " in line)
        assert f"{exit_.reaching:.1%}" in line
        assert f"{exit_.leaving:.1%}" in line
        for batch in (plan.batches[0], plan.batches[-1]):
            for payoff in batch.exits:
                if payoff.exit == exit_.exit:
                    assert f"{payoff.cost:.4f}" in line
                    assert f"{payoff.saving:.4f}" in line
        last = exit_.exit == manifest.depth
        assert line.split().count("-") == (6 if last else 0)


def test_refused_layers_come_with_their_reasons(manifest: Manifest) -> None:
    said = text(manifest)
    for decision in manifest.placement:
        sentence = f"No exit at {decision.layer}: {decision.reason}."
        assert (sentence in said) == (decision.exit is None)


def test_truncation_is_at_the_cheapest_layer_as_good_as_the_policy(manifest: Manifest) -> None:
    f1 = [0.4, 0.45, 0.5, 0.6, 0.3, 0.7, 0.8]
    times = [k / 7 for k in range(1, 8)]
    curve = list(zip(times, f1, strict=True))
    for order in (curve, curve[::-1]):
        found = plan_of(with_curves(manifest, order)).truncation
        assert found is not None
        assert found.layer == "encoder.layer.2"
        assert (found.micro_f1, found.set_agreement, found.full_depth) == (0.5, 0.75, False)
    said = text(with_curves(manifest, curve))
    assert "always stops at encoder.layer.2" in said
    assert "75.0% of its label sets are the full model's" in said
    assert "no promise" in said


def test_truncation_at_an_exit_takes_that_exits_measured_time(manifest: Manifest) -> None:
    at_exit = {exit_.layer: exit_.number for exit_ in manifest.exits}
    layers = [layer.layer for layer in manifest.profile.layers]
    for k, layer in enumerate(layers):
        curve = [(n / 7, 0.6 if n >= k + 1 else 0.1) for n in range(1, 8)]
        found = plan_of(with_curves(manifest, curve)).truncation
        assert found is not None
        assert found.layer == layer
        expected = (k + 1) / 7
        if layer in at_exit:
            stages = manifest.costs.stage_milliseconds[: at_exit[layer]]
            expected = sum(s[-1] for s in stages) / manifest.costs.whole_milliseconds[-1]
        assert found.time == pytest.approx(expected)


def test_where_truncation_does_not_do_it_is_said_too(manifest: Manifest) -> None:
    none = with_curves(manifest, [(k / 7, 0.1) for k in range(1, 8)])
    assert "No model that always stops at one layer reaches" in text(none)
    whole = with_curves(manifest, [(k / 7, 0.1 if k < 7 else 0.6) for k in range(1, 8)])
    assert "only the whole one reaches" in text(whole)


def test_what_was_not_certified_or_has_no_early_exit_is_said(manifest: Manifest) -> None:
    assert "No early exit is certified" not in text(manifest)
    certificate = manifest.certificate.model_copy(update={"certified": False})
    refused = manifest.model_copy(update={"certificate": certificate})
    assert "No early exit is certified" in text(refused)
    single = full_manifest(exits=1)
    assert "The bundle has no early exit." in text(single)
    Console(quiet=True).print(plan_table(plan_of(single)))


def test_remeasured_costs_say_how_they_were_taken(manifest: Manifest) -> None:
    assert "--remeasure takes them on this one" in text(manifest)
    said = "\n".join(plan_sentences(plan_of(manifest, manifest.costs)))
    assert "as with tokens, were 32" in said
    assert "worth it on this machine" in said
    assert "last exit" not in said
    beyond = manifest.costs.model_copy(update={"beyond_milliseconds": (1.0,) * 6})
    truncated = manifest.model_copy(update={"costs": beyond})
    twice = beyond.model_copy(update={"beyond_milliseconds": (2.0,) * 6})
    said = "\n".join(plan_sentences(plan_of(truncated, twice)))
    assert "does not hold the layers behind its last exit" in said
    assert "(2.00 to 2.00)" in said


def test_the_document_holds_the_facts_of_the_table(manifest: Manifest) -> None:
    plan = plan_of(manifest)
    document = json.loads(json.dumps(plan_document(plan)))
    assert document["worth_it"] == [b.rows for b in plan.batches if b.policy < b.whole]
    assert document["verdict"] == verdict(plan)
    for shown, batch in zip(document["batches"], plan.batches, strict=True):
        assert shown["ratio"] == batch.ratio
        assert [payoff["pays"] for payoff in shown["exits"]] == [p.pays for p in batch.exits]
    assert [refused["layer"] for refused in document["refused"]] == [
        decision.layer for decision in manifest.placement if decision.exit is None
    ]


def test_plan_of_a_bundle_is_what_its_scores_say(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray
) -> None:
    """The command reads shares from the manifest; here the rows are routed again."""
    result = offramp("plan", bundle.path, "--json")
    assert result.exit_code == 0
    document, costs = json.loads(result.stdout), bundle.manifest.costs
    scores = [answers.score for answers in runtime.all_exits((rows,))]
    traffic = traffic_of(bundle.manifest.policy, scores)
    for batch, shown in enumerate(document["batches"]):
        assert shown["policy"] == pytest.approx(mean_milliseconds(traffic, costs, batch))
        for found, expected in zip(shown["exits"], payoffs(traffic, costs, batch), strict=True):
            assert found["cost"] == pytest.approx(expected.cost)
            assert found["saving"] == pytest.approx(expected.saving)
            assert found["pays"] == expected.pays


def test_plan_prints_table_and_verdict_and_measures_again(bundle: Bundle) -> None:
    recorded = offramp("plan", bundle.path)
    assert recorded.exit_code == 0
    assert "which exits pay" in recorded.stdout
    assert "on the machine that calibrated" in " ".join(recorded.stdout.split())
    again = offramp("plan", bundle.path, "--remeasure", "--json")
    assert again.exit_code == 0
    document = json.loads(again.stdout)
    assert document["remeasured"]
    costs = bundle.manifest.costs
    for batch, shown in enumerate(document["batches"]):
        assert shown["whole"] != costs.whole_milliseconds[batch] / shown["rows"]


def test_a_truncated_bundle_is_measured_again_with_what_it_leaves_out(
    bundle: Bundle, tmp_path: Path
) -> None:
    costs = bundle.manifest.costs.model_copy(update={"beyond_milliseconds": (5.0,) * 6})
    path = tmp_path / "truncated"
    write_bundle(path, bundle.manifest.model_copy(update={"costs": costs}), bundle.files)
    result = offramp("plan", path, "--remeasure", "--json")
    assert result.exit_code == 0
    assert any("does not hold" in note for note in json.loads(result.stdout)["notes"])


def test_plan_of_an_altered_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "altered"
    shutil.copytree(bundle.path, path)
    content = (path / MANIFEST).read_text().replace('"name": "digits"', '"name": "digit"')
    (path / MANIFEST).write_text(content)
    result = offramp("plan", path)
    assert "was altered" in str(result.exception)

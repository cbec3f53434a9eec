from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.placement import place_exits
from models.measurements import Distances, Estimate, LayerProfile, Stability


def profiles(
    to_teacher: list[float],
    to_labels: list[float],
    milliseconds: list[float] | None = None,
    noise: float = 0.0,
) -> list[LayerProfile]:
    def distances(value: float) -> Distances:
        estimate = Estimate(value=value, low=value - noise, high=value + noise)
        kinds = dict.fromkeys(("w2", "w1", "sliced", "bures", "sinkhorn"), estimate)
        return Distances(**kinds, per_label=())

    return [
        LayerProfile(
            layer=f"layer {k}",
            milliseconds=1.0 if milliseconds is None else milliseconds[k],
            to_teacher=distances(teacher),
            to_labels=distances(labels),
            micro_f1=Estimate(value=0.5, low=0.5, high=0.5),
            label_f1=(),
            stability=Stability(batches=0, seeds=None, noise=None),
        )
        for k, (teacher, labels) in enumerate(zip(to_teacher, to_labels, strict=True))
    ]


TO_TEACHER = [0.4, 0.3, 0.2, 0.1, 0.0]
TO_LABELS = [0.60, 0.58, 0.55, 0.57, 0.63]
PRIOR = 0.8


def test_labels_end_at_the_layer_that_is_nearest_to_them() -> None:
    placement = place_exits(profiles(TO_TEACHER, TO_LABELS), PRIOR, "labels", 9, False)
    assert placement.exits == (0, 1, 2)
    assert placement.truncated


@pytest.mark.parametrize(("against", "keep_depth"), [("model", False), ("labels", True)])
def test_depth_is_kept_against_the_model_or_when_asked(against, keep_depth: bool) -> None:
    placement = place_exits(profiles(TO_TEACHER, TO_LABELS), PRIOR, against, 9, keep_depth)
    assert placement.exits[-1] == 4
    assert not placement.truncated


def test_a_layer_that_a_shallower_one_dominates_gets_no_exit() -> None:
    placement = place_exits(
        profiles([0.4, 0.2, 0.3, 0.1, 0.0], TO_LABELS), PRIOR, "model", 9, False
    )
    assert placement.exits == (0, 1, 3, 4)


def test_an_exit_right_before_the_next_saves_nothing_and_goes_first() -> None:
    costs = [1.0, 5.0, 0.1, 5.0, 5.0]
    placement = place_exits(
        profiles([0.4, 0.21, 0.2, 0.1, 0.0], TO_LABELS, costs), PRIOR, "model", 4, False
    )
    assert placement.exits == (0, 2, 3, 4)


def test_an_answer_no_better_than_the_prior_gets_no_exit() -> None:
    far = profiles([0.9, 0.3, 0.2, 0.1, 0.0], TO_LABELS)
    assert place_exits(far, PRIOR, "model", 9, False).exits == (1, 2, 3, 4)


def test_every_layer_without_an_exit_is_told_why() -> None:
    distances = [0.4, 0.39, 0.45, 0.2, 0.0]
    placement = place_exits(
        profiles(distances, TO_LABELS, noise=0.03), PRIOR, "model", 9, keep_depth=False
    )
    assert placement.exits == (0, 3, 4)
    assert "within its noise" in placement.left_out[1]
    assert "shallower layer is at least as near" in placement.left_out[2]
    assert set(placement.exits) | set(placement.left_out) == set(range(5))


def test_layers_behind_the_nearest_one_are_left_out_with_the_way_to_keep_them() -> None:
    placement = place_exits(profiles(TO_TEACHER, TO_LABELS), PRIOR, "labels", 9, keep_depth=False)
    assert "layer 2" in placement.left_out[3]
    assert "--keep-depth" in placement.left_out[4]


def test_an_exit_that_goes_leaves_its_reason() -> None:
    placement = place_exits(profiles(TO_TEACHER, TO_LABELS), PRIOR, "model", 9, keep_depth=False)
    less = placement.without({1: "does not pay"})
    assert less.exits == tuple(k for k in placement.exits if k != 1)
    assert less.left_out[1] == "does not pay"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from(["model", "labels"]),
)
def test_exits_are_few_ordered_and_end_where_they_must(distances, max_exits: int, against) -> None:
    to_teacher, to_labels = (list(values) for values in zip(*distances, strict=True))
    costs = list(np.linspace(1, 2, len(distances)))
    placement = place_exits(
        profiles(to_teacher, to_labels, costs), PRIOR, against, max_exits, False
    )
    assert 1 <= len(placement.exits) <= max_exits
    assert list(placement.exits) == sorted(set(placement.exits))
    last = int(np.argmin(to_labels)) if against == "labels" else len(distances) - 1
    assert placement.exits[-1] == last


def test_no_other_choice_of_exits_has_a_smaller_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        to_teacher = [*np.sort(rng.random(7))[::-1], 0.0]
        ends = np.cumsum(rng.random(8))
        found = place_exits(
            profiles(to_teacher, to_teacher, list(np.diff(ends, prepend=0))), 1.0, "model", 4, False
        )

        def area(early: tuple[int, ...], w=to_teacher, ends=ends) -> float:
            return float(np.dot([1.0, *(w[k] for k in early)], np.diff([0, *ends[[*early, 7]]])))

        smallest = min(area(early) for n in range(4) for early in combinations(range(7), n))
        assert area(found.exits[:-1]) == pytest.approx(smallest)


def test_a_refused_layer_makes_room_for_another() -> None:
    distances = profiles(TO_TEACHER, TO_LABELS)
    first = place_exits(distances, PRIOR, "model", 3, keep_depth=False)
    refused = {first.exits[0]: "does not pay"}
    second = place_exits(distances, PRIOR, "model", 3, keep_depth=False, refused=refused)
    assert first.exits[0] not in second.exits
    assert len(second.exits) == 3
    assert second.left_out[first.exits[0]] == "does not pay"

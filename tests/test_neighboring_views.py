"""Which views are next to each other, and whether that says anything: against numbers computed by hand."""

import numpy as np
import pytest

from splax.corrections.neighboring_views import (
    Neighborhood,
    Neighbors,
    by_place,
    by_time,
    errors_of_prediction,
    sequence_numbers,
)

LINE = {f"f_{number}.png": np.array([number, 0.0, 0.0]) for number in (1, 2, 4, 8, 9)}


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["a/0001.jpg", "a/0010.png"], [1, 10]),
        (["IMG_2024_07_left.jpg", "IMG_2024_12_left.jpg"], [7, 12]),
        (["frame3", "frame21"], [3, 21]),
        (["left1.png", "right2.png"], None),  # two prefixes
        (["a1.png", "a01.png"], None),  # one number twice
        (["a1.png", "a.png"], None),
        (["train/r_0.png", "test/r_1.png"], None),
        ([f"{'9' * 5000}.png", "1.png"], None),  # no count of photos
    ],
)
def test_names_that_differ_in_a_number_are_a_sequence(names, numbers):
    found = sequence_numbers(names)
    assert found == (None if numbers is None else dict(zip(names, numbers, strict=True)))


def test_by_time_weights_are_those_of_linear_interpolation():
    numbers = np.array([9.0, 1, 4])
    for number in (1.0, 2, 3.5, 4, 8, 9):
        indices, weights = by_time(numbers, number)
        assert weights.sum() == pytest.approx(1) and numbers[indices] @ weights == pytest.approx(number)
    for number, nearest in ((0.0, 1), (12.0, 0)):
        assert [*by_time(numbers, number).indices] == [nearest]


def test_by_place_the_nearer_of_two_counts_more():
    indices, weights = by_place(np.array([[0.0, 0, 0], [5, 0, 0], [3, 0, 0]]), np.array([1.0, 0, 0]))
    assert [*indices] == [0, 2]
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3])  # distances 1 and 2
    assert [*by_place(np.eye(3), np.eye(3)[1]).indices] == [1]


def test_a_view_is_not_its_own_neighbour():
    for names in (["f_3.png"], ["other.png"]):
        neighborhood = Neighborhood.of(LINE, names)
        assert neighborhood.kind == ("time" if names == ["f_3.png"] else "place")
        indices, weights = neighborhood.without(2)  # 4, of 1, 2, 8 and 9
        assert weights.sum() == pytest.approx(1)
        assert sorted(indices) == ([1, 3] if neighborhood.kind == "time" else [0, 1])
    np.testing.assert_allclose(Neighborhood.of(LINE, ["f_3.png"]).around("f_3.png", np.zeros(3)).weights, 0.5)


def test_left_out_views_tell_whether_neighbours_predict():
    neighborhood = Neighborhood.of(LINE, ["f_3.png"])
    smooth, wild = np.array([1.0, 2, 4, 8, 9]), np.array([1.0, -1, 1, -1, 1])

    def errors(values):
        return errors_of_prediction(neighborhood, lambda by: by.average(values[:, None])[0])

    # Inside nothing is left; the ends have the value of the one next to them.
    assert errors(smooth)[0] == pytest.approx(1 + 1)
    others = [np.delete(smooth, i).mean() for i in range(5)]
    assert errors(smooth)[1] == pytest.approx(((smooth - others) ** 2).sum())
    assert errors(wild)[0] > errors(wild)[1]


def test_rows_are_averaged():
    rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    mean = Neighbors(np.array([0, 2]), np.array([0.25, 0.75])).average(rows)
    assert mean.shape == (1, 2, 2) and mean.dtype == np.float32
    np.testing.assert_allclose(mean[0], 0.25 * rows[0] + 0.75 * rows[2])

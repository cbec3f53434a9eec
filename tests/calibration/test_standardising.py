from __future__ import annotations

import numpy as np

from calibration.dataset import from_arrays
from calibration.encoded_rows import EncodedRows
from calibration.standardising import ROWS, standardising
from models.encoders import open_encoder
from models.preprocessing import NumberPreprocessing, TensorSpec


def standard(values: np.ndarray, rows: np.ndarray) -> NumberPreprocessing:
    columns = values.shape[1]
    data = from_arrays(values, np.zeros((len(values), 1), bool), ("a",))
    spec = TensorSpec(name="x", row_shape=(columns,))
    return standardising(EncodedRows(data, rows, open_encoder(NumberPreprocessing(), (spec,), {})))


def test_moments_are_those_of_the_chosen_rows_over_all_chunks() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([0, 1e4, -3], [1, 0.1, 50], (3 * ROWS + 7, 3)).astype(np.float32)
    rows = np.arange(100, len(values))
    values[:100] = 1e6
    found = standard(values, rows)
    np.testing.assert_allclose(found.mean, values[rows].astype(np.float64).mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.scale, values[rows].astype(np.float64).std(0), rtol=1e-9)


def test_a_constant_column_keeps_its_scale() -> None:
    values = np.full((50, 2), 1e7 / 3, np.float32)
    values[:, 1] = np.arange(50)
    found = standard(values, np.arange(50))
    assert found.scale[0] == 1
    assert found.scale[1] > 10

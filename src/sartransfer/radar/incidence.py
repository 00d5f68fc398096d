"""The incidence angle over a scene, from the few points for which a product gives it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError


@dataclass(frozen=True, slots=True)
class IncidenceAngle:
    """The incidence angle in degrees as a function of row and column (see `incidence_angle`)."""

    to_unit: tuple[tuple[float, float, float], tuple[float, float, float]]
    """u and v, 0 to 1 over the scene, each from (row, column, 1)."""
    bilinear: tuple[float, float, float, float]
    """a + b u + c v + d u v."""
    bend: float = 0.0
    """Degrees by which the angle at mid range lies above the bilinear surface."""
    along_u: bool = True
    """Say whether range runs along u; else along v."""

    def __call__(
        self, rows: NDArray[np.float64] | float, columns: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """Return the angle at pixel centres, counted from 0; arrays broadcast as numpy does."""
        (ur, uc, u1), (vr, vc, v1) = self.to_unit
        u = ur * np.asarray(rows) + uc * np.asarray(columns) + u1
        v = vr * np.asarray(rows) + vc * np.asarray(columns) + v1
        a, b, c, d = self.bilinear
        across = u if self.along_u else v
        angle: NDArray[np.float64] = a + b * u + c * v + d * u * v + 4 * self.bend * across * (1 - across)
        return angle


def incidence_angle(
    corners: Sequence[tuple[float, float, float]], center: tuple[float, float, float] | None = None
) -> IncidenceAngle:
    """Return the incidence angle over a scene from its four corners and its centre: (row, column, degrees).

    Bilinear through the corners, in any order, and bent along range so that the centre is met: a parabola that
    is 0 at near and far range, because the angle grows more slowly far out (0.03 degrees in a swath of 30 km, 2 in
    one of 270 km). The corners may be those of a parallelogram that is turned in the image, as in geocoded
    products. A centre that is not near the middle is left out. Raises `InputError` unless there are four corners
    that enclose an area.
    """
    points = np.array(corners, dtype=np.float64).reshape(-1, 3)
    places = np.column_stack([points[:, :2], np.ones(len(points))])
    if len(points) != 4 or np.linalg.matrix_rank(places) < 3:
        raise InputError(f"four corners that enclose an area are needed, not {points[:, :2].tolist()}.")
    offset = points[:, :2] - points[:, :2].mean(axis=0)
    turn = np.argsort(np.arctan2(offset[:, 0], offset[:, 1]))  # round the scene, from anywhere
    square = np.empty((4, 2))
    square[turn] = [(0, 0), (0, 1), (1, 1), (1, 0)]
    to_unit = np.linalg.lstsq(places, square, rcond=None)[0].T
    u, v = to_unit @ places.T
    try:
        solved = np.linalg.solve(np.column_stack([np.ones(4), u, v, u * v]), points[:, 2])
    except np.linalg.LinAlgError as error:
        raise InputError(f"two corners of the scene are one: {points[:, :2].tolist()}.") from error
    a, b, c, d = (float(x) for x in solved)
    (ur, uc, u1), (vr, vc, v1) = to_unit.tolist()
    along_u = abs(b + d / 2) >= abs(c + d / 2)
    flat = IncidenceAngle(((ur, uc, u1), (vr, vc, v1)), (a, b, c, d), 0.0, along_u)
    if center is None:
        return flat
    row, column, angle = center
    across = ur * row + uc * column + u1 if along_u else vr * row + vc * column + v1
    if not 0.25 < across < 0.75:
        return flat
    bend = (angle - float(flat(row, column))) / (4 * across * (1 - across))
    return IncidenceAngle(flat.to_unit, flat.bilinear, bend, along_u)

"""The loops over pixels for `sartransfer.compiled`; `plain` does the same in numpy, and gives the same bits.

Each works on rows ``top`` to ``bottom - 1`` of a block, so that threads share a block.
"""

from typing import Any

import numpy as np

GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

FLOES = (
    "void(int64,int64,int64,float32[::1],float32[::1],float32[::1],float32[:,:,::1],float32[:,::1],uint8[::1],"
    "uint8[:,::1])"
)
GROUND = (
    "void(int64,int64,int64,int64,float32[:,:,::1],float32[::1],uint8[:,::1],int8[:,::1],int8[:,::1],float32[:,::1],"
    "uint8[:,::1],uint8[:,::1])"
)
RADAR = (
    "void(int64,int64,uint8[:,::1],uint8[:,::1],float32[:,:,:,::1],int64,float32[:,::1],float32[:,:,::1],int64[::1],"
    "float32[::1],uint64[:,::1],float32[::1],uint16[:,:,::1])"
)


def floe_rows(
    top: Any,
    bottom: Any,
    first: Any,
    row: Any,
    col: Any,
    radius: Any,
    normals: Any,
    reach: Any,
    code: Any,
    out: Any,
) -> None:
    """Draw floes in their order, the later over the earlier; arguments as `floes.draw_floes`."""
    width, small = out.shape[1], 1e-6
    for i in range(len(row)):
        extent = np.float32(1.5) * radius[i] + np.float32(1)
        begin = max(np.int64(np.ceil(row[i] - extent)), first + top)
        end = min(np.int64(np.floor(row[i] + extent)), first + bottom - 1)
        for line in range(begin, end + 1):
            down, low, high = np.float64(line) - np.float64(row[i]), -1e9, 1e9
            for k in range(normals.shape[1]):
                across = np.float64(normals[i, k, 1])
                room = np.float64(reach[i, k]) - np.float64(normals[i, k, 0]) * down
                if across >= small:
                    high = min(high, room / across)
                elif across <= -small:
                    low = max(low, room / across)
                elif room < 0:
                    low, high = 1e9, -1e9
            left = max(np.ceil(np.float64(col[i]) + low), 0.0)
            right = min(np.floor(np.float64(col[i]) + high), width - 1.0)
            if left <= right:
                for c in range(np.int64(left), np.int64(right) + 1):
                    out[line - first, c] = code[i]


def draw(key: Any, table: Any, out: Any) -> None:
    """Fill `out`, whose length is a multiple of 4, with numbers of the table: four to each hash of the counter."""
    for word in range(len(out) // 4):
        z = key + np.uint64(word + 1) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        z = z ^ (z >> np.uint64(31))
        c = 4 * word
        out[c] = table[np.uint16(z)]
        out[c + 1] = table[np.uint16(z >> np.uint64(16))]
        out[c + 2] = table[np.uint16(z >> np.uint64(32))]
        out[c + 3] = table[np.uint16(z >> np.uint64(48))]


def texture(row: Any, fine: Any, coarse: Any, mixed: Any, rag: Any) -> None:
    """Lay the two tiles along a row: their sum, and the coarse one alone, in standard deviations."""
    one, width = np.float32(1 / 32), len(mixed)
    a, b = fine[row % fine.shape[0]], coarse[row % coarse.shape[0]]
    for start in range(0, width, len(b)):
        for p in range(min(len(b), width - start)):
            rag[start + p] = b[p]
    for start in range(0, width, len(a)):
        for p in range(min(len(a), width - start)):
            mixed[start + p] = (np.float32(a[p]) + rag[start + p]) * one
    for c in range(width):
        rag[c] = rag[c] * one


def uniform(j: Any, nodes: Any, limits: Any) -> Any:
    """Return the surface that all pixels between two nodes have; 10 or 11: pack of first-year or old ice, but for
    floes.

    -1 where single pixels must be looked at. What lies within rounding of a threshold is.
    """
    near = np.float32(1e-3)
    land, beyond = nodes[5, j], nodes[5, j + 1]
    if min(land, beyond) > near:
        return 5
    if max(land, beyond) > min(limits[6], np.float32(0)) - near:
        return -1
    low, high = min(nodes[0, j], nodes[0, j + 1]), max(nodes[0, j], nodes[0, j + 1])
    reach = np.float32(4) * limits[7] + near  # the tile's bytes end at four standard deviations
    frost = max(nodes[4, j], nodes[4, j + 1])
    if high + reach < 0 and (high + reach < -3 or frost + high + reach < limits[5] - near):
        return 0
    if low - reach < 1:
        return -1
    for k in range(1, 3):
        one, two = nodes[k, j], nodes[k, j + 1]
        if not (min(one, two) > limits[k - 1] + near or max(one, two) < -limits[k - 1] - near):
            return -1
    if min(nodes[3, j], nodes[3, j + 1]) > limits[2] + near:
        return 11
    return 10 if max(nodes[3, j], nodes[3, j + 1]) < limits[2] - near else -1


def surface_at(j: Any, g: Any, rag: Any, floe: Any, nodes: Any, limits: Any) -> Any:
    """Return what lies in one pixel, from the fields a share `g` of the way to the next node.

    A `Surface`, and 8 more where it is a floe with a tone of its own.
    """
    land = nodes[5, j] + g * (nodes[5, j + 1] - nodes[5, j])
    if land > 0:
        return 5
    if land > limits[6]:
        return 6
    edge = nodes[0, j] + g * (nodes[0, j + 1] - nodes[0, j]) + limits[7] * rag
    if edge < 1:
        if floe > 0 and edge > 0:
            return 12 if floe > 8 else 11
        if edge <= -3:
            return 0
        frost = nodes[4, j] + g * (nodes[4, j + 1] - nodes[4, j])
        return 1 if frost + edge > limits[5] else 0
    lead = abs(nodes[1, j] + g * (nodes[1, j + 1] - nodes[1, j])) < limits[0]
    if lead or abs(nodes[2, j] + g * (nodes[2, j + 1] - nodes[2, j])) < limits[1]:
        frost = nodes[4, j] + g * (nodes[4, j + 1] - nodes[4, j])
        if frost > limits[4]:
            return 2
        return 1 if frost > limits[3] else 0
    if floe > 0:
        return 12 if floe > 8 else 11
    return 4 if nodes[3, j] + g * (nodes[3, j + 1] - nodes[3, j]) > limits[2] else 3


def ground(
    top: Any, bottom: Any, first: Any, step: Any, fields: Any, limits: Any, floes: Any, fine: Any, coarse: Any,
    gains: Any, surface: Any, level: Any,
) -> None:  # fmt: skip
    """Write surface and level; arguments as `plain.ground_rows`."""
    width, n, kinds = surface.shape[1], fields.shape[2], fields.shape[0]
    per_step, middle = np.float32(step), np.float32(32.5)
    nodes = np.empty((kinds, n), dtype=np.float32)
    mixed, rag = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    shares, tones, kind = np.empty(step, dtype=np.float32), np.zeros(256, np.float32), np.zeros(256, np.int64)
    for p in range(step):
        shares[p] = np.float32(p) / per_step
    for code in range(1, 17):
        kind[code] = 4 if code > 8 else 3
        tones[code] = np.float32((code - 1) % 8) - np.float32(3.5)
    for r in range(top, bottom):
        row = first + r
        i, f = row // step, np.float32(row % step) / per_step
        for k in range(kinds):
            for j in range(n):
                nodes[k, j] = fields[k, i, j] + f * (fields[k, i + 1, j] - fields[k, i, j])
        texture(row, fine, coarse, mixed, rag)
        for j in range(n - 1):
            start, end = j * step, min((j + 1) * step, width)
            all_of = uniform(j, nodes, limits)
            k = 7 if all_of == 0 else 6
            low, rise = nodes[k, j], nodes[k, j + 1] - nodes[k, j]
            for c in range(start, end):
                g, floe = shares[c - start], floes[r, c]
                tone, value, slope = tones[floe], low, rise
                if all_of >= 10:
                    what = all_of - 7 if floe == 0 else kind[floe]
                elif all_of >= 0:
                    what, tone = all_of, np.float32(0)
                else:
                    what = surface_at(j, g, rag[c], floe, nodes, limits)
                    if what == 0:
                        value, slope = nodes[7, j], nodes[7, j + 1] - nodes[7, j]
                    if what > 8:
                        what -= 8
                    else:
                        tone = np.float32(0)
                surface[r, c] = what
                v = gains[what, 0] * (value + g * slope) + gains[what, 1] * mixed[c] + gains[what, 2] * tone
                level[r, c] = np.uint8(min(max(v + middle, np.float32(0)), np.float32(63)))


def radar(
    top: Any, bottom: Any, surface: Any, level: Any, means: Any, shift: Any, noise: Any, factors: Any, bounds: Any,
    amplitude: Any, keys: Any, table: Any, counts: Any,
) -> None:  # fmt: skip
    """Write the 16-bit numbers; arguments as `plain.radar_rows`. Loops are apart so that most of them use vectors."""
    layers, width, levels, bins = counts.shape[0], surface.shape[1], means.shape[2], means.shape[3]
    raw = np.empty((2, layers, (width + 4) // 4 * 4), dtype=np.float32)
    place, power = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    for k in range(layers):
        draw(keys[k, top], table, raw[top % 2, k])
    for r in range(top, bottom):
        for c in range(width):
            place[c] = (np.int32(surface[r, c]) * levels + np.int32(level[r, c])) * bins + (c >> shift)
        for k in range(layers):
            draw(keys[k, r + 1], table, raw[(r + 1) % 2, k])
            up, down, mean = raw[r % 2, k], raw[(r + 1) % 2, k], means[k].reshape(-1)
            for c in range(width):
                power[c] = mean[place[c]]
            for s in range(len(bounds) - 1):
                factor = factors[k, s, r]
                for c in range(bounds[s], bounds[s + 1]):
                    speckle = (up[c] + up[c + 1]) + (down[c] + down[c + 1])
                    value = np.sqrt((power[c] + noise[k, c] * factor) * speckle) * amplitude[c] + np.float32(
                        0.5
                    )
                    power[c] = min(max(value, np.float32(1)), np.float32(65535))
            for c in range(width):
                counts[k, r, c] = np.uint16(np.int32(power[c]))


HELPERS = (texture, uniform, surface_at)
"""What `ground` calls."""

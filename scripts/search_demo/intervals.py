"""95 % intervals of proportions and of the difference of two methods on the same problems."""

import math

Z = 1.959964


def wilson(right, count):
    """Interval of the proportion right / count (Wilson 1927), in per cent."""
    p, z2 = right / count, Z * Z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def paired(first, second):
    """Accuracy of `first` minus that of `second`, truth values for the same problems, in points: (difference, low, high).

    The adjusted Wald interval of Bonett and Price (2012) for paired proportions.
    """
    count = len(first)
    won = sum(a and not b for a, b in zip(first, second))
    lost = sum(b and not a for a, b in zip(first, second))
    p, q = (won + 1) / (count + 2), (lost + 1) / (count + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    return 100 * (won - lost) / count, 100 * max(-1.0, p - q - half), 100 * min(1.0, p - q + half)

"""Writes reference.json, against which reference_test.go checks package sequential.

Everything is worked out in another way than in Go where there is one: by SciPy's own
tests and distributions, or by numerical integration and root finding instead of formulas.

    python3 -m venv v && v/bin/pip install scipy==1.17.1
    v/bin/python reference.py > reference.json
"""

import json
import math

import numpy as np
import scipy
from scipy import integrate, optimize, special, stats


def welch():
    for alpha, n1, m1, v1, n2, m2, v2 in [
        (0.05, 100, 10.0, 4.0, 120, 10.5, 5.0),
        (0.01, 2000, 0.98, 0.0196, 1900, 0.97, 0.0291),
        (0.05, 12, 1.0, 0.5, 7, 3.0, 8.0),
        (0.001, 100000, 0.2, 0.9, 50000, 0.21, 1.1),
    ]:
        t = stats.ttest_ind_from_stats(m2, math.sqrt(v2), n2, m1, math.sqrt(v1), n1, equal_var=False)
        a, b = v1 / n1, v2 / n2
        nu = (a + b) ** 2 / (a * a / (n1 - 1) + b * b / (n2 - 1))
        low, high = stats.t.interval(1 - alpha, nu, m2 - m1, math.sqrt(a + b))
        yield dict(alpha=alpha, control=[n1, m1, v1], variant=[n2, m2, v2],
                   p=t.pvalue, nu=nu, low=low, high=high)


def careful(n1, v1, n2, v2):
    both = np.average([v1, v2], weights=[n1 - 1, n2 - 1])
    return max(v1, both), max(v2, both)


def log_mixture(d, v, scale):
    """log of the mean likelihood ratio of N(x, v) to N(0, v) at d, over x ~ N(0, scale^2)."""
    middle = d * scale**2 / (v + scale**2)
    width = math.sqrt(v * scale**2 / (v + scale**2))

    def log_integrand(x):
        return stats.norm.logpdf(x, 0, scale) + (d * x - x * x / 2) / v

    shift = log_integrand(middle)
    value, _ = integrate.quad(lambda x: math.exp(log_integrand(x) - shift), middle - 12 * width, middle + 12 * width,
                              points=[middle], epsabs=0, epsrel=1e-13, limit=500)
    return math.log(value) + shift


def means():
    for alpha, scale, n1, m1, v1, n2, m2, v2 in [
        (0.05, 0.1, 1000, 1.0, 1.0, 1000, 1.2, 1.0),
        (0.05, 0.5, 500, 10.0, 4.0, 400, 10.5, 5.0),
        (0.01, 0.005, 20000, 0.98, 0.0196, 2000, 0.97, 0.0291),
        (0.2, 3.0, 150, 5.0, 200.0, 900, 4.0, 100.0),
        (0.05, 0.05, 300, -2.0, 1.0, 300, -2.5, 1.5),
    ]:
        c1, c2 = careful(n1, v1, n2, v2)

        def excess(x, factor=1.0):
            # the evidence against variant - factor*control = x, over 1/alpha
            v = c2 / n2 + factor**2 * c1 / n1
            return log_mixture(m2 - factor * m1 - x, v, scale * math.sqrt(v / (c1 / n1 + c2 / n2))) + math.log(alpha)

        d, se = m2 - m1, math.sqrt(c1 / n1 + c2 / n2)
        high = optimize.brentq(excess, d, d + 100 * se, xtol=1e-15, rtol=1e-14)
        low = optimize.brentq(excess, d - 100 * se, d, xtol=1e-15, rtol=1e-14)
        # Fieller: r is refuted where variant - (1+r)*control is.
        ratio = m2 / m1 - 1
        reach = 100 * se / abs(m1)
        step = reach / 500

        def side(sign):
            r = ratio
            while excess(0, 1 + r) < 0:
                r += sign * step
                if abs(r - ratio) > 2 * reach:
                    return None
            a, b = sorted([r - sign * step, r])
            return optimize.brentq(lambda x: excess(0, 1 + x), a, b, xtol=1e-15, rtol=1e-14)

        yield dict(alpha=alpha, scale=scale, control=[n1, m1, v1], variant=[n2, m2, v2],
                   logE=log_mixture(d, c1 / n1 + c2 / n2, scale), low=low, high=high,
                   relativeLow=side(-1), relativeHigh=side(1))


def narrowest():
    for alpha in [0.2, 0.05, 0.01, 0.001, 1e-6]:
        def square(logs):  # of the half width in standard errors, at a scale
            y = 1 + math.exp(logs)
            return y / (y - 1) * (math.log(y) - 2 * math.log(alpha))
        best = optimize.minimize_scalar(square, bounds=(0, 6), method="bounded", options=dict(xatol=1e-12))
        # and by Lambert's W: y - log(y) = 1 - 2 log(alpha)
        y = -special.lambertw(-math.exp(-(1 - 2 * math.log(alpha))), -1).real
        assert abs(best.fun - y) < 1e-8 and abs(1 + math.exp(best.x) - y) < 1e-3
        yield dict(alpha=alpha, y=y)


def crossing():
    """Two and three looks by nested adaptive quadrature."""
    for alpha, drift, looks in [(0.05, 0.0, 2), (0.05, 3.0, 2), (0.01, 4.0, 2), (0.2, 2.5, 2), (0.05, 3.0, 3)]:
        y = -special.lambertw(-math.exp(-(1 - 2 * math.log(alpha))), -1).real
        s = y - 1

        def edge(k):
            t = k / looks
            v = 1 / t
            return math.sqrt(v * (v + s) / s * math.log((v + s) / (v * alpha**2))) * t

        mu, sd = drift / looks, math.sqrt(1 / looks)

        def stay(k, was):
            if k > looks:
                return 1.0
            e = edge(k)
            if k == looks:
                return stats.norm.cdf(e, was + mu, sd) - stats.norm.cdf(-e, was + mu, sd)
            return integrate.quad(lambda x: math.exp(-((x - was - mu) / sd) ** 2 / 2) / sd / math.sqrt(2 * math.pi) * stay(k + 1, x),
                                  -e, e, epsabs=1e-13, epsrel=1e-12)[0]

        yield dict(alpha=alpha, drift=drift, looks=looks, chance=1 - stay(1, 0.0))


def fixed():
    for alpha, power, effect, v1, s1, v2, s2 in [
        (0.05, 0.8, 0.02, 0.16, 0.5, 0.1716, 0.5), (0.01, 0.9, 0.5, 4.0, 0.9, 4.0, 0.1)]:
        given = v1, v2
        v1, v2 = careful(1 + s1, v1, 1 + s2, v2)  # as many units as shares, which is as good
        drift = stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power)

        def found(n):  # the chance, but for the wrong direction
            return stats.norm.sf(stats.norm.isf(alpha / 2), effect / math.sqrt(v1 / (s1 * n) + v2 / (s2 * n))) - power
        n = optimize.brentq(found, 1, 1e9, xtol=1e-6)
        yield dict(alpha=alpha, power=power, effect=effect, control=[s1, given[0]], variant=[s2, given[1]],
                   drift=drift, units=math.ceil(n))


def exceeds():
    for limit, rpcs, failures in [(0.01, 100, 5), (0.001, 5000, 2), (0.5, 40, 30), (1e-6, 1000, 1)]:
        odds = limit / (1 - limit)
        grid = special.expit(np.linspace(math.log(odds * 1.25), math.log(max(99, odds * 4)), 16))
        each = stats.binom.logpmf(failures, rpcs, grid) - stats.binom.logpmf(failures, rpcs, limit)
        yield dict(limit=limit, rpcs=rpcs, failures=failures, logE=special.logsumexp(each) - math.log(16))


def labels():
    times = np.array([1.25, 1.6, 2.2, 3, 5, 8, 15, 40, 150, 1000])
    for ratio, blocks in [
        (1.0, [(0.1, 8, 4, 90, 950)]),
        (1.5, [(0.1, 3, 20, 120, 980), (0.5, 30, 10, 600, 580)]),
        (1.0, [(0.2, 5, 5, 400, 600), (0.2, 9, 3, 100, 900), (0.01, 2, 0, 0, 0)]),
    ]:
        total = np.zeros(10)
        for share, canary, stable, n1, n2 in blocks:
            w = max(share, n1 / (n1 + n2)) if n1 + n2 else share
            q0 = ratio * w / (ratio * w + 1 - w)
            q1 = times * ratio * w / (times * ratio * w + 1 - w)
            total += stats.binom.logpmf(canary, canary + stable, q1) - stats.binom.logpmf(canary, canary + stable, q0)
        yield dict(ratio=ratio, blocks=blocks, logE=special.logsumexp(total) - math.log(10))


def sample_ratio():
    for units, weights in [([5000, 5100], [5000, 5000]), ([9000, 1200], [9000, 1000]),
                           ([10, 20, 30], [1, 1, 2]), ([500000, 503000], [1, 1])]:
        w = np.array(weights) / sum(weights)
        n = np.array(units)
        each = [stats.dirichlet_multinomial.logpmf(n, firm * w, n.sum()) - stats.multinomial.logpmf(n, n.sum(), w)
                for firm in [2, 100, 1e4, 1e6]]
        yield dict(units=units, weights=weights, logE=special.logsumexp(each) - math.log(4),
                   # for comparison: what one chi-squared test would say
                   chiSquare=stats.chisquare(n, n.sum() * w).pvalue)


def holm():
    """By closed testing (Marcus, Peritz and Gabriel 1976): the greatest Bonferroni p-value
    of all sets of hypotheses with this one in it."""
    for p in [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5], [0.02], [0.001, 0.001, 1.0, 0.2, 0.06]]:
        k = len(p)
        out = [0.0] * k
        for members in range(1, 2**k):
            subset = [i for i in range(k) if members >> i & 1]
            bonferroni = min(1.0, len(subset) * min(p[i] for i in subset))
            for i in subset:
                out[i] = max(out[i], bonferroni)
        yield dict(p=p, corrected=out)


print(json.dumps(dict(
    scipy=scipy.__version__, welch=list(welch()), means=list(means()), narrowest=list(narrowest()),
    crossing=list(crossing()), fixed=list(fixed()), exceeds=list(exceeds()), labels=list(labels()),
    sampleRatio=list(sample_ratio()), holm=list(holm())), indent=1))

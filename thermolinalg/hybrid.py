"""A digital host and thermodynamic devices that work at the same time, round after round."""

from dataclasses import dataclass

from thermolinalg.ledger import Ledger
from thermolinalg.ranges import check_whole
from thermolinalg.timeline import Task, Timeline, as_seconds, format_seconds, schedule


@dataclass(frozen=True)
class Round:
    """Seconds that the parts of one round take.

    Attributes
    ----------
    host : float, >= 0
        Digital work before the device can start: the next Jacobian, say.
    load : float, >= 0
        Transfer of couplings and right-hand sides over the link.
    relax : float, >= 0
        The device settles, averages and converts.
    read : float, >= 0
        Transfer of the answer over the link.

    Raises
    ------
    ValueError
        If a time is negative or not finite, or all are zero.
    """

    host: float
    load: float
    relax: float
    read: float

    def __post_init__(self) -> None:
        for name in ("host", "load", "relax", "read"):
            object.__setattr__(self, name, as_seconds(name, getattr(self, name)))
        if not self.total:
            raise ValueError("a round must take time, but host, load, relax and read are all zero")

    @classmethod
    def of(cls, ledger: Ledger, host_seconds: float) -> "Round":
        """Return the round of a priced run, with couplings that are written anew every time.

        The digital work of the ledger comes on top of `host_seconds`, and converters keep the device busy. Where
        couplings stay, price the run with ``writes=0``.
        """
        return cls(
            host=as_seconds("host_seconds", host_seconds) + ledger.digital,
            load=ledger.program + ledger.load,
            relax=ledger.analog + ledger.convert,
            read=ledger.read,
        )

    @property
    def total(self) -> float:
        """Seconds of a round by itself."""
        return self.host + self.load + self.relax + self.read


@dataclass(frozen=True)
class Pipeline:
    """Rounds of a host and its devices; what :func:`pipeline` returns.

    Attributes
    ----------
    round : Round
    devices, staleness, buffers, links : int
        As they were given.
    timeline : Timeline
        Tasks ``compute``, ``load``, ``relax`` and ``read``, each with the number of its round, on ``host``, ``link``
        (``link in`` and ``link out`` if there are two) and ``device`` (``device 0``, ``device 1``, ... if there are
        several).
    used : tuple of int
        By how many rounds the newest answer lags that is in when the host starts a round: 0 is that of the round just
        before. What the host knows at the start counts as the answer of round -1.
    """

    round: Round
    devices: int
    staleness: int
    buffers: int
    links: int
    timeline: Timeline
    used: tuple[int, ...]

    @property
    def limits(self) -> dict[str, float]:
        r"""Seconds per round that each bottleneck allows at best, in the steady state.

        ``host``: :math:`h`; ``link``: :math:`l + r`, or the larger of the two if there are two links; ``devices``:
        :math:`s / n`; ``registers``, which hold a round from its load to its read: :math:`(l + s + r) / (n (1 + m))`;
        ``answers``, which are waited for: :math:`(h + l + s + r) / (1 + k)`. Here h, l, s, r are host, load, relax and
        read, on n devices with m buffers and staleness k.
        """
        r, n = self.round, self.devices
        return {
            "host": r.host,
            "link": r.load + r.read if self.links == 1 else max(r.load, r.read),
            "devices": r.relax / n,
            "registers": (r.load + r.relax + r.read) / (n * (1 + self.buffers)),
            "answers": r.total / (1 + self.staleness),
        }

    @property
    def limit(self) -> str:
        """The bottleneck: the name of the largest of the limits."""
        limits = self.limits
        return max(limits, key=lambda name: limits[name])

    @property
    def bound(self) -> float:
        """Least seconds per round in the steady state: the largest of the limits."""
        return max(self.limits.values())

    @property
    def round_seconds(self) -> float:
        """Seconds per round in the steady state, from the timeline.

        The mean over the shortest pattern in which the rounds of the second half end again and again; over that half if
        there is none, as with few rounds. The last rounds do not count: nothing comes after them that would share the
        link with their reads.
        """
        count = len(self.used)
        last = max(count - min(self.devices * (1 + self.buffers), 1 + self.staleness), 1)
        ends = [self.timeline[f"read {r}"].end for r in range(last)]
        half = last // 2
        for length in range(1, half // 2 + 1):
            gaps = [ends[r] - ends[r - length] for r in range(half, last)]
            # Wide enough for the rounding of times, far narrower than any part of a round that matters.
            if max(gaps) - min(gaps) <= 1e-9 * self.round.total:
                return gaps[-1] / length
        return (ends[-1] - (ends[half - 1] if half else 0.0)) / (last - half)

    @property
    def gain(self) -> float:
        """Seconds of a round by itself over seconds per round in the steady state."""
        return self.round.total / self.round_seconds

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in self.limits.items())
        return (
            f"{self.timeline}\n\n{format_seconds(self.round_seconds)} per round in the steady state, "
            f"{self.gain:.3g}x as fast as one part after another\n"
            f"limited by the {self.limit}; seconds per round that each allows: {limits}\n"
            f"answers lag by at most {max(self.used)} rounds"
        )


def pipeline(
    round: Round, rounds: int, *, devices: int = 1, staleness: int = 0, buffers: int = 0, links: int = 1
) -> Pipeline:
    r"""Run rounds of a host and its devices on a virtual clock.

    In round r the host computes, the link loads device ``r % devices``, that relaxes, and the link reads the answer.

    Parameters
    ----------
    round : Round
        Seconds of the parts.
    rounds : int, >= 1
        How many.
    devices : int, >= 1
        Devices, which share one link and take turns.
    staleness : int, >= 0
        The host starts round r when the answer of round r - 1 - staleness is in. At 0 it waits for the answer of the
        round before; at k it runs up to k rounds ahead.
    buffers : int, >= 0
        Rounds that a device holds besides the one it works on. With none a device is loaded when its last answer has
        been read; with one the next round is loaded while it relaxes.
    links : 1 or 2
        One link for both directions, or one for each.

    Returns
    -------
    Pipeline
        With ``timeline``, ``round_seconds`` in the steady state, the bottleneck ``limit`` and what it allows,
        ``bound``, and the staleness ``used`` in each round.

    Raises
    ------
    ValueError
        If a count is not a whole number in its range.

    Notes
    -----
    No order of the tasks beats ``bound``, and it is met where a load never waits for a read, nor a read for a load:
    with two links, with a staleness of 0, and with one device without buffers. Otherwise the queue for the link can
    cost more, and ``round_seconds`` is what it comes to. More devices do not help a host that waits for every answer.

    Nothing here says what stale answers do to the iteration that uses them.

    Examples
    --------
    >>> work = Round(host=40e-6, load=10e-6, relax=45e-6, read=5e-6)
    >>> for staleness in (0, 1, 2):
    ...     run = pipeline(work, 30, staleness=staleness)
    ...     print(f"{run.round_seconds * 1e6:.0f} us per round, limited by the {run.limit}")
    100 us per round, limited by the answers
    60 us per round, limited by the registers
    60 us per round, limited by the registers
    """
    check_whole("rounds", rounds, 1)
    check_whole("devices", devices, 1)
    check_whole("staleness", staleness, 0)
    check_whole("buffers", buffers, 0)
    check_whole("links", links, 1)
    if links > 2:
        raise ValueError(f"links must be 1, for both directions, or 2, one for each, got {links}")
    ways = ("link", "link") if links == 1 else ("link in", "link out")
    held = devices * (1 + buffers)
    tasks = []
    for r in range(rounds):
        device = "device" if devices == 1 else f"device {r % devices}"
        known = (f"read {r - 1 - staleness}",) if r > staleness else ()
        free = (f"read {r - held}",) if r >= held else ()
        tasks += [
            Task(f"compute {r}", "host", round.host, known, "compute"),
            Task(f"load {r}", ways[0], round.load, (f"compute {r}", *free), "load"),
            Task(f"relax {r}", device, round.relax, (f"load {r}",), "relax"),
            Task(f"read {r}", ways[1], round.read, (f"relax {r}",), "read"),
        ]
    timeline = schedule(tasks)
    return Pipeline(round, devices, staleness, buffers, links, timeline, _lags(timeline, rounds))


def _lags(timeline: Timeline, rounds: int) -> tuple[int, ...]:
    """By how many rounds the newest answer lags that is in when each round starts."""
    lags, newest = [], -1
    for r in range(rounds):
        start = timeline[f"compute {r}"].start
        while newest + 1 < r and timeline[f"read {newest + 1}"].end <= start:
            newest += 1
        lags.append(r - 1 - newest)
    return tuple(lags)

"""A virtual clock: tasks that wait for each other and share resources, and when each of them runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import fsum, isfinite

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_ROWS = 24
"""Most rows of a table that is printed unasked."""


@dataclass(frozen=True)
class Task:
    """A piece of work for one resource.

    Attributes
    ----------
    name : str
        One of its own in every schedule.
    resource : str
        What it keeps busy: a host, a link, a device.
    seconds : float, >= 0
    after : tuple of str
        Names of the tasks that must be finished before it can start.
    kind : str
        What sort of work it is; for colours and letters.

    Raises
    ------
    ValueError
        If `seconds` is negative or not finite, or `after` is not a tuple of names.
    """

    name: str
    resource: str
    seconds: float
    after: tuple[str, ...] = ()
    kind: str = "task"

    def __post_init__(self) -> None:
        if isinstance(self.after, str):
            raise ValueError(f"after of task {self.name!r} must be a tuple of names, got {self.after!r}; add a comma")
        object.__setattr__(self, "after", tuple(self.after))
        object.__setattr__(self, "seconds", as_seconds(f"seconds of task {self.name!r}", self.seconds))


@dataclass(frozen=True)
class Span:
    """When a task ran.

    Attributes
    ----------
    task : Task
    ready : float
        When the last of the tasks it waits for was finished.
    start, end : float
        In seconds from the start of the schedule.
    cause : str or None
        The task whose end let it start: the last one it waited for, or the one that had its resource.
    """

    task: Task
    ready: float
    start: float
    end: float
    cause: str | None


@dataclass(frozen=True)
class Timeline:
    """When every task of a schedule ran.

    Attributes
    ----------
    spans : tuple of Span
        In the order in which the tasks were submitted.
    """

    spans: tuple[Span, ...]
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {span.task.name: i for i, span in enumerate(self.spans)})

    def __getitem__(self, name: str) -> Span:
        """The span of the task with this name."""
        if name not in self._places:
            raise ValueError(f"no task is named {name!r}; tasks run from {self.spans[0].task.name!r} on")
        return self.spans[self._places[name]]

    @property
    def makespan(self) -> float:
        """Seconds until everything is finished."""
        return max(span.end for span in self.spans)

    @property
    def resources(self) -> tuple[str, ...]:
        """Resources, in the order in which tasks first name them."""
        return tuple(dict.fromkeys(span.task.resource for span in self.spans))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of work, in the order in which tasks first name them."""
        return tuple(dict.fromkeys(span.task.kind for span in self.spans))

    @property
    def busy(self) -> dict[str, float]:
        """Seconds for which each resource works."""
        seconds: dict[str, list[float]] = {resource: [] for resource in self.resources}
        for span in self.spans:
            seconds[span.task.resource].append(span.task.seconds)
        return {resource: fsum(found) for resource, found in seconds.items()}

    @property
    def utilisation(self) -> dict[str, float]:
        """Fraction of the makespan for which each resource works."""
        makespan = self.makespan
        return {resource: _ratio(seconds, makespan, 0.0) for resource, seconds in self.busy.items()}

    @property
    def serial(self) -> float:
        """Seconds if one task ran after another."""
        return fsum(span.task.seconds for span in self.spans)

    @property
    def gain(self) -> float:
        """What overlap gains: serial time over makespan."""
        return _ratio(self.serial, self.makespan, 1.0)

    @property
    def ceiling(self) -> float:
        """The most that overlap can gain, in whatever order: serial time over that of the busiest resource."""
        return _ratio(self.serial, max(self.busy.values()), 1.0)

    @property
    def critical_path(self) -> tuple[str, ...]:
        """Tasks, first to last, each of which started when the one before it ended, and the last of which ends last.

        Their seconds add up to the makespan. A task may have waited for its resource, not for an answer.
        """
        name: str | None = max(self.spans, key=lambda span: span.end).task.name
        path = []
        while name is not None:
            path.append(name)
            name = self[name].cause
        return tuple(reversed(path))

    def lanes(self, width: int = 64) -> str:
        """Draw a line for each resource: letters of what takes most of a moment, and dots where all of it is idle."""
        letters = _letters(self.kinds)
        column = max(len(resource) for resource in self.resources)
        makespan, utilisation = self.makespan, self.utilisation
        lines = []
        for resource in self.resources:
            marks = ["."] * width
            # Above the rounding of times, so that a span does not mark the moment after its end.
            most = [1e-9] * width
            for span in self.spans:
                if span.task.resource != resource or not span.task.seconds:
                    continue
                low, high = (width * time / makespan for time in (span.start, span.end))
                for place in range(int(low), min(int(high) + 1, width)):
                    share = min(high, place + 1) - max(low, place)
                    if share > most[place]:
                        marks[place], most[place] = letters[span.task.kind], share
            lines.append(f"{resource:<{column}} |{''.join(marks)}| {utilisation[resource]:4.0%} busy")
        key = ", ".join(f"{letter} {kind}" for kind, letter in letters.items())
        return "\n".join([*lines, f"{'':<{column}}  0{format_seconds(makespan):>{width - 1}}", key])

    def table(self, rows: int | None = None) -> str:
        """Return the tasks in order of their start, the first `rows` of them if that is given."""
        order = sorted(self.spans, key=lambda span: (span.start, span.end))
        scale, unit = time_unit(self.makespan)
        cells = [("task", "resource", f"start ({unit})", f"end ({unit})")]
        cells += [
            (span.task.name, span.task.resource, f"{span.start / scale:.6g}", f"{span.end / scale:.6g}")
            for span in order[:rows]
        ]
        wide = [max(len(row[k]) for row in cells) for k in range(4)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in cells]
        left = len(order) - (len(cells) - 1)
        return "\n".join([*lines, *([f"... and {left} more"] if left else [])])

    def __str__(self) -> str:
        busy = self.busy
        busiest = max(busy, key=lambda resource: busy[resource])
        summary = (
            f"{format_seconds(self.makespan)} instead of {format_seconds(self.serial)} one after another: overlap "
            f"gains {self.gain:.3g}x, of at most {self.ceiling:.3g}x with {busiest} always busy"
        )
        return "\n\n".join([self.table(_ROWS), self.lanes(), summary])


def schedule(tasks: Iterable[Task]) -> Timeline:
    """Run tasks on a virtual clock.

    Each resource serves one task at a time, to its end. It takes the task that was ready first, and of several the one
    that was submitted first. Nothing that is ready waits for an idle resource.

    Parameters
    ----------
    tasks : iterable of Task
        At least one; in any order.

    Returns
    -------
    Timeline

    Raises
    ------
    ValueError
        If there is no task, two share a name, one waits for a task that is not there, or some wait for each other.

    Notes
    -----
    An event-driven simulation, deterministic: the same tasks give the same timeline. First come, first served, is what
    a plain queue does; it need not be the order with the shortest makespan. Times are sums of floats, so that a tie
    that rounding breaks goes to whoever is ready first in floats.

    Examples
    --------
    >>> timeline = schedule(
    ...     [
    ...         Task("load", "link", 1.0),
    ...         Task("relax", "device", 4.0, after=("load",)),
    ...         Task("think", "host", 3.0),
    ...         Task("read", "link", 1.0, after=("relax", "think")),
    ...     ]
    ... )
    >>> timeline["read"].start, timeline.critical_path
    (5.0, ('load', 'relax', 'read'))
    >>> print(timeline.lanes(width=24))
    link   |tttt................tttt|  33% busy
    device |....tttttttttttttttt....|  67% busy
    host   |tttttttttttt............|  50% busy
            0                    6 s
    t task
    """
    jobs = tuple(tasks)
    before = _prerequisites(jobs)
    followers: list[list[int]] = [[] for _ in jobs]
    for i, earlier in enumerate(before):
        for j in earlier:
            followers[j].append(i)
    missing = [len(earlier) for earlier in before]
    queues: dict[str, list[tuple[float, int]]] = {job.resource: [] for job in jobs}
    last: dict[str, int] = {}
    running: set[str] = set()
    events: list[tuple[float, int]] = []
    spans: dict[int, Span] = {}
    now, arrived = 0.0, [i for i, count in enumerate(missing) if not count]
    while True:
        for i in arrived:
            heappush(queues[jobs[i].resource], (now, i))
        for resource, queue in queues.items():
            if queue and resource not in running:
                ready, i = heappop(queue)
                # Nothing idles, so a start is the end of a task that was waited for, or of the last on the resource.
                cause = max(before[i], key=lambda j: spans[j].end, default=None) if ready == now else last[resource]
                name = None if cause is None else jobs[cause].name
                spans[i] = Span(jobs[i], ready, now, now + jobs[i].seconds, name)
                heappush(events, (spans[i].end, i))
                running.add(resource)
                last[resource] = i
        if not events:
            break
        now, arrived = events[0][0], []
        while events and events[0][0] == now:
            done = heappop(events)[1]
            running.remove(jobs[done].resource)
            for i in followers[done]:
                missing[i] -= 1
                if not missing[i]:
                    arrived.append(i)
    if len(spans) < len(jobs):
        raise ValueError(f"tasks wait for each other: {_cycle(jobs, before, spans)}; break the circle in after")
    return Timeline(tuple(spans[i] for i in range(len(jobs))))


def as_seconds(name: str, value: float) -> float:
    """Return a time as a float; raise a ``ValueError`` that names it if it is negative or not finite."""
    seconds = float(value)
    if not (isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return seconds


def time_unit(seconds: float) -> tuple[float, str]:
    """The largest unit that is no longer than this time: its seconds and its name."""
    return next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1] if seconds else _UNITS[0])


def format_seconds(seconds: float) -> str:
    """A time to four digits, in the unit that suits it."""
    scale, unit = time_unit(seconds)
    return f"{seconds / scale:.4g} {unit}"


def _prerequisites(jobs: tuple[Task, ...]) -> list[list[int]]:
    """Places of the tasks that each task waits for."""
    if not jobs:
        raise ValueError("tasks is empty; a schedule needs at least one task")
    places: dict[str, int] = {}
    for i, job in enumerate(jobs):
        if job.name in places:
            raise ValueError(f"two tasks are named {job.name!r}; give each a name of its own")
        places[job.name] = i
    for job in jobs:
        for name in job.after:
            if name not in places:
                raise ValueError(f"task {job.name!r} waits for {name!r}, which is not among the tasks")
    return [list(dict.fromkeys(places[name] for name in job.after)) for job in jobs]


def _cycle(jobs: tuple[Task, ...], before: list[list[int]], finished: dict[int, Span]) -> str:
    """Some tasks that wait for each other, by name."""
    walk = [next(i for i in range(len(jobs)) if i not in finished)]
    while (i := next(j for j in before[walk[-1]] if j not in finished)) not in walk:
        walk.append(i)
    return " after ".join(repr(jobs[j].name) for j in [*walk[walk.index(i) :], i])


def _letters(kinds: tuple[str, ...]) -> dict[str, str]:
    """One letter for each kind, of its name where one is left."""
    letters: dict[str, str] = {}
    for kind in kinds:
        choice = (mark for mark in (*kind, *"#=+*o%@") if mark not in letters.values() and mark not in " .|")
        letters[kind] = next(choice, "?")
    return letters


def _ratio(above: float, below: float, empty: float) -> float:
    return above / below if below > 0 else empty

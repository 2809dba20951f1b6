"""The virtual clock against a clock that ticks, rounds of host and device against closed forms, and their charts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thermolinalg as tla
from thermolinalg.figures.axes import png
from thermolinalg.figures.gantt import gantt_figure
from thermolinalg.hybrid import Round, pipeline
from thermolinalg.timeline import Task, Timeline, format_seconds, schedule

RESOURCES = ["host", "link", "device"]


@st.composite
def jobs(draw):
    """Up to ten tasks of whole seconds, so that ties are common, each after some of those drawn before it; shuffled."""
    count = draw(st.integers(1, 10))
    tasks = []
    for i in range(count):
        after = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        resource = draw(st.sampled_from(RESOURCES))
        names = tuple(f"t{j}" for j in sorted(after))
        tasks.append(Task(f"t{i}", resource, float(draw(st.integers(1, 4))), names))
    return draw(st.permutations(tasks))


def ticked(tasks):
    """Start of every task, from a clock that ticks seconds and knows nothing of events."""
    left, start, queue, holder = {task.name: task.seconds for task in tasks}, {}, {}, {}
    for now in range(100):
        for resource, task in list(holder.items()):
            left[task.name] -= 1
            if not left[task.name]:
                del holder[resource]
        for task in tasks:
            queued = any(task in waiting for waiting in queue.values())
            if not queued and task.name not in start and not any(left[name] for name in task.after):
                queue.setdefault(task.resource, []).append(task)
        for resource, waiting in queue.items():
            if waiting and resource not in holder:
                holder[resource] = waiting.pop(0)
                start[holder[resource].name] = float(now)
    return start


def assert_first_come_first_served(timeline):
    """The rules of a schedule, which leave only one: nobody is early, nobody waits in vain, nobody jumps the queue."""
    spans = timeline.spans
    for i, span in enumerate(spans):
        assert span.end == span.start + span.task.seconds
        assert span.ready == max((timeline[name].end for name in span.task.after), default=0.0)
        ahead = [
            other.end
            for j, other in enumerate(spans)
            if other.task.resource == span.task.resource and (other.ready, j) < (span.ready, i)
        ]
        assert span.start == max([span.ready, *ahead])


def longest_chain(tasks):
    known = {task.name: task for task in tasks}

    def until(name):
        return known[name].seconds + max((until(other) for other in known[name].after), default=0.0)

    return max(until(name) for name in known)


@given(jobs())
def test_the_clock_agrees_with_one_that_ticks(tasks):
    timeline = schedule(tasks)
    assert {span.task.name: span.start for span in timeline.spans} == ticked(tasks)
    assert_first_come_first_served(timeline)
    assert schedule(tasks) == timeline


def test_the_rules_see_a_task_that_is_late_early_or_out_of_turn():
    timeline = schedule([Task("a", "x", 2.0), Task("b", "x", 1.0), Task("c", "y", 1.0, after=("a",))])
    for shift in (-0.5, 0.5):
        moved = [replace(s, start=s.start + shift, end=s.end + shift) for s in timeline.spans]
        for i, span in enumerate(moved):
            with pytest.raises(AssertionError):
                assert_first_come_first_served(Timeline((*timeline.spans[:i], span, *timeline.spans[i + 1 :])))
    a, b, c = timeline.spans
    swapped = replace(a, start=1.0, end=3.0), replace(b, start=0.0, end=1.0), replace(c, ready=3.0, start=3.0, end=4.0)
    with pytest.raises(AssertionError):
        assert_first_come_first_served(Timeline(swapped))


@given(jobs())
def test_the_makespan_lies_between_its_bounds_and_is_that_of_the_critical_path(tasks):
    timeline = schedule(tasks)
    total = sum(task.seconds for task in tasks)
    assert timeline.serial == total
    assert max(*timeline.busy.values(), longest_chain(tasks)) <= timeline.makespan <= total
    assert timeline.gain == total / timeline.makespan <= timeline.ceiling
    assert sum(timeline.busy.values()) == total
    path = [timeline[name] for name in timeline.critical_path]
    assert path[0].start == 0.0
    assert path[-1].end == timeline.makespan
    assert all(before.end == after.start for before, after in pairwise(path))
    assert sum(span.task.seconds for span in path) == timeline.makespan


def test_ties_go_to_the_task_that_was_submitted_first():
    tasks = [Task(name, "link", 1.0) for name in "cab"]
    assert [span.start for span in schedule(tasks).spans] == [0.0, 1.0, 2.0]
    assert schedule(reversed(tasks))["b"].start == 0.0


def test_a_task_that_was_ready_first_goes_before_one_that_was_submitted_first():
    tasks = [
        Task("late", "link", 1.0, after=("slow",)),
        Task("early", "link", 1.0, after=("quick",)),
        Task("holds", "link", 5.0),
        Task("slow", "a", 4.0),
        Task("quick", "b", 3.0),
    ]
    timeline = schedule(tasks)
    assert (timeline["early"].start, timeline["late"].start) == (5.0, 6.0)
    assert timeline.critical_path == ("holds", "early", "late")
    assert timeline["late"].cause == "early"


def test_tasks_that_take_no_time_pass_through():
    timeline = schedule([Task("a", "x", 0.0), Task("b", "x", 0.0, ("a",)), Task("c", "y", 2.0, ("b",))])
    assert [span.end for span in timeline.spans] == [0.0, 0.0, 2.0]
    assert timeline.critical_path == ("a", "b", "c")
    nothing = schedule([Task("a", "x", 0)])
    assert (nothing.makespan, nothing.gain, nothing.utilisation) == (0.0, 1.0, {"x": 0.0})
    assert "0 s" in str(nothing)


def test_two_seconds_of_work_in_series_take_half_the_time_on_two_resources():
    timeline = schedule([Task("a", "x", 2.0), Task("b", "y", 1.0)])
    assert (timeline.makespan, timeline.serial, timeline.gain, timeline.ceiling) == (2.0, 3.0, 1.5, 1.5)
    assert timeline.utilisation == {"x": 1.0, "y": 0.5}


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_times_are_finite_and_not_negative(seconds):
    with pytest.raises(ValueError, match="seconds of task 'a' must be finite and not negative"):
        Task("a", "host", seconds)
    with pytest.raises(ValueError, match="relax must be finite"):
        Round(host=1.0, load=0.0, relax=seconds, read=0.0)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "tasks is empty"),
        ([Task("a", "x", 1.0), Task("a", "y", 1.0)], "two tasks are named 'a'"),
        ([Task("a", "x", 1.0, ("b",))], "'a' waits for 'b', which is not among"),
        ([Task("a", "x", 1.0, ("a",))], "wait for each other: 'a' after 'a'"),
        (
            [
                Task("0", "x", 1.0),
                Task("1", "x", 1.0, ("2",)),
                Task("2", "x", 1.0, ("3",)),
                Task("3", "x", 1.0, ("2",)),
            ],
            "wait for each other: '2' after '3' after '2'",
        ),
    ],
)
def test_schedules_that_make_no_sense_are_refused_by_name(tasks, message):
    with pytest.raises(ValueError, match=message):
        schedule(tasks)


def test_names_are_looked_up_and_must_be_there():
    with pytest.raises(ValueError, match="tuple of names"):
        Task("a", "x", 1.0, after="b")
    with pytest.raises(ValueError, match="no task is named 'b'"):
        schedule([Task("a", "x", 1.0)])["b"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2.5, "2.5 s"), (3.2e-4, "320 µs"), (1e-3, "1 ms"), (4e-9, "4 ns"), (4e-12, "0.004 ns")],
)
def test_seconds_are_written_in_a_unit_that_suits_them(seconds, text):
    assert format_seconds(seconds) == text


def recursion(work, rounds, devices, staleness, buffers):
    """Ends of the reads with a link for each direction, in order, from maxima of earlier ends and nothing else."""
    ends = np.zeros((rounds + 1, 4))

    def end(r, part):
        return ends[r, part] if r >= 0 else 0.0

    for r in range(rounds):
        ends[r, 0] = max(end(r - 1, 0), end(r - 1 - staleness, 3)) + work.host
        ends[r, 1] = max(ends[r, 0], end(r - 1, 1), end(r - devices * (1 + buffers), 3)) + work.load
        ends[r, 2] = max(ends[r, 1], end(r - devices, 2)) + work.relax
        ends[r, 3] = max(ends[r, 2], end(r - 1, 3)) + work.read
    return ends[:rounds, 3]


whole = st.integers(0, 6).map(float)
works = st.tuples(st.integers(1, 6).map(float), whole, whole, whole).map(lambda parts: Round(*parts))


@given(works, st.integers(1, 3), st.integers(0, 4), st.integers(0, 2))
def test_with_two_links_the_steady_state_is_the_closed_form(work, devices, staleness, buffers):
    run = pipeline(work, 60, devices=devices, staleness=staleness, buffers=buffers, links=2)
    ends = [run.timeline[f"read {r}"].end for r in range(60)]
    np.testing.assert_array_equal(ends, recursion(work, 60, devices, staleness, buffers))
    assert run.round_seconds == pytest.approx(run.bound, rel=1e-12)


@given(works, st.integers(1, 3), st.integers(0, 4), st.integers(0, 2))
def test_a_shared_link_meets_the_bound_where_nothing_queues_for_it_and_never_beats_it(
    work, devices, staleness, buffers
):
    run = pipeline(work, 60, devices=devices, staleness=staleness, buffers=buffers)
    if staleness == 0 or devices * (1 + buffers) == 1:
        assert run.round_seconds == pytest.approx(run.bound, rel=1e-12)
    assert run.round_seconds >= run.bound * (1 - 1e-12)
    assert run.gain <= work.total / work.host * (1 + 1e-12)


def test_a_queue_for_the_link_can_cost_more_than_the_bound():
    run = pipeline(Round(host=1.0, load=2.0, relax=6.0, read=4.0), 80, devices=2, staleness=3)
    apart = pipeline(run.round, 80, devices=2, staleness=3, links=2)
    assert (run.bound, apart.round_seconds) == (6.0, 6.0)
    assert run.round_seconds > 6.5


@pytest.mark.parametrize(
    ("limit", "seconds", "work", "settings"),
    [
        ("answers", 11.0, Round(4.0, 2.0, 4.0, 1.0), {}),
        ("answers", 5.5, Round(4.0, 2.0, 4.0, 1.0), {"staleness": 1, "devices": 2}),
        ("host", 9.0, Round(9.0, 2.0, 4.0, 1.0), {"staleness": 1}),
        ("registers", 7.0, Round(4.0, 2.0, 4.0, 1.0), {"staleness": 1}),
        ("registers", 3.5, Round(1.0, 2.0, 4.0, 1.0), {"staleness": 3, "devices": 2, "links": 2}),
        ("devices", 8.0, Round(4.0, 1.0, 8.0, 1.0), {"staleness": 2, "buffers": 1, "links": 2}),
        ("link", 6.0, Round(1.0, 6.0, 2.0, 3.0), {"staleness": 3, "buffers": 1, "links": 2}),
        ("link", 9.0, Round(1.0, 6.0, 2.0, 3.0), {"staleness": 3, "buffers": 1, "links": 1}),
    ],
)
def test_each_bottleneck_in_turn(limit, seconds, work, settings):
    """By hand, so that leaving one of the limits out of the closed form shows."""
    run = pipeline(work, 50, **settings)
    assert (run.limit, run.bound) == (limit, pytest.approx(seconds))
    assert run.round_seconds == pytest.approx(seconds, rel=1e-12)
    second = sorted(run.limits.values())[-2]
    assert second < 0.99 * seconds


def test_a_host_that_waits_gains_nothing_from_overlap_or_more_devices():
    work = Round(40e-6, 10e-6, 45e-6, 5e-6)
    for devices in (1, 4):
        run = pipeline(work, 7, devices=devices)
        assert run.timeline.makespan == pytest.approx(7 * work.total, rel=1e-12)
        assert run.timeline.gain == pytest.approx(1.0, rel=1e-12)
        assert run.used == (0,) * 7
        assert len(run.timeline.critical_path) == 4 * 7


def test_answers_lag_by_no_more_than_the_staleness():
    slow_device, slow_host = Round(1.0, 0.5, 20.0, 0.5), Round(20.0, 0.5, 1.0, 0.5)
    assert pipeline(slow_device, 8, staleness=3).used == (0, 1, 2, 3, 3, 3, 3, 3)
    # A fast device answers round r - 2 while the host is busy with r - 1, however much the host is allowed.
    assert pipeline(slow_host, 8, staleness=3).used == (0, 1, 1, 1, 1, 1, 1, 1)


def test_one_round_is_one_round():
    run = pipeline(Round(1.0, 2.0, 3.0, 4.0), 1, devices=2, staleness=1)
    assert run.round_seconds == run.timeline.makespan == 10.0


def test_rounds_come_from_a_ledger():
    device = tla.Device(time_constant=2e-6, link=tla.Link(bits=8, rate=1e9))
    ledger = tla.cost(tla.Plan(10.0, 90.0), device, dim=100)
    work = Round.of(ledger, 1e-4)
    assert work.load == pytest.approx((100**2 + 100) * 8e-9)
    assert work.relax == pytest.approx(2e-4)
    assert work.read == pytest.approx(100 * 8e-9)
    assert work.total == pytest.approx(1e-4 + ledger.total)
    kept = tla.cost(tla.Plan(10.0, 90.0), device, dim=100, writes=0)
    assert Round.of(kept, 1e-4).load == pytest.approx(100 * 8e-9)
    with pytest.raises(ValueError, match="host_seconds"):
        Round.of(ledger, -1.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"devices": 0}, "devices"),
        ({"staleness": -1}, "staleness"),
        ({"buffers": 0.5}, "buffers"),
        ({"links": 3}, "links"),
    ],
)
def test_counts_are_whole_numbers_in_their_range(settings, name):
    with pytest.raises(ValueError, match=name):
        pipeline(Round(1.0, 1.0, 1.0, 1.0), 3, **settings)


def test_rounds_are_counted_and_take_time():
    with pytest.raises(ValueError, match="rounds"):
        pipeline(Round(1.0, 1.0, 1.0, 1.0), 0)
    with pytest.raises(ValueError, match="a round must take time"):
        Round(0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def drawn():
    return pipeline(Round(40e-6, 10e-6, 45e-6, 5e-6), 6, devices=2, staleness=1)


def test_a_timeline_can_be_read(drawn):
    text = str(drawn)
    rows = text.splitlines()
    assert rows[0].split() == ["task", "resource", "start", "(µs)", "end", "(µs)"]
    assert rows[1].split() == ["compute", "0", "host", "0", "40"]
    # 340 us on 64 columns: 40 us are 7.5 of them.
    lanes = drawn.timeline.lanes().splitlines()
    assert lanes[0].startswith("host     |cccccccccccccccc..cc")
    assert lanes[-1] == "c compute, l load, r relax, e read"
    assert "340 µs instead of 600 µs one after another: overlap gains 1.76x, of at most 2.5x with host" in text
    assert "50 µs per round in the steady state, 2x as fast" in text
    assert "limited by the answers" in text
    assert len(drawn.timeline.table(rows=3).splitlines()) == 1 + 3 + 1
    assert drawn.timeline.table(rows=3).endswith("... and 21 more")
    assert len(drawn.timeline.table().splitlines()) == 1 + 24


def test_lanes_mark_every_task_where_it_runs():
    timeline = schedule([Task("a", "x", 3.0, kind="one"), Task("b", "x", 1.0, kind="old"), Task("c", "y", 1e-3)])
    first, second, *_, key = timeline.lanes(width=8).splitlines()
    assert first == "x |ooooooll| 100% busy"
    assert second.startswith("y |t.......|")
    assert key == "o one, l old, t task"


def test_the_chart_shows_the_timeline(drawn):
    timeline = drawn.timeline
    figure = gantt_figure(timeline, "title")
    (axes,) = figure.axes
    assert tuple(figure.get_size_inches()) == (8.0, 3.0)
    assert axes.get_xlabel() == "Time (µs)"
    assert [text.get_text().splitlines()[0] for text in axes.get_yticklabels()] == list(timeline.resources)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["compute", "load", "relax", "read", "critical path"]
    bars = {}
    for collection in axes.collections:
        for path in collection.get_paths():
            (left, low), (right, high) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            bars.setdefault(collection.get_label().lstrip("_"), []).append((left, right, (low + high) / 2))
    for kind in timeline.kinds:
        spans = [span for span in timeline.spans if span.task.kind == kind]
        expected = [(1e6 * s.start, 1e6 * s.end, timeline.resources.index(s.task.resource)) for s in spans]
        np.testing.assert_allclose(sorted(bars[kind]), sorted(expected), atol=1e-9)
    path = [(1e6 * timeline[name].start, 1e6 * timeline[name].end) for name in timeline.critical_path]
    np.testing.assert_allclose(sorted(bar[:2] for bar in bars["critical path"]), sorted(path), atol=1e-9)
    assert {text.get_text() for text in axes.texts} >= {f"compute {r}" for r in range(6)}
    assert png(figure).startswith(b"\x89PNG")

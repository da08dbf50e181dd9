"""How many rows of a stream are under way: as many as the hub takes in at the pace it has just shown."""

from __future__ import annotations

import heapq

import pytest

from edge_agent.link.core.stream_window import FIRST_WINDOW, QUICK_S, WINDOW_ROWS, StreamWindow


def pour(lane: StreamWindow, took_s: float, rows: int, now: float = 0.0) -> float:
    """So many rows are sent and acknowledged one by one, each after `took_s`; returns the time then."""
    flying: list[tuple[float, int]] = []
    done = 0
    while done < rows:
        while lane.ready:
            lane.record_sent(lane.sent + 1, now)
            heapq.heappush(flying, (now + took_s, lane.sent))
        now, upto = heapq.heappop(flying)
        lane.record_acked(upto, now)
        done += 1
    return now


def test_the_window_grows_while_the_hub_is_quick_and_is_small_again_on_a_new_connection() -> None:
    lane = StreamWindow(5.0, last=1000)
    widest = []
    for _ in range(40):
        pour(lane, 0.05, 1)
        widest.append(lane._window)
    assert widest[0] == FIRST_WINDOW + 1
    assert max(widest) == WINDOW_ROWS
    lane.begin()
    assert lane._window == FIRST_WINDOW


def test_a_long_line_is_no_busy_hub() -> None:
    """Over a satellite every acknowledgement takes long, the first one too."""
    lane = StreamWindow(5.0, last=1000)
    pour(lane, 3 * QUICK_S, 40)
    assert lane._window == WINDOW_ROWS


def test_it_shrinks_to_one_row_while_acknowledgements_take_ever_longer_and_grows_again() -> None:
    lane = StreamWindow(5.0, last=1000)
    now = pour(lane, 0.05, 30)
    now = pour(lane, 4 * QUICK_S, 30, now)
    assert lane._window == 1
    pour(lane, 0.05, 30, now)
    assert lane._window == WINDOW_ROWS


@pytest.mark.parametrize("devices", [100, 1000])
def test_a_fleet_that_returns_does_not_fill_the_brokers_queue(devices: int) -> None:
    """All pour a backlog into one hub that takes 100 rows a second; what waits stays far from all windows."""
    lanes = [StreamWindow(5.0, last=40) for _ in range(devices)]
    queue: list[tuple[int, int]] = []
    longest, now = 0, 0.0
    while any(lane.acked < 40 for lane in lanes):
        for number, lane in enumerate(lanes):
            while lane.ready:
                lane.record_sent(lane.sent + 1, now)
                queue.append((number, lane.sent))
        longest = max(longest, len(queue))
        now += 0.01
        number, upto = queue.pop(0)
        lanes[number].record_acked(upto, now)
    assert longest < devices * WINDOW_ROWS / 2

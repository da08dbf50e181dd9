"""Bells: who waits is woken from another thread, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading

from cloud_hub.runtime.waiters import WaiterRegistry


def test_a_notification_from_another_thread_wakes_all_waiters_of_that_name_and_no_other() -> None:
    waiters = WaiterRegistry()

    async def wait(name: str, ready: asyncio.Event) -> str:
        with waiters.register(name) as bell:
            ready.set()
            await bell.wait()
        return name

    async def play() -> set[str]:
        ready = [asyncio.Event() for _ in range(3)]
        tasks = [asyncio.create_task(wait(name, one)) for name, one in zip(["a", "a", "b"], ready, strict=True)]
        for one in ready:
            await one.wait()
        thread = threading.Thread(target=lambda: waiters.notify("a"))
        thread.start()
        woken = set(await asyncio.gather(*tasks[:2]))
        thread.join()
        assert not tasks[2].done()
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        return woken

    assert asyncio.run(play()) == {"a"}
    waiters.notify("a")
    assert waiters._waiting == {}

"""A storm of wakes becomes a few calls, and none of it is missed."""

from __future__ import annotations

import asyncio
import threading
import time

from cis.federation.service import Calm

PAUSE_S = 0.05


def test_the_first_wake_is_answered_at_once_and_those_of_a_storm_by_a_few_calls_after_the_last_of_them() -> None:
    async def storm() -> tuple[float, int, bool]:
        calls: list[float] = []
        called = asyncio.Event()

        def call() -> None:
            calls.append(time.monotonic())
            called.set()

        calm = Calm(asyncio.get_running_loop(), call, pause_s=PAUSE_S)
        began_s = time.monotonic()
        calm.wake()
        await called.wait()
        first_s = calls[0] - began_s

        def wake_often() -> float:
            last_s = 0.0
            for _ in range(200):
                calm.wake()
                last_s = time.monotonic()
                threading.Event().wait(0.001)
            return last_s

        last_s = await asyncio.to_thread(wake_often)
        lasted_s = last_s - began_s
        await asyncio.sleep(PAUSE_S * 2)
        return first_s, len(calls) - round(lasted_s / PAUSE_S), calls[-1] >= last_s

    first_s, more_than_paused_for, heard_the_last = asyncio.run(storm())

    assert first_s < PAUSE_S / 2
    assert more_than_paused_for <= 3
    assert heard_the_last


def test_a_wake_after_the_loop_has_closed_is_harmless() -> None:
    loop = asyncio.new_event_loop()
    calm = Calm(loop, lambda: None, pause_s=PAUSE_S)
    loop.close()

    calm.wake()

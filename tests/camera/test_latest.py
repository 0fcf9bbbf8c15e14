import threading

from drone_agent.camera.latest import LatestSlot


def test_the_newest_item_is_taken_and_the_replaced_ones_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for item in (1, 2, 3):
        slot.put(item)
    taken = slot.take(0.0)
    assert (taken.item, taken.dropped, taken.closed) == (3, 2, None)


def test_each_item_is_taken_once_and_the_count_starts_anew() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.put(2)
    slot.take(0.0)
    assert slot.take(0.0).item is None
    slot.put(3)
    assert slot.take(0.0).dropped == 0


def test_what_is_in_the_slot_at_closing_is_still_taken_then_the_first_reason_is_told() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close("the end")
    slot.close("another reason")
    slot.put(2)
    assert slot.take(0.0).item == 1
    taken = slot.take(0.0)
    assert (taken.item, taken.closed) == (None, "the end")


def test_a_waiting_taker_is_woken_by_an_item_from_another_thread() -> None:
    slot: LatestSlot[int] = LatestSlot()
    results: list[int | None] = []
    taker = threading.Thread(target=lambda: results.append(slot.take(60.0).item))
    taker.start()
    slot.put(7)
    taker.join(30.0)
    assert results == [7]


def test_a_waiting_taker_is_woken_by_closing() -> None:
    slot: LatestSlot[int] = LatestSlot()
    results: list[str | None] = []
    taker = threading.Thread(target=lambda: results.append(slot.take(60.0).closed))
    taker.start()
    slot.close("over")
    taker.join(30.0)
    assert results == ["over"]


def test_nothing_is_lost_without_being_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    count = 2000

    def produce() -> None:
        for item in range(count):
            slot.put(item)
        slot.close("done")

    producer = threading.Thread(target=produce)
    producer.start()
    taken, dropped, last = 0, 0, -1
    while (result := slot.take(30.0)).item is not None:
        assert result.item > last
        last = result.item
        taken += 1
        dropped += result.dropped
    producer.join(30.0)
    assert result.closed == "done"
    assert last == count - 1
    assert taken + dropped == count

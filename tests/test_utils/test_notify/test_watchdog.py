import threading

from utils.notify.watchdog import Watchdog


def test_one_silence_is_told_once_and_the_next_again():
    told = []
    watchdog = Watchdog(10.0, told.append)
    watchdog.heard = 100.0
    assert watchdog.check(100.0) == 10.0
    assert watchdog.check(107.0) == 3.0 and told == []
    assert watchdog.check(110.5) == 10.0 and told == [10.5]
    assert watchdog.check(120.5) == 10.0 and watchdog.check(1000.0) == 10.0 and told == [10.5]
    watchdog.heard = 1001.0
    assert watchdog.check(1010.0) == 1.0 and told == [10.5]
    watchdog.check(1013.0)
    assert told == [10.5, 12.0]


def test_it_watches_in_a_thread_that_keeps_nothing_alive():
    heard = threading.Event()
    watchdog = Watchdog(0.01, lambda seconds: heard.set())
    watchdog.start()
    assert heard.wait(10)
    (thread,) = [t for t in threading.enumerate() if t is watchdog._thread]
    assert thread.daemon
    watchdog.stop()
    thread.join(10)
    assert not thread.is_alive()

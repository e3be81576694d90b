import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from localcloud.s3 import taking


def test_nobody_writes_between_another_writes_look_and_its_write() -> None:
    writing = Lock()

    def write(number: int) -> int:
        assert writing.acquire(blocking=False), "two write at once"
        time.sleep(0.005)  # for the others to run into this one
        writing.release()
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(taking(Lock())(write), range(16))) == list(range(16))

"""A debugger and flowtrace in one process: the session reads as without flowtrace, and the calls are traced."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from other_tools import differences

Run = Callable[..., harness.Ended]
Write = Callable[[str, str], Path]

SHOP = '''
    """Sells."""
    import contextlib


    class Basket:
        def __init__(self, prices):
            self.prices = prices

        def total(self, discount=0):
            total = 0
            for price in self.prices:
                if price < 0:
                    raise ValueError(price)
                total += price
            return total - discount

        def __enter__(self):
            return len(self.prices)

        def __exit__(self, *error):
            self.unlocked = True


    def numbers(n):
        for i in range(n):
            yield i * 2


    def checkout(prices):
        basket = Basket(prices)
        with basket as n:
            doubled = [price * n for price in prices]
        return basket.total(discount=1), sum(numbers(n)), doubled


    async def fetch(n):
        try:
            got = await leaf(n)
        finally:
            got = n
        return got


    async def leaf(n):
        async with contextlib.AsyncExitStack():
            return n


    def drive(coroutine):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value


    def careful(prices):
        """Asks somebody."""
        try:
            return checkout(prices)
        except ValueError:
            import pdb
            pdb.post_mortem()


    def asks(n):
        m = n + 1
        breakpoint()
        m += 1
        return m
    '''
MAIN = """
    import sys

    import shop


    def main(name, *arguments):
        result = getattr(shop, name)(*arguments)
        print("result", result)
        return result


    if __name__ == "__main__":
        main(sys.argv[1], *map(eval, sys.argv[2:]))
    """
UNDER_PDB = ["-m", "pdb", "main.py"]
SESSIONS: dict[str, tuple[list[str], str]] = {  # what is run, and what is typed
    "every step": ([*UNDER_PDB, "checkout", "(1, 2)"], "tbreak shop.checkout\ncontinue\n" + "step\n" * 60),
    "every step to an error": ([*UNDER_PDB, "checkout", "(1, -2)"], "tbreak shop.checkout\ncontinue\n" + "step\n" * 60),
    "every line": ([*UNDER_PDB, "checkout", "(1, 2)"], "tbreak shop.checkout\ncontinue\n" + "next\n" * 12),
    "every line to an error": ([*UNDER_PDB, "checkout", "(1, -2)"], "tbreak shop.checkout\ncontinue\n" + "next\n" * 12),
    "in a coroutine": ([*UNDER_PDB, "drive", "shop.fetch(3)"], "tbreak shop.fetch\ncontinue\n" + "step\n" * 40),
    "breakpoints": (
        [*UNDER_PDB, "checkout", "(1, 2, 3)"],
        """
        break shop.py:16, total > 2
        break shop.numbers
        break shop.py:25
        ignore 3 2
        break
        continue
        where
        args
        p total, price, sorted(locals())
        until 17
        return
        continue
        p n, sorted(locals())
        return
        retval
        clear 2
        continue
        p i
        longlist
        continue
        """,
    ),
    "up and down": (
        [*UNDER_PDB, "checkout", "(1, 2)"],
        """
        break shop.Basket.total
        continue
        p self.prices, discount
        pp sorted(locals())
        whatis self
        display discount
        up
        p n, doubled, sorted(locals())
        list
        up
        p result
        p sorted(locals())
        down
        down
        discount = 7
        until
        next
        where
        source shop.numbers
        return
        continue
        """,
    ),
    "jump": (
        [*UNDER_PDB, "checkout", "(1, 2)"],
        """
        break shop.py:15
        continue
        jump 16
        jump 12
        next
        jump 17
        return
        clear 1
        y
        tbreak shop.py:31
        continue
        jump 34
        jump 35
        step
        continue
        """,
    ),
    "post mortem": (
        [*UNDER_PDB, "checkout", "(1, -2)"],
        """
        continue
        where
        p price, total, sorted(locals())
        up
        p sorted(locals()), n
        up
        where
        longlist
        down
        down
        p __import__("sys").exc_info()[1]
        quit
        """,
    ),
    "post mortem of its own": (["main.py", "careful", "(1, -2)"], "where\np price\nup\np n\nlonglist\nup\nargs\nq\n"),
    "breakpoint()": (["main.py", "asks", "1"], "where\np m\nnext\np m, sorted(locals())\nm = 9\nup\nlist\nargs\nc\n"),
    "breakpoint() and every step": (["main.py", "asks", "1"], "step\n" * 12),
}


def read(transcript: str) -> list[str]:
    """The lines of a session, without the addresses of objects."""
    return re.sub(r"0x[0-9a-f]+|\.\.\.x[0-9a-f]+", "0x", transcript).splitlines()


BELOW = pytest.mark.xfail(strict=True, reason="a script that is a target has three frames below it")


@pytest.mark.parametrize(
    "session", [pytest.param(name, marks=BELOW if name.startswith("breakpoint()") else ()) for name in SESSIONS]
)
def test_session_with_pdb_reads_the_same(session: str, write: Write, run_traced: Run, run_plain: Run) -> None:
    """pdb stops at the same lines, in the same functions, and shows the same stack, values and errors."""
    # fault C10
    write("shop.py", SHOP)
    write("main.py", MAIN)
    arguments, typed = SESSIONS[session]
    commands = "\n".join(line.strip() for line in typed.strip().splitlines()) + "\nquit\n"
    run = [sys.executable, *arguments]

    plain = run_plain(run, stdin=commands.encode())
    traced = run_traced(run, stdin=commands.encode(), options=["--quiet"])

    assert plain.stdout.count("(Pdb)") > 5
    assert differences(read(plain.stdout), read(traced.stdout)) == ""
    assert differences(read(plain.stderr), read(traced.stderr)) == ""
    assert traced.returncode == plain.returncode
    assert f"shop.{arguments[arguments.index('main.py') + 1]}" in traced.calls
    harness.check_conservation(traced.events)


def test_faulthandler_shows_the_same_stack(write: Write, run_traced: Run, run_plain: Run) -> None:
    """What faulthandler writes of a thread's stack has the program's lines, and none of ours."""
    # fault C10
    write(
        "main.py",
        """
        import faulthandler, sys, threading

        def deepest():
            with open("/dev/null"):
                faulthandler.dump_traceback(all_threads=False)

        def generator():
            yield deepest()

        def outer():
            return list(generator())

        thread = threading.Thread(target=outer)
        thread.start()
        thread.join()
        """,
    )

    traced = run_traced([sys.executable, "-X", "faulthandler", "main.py"], options=["--quiet"])
    plain = run_plain([sys.executable, "-X", "faulthandler", "main.py"])

    assert plain.stderr.count("main.py") == 3
    assert differences(read(plain.stderr), read(traced.stderr)) == ""
    assert traced.calls == ["__main__.outer", "__main__.generator", "__main__.deepest"]

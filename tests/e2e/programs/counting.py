"""Counts calls where flowtrace has no hand in it: each is a line of process id and name, appended to a file.

Programs of the tests import this from outside their folder, so that it is no target. The file is opened for each line:
a program may close all its descriptors.
"""

import os


def count(name: str) -> None:
    """Note that this process has called ``name``."""
    descriptor = os.open(os.environ["COUNTED_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, b"%d %s\n" % (os.getpid(), name.encode()))
    finally:
        os.close(descriptor)

"""A module that is reloaded, and one that is imported anew; the functions of before are kept."""

import importlib
import sys

from samples.features import reloading

first = [reloading.function, reloading.Account]
importlib.reload(reloading)
second = [reloading.function, reloading.Account]
del sys.modules[reloading.__name__]
anew = importlib.import_module(reloading.__name__)
third = [anew.function, anew.Account]


def use(see, value):
    generations = first, second, third
    calls = [(function(see, value), account().show(see, value)) for function, account in generations]
    return calls, first[0] is second[0], anew is reloading, reloading.function is second[0], anew.function is third[0]

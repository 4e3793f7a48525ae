"""The table of positions: what is encoded is what CPython reads."""

import types

from hypothesis import given
from hypothesis import strategies as st

from flowtrace.positions import encoded

LINES = st.integers(1, 100_000)
COLUMNS = st.integers(0, 5_000)
POSITIONS = st.one_of(
    st.just((None, None, None, None)),
    st.tuples(LINES, st.none(), st.none(), st.none()).map(lambda p: (p[0], p[0], None, None)),
    st.tuples(LINES, st.integers(0, 500), COLUMNS, COLUMNS).map(lambda p: (p[0], p[0] + p[1], p[2], p[3])),
)


@given(st.lists(POSITIONS, min_size=1, max_size=60), LINES)
def test_cpython_reads_back_what_is_encoded(positions, first_line):
    """Each code unit has the position that it was given."""
    nothing = compile("0", "m.py", "exec").co_code[:2]
    code = compile("0", "m.py", "exec").replace(
        co_code=nothing * len(positions), co_firstlineno=first_line, co_linetable=encoded(positions, first_line)
    )

    assert list(code.co_positions()) == positions


def test_every_position_of_real_code_survives():
    """The table of a real module's functions can be encoded anew without a change of meaning."""
    with open(types.__file__) as file:
        module = compile(file.read(), types.__file__, "exec")
    codes = [module, *(const for const in module.co_consts if isinstance(const, types.CodeType))]

    for code in codes:
        again = code.replace(co_linetable=encoded(code.co_positions(), code.co_firstlineno))

        assert list(again.co_positions()) == list(code.co_positions())

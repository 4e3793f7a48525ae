"""Code objects of CPython 3.11 to 3.13 taken apart into instructions, and put together again.

Formats: wordcode with inline caches (``Lib/opcode.py``), the table of exception handlers
(``Objects/exception_handling_notes.txt``), the table of positions (`flowtrace.positions`).
"""

from __future__ import annotations

import itertools
import opcode
import sys
import types
from collections.abc import Iterable, Iterator, Sequence

from flowtrace.positions import Position, encoded
from flowtrace.typed import Any, NamedTuple

NO_POSITION: Position = (None, None, None, None)

_EXTENDED_ARG = opcode.opmap["EXTENDED_ARG"]
_JUMPS = frozenset(opcode.hasjrel)
_BACKWARD = frozenset(op for op in _JUMPS if "BACKWARD" in opcode.opname[op])
_ENDS = frozenset(
    opcode.opmap[name]
    for name in (
        *("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"),
        *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
    )
    if name in opcode.opmap
)
_RENAMED = {"POP_JUMP_IF_FALSE": "POP_JUMP_FORWARD_IF_FALSE"} if sys.version_info < (3, 12) else {}


def _cache_sizes() -> list[int]:
    """How many cache entries follow each opcode; a list by number until 3.12, then a dict by name."""
    sizes: Any = opcode._inline_cache_entries  # type: ignore[attr-defined]
    return list(sizes) if isinstance(sizes, list) else [sizes.get(name, 0) for name in opcode.opname]


_CACHES = _cache_sizes()


class Handler(NamedTuple):
    """Where an exception goes that an instruction raises.

    Attributes:
        target: The first instruction of the handler.
        depth: How many values stay on the stack.
        lasti: Whether the number of the raising instruction is pushed before the exception.
    """

    target: Instruction
    depth: int
    lasti: bool


class Instruction:
    """One instruction, its prefixes and caches included. Jumps refer to their targets, so others may come in between.

    Attributes:
        op: Its opcode.
        arg: Its argument; of a jump, made by `assemble`.
        position: Where it is in the source.
        target: Where it jumps to.
        handler: Where its exceptions go; None: out of the frame.
    """

    __slots__ = ("arg", "at", "handler", "op", "position", "size", "target")

    def __init__(
        self,
        name: str,
        arg: int = 0,
        position: Position = NO_POSITION,
        *,
        target: Instruction | None = None,
        handler: Handler | None = None,
    ) -> None:
        self.op, self.arg, self.position = opcode.opmap[_RENAMED.get(name, name)], arg, position
        self.target, self.handler = target, handler
        self.at = self.size = 0  # in code units; known to `disassemble` and `assemble`

    @property
    def name(self) -> str:
        """The name of the opcode."""
        return opcode.opname[self.op]

    def becomes(self, name: str, arg: int = 0) -> None:
        """Change into another instruction, which is the target of jumps in place of this one."""
        self.op, self.arg = opcode.opmap[name], arg


def disassemble(code: types.CodeType) -> list[Instruction]:
    """The instructions of ``code``, in order."""
    raw, positions = code.co_code, list(code.co_positions())
    instructions: list[Instruction] = []
    by_offset: dict[int, Instruction] = {}
    start = unit = arg = 0
    while unit < len(positions):
        op, arg = raw[2 * unit], arg << 8 | raw[2 * unit + 1]
        if op == _EXTENDED_ARG:
            unit += 1
            continue
        instruction = Instruction.__new__(Instruction)
        instruction.op, instruction.arg, instruction.position = op, arg, positions[unit]
        instruction.target = instruction.handler = None
        instruction.at, instruction.size = start, unit + 1 + _CACHES[op] - start
        instructions.append(instruction)
        by_offset[start] = instruction
        start = unit = unit + 1 + _CACHES[op]
        arg = 0
    for each in instructions:
        if each.op in _JUMPS:
            each.target = by_offset[each.at + each.size + (-each.arg if each.op in _BACKWARD else each.arg)]
    if code.co_exceptiontable:
        _take_handlers(instructions, code.co_exceptiontable, by_offset)
    return instructions


def _take_handlers(instructions: Iterable[Instruction], table: bytes, by_offset: dict[int, Instruction]) -> None:
    numbers = _numbers(table)
    remaining = iter(instructions)
    each = next(remaining, None)
    for start, length, target, depth_and_lasti in zip(numbers, numbers, numbers, numbers, strict=True):
        handler = Handler(by_offset[target], depth_and_lasti >> 1, bool(depth_and_lasti & 1))
        while each is not None and each.at < start + length:
            if each.at >= start:
                each.handler = handler
            each = next(remaining, None)


def _numbers(table: bytes) -> Iterator[int]:
    """Six bits a byte, the highest first; 64 says that more follow, 128 marks the first byte of an entry."""
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            yield value
            value = 0


def assemble(
    code: types.CodeType, instructions: Sequence[Instruction], *, consts: Sequence[object], stacksize: int
) -> types.CodeType:
    """``code`` with other instructions, constants and room for its values."""
    _lay_out(instructions)
    units = bytearray()
    positions: list[Position] = []
    for each in instructions:
        caches = _CACHES[each.op]
        for shift in range(8 * (each.size - caches - 1), 0, -8):
            units += bytes((_EXTENDED_ARG, each.arg >> shift & 255))
        units += bytes((each.op, each.arg & 255)) + bytes(2 * caches)
        positions += [each.position] * each.size
    return code.replace(
        co_code=bytes(units),
        co_consts=tuple(consts),
        co_stacksize=stacksize,
        co_exceptiontable=_handler_table(instructions),
        co_linetable=encoded(positions, code.co_firstlineno),
    )


def _lay_out(instructions: Sequence[Instruction]) -> None:
    """Give each instruction its place and size, and each jump its argument: one may change the other."""
    for each in instructions:
        each.size = _size(each)
    jumps = [each for each in instructions if each.target is not None]
    grown = True
    while grown:
        grown, unit = False, 0
        for each in instructions:
            each.at = unit
            unit += each.size
        for jump in jumps:
            assert jump.target is not None
            jump.arg = abs(jump.target.at - jump.at - jump.size)
            if _size(jump) > jump.size:
                jump.size, grown = _size(jump), True


def _size(instruction: Instruction) -> int:
    prefixes = (max(instruction.arg.bit_length(), 1) - 1) // 8
    return prefixes + 1 + _CACHES[instruction.op]


def _handler_table(instructions: Sequence[Instruction]) -> bytes:
    table = bytearray()
    for _, run in itertools.groupby(instructions, lambda each: id(each.handler)):
        covered = list(run)
        handler = covered[0].handler
        if handler is not None:
            start, end = covered[0].at, covered[-1].at + covered[-1].size
            numbers = (start, end - start, handler.target.at, handler.depth << 1 | handler.lasti)
            first, *rest = map(_number, numbers)
            table += bytes((first[0] | 128, *first[1:])) + b"".join(rest)
    return bytes(table)


def _number(value: int) -> bytes:
    digits = [value & 63]
    while value := value >> 6:
        digits.append(value & 63 | 64)
    return bytes(reversed(digits))


def depths(instructions: Sequence[Instruction], start: int) -> dict[Instruction, int]:
    """How many values are on the stack before each instruction that can be reached from number ``start``, with none."""
    found: dict[Instruction, int] = {}
    following = dict(itertools.pairwise(instructions))
    waiting = [(instructions[start], 0)]
    while waiting:
        each, depth = waiting.pop()
        if each in found:
            continue
        found[each] = depth
        arg = each.arg if each.op >= opcode.HAVE_ARGUMENT else None
        if each.op not in _ENDS:
            waiting.append((following[each], depth + opcode.stack_effect(each.op, arg, jump=False)))
        if each.target is not None:
            waiting.append((each.target, depth + opcode.stack_effect(each.op, arg, jump=True)))
        if each.handler is not None:
            waiting.append((each.handler.target, each.handler.depth + each.handler.lasti + 1))
    return found

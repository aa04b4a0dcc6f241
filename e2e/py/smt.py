#!/usr/bin/env python3
"""cvc5 as a solver that reads SMT-LIB 2 commands from its standard input.

PyPI has cvc5 as a library; the command line tool comes from elsewhere. This is the part of that
tool which symbolic compilers need: one command after the other, each answered at once.
"""
import sys

import cvc5


def start():
    manager = cvc5.TermManager()
    solver = cvc5.Solver(manager)
    for option in sys.argv[1:]:
        name, _, value = option.removeprefix("--").partition("=")
        if name == "tlimit":
            solver.setOption(name, value)
    return solver, cvc5.SymbolManager(manager)


def is_whole(text):
    """Whether all parentheses are closed, those within strings and quoted symbols apart."""
    depth, quote, opened = 0, None, False
    for char in text:
        if quote:
            quote = None if char == quote else quote
        elif char in '"|':
            quote = char
        elif char == "(":
            depth, opened = depth + 1, True
        elif char == ")":
            depth -= 1
    return opened and depth == 0 and quote is None


def run(text, solver, symbols):
    parser = cvc5.InputParser(solver, symbols)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "stdin")
    while not (command := parser.nextCommand()).isNull():
        sys.stdout.write(str(command.invoke(solver, symbols) or ""))


solver, symbols = start()
waiting = ""
for line in sys.stdin:
    if not waiting and (not line.strip() or line.lstrip().startswith(";")):
        continue
    waiting += line
    if not is_whole(waiting):
        continue
    text, waiting = waiting, ""
    if text.strip() == "(exit)":
        break
    if text.strip() == "(reset)":
        solver, symbols = start()
        continue
    try:
        run(text, solver, symbols)
    except RuntimeError as error:
        message = str(error).replace('"', "'").replace("\n", " ")
        sys.stdout.write(f'(error "{message}")\n')
    sys.stdout.flush()

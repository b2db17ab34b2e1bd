"""The commands' arguments, options and help, which the functions of the same names carry out.

`--help` and a mistyped option answer at once: no client, server or setting is imported here. Each
function imports what carries it out, so a command starts with what it needs alone.
"""

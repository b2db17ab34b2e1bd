"""Entry point of `python -m projector`, the same as the command `projector`."""

from projector.cli.main import main

main()

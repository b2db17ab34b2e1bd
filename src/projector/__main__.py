"""`python -m projector` is the `projector` command."""

from projector.cli.main import main

main()

"""The limit of `projector --help`: a Typer program with one command that imports nothing.

python -m benchmarks.bare_cli --help
"""

import typer


def main(name: str = "") -> None:
    """Say hello."""
    typer.echo(f"hello {name}")


if __name__ == "__main__":
    typer.run(main)
